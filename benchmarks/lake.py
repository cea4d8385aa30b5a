"""Lakes that benchmarks run on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipelines.clips.settings import ClipsSettings
from pipelines.clips.stage import ClipsStage
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land
from pipelines.ingest.settings import IngestSettings
from pipelines.registry import STAGES
from pipelines.stage import run_stage
from pipelines.store import DeltaStore
from pipelines.training_sets.build import build_training_set, manifest_path

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
