"""`python -m benchmarks.ablation.denoising`: does the AC loss lower what it weighs?

The loss counts the velocity errors of latent frames in which an interaction happens more. On held-back clips with an
interaction, all rows get the same noise at the same levels, and the error is averaged over those frames and over the
others. Rows differ in the loss alone where they are (d) and those with (e) in their titles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.ablation.data import held_back_manifest, training_manifest
from benchmarks.ablation.plan import INTERACTIVE, AblationSettings, jobs
from benchmarks.ablation.report import MOST_SEEDS
from models.itryon.losses import add_noise, flow_matching_target
from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.config import TrainConfig
from models.training.data import ClipSet
from models.training.objective import element_weight, predict, prepare_conditions, sample_sigmas, step_generator
from pipelines.store import DeltaStore

RESULTS = Path(__file__).parent / "DENOISING.md"
DRAWS = 8
"""Noise levels a clip, drawn as in training."""
_KEPT = {"caption_dropout": 0.0, "action_dropout": 0.0, "hand_dropout": 0.0, "reference_dropout": 0.0}


class FrameErrors(NamedTuple):
    """Mean squared velocity errors, weighted over channels and positions as in training.

    Attributes:
        acting: Of latent frames in which an interaction happens.
        resting: Of the other latent frames; those of the garment's photo are left out.
    """

    acting: float
    resting: float


@torch.no_grad()
def frame_errors(
    model: torch.nn.Module, clips: ClipSet, config: TrainConfig, draws: int = DRAWS
) -> dict[str, FrameErrors]:
    """Clip -> its errors, averaged over noise levels.

    Args:
        model: The transformer, in evaluation mode.
        clips: Encoded clips with an interaction.
        config: The run that trained it: which guidance it has, and what counts how much.
        draws: Noise levels a clip; they and the noise are the same for each model.
    """
    config = config.model_copy(update=_KEPT)
    found = {}
    for index, row in enumerate(clips.rows):
        batch = clips.collate([index])
        conditions = prepare_conditions(batch, config, step_generator(0, index))
        noise = torch.randn(conditions.target.shape, generator=step_generator(1, index))
        weight = element_weight(conditions, config)
        views = batch.reference.shape[2]
        acting = batch.action_mask[0] > 0
        errors = []
        for sigma in sample_sigmas(config, draws, step_generator(2, index)).split(1):
            seen = predict(model, add_noise(conditions.target, noise, sigma), sigma, conditions)
            error = (seen - flow_matching_target(conditions.target, noise)).square()
            if weight is not None:
                share = weight.expand_as(error)
                error = error * (share / share.mean())
            frames = error[0, :, views:].mean((0, 2, 3))
            errors.append([float(frames[acting].mean()), float(frames[~acting].mean())])
        acting_error, resting_error = np.nanmean(errors, 0)
        found[row["clip_id"]] = FrameErrors(float(acting_error), float(resting_error))
    return found


def _measure(folder: Path, clips: ClipSet) -> dict[str, FrameErrors]:
    """Errors of the checkpoint of a job."""
    final = folder / "training" / "final"
    config = TrainConfig.model_validate(json.loads((final / "training.json").read_text())["config"])
    model = ITryOnTransformer3DModel.from_pretrained(final / "transformer", use_safetensors=True).eval()
    return frame_errors(model, clips, config)


def _share_acting(store: DeltaStore) -> tuple[float, float]:
    """Share of latent frames with an interaction among all of the training clips, and among those that have one."""
    manifest, _ = training_manifest(store, (INTERACTIVE,))
    masks = np.array(pq.read_table(manifest, columns=["action_mask"])["action_mask"].to_pylist()) > 0
    return float(masks.mean()), float(masks[masks.any(1)].mean())


def main(
    work: Annotated[Path, typer.Option(help="Folder of `python -m benchmarks.ablation`, with trained rows")] = Path(
        "ablation"
    ),
) -> None:
    """Measure the rows that were trained, and write the table."""
    settings, console = AblationSettings(), Console()
    store = DeltaStore(work / "lake")
    torch.set_num_threads(1)
    runs = work / "runs" / settings.training_digest
    trained = [j for j in jobs(MOST_SEEDS) if (runs / j.name / "training" / "summary.json").is_file()]
    if not trained:
        console.print(f"nothing was trained in {runs}: run `python -m benchmarks.ablation --work {work}` first")
        raise typer.Exit(1)
    clips = ClipSet(str(held_back_manifest(settings, store)), store.root, "test")
    rows: dict[str, list[dict[str, FrameErrors]]] = {}
    for job in track(trained, "measuring", console=console):
        rows.setdefault(job.row.title, []).append(_measure(runs / job.name, clips))
    everything, interactive = _share_acting(store)
    lines = [
        "# What the AC loss weighs\n",
        "Made by `python -m benchmarks.ablation.denoising` after `make ablation`: mean squared velocity errors on "
        f"{len(next(iter(rows.values()))[0])} held-back clips with an interaction, each scene in two garments, at "
        f"{DRAWS} noise levels each, drawn as in training, the same noise for all rows; weighted over channels and "
        "positions as in training. Acting: latent frames in which the interaction happens, which the loss counts "
        f"1 + lambda times. They are {interactive:.0%} of the latent frames of training clips with an interaction, and "
        f"{everything:.0%} of all.\n",
        "| row | seeds | acting | the others | acting / others |",
        "|---|---|---|---|---|",
    ]
    for title, seeds in rows.items():
        acting, resting = ([float(np.mean([e[i] for e in clips.values()])) for clips in seeds] for i in range(2))
        ratio = np.divide(acting, resting)
        lines.append(f"| {title} | {len(seeds)} | {_spread(acting)} | {_spread(resting)} | {_spread(ratio, 3)} |")
    RESULTS.write_text("\n".join([*lines, ""]))
    console.print(f"written to {RESULTS}")
    console.print_json(json.dumps({t: [np.mean(list(c.values()), 0).tolist() for c in s] for t, s in rows.items()}))


def _spread(values: Iterable[float], digits: int = 4) -> str:
    v = np.asarray(list(values))
    mean = f"{v.mean():.{digits}f}"
    return mean if len(v) == 1 else f"{mean} ({v.min():.{digits}f} to {v.max():.{digits}f})"


if __name__ == "__main__":
    typer.run(main)
