"""Fits the embedded judge: `python -m pipelines.evaluation.judges.fit --batch NAME [NAME ...]`.

The batches must be rendered with `undone` and annotated up to `agnostic_masks`. Clips are first looked at, once each,
with results as rendered and as the nano autoencoder gives them back. Then each part of the clips is left out in turn,
and a network trained on the others: what it says of the clips left out tells from which score an interaction counts as
done (cross-validation). The judge is the mean of these networks. All of it is kept in `--work`, and a run that was
stopped goes on from there. What the judge is worth is measured on other batches: `itryon evaluate judge`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from models.arguments import add_settings, read_settings
from models.contact.network import CLASSES
from models.contact.network import weights_digest as contact_digest
from models.judges.measures.network import WEIGHTS, Committee, load, save
from models.judges.measures.train import JudgeTrainingSettings, train
from models.judges.settings import KinematicJudgeSettings
from pipelines.captions.contact import ContactReader
from pipelines.evaluation.judges.agreement import Answer, figures
from pipelines.evaluation.judges.cases import STAGES, JudgeCase, NothingToJudge, read_cases
from pipelines.evaluation.judges.samples import LOOKS, SeenClip, load_clip, save_clip, see_clip
from pipelines.stage import digest
from pipelines.store import DeltaStore
from pipelines.store.schemas import STAGE_STATUS

SEEN_VERSION = "2"
"""Raise it when the same clips are seen differently."""


@dataclass(frozen=True)
class ScoredCase:
    """A case with the judge's score; `clip` is the number of its clip, `look` what the result looked like."""

    clip: int
    look: str
    case: JudgeCase
    score: float | None

    def answer(self, least: float) -> Answer:
        """The verdict where scores of `least` and more count as done."""
        success = None if self.score is None else self.score >= least
        return Answer(self.clip, self.case.kind, self.case.action, self.case.expected, success)


def see_batch(
    store: DeltaStore, batch: str, folder: Path, on_clip: Callable[[int, int], None] = lambda done, total: None
) -> list[Path]:
    """Files of all clips of a batch that can be judged; those that are there of the same annotations stay as they are.

    Args:
        store: The lake.
        batch: The batch.
        folder: Where files are kept.
        on_clip: Called with clips done and clips in all.

    Raises:
        NothingToJudge: The batch yields no cases.
    """
    found = read_cases(store, batch)
    of_batch = {"batch": batch, "stage": STAGES, "status": "ok"}
    annotated: dict[str, dict[str, str]] = {}
    for row in store.read(STAGE_STATUS, ["stage", "video_id", "fingerprint"], of_batch).to_pylist():
        annotated.setdefault(row["video_id"], {})[row["stage"]] = row["fingerprint"]
    height = KinematicJudgeSettings().work_height
    folder.mkdir(parents=True, exist_ok=True)
    reader = ContactReader()
    out = []
    for done, (video, cases) in enumerate(found):
        on_clip(done, len(found))
        stages = annotated[video["video_id"]]
        what = [SEEN_VERSION, height, contact_digest(), video["sha256"], stages, [asdict(c) for c in cases]]
        path = folder / f"{digest(what)[:32]}.npz"
        if not path.exists():
            save_clip(see_clip(store, video, cases, reader, height), path)
        out.append(path)
    on_clip(len(found), len(found))
    return out


def score_cases(networks: Committee, clip: SeenClip, number: int) -> list[ScoredCase]:
    """What networks say of all cases of a clip."""
    out = []
    for look in LOOKS:
        for case in clip.cases:
            hands = clip.of_case(case, look)
            score = None
            if hands:
                action, follows = networks.probabilities(hands)
                score = float((action[:, CLASSES.index(case.action)] * follows).max())
            out.append(ScoredCase(number, look, case, score))
    return out


def folds(count: int, parts: int, seed: int = 0) -> list[np.ndarray]:
    """Numbers of `count` clips dealt out to `parts` parts."""
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(order[k::parts]) for k in range(parts)]


def best_threshold(scored: Sequence[ScoredCase], clips: int) -> float:
    """The score from which counting as done agrees best with the truth; the middle of several that are as good."""
    tried = np.round(np.arange(0.02, 0.981, 0.01), 2)

    def kappa(least: float) -> float:
        found = [figures([s.answer(least) for s in scored if s.look == look], clips, resamples=0) for look in LOOKS]
        return float(np.mean([f["kappa"].value or 0.0 for f in found]))

    kappas = np.array([kappa(t) for t in tried])
    return float(np.median(tried[kappas >= kappas.max() - 0.005]))


