"""Rows of the annotation tables for one video file: those that the lake holds, else new ones by everybody's stages.

What a row depends on is in its fingerprint, and batch and name of a video are not: rows that were made of the same
bytes by the same stages and settings serve in whichever batch they stand. New rows go to a batch that is named after
the video alone, where the next garment, span or seed finds them.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from pydantic import BaseModel

from models.vlm.client import VlmError
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land
from pipelines.ingest.manifest import MANIFEST
from pipelines.ingest.private import is_private, private_batch
from pipelines.ingest.settings import IngestSettings
from pipelines.registry import STAGES
from pipelines.stage import Stage, WorkerSettings, run_stage
from pipelines.stage.pool import Progress
from pipelines.stage.turns import turn
from pipelines.store import DeltaStore
from pipelines.store.blobs import sha256_file
from pipelines.store.schemas import STAGE_STATUS, VIDEOS
from pipelines.tryon.annotations import StoredAnnotations
from pipelines.tryon.settings import NEEDED


class CannotDress(ValueError):
    """The video or the garment cannot be used; the message says why."""


@dataclass(frozen=True)
class AnnotationSettings:
    """How a file is looked at before its person is dressed.

    Attributes:
        ingest: What makes videos and photos usable, and the limits of their decoders.
        workers: Processes of the stages.
        stages: Stage -> its settings; a stage that is not named has its defaults.
    """

    ingest: IngestSettings = field(default_factory=IngestSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    stages: Mapping[str, BaseModel] = field(default_factory=dict)

    def build(self) -> list[Stage]:
        """The stages that a try-on needs, in the order in which they run."""
        return [STAGES[name].build(self.stages.get(name)) for name in NEEDED]


@dataclass(frozen=True)
class AnnotatedVideo:
    """A video with all its annotations.

    Attributes:
        row: Row of `videos`.
        annotations: Its rows.
        fingerprints: Stage -> fingerprint of them.
    """

    row: dict[str, Any]
    annotations: StoredAnnotations
    fingerprints: dict[str, str]


def annotate_video(
    video: Path,
    lake: DeltaStore,
    category: str,
    settings: AnnotationSettings,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> AnnotatedVideo:
    """The rows of a video file, which the lake holds afterwards.

    Rows of a batch that people made are taken before those of earlier try-ons: they may hold people's labels.

    Args:
        video: A file.
        lake: Where rows are looked for and kept.
        category: upper_body, lower_body or dresses: what the agnostic masks cover.
        settings: Settings of the stages.
        on_progress: Called with the stage, frames done and in all.

    Raises:
        CannotDress: The video is unusable, or has no person or garment region; the message says what is wrong.
    """
    lake.ensure_tables()
    sha256 = sha256_file(video)
    stages = settings.build()
    for stage in stages:
        # Before hours of another stage.
        with _able(stage):
            stage.weights()
    known = lake.read(VIDEOS, where={"sha256": sha256, "status": "ok", "garment_category": category}).to_pylist()
    for row in sorted(known, key=lambda r: (is_private(r["batch"]), not r["manifest"], r["batch"])):
        if found := _standing(lake, row, stages):
            return found
    batch = private_batch(sha256, video.suffix.lower())
    # To the end, since a run for another category of garment replaces rows of this batch.
    with turn(lake, "tryon", batch):
        row = _ingested(video, lake, batch, category, settings.ingest)
        _run_stages(video.name, lake, batch, stages, settings.workers, on_progress)
        found = _standing(lake, row, stages)
    if found is None or row["sha256"] != sha256:
        raise CannotDress(f"{video.name} or its annotations changed meanwhile: run it again")
    return found


@contextlib.contextmanager
def _able(stage: Stage) -> Iterator[None]:
    """What a backend that was asked for lacks, as an error of its stage."""
    try:
        yield
    except (RuntimeError, VlmError) as error:
        raise CannotDress(f"{stage.name} cannot run: {error}") from error


def _standing(lake: DeltaStore, row: dict[str, Any], stages: Sequence[Stage]) -> AnnotatedVideo | None:
    """The annotations of a row of `videos`, if they are all there and as these stages would make them."""
    where = {"batch": row["batch"], "video_id": row["video_id"], "status": "ok"}
    states = {s["stage"]: s for s in lake.read(STAGE_STATUS, where=where).to_pylist()}
    fingerprints: dict[str, str] = {}
    for stage in stages:
        expected = stage.fingerprint(row, {name: fingerprints[name] for name in stage.inputs})
        if states.get(stage.name, {}).get("fingerprint") != expected:
            return None
        fingerprints[stage.name] = expected
    annotations = StoredAnnotations(lake, row)
    # The rows are looked at too: another run may be replacing them.
    for name, fingerprint in fingerprints.items():
        found = annotations.fingerprints(name)
        of_these = pc.sum(pc.equal(found, fingerprint)).as_py() or 0
        if not of_these == len(found) == states[name]["rows"]:
            return None
    return AnnotatedVideo(row, annotations, fingerprints)


def _ingested(video: Path, lake: DeltaStore, batch: str, category: str, settings: IngestSettings) -> dict[str, Any]:
    """The video's row of `videos`, in its batch."""
    entry = {"video": f"video{video.suffix.lower()}", "garment_category": category}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(video, Path(folder) / entry["video"])
        (Path(folder) / MANIFEST).write_text(json.dumps(entry) + "\n")
        land(folder, lake, batch)
    ingest_batch(lake, batch, settings)
    (row,) = lake.read(VIDEOS, where={"batch": batch}).to_pylist()
    if row["status"] != "ok":
        raise CannotDress(f"{video.name} cannot be used: {row['reason']}")
    return row


def _run_stages(
    name: str,
    lake: DeltaStore,
    batch: str,
    stages: Sequence[Stage],
    workers: WorkerSettings,
    on_progress: Callable[[str, int, int], None] | None,
) -> None:
    def report(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress.stage, progress.frames_done, progress.frames_total)

    for stage in stages:
        with _able(stage):
            run_stage(stage, lake, batch, settings=workers, on_progress=report)
        (status,) = lake.read(STAGE_STATUS, where={"batch": batch, "stage": stage.name}).to_pylist()
        if status["status"] != "ok":
            raise CannotDress(f"{name}, {stage.name}: {status['reason']}")
