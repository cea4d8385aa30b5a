"""Runs one annotation stage over the videos of a batch: in worker processes, resumable, each error a row.

What a stage does to one video is in the stage's own package; here is only what all stages share: which videos are
missing, the workers, staging of finished videos, and the commit. The order of writes makes a kill harmless at any
point: a finished video is a renamed file in staging; the stage's table is replaced for the batch in one commit; then
the status rows are, and only a status row makes a video count as done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import queue
import resource
import shutil
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pebble import ProcessExpired, ProcessPool
from platformdirs import user_cache_path
from pydantic import BaseModel, Field

from pipelines.store import TABLES, Commit, DeltaStore, TableSpec
from pipelines.store.schemas import STAGE_STATUS, VIDEOS

_ADDED_BY_RUNNER = ("batch", "video_id", "fingerprint")


class WorkerSettings(BaseModel):
    """How annotation stages use the machine."""

    workers: int | None = Field(None, ge=1, description="Worker processes; the number of cores by default")
    timeout_s: float | None = Field(
        7200, gt=0, description="Longest time for one video in one stage; past it the video is an error row"
    )


def digest(*parts: Any) -> str:
    """SHA-256 over the canonical JSON of `parts`, 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str, ensure_ascii=True).encode()).hexdigest()


class VideoTask:
    """One video as a stage sees it, inside a worker.

    Attributes:
        row: The video's row of `videos`.
        store: The lake.
        threads: Threads that one worker should use.
    """

    def __init__(self, store: DeltaStore, row: dict[str, Any], threads: int, report: Callable[[int], None]):
        self.store = store
        self.row = row
        self.threads = threads
        self.model_seconds = 0.0
        self.frames = 0
        self._report = report

    @property
    def video_id(self) -> str:
        """Identity of the video."""
        return self.row["video_id"]

    @property
    def path(self) -> Path:
        """Local file with the video."""
        return self.store.blobs.local_path(self.row["uri"])

    def rows(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """This video's rows of an upstream table, in frame order."""
        spec = TABLES[table]
        return self.store.read(spec, columns, {"batch": self.row["batch"], "video_id": self.video_id})

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Counts the time spent inside as network inference."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.model_seconds += time.perf_counter() - start

    def advance(self, frames: int = 1) -> None:
        """Report that `frames` more frames are done."""
        self.frames += frames
        self._report(frames)


class Stage(ABC):
    """What an annotation stage does to one video.

    A stage is built from its settings, must pickle, and loads nothing heavy before `setup`.
    """

    name: ClassVar[str]
    """Name of the stage and of the table it writes."""
    code_version: ClassVar[str]
    """Raise it when the same input gives other rows."""
    inputs: ClassVar[tuple[str, ...]] = ()
    """Upstream stages whose rows it reads."""
    video_columns: ClassVar[tuple[str, ...]] = ("sha256",)
    """Columns of `videos` that its rows depend on."""

    def __init__(self, settings: BaseModel):
        self.settings = settings

    @property
    def spec(self) -> TableSpec:
        """The table it writes."""
        return TABLES[self.name]

    def weights(self) -> Mapping[str, str]:
        """Name -> SHA-256 of the weights its rows depend on."""
        return {}

    def setup(self, threads: int) -> None:  # noqa: B027 - a stage without models has nothing to load
        """Load models, once in each worker. Raises what a user has to read when something is missing."""

    @abstractmethod
    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Yield the video's rows in chunks, without the columns batch, video_id and fingerprint.

        Raises anything: it becomes the reason in the video's status row.
        """

    def fingerprint(self, row: Mapping[str, Any], upstream: Mapping[str, str]) -> str:
        """What the rows of a video depend on: content, code, weights, settings and upstream fingerprints."""
        return digest(
            self.name,
            self.code_version,
            self.settings.model_dump(mode="json"),
            dict(self.weights()),
            {c: row[c] for c in self.video_columns},
            dict(upstream),
        )[:32]


@dataclass(frozen=True)
class Progress:
    """Where a stage is: sent whenever frames or videos finish."""

    stage: str
    videos_done: int
    videos_total: int
    frames_done: int
    frames_total: int


@dataclass
class StageReport:
    """What a run of a stage did. `videos_*` count the videos of the batch, `frames` and times only this run's work."""

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

    Raises:
        LookupError: The batch has no videos.
        Exception: What `stage.setup` raised, when the stage cannot run at all.
    """
    started = time.perf_counter()
    settings = settings or WorkerSettings()
    commit = Commit((commit or Commit()).run_id, stage.code_version)
    plan = _plan(stage, store, batch)
    report = StageReport(stage.name, batch, store.version(stage.spec))
    report.videos_reused = len(plan.kept)
    if plan.changed:
        staging = _staging(store, stage, batch)
        for row in plan.blocked:
            plan.status[row["video_id"]] = _status(row, plan, "error", plan.blocked_reason[row["video_id"]])
        _work(stage, store, plan, staging, settings, on_progress)
        done = [r for r in plan.todo if plan.status[r["video_id"]]["status"] == "ok"]
        files = [_staged(staging, r["video_id"], plan.fingerprints[r["video_id"]]) for r in done]
        schema = stage.spec.schema
        kept = sorted(plan.kept)

        def rows() -> Iterator[pa.RecordBatch]:
            if kept:
                yield from store.batches(stage.spec, where={"batch": batch, "video_id": kept})
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
        shutil.rmtree(staging, ignore_errors=True)
        fresh = [plan.status[r["video_id"]] for r in plan.todo]
        report.frames = sum(s["frames"] for s in fresh)
        report.worker_seconds = sum(s["seconds"] for s in fresh)
        report.model_seconds = sum(s["model_seconds"] for s in fresh)
        report.peak_memory_mb = max((s["peak_memory_mb"] or 0.0 for s in fresh), default=0.0)
    for video_id, entry in plan.status.items():
        report.rows += entry["rows"]
        if entry["status"] == "ok":
            report.videos_ok += 1
        else:
            report.videos_failed += 1
            report.failures[video_id] = entry["reason"]
    report.wall_seconds = time.perf_counter() - started
    return report


@dataclass
class _Plan:
    todo: list[dict[str, Any]]
    blocked: list[dict[str, Any]]
    blocked_reason: dict[str, str]
    kept: set[str]
    fingerprints: dict[str, str]
    status: dict[str, dict[str, Any]]
    changed: bool


def _plan(stage: Stage, store: DeltaStore, batch: str) -> _Plan:
    all_videos = store.read(VIDEOS, where={"batch": batch}).to_pylist()
    if not all_videos:
        raise LookupError(f"Batch {batch!r} has no videos: materialise `videos` for it, or ingest it first")
    videos = [v for v in all_videos if v["status"] == "ok"]
    known = _statuses(store, batch, stage.name)
    upstream = {name: _statuses(store, batch, name) for name in stage.inputs}
    plan = _Plan([], [], {}, set(), {}, {}, False)
    for row in videos:
        video_id = row["video_id"]
        entries = {name: table.get(video_id) for name, table in upstream.items()}
        failed = {n: e for n, e in entries.items() if e is None or e["status"] != "ok"}
        plan.fingerprints[video_id] = stage.fingerprint(
            row, {n: e["fingerprint"] if e else "" for n, e in entries.items()}
        )
        before = known.get(video_id)
        if failed:
            name, entry = next(iter(failed.items()))
            plan.blocked.append(row)
            plan.blocked_reason[video_id] = (
                f"{name} failed: {entry['reason']}" if entry else f"{name} has no rows yet: materialise it first"
            )
        elif before and before["status"] == "ok" and before["fingerprint"] == plan.fingerprints[video_id]:
            plan.kept.add(video_id)
            plan.status[video_id] = before
        else:
            plan.todo.append(row)
    blocked_anew = any(
        not (e := known.get(r["video_id"])) or e["reason"] != plan.blocked_reason[r["video_id"]] for r in plan.blocked
    )
    plan.changed = bool(plan.todo) or blocked_anew or set(known) != {v["video_id"] for v in videos}
    if not plan.changed:
        plan.status |= {r["video_id"]: known[r["video_id"]] for r in plan.blocked}
    return plan


def _statuses(store: DeltaStore, batch: str, stage: str) -> dict[str, dict[str, Any]]:
    rows = store.read(STAGE_STATUS, where={"batch": batch, "stage": stage}).to_pylist()
    return {r["video_id"]: r for r in rows}


def _status(
    row: Mapping[str, Any], plan: _Plan, status: str, reason: str | None = None, **numbers: Any
) -> dict[str, Any]:
    defaults = {"rows": 0, "frames": 0, "seconds": 0.0, "model_seconds": 0.0, "peak_memory_mb": None}
    return {
        "video_id": row["video_id"],
        "status": status,
        "reason": reason,
        "fingerprint": plan.fingerprints[row["video_id"]],
        **defaults,
        **numbers,
    }


def _staging(store: DeltaStore, stage: Stage, batch: str) -> Path:
    # Staging is scratch: next to a local lake, in the user's cache for a remote one.
    base = user_cache_path("itryon") / digest(store.root)[:16] if "://" in store.root else Path(store.root)
    folder = base / "staging" / stage.name / batch
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _staged(staging: Path, video_id: str, fingerprint: str) -> Path:
    return staging / f"{video_id}-{fingerprint}.parquet"


def _work(
    stage: Stage,
    store: DeltaStore,
    plan: _Plan,
    staging: Path,
    settings: WorkerSettings,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    pending = []
    for row in plan.todo:
        numbers = _read_numbers(_staged(staging, row["video_id"], plan.fingerprints[row["video_id"]]))
        if numbers is None:
            pending.append(row)
        else:
            plan.status[row["video_id"]] = _status(row, plan, "ok", **numbers)
    if not pending:
        return
    # Longest first, so that the last worker is not left alone with the longest video.
    pending.sort(key=lambda r: -(r["num_frames"] or 0))
    cores = os.cpu_count() or 1
    workers = min(settings.workers or cores, len(pending))
    threads = max(1, cores // workers)
    context = multiprocessing.get_context("spawn")
    ticks: Any = context.Queue()
    total = sum(r["num_frames"] or 0 for r in pending)
    with (
        _progress_thread(ticks, stage.name, len(pending), total, on_progress) as video_done,
        ProcessPool(
            workers, context=context, initializer=_start_worker, initargs=(os.getpid(), ticks, threads)
        ) as pool,
    ):
        futures: dict[Future, dict[str, Any]] = {}
        for row in pending:
            target = _staged(staging, row["video_id"], plan.fingerprints[row["video_id"]])
            args = (stage, store, row, plan.fingerprints[row["video_id"]], target, threads)
            futures[pool.schedule(_annotate_one, args=args, timeout=settings.timeout_s)] = row
        try:
            for future, row in futures.items():
                plan.status[row["video_id"]] = _result(future, row, plan, settings)
                video_done()
        except BaseException:
            pool.stop()
            raise


def _result(future: Future, row: Mapping[str, Any], plan: _Plan, settings: WorkerSettings) -> dict[str, Any]:
    try:
        numbers = future.result()
    except TimeoutError:
        return _status(row, plan, "error", f"Took longer than {settings.timeout_s:.0f} s and was stopped")
    except ProcessExpired as e:
        return _status(
            row, plan, "error", f"The worker process died (exit code {e.exitcode}); the next run tries again"
        )
    if isinstance(numbers, SetupFailure):
        raise numbers.error
    if isinstance(numbers, str):
        return _status(row, plan, "error", numbers)
    return _status(row, plan, "ok", **numbers)


@dataclass
class SetupFailure:
    """A stage that cannot run at all, told apart from a video that fails."""

    error: Exception


@contextlib.contextmanager
def _progress_thread(
    ticks: Any, name: str, videos: int, frames: int, on_progress: Callable[[Progress], None] | None
) -> Iterator[Callable[[], None]]:
    state = {"videos": 0, "frames": 0}
    stop = threading.Event()

    def publish() -> None:
        if on_progress:
            on_progress(Progress(name, state["videos"], videos, state["frames"], frames))

    def drain() -> None:
        while not stop.is_set():
            try:
                state["frames"] += ticks.get(timeout=0.2)
            except queue.Empty:
                continue
            publish()

    def video_done() -> None:
        state["videos"] += 1
        publish()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    publish()
    try:
        yield video_done
    finally:
        stop.set()
        thread.join()


# --- inside a worker ---------------------------------------------------------------------------------------------

_ticks: Any = None


def _start_worker(parent: int, ticks: Any, threads: int) -> None:
    global _ticks
    _ticks = ticks
    os.environ["OMP_NUM_THREADS"] = str(threads)

    def watch() -> None:
        # A killed parent cannot stop its workers; without this they would go on with hours of video.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    import cv2

    cv2.setNumThreads(threads)


@lru_cache(maxsize=1)
def _ready(pickled: bytes, threads: int) -> Stage:
    import pickle

    stage: Stage = pickle.loads(pickled)  # noqa: S301 - our own bytes, made two lines below
    stage.setup(threads)
    return stage


def _annotate_one(
    stage: Stage, store: DeltaStore, row: dict[str, Any], fingerprint: str, target: Path, threads: int
) -> dict[str, Any] | str | SetupFailure:
    import pickle

    try:
        ready = _ready(pickle.dumps(stage), threads)
    except Exception as e:
        return SetupFailure(e)
    started = time.perf_counter()
    task = VideoTask(store, row, threads, lambda n: _ticks.put(n) if _ticks is not None else None)
    temporary = target.with_suffix(f".{uuid.uuid4().hex}.tmp")
    schema = ready.spec.schema
    count = 0
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for chunk in ready.annotate(task):
                writer.write_batch(_complete(chunk, schema, row, fingerprint))
                count += chunk.num_rows
            numbers = {
                "rows": count,
                "frames": task.frames,
                "seconds": time.perf_counter() - started,
                "model_seconds": task.model_seconds,
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
            writer.add_key_value_metadata({"itryon": json.dumps(numbers)})
        temporary.replace(target)
        return numbers
    except Exception as e:
        temporary.unlink(missing_ok=True)
        return f"{type(e).__name__}: {e}"


def _complete(chunk: pa.RecordBatch, schema: pa.Schema, row: Mapping[str, Any], fingerprint: str) -> pa.RecordBatch:
    added = {"batch": row["batch"], "video_id": row["video_id"], "fingerprint": fingerprint}
    arrays = [
        pa.repeat(added[f.name], chunk.num_rows) if f.name in _ADDED_BY_RUNNER else chunk.column(f.name).cast(f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _read_numbers(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(pq.read_schema(path).metadata[b"itryon"])
    except (KeyError, OSError, ValueError):
        return None