def fit(
    paths: Sequence[Path], settings: JudgeTrainingSettings, parts: int, work: Path, progress: Progress
) -> tuple[Committee, list[ScoredCase]]:
    """One network for each part of the clips that is left out, and its scores of these.

    Args:
        paths: Files of the clips, see `see_batch`.
        settings: How to train.
        parts: Parts that clips are dealt out to.
        work: Folder for what a run that was stopped goes on from.
        progress: To show how far it is.
    """
    clips = [load_clip(p) for p in progress.track(paths, description="reading")]
    what = digest([settings.model_dump(), [p.stem for p in paths], parts])[:16]
    members: list[nn.Module] = []
    scored: list[ScoredCase] = []
    for k, left_out in enumerate(folds(len(clips), parts)):
        file = work / f"{what}.part{k}.safetensors"
        if not file.exists():
            name = f"part {k + 1} of {parts}"
            bar = progress.add_task(name, total=settings.steps)
            network = train(
                settings,
                [s for i in range(len(clips)) if i not in set(left_out) for s in clips[i].samples()],
                file.with_suffix(".state.pt"),
                lambda step, loss, bar=bar, name=name: progress.update(  # type: ignore[misc]
                    bar, completed=step, description=f"{name}, loss {loss:.3f}"
                ),
            )
            progress.remove_task(bar)
            save(Committee([network]), file, {})
        alone, _ = load(file)
        members += list(alone.members)
        scored += [s for i in left_out for s in score_cases(alone, clips[i], int(i))]
    return Committee(members), scored


def agreement(scored: Sequence[ScoredCase], least: float, clips: int) -> dict[str, Any]:
    """Figures of every look: over all cases, of each kind and of each action."""
    out: dict[str, Any] = {}
    for look in LOOKS:
        answers = [s.answer(least) for s in scored if s.look == look]
        whole = figures(answers, clips)
        out[look] = {
            "kappa": [round(v, 3) for v in (whole["kappa"].value, whole["kappa"].low, whole["kappa"].high) if v],
            "accuracy": round(whole["accuracy"].value or 0, 3),
            "right": {k: _right([a for a in answers if a.kind == k]) for k in dict.fromkeys(a.kind for a in answers)},
        }
        for kind in ("done", "undone"):
            of_kind = [a for a in answers if a.kind == kind]
            actions = sorted({a.action for a in of_kind})
            out[look][f"{kind}_by_action"] = {a: _right([x for x in of_kind if x.action == a]) for a in actions}
    return out


def _right(answers: Sequence[Answer]) -> str:
    return f"{sum(a.success == a.expected for a in answers)} of {len(answers)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluation.judges.fit", description=__doc__)
    parser.add_argument("--batch", nargs="+", required=True, help="studio batches in the lake at ITRYON_LAKE")
    parser.add_argument(
        "--parts",
        type=int,
        default=4,
        help="parts that clips are dealt out to; each gives a network trained on the others",
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file of weights to write")
    work = user_cache_path("itryon") / "judge-fit"
    parser.add_argument("--work", type=Path, default=work, help="folder for what a stopped run goes on from")
    parser.add_argument("--threads", type=int, default=1, help="threads of the networks")
    add_settings(parser, JudgeTrainingSettings)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    settings = read_settings(args, JudgeTrainingSettings)
    store = DeltaStore()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            paths: list[Path] = []
            for batch in args.batch:
                bar = progress.add_task(f"looking at {batch}", total=None)
                paths += see_batch(
                    store,
                    batch,
                    args.work / "seen",
                    lambda done, total, bar=bar: progress.update(bar, completed=done, total=total),  # type: ignore[misc]
                )
            networks, scored = fit(paths, settings, args.parts, args.work, progress)
    except (NothingToJudge, ValueError) as e:
        print(e, file=sys.stderr)
        return 2
    least = best_threshold(scored, len(paths))
    found = agreement(scored, least, len(paths))
    notes = {
        "batches": args.batch,
        "clips": sorted({str(s.case.seed) for s in scored}),
        "training": settings.model_dump(),
        "min_score": least,
        "contact_weights": contact_digest(),
        "clips_left_out": found,
    }
    save(networks, args.out, notes)
    print(json.dumps(found, indent=1))
    print(f"done from a score of {least:.3f}; written to {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
