"""Lakes that benchmarks run on."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.clips.settings import ClipsSettings
from pipelines.clips.stage import ClipsStage
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land
from pipelines.ingest.settings import IngestSettings
from pipelines.registry import STAGES
from pipelines.stage import run_stage
from pipelines.store import DeltaStore
from pipelines.training_sets.build import build_training_set, manifest_path
from pipelines.tryon.settings import TryOnSettings

ANNOTATIONS = ("pose", "hands", "agnostic_masks", "captions")
BATCH = "bench"


def ingested(root: Path, videos: list[Path]) -> DeltaStore:
    """A lake below `root` with `videos` ingested as batch `BATCH`."""
    source = root / "source"
    source.mkdir()
    for v in videos:
        shutil.copyfile(v, source / v.name)
    return ingested_folder(root, source)


def ingested_folder(root: Path, source: Path) -> DeltaStore:
    """A lake below `root` with a folder of videos, labels and garments ingested as batch `BATCH`."""
    store = DeltaStore(root / "lake")
    store.ensure_tables()
    land(source, store, BATCH)
    ingest_batch(store, BATCH, IngestSettings())
    return store


def with_clips(store: DeltaStore, settings: ClipsSettings) -> tuple[dict[str, Any], str]:
    """Annotate the batch and encode its clips; returns the row of the training set and its manifest.

    Raises:
        RuntimeError: A video failed.
    """
    for stage in (*(STAGES[name].build() for name in ANNOTATIONS), ClipsStage(settings)):
        report = run_stage(stage, store, BATCH)
        if report.failures:
            raise RuntimeError(f"The benchmark's videos must all work: {stage.name}: {report.failures}")
    row = build_training_set(store)
    return row, str(manifest_path(store, row))


def batch_to_dress(
    program: str, description: str | None, arguments: Sequence[str] | None
) -> tuple[DeltaStore, TryOnSettings]:
    """Command line of what is measured on videos of an annotated batch, each in another garment, on one thread."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--lake", required=True, help="folder of a lake")
    parser.add_argument("--batch", required=True, help="a batch of it with all annotations")
    parser.add_argument("--videos", type=int, default=3, help="most videos to dress")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = TryOnSettings(device="cpu", batches=[options.batch], pairs="unpaired", max_videos=options.videos)
    return DeltaStore(options.lake), settings
