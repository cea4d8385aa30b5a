"""Renders and annotates the ablation's clips and pins its training sets, through the pipeline's own stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from benchmarks.ablation.plan import INTERACTIVE, ORDINARY, AblationSettings
from pipelines.clips.settings import ClipsSettings
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land
from pipelines.ingest.manifest import MANIFEST
from pipelines.registry import STAGES
from pipelines.stage import WorkerSettings
from pipelines.stage.pool import Progress as StageProgress
from pipelines.stage.runner import run_stage
from pipelines.store import DeltaStore
from pipelines.studio.batch import render_batch
from pipelines.studio.clip import GARMENTS
from pipelines.studio.mark import TRUTH
from pipelines.studio.settings import StudioSettings
from pipelines.training_sets.build import build_training_set, manifest_path
from pipelines.training_sets.settings import TrainingSetSettings

_SEEDS = {INTERACTIVE: 503, ORDINARY: 505}


def prepare(settings: AblationSettings, work: Path, workers: int) -> DeltaStore:
    """The lake with all three batches rendered, annotated and, for training, encoded. What is there is kept.

    Args:
        settings: Size.
        work: Folder for clips and lake.
        workers: Processes.

    Raises:
        RuntimeError: A clip could not be rendered; the message names it.
    """
    store = DeltaStore(work / "lake")
    store.ensure_tables()
    clips = _clips(settings)
    with Progress() as progress:
        for batch, studio in _studio(settings).items():
            folder = work / "clips" / batch
            bar = progress.add_task(f"{batch}: rendering", total=studio.clips * studio.frames)
            report = render_batch(
                studio.model_copy(update={"workers": workers}), folder, on_progress=partial(_advance, progress, bar)
            )
            if report.failures:
                raise RuntimeError(f"{batch}: {report.failures}")
            land(pairs(folder, work / "pairs") if batch == INTERACTIVE else folder, store, batch)
            ingest_batch(store, batch)
            for name, entry in STAGES.items():
                if name == "clips" and batch == settings.test_batch:
                    continue
                bar = progress.add_task(f"{batch}: {name}", total=1)
                done = run_stage(
                    entry.build(clips if name == "clips" else None),
                    store,
                    batch,
                    settings=WorkerSettings(workers=workers),
                    on_progress=partial(_advance_stage, progress, bar),
                )
                for video_id, reason in done.failures.items():
                    progress.console.print(f"{batch}, {name}: {video_id} is left out: {reason}", highlight=False)
    return store


def held_back_manifest(settings: AblationSettings, store: DeltaStore) -> Path:
    """Manifest (split test) of the held-back clips with an interaction, encoded as training clips are.

    They are not trained on; it is for measuring the loss. What is encoded is kept.
    """
    run_stage(STAGES["clips"].build(_clips(settings)), store, settings.test_batch, settings=WorkerSettings(workers=1))
    chosen = TrainingSetSettings(batches=[settings.test_batch], splits=["test"], interaction=True)
    return manifest_path(store, build_training_set(store, chosen))


def _clips(settings: AblationSettings) -> ClipsSettings:
    return ClipsSettings(
        num_frames=17,
        max_windows=1,
        sizes=[(settings.model_height, settings.model_width)],
    )


def _advance(progress: Progress, bar: TaskID, done: int, total: int) -> None:
    progress.update(bar, completed=done, total=total)


def _advance_stage(progress: Progress, bar: TaskID, stage: StageProgress) -> None:
    _advance(progress, bar, stage.frames_done, stage.frames_total)


def _studio(settings: AblationSettings) -> dict[str, StudioSettings]:
    # Captions of the whole clip do not say what the hands do: that is for the action captions, which are under test.
    common: dict[str, Any] = {
        "width": settings.width,
        "height": settings.height,
        "fps": settings.fps,
        "frames": settings.frames,
        "plain": True,
        "neutral": True,
        "val_share": 0,
    }
    zips: dict[str, Any] = {
        "actions": ["operate_zipper"],
        "interaction_share": 0.42,
        "undone": True,
        # Each scene also in its other garment, with the zip opened and left alone by the same hands.
        "twins": True,
        # A zip that opens over cloth of a colour that nobody told looks no more done than undone.
        "white_beneath": True,
    }
    train: dict[str, Any] = {"test_share": 0}
    return {
        INTERACTIVE: StudioSettings(
            seed=_SEEDS[INTERACTIVE], clips=settings.interactive_clips, **common, **zips, **train
        ),
        ORDINARY: StudioSettings(
            seed=_SEEDS[ORDINARY], clips=settings.ordinary_clips, interaction_share=0, twins=True, **common, **train
        ),
        settings.test_batch: StudioSettings(
            seed=settings.test_seed, clips=settings.test_clips, test_share=1, **common, **zips
        ),
    }


def pairs(rendered: Path, folder: Path) -> Path:
    """The clips to train on: of each scene with an interaction, one garment in which it is done and left undone.

    All that tells the two apart are the action captions. Were the interaction done in one garment and left undone in
    the other, the garment would tell as well.

    Args:
        rendered: The studio's batch, with all clips of each scene.
        folder: Where the chosen ones go.

    Returns:
        `folder`, a landing folder.
    """
    lines = [json.loads(line) for line in (rendered / MANIFEST).read_text().splitlines()]
    names = {line["video"] for line in lines}
    kept = [line for line in lines if line["video"].replace(".mp4", "_undone.mp4") not in names]
    shutil.copytree(rendered / GARMENTS, folder / GARMENTS, dirs_exist_ok=True)
    for line in kept:
        shutil.copy2(rendered / line["video"], folder)
    (folder / MANIFEST).write_text("".join(f"{json.dumps(line, sort_keys=True)}\n" for line in kept))
    return folder


def training_manifest(store: DeltaStore, batches: tuple[str, ...]) -> tuple[Path, str]:
    """Manifest of all clips of these batches, and the training set's id."""
    row = build_training_set(store, TrainingSetSettings(batches=list(batches)))
    return manifest_path(store, row), row["training_set_id"]


def test_clips(work: Path, settings: AblationSettings) -> Iterator[dict[str, Any]]:
    """The held-back clips that show an interaction: their records in `truth/`, in order of their numbers."""
    folder = work / "clips" / settings.test_batch / TRUTH
    for index in range(settings.test_clips):
        record = json.loads((folder / f"clip_{index:05d}.json").read_text())
        if record["spans"] and record["undone"]:
            yield record
