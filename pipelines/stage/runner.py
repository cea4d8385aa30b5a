"""Brings one stage's rows of one batch up to date."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.stage.base import Stage, WorkerSettings, digest
from pipelines.stage.plan import make_plan, status_row
from pipelines.stage.pool import Progress, annotate_missing, staged_file, staging_folder
from pipelines.stage.turns import turn
from pipelines.store import Commit, DeltaStore
from pipelines.store.errors import explained
from pipelines.store.schemas import STAGE_STATUS


@dataclass
class StageReport:
    """What a run of a stage did.

    `videos_*` count the videos of the batch, `frames` and times only this run's work; `changed` says whether it wrote
    anything.
    """

    stage: str
    batch: str
    table_version: int
    videos_ok: int = 0
    videos_failed: int = 0
    videos_reused: int = 0
    rows: int = 0
    frames: int = 0
    wall_seconds: float = 0.0
    worker_seconds: float = 0.0
    model_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    data_version: str = ""
    changed: bool = False
    failures: dict[str, str] = field(default_factory=dict)


def run_stage(
    stage: Stage,
    store: DeltaStore,
    batch: str,
    *,
    settings: WorkerSettings | None = None,
    commit: Commit | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> StageReport:
    """Bring one stage's rows of one batch up to date.

    Videos whose fingerprint stands are kept as they are; videos that failed before are tried again. Nothing is
    written when nothing is missing.

    Args:
        stage: The stage.
        store: The lake.
        batch: Batch of videos.
        settings: Workers and time limit.
        commit: Provenance; the stage's code version is filled in.
        on_progress: Called from the calling thread's process, possibly from another thread.

    Waits while another process of this machine works on the same stage and batch.

    Raises:
        LookupError: The batch has no videos.
        LakeError: The disk is full, a table is damaged, or the object store does not answer.
        Exception: What `stage.setup` raised, when the stage cannot run at all.
    """
    started = time.perf_counter()
    commit = Commit((commit or Commit()).run_id, stage.code_version)
    with explained(store.root, f"{stage.name} of batch {batch}"), turn(store, stage.name, batch):
        report = _bring_up_to_date(stage, store, batch, settings or WorkerSettings(), commit, on_progress)
    report.wall_seconds = time.perf_counter() - started
    return report


def _bring_up_to_date(
    stage: Stage,
    store: DeltaStore,
    batch: str,
    settings: WorkerSettings,
    commit: Commit,
    on_progress: Callable[[Progress], None] | None,
) -> StageReport:
    plan = make_plan(stage, store, batch)
    report = StageReport(stage.name, batch, store.version(stage.spec))
    report.videos_reused, report.changed = len(plan.kept), plan.changed
    staging = staging_folder(store, stage, batch)
    if plan.changed:
        for row in plan.blocked:
            plan.status[row["video_id"]] = status_row(row, plan, "error", plan.blocked_reason[row["video_id"]])
        annotate_missing(stage, store, plan, staging, settings, on_progress)
        done = [r for r in plan.todo if plan.status[r["video_id"]]["status"] == "ok"]
        files = [staged_file(staging, r["video_id"], plan.fingerprints[r["video_id"]]) for r in done]
        schema = stage.spec.schema
        if plan.kept:
            # Through a file, since delta-rs cannot read one table while it writes another from the same stream.
            files.insert(0, staging / f"kept.{uuid.uuid4().hex}.parquet")
            with pq.ParquetWriter(files[0], schema, compression="zstd") as writer:
                for chunk in store.batches(stage.spec, where={"batch": batch, "video_id": plan.kept}):
                    writer.write_batch(chunk)

        def rows() -> Iterator[pa.RecordBatch]:
            for file in files:
                yield from pq.ParquetFile(file).iter_batches(batch_size=4096)

        report.table_version = store.replace(
            stage.spec, lambda: pa.RecordBatchReader.from_batches(schema, rows()), {"batch": batch}, commit
        )
        now = datetime.now(UTC)
        entries = [
            {**plan.status[v], "batch": batch, "stage": stage.name}
            | ({"created_at": now, "run_id": commit.run_id} if v not in plan.kept else {})
            for v in sorted(plan.status)
        ]
        store.replace(
            STAGE_STATUS,
            pa.Table.from_pylist(entries, STAGE_STATUS.schema),
            {"batch": batch, "stage": stage.name},
            commit,
        )
        fresh = [plan.status[r["video_id"]] for r in plan.todo]
        report.frames = sum(s["frames"] for s in fresh)
        report.worker_seconds = sum(s["seconds"] for s in fresh)
        report.model_seconds = sum(s["model_seconds"] for s in fresh)
        report.peak_memory_mb = max((s["peak_memory_mb"] or 0.0 for s in fresh), default=0.0)
    # Also where nothing had to be done: the run before may have been killed just here.
    shutil.rmtree(staging, ignore_errors=True)
    for video_id, entry in plan.status.items():
        report.rows += entry["rows"]
        if entry["status"] == "ok":
            report.videos_ok += 1
        else:
            report.videos_failed += 1
            report.failures[video_id] = entry["reason"]
    # What the rows say, not when they were written: a run that changed nothing must not look like new data.
    report.data_version = digest(sorted((v, e["status"], e["fingerprint"]) for v, e in plan.status.items()))[:32]
    return report
