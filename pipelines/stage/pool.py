"""Worker processes: one video at a time, its rows into a staged file, whatever goes wrong into a sentence."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pebble import ProcessExpired

from pipelines.stage.base import Stage, VideoTask, WorkerSettings, scratch
from pipelines.stage.plan import Plan, status_row
from pipelines.store import DeltaStore
from pipelines.store.errors import LakeError, explained
from pipelines.workers import SPAWN, out_of_memory, worker_pool

_ADDED_BY_RUNNER = ("batch", "video_id", "fingerprint")
# Rows that a killed run left are made anew when they are older: blobs that they name, and nothing else does, are
# removed some time after that (`pipelines.store.retention`).
_STAGED_S = 7 * 86400


@dataclass(frozen=True)
class Progress:
    """Where a stage is: sent whenever frames or videos finish."""

    stage: str
    videos_done: int
    videos_total: int
    frames_done: int
    frames_total: int


def staging_folder(store: DeltaStore, stage: Stage, batch: str) -> Path:
    folder = scratch(store) / "staging" / stage.name / batch
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def staged_file(staging: Path, video_id: str, fingerprint: str) -> Path:
    return staging / f"{video_id}-{fingerprint}.parquet"


def annotate_missing(
    stage: Stage,
    store: DeltaStore,
    plan: Plan,
    staging: Path,
    settings: WorkerSettings,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    pending = []
    for row in plan.todo:
        numbers = read_numbers(staged_file(staging, row["video_id"], plan.fingerprints[row["video_id"]]))
        if numbers is None:
            pending.append(row)
        else:
            plan.status[row["video_id"]] = status_row(row, plan, "ok", **numbers)
    if not pending:
        return
    # Longest first, so that the last worker is not left alone with the longest video.
    pending.sort(key=lambda r: -(r["num_frames"] or 0))
    cores = os.cpu_count() or 1
    workers = min(settings.workers or cores, len(pending))
    threads = max(1, cores // workers)
    memory_gb = settings.limit_gb(workers)
    ticks: Any = SPAWN.Queue()
    total = sum(r["num_frames"] or 0 for r in pending)
    with (
        _progress_thread(ticks, stage.name, len(pending), total, on_progress) as video_done,
        worker_pool(workers, threads, _send_to, ticks, memory_gb=memory_gb) as pool,
    ):
        futures: dict[Future, dict[str, Any]] = {}
        for row in pending:
            target = staged_file(staging, row["video_id"], plan.fingerprints[row["video_id"]])
            args = (stage, store, row, plan.fingerprints[row["video_id"]], target, threads, memory_gb)
            futures[pool.schedule(_annotate_one, args=args, timeout=settings.timeout_s)] = row
        for future, row in futures.items():
            plan.status[row["video_id"]] = _result(future, row, plan, settings)
            video_done()


def _result(future: Future, row: Mapping[str, Any], plan: Plan, settings: WorkerSettings) -> dict[str, Any]:
    try:
        numbers = future.result()
    except TimeoutError:
        reason = f"Took longer than {settings.timeout_s:.0f} s and was stopped (workers.timeout_s)"
        return status_row(row, plan, "error", reason)
    except ProcessExpired as e:
        return status_row(
            row, plan, "error", f"The worker process died (exit code {e.exitcode}); the next run tries again"
        )
    except BrokenProcessPool:
        # One was killed before it took anything up, and then pebble gives up all that is left.
        return status_row(row, plan, "error", "The worker processes died before they began; the next run tries again")
    if isinstance(numbers, SetupFailure):
        raise numbers.error
    if isinstance(numbers, str):
        return status_row(row, plan, "error", numbers)
    return status_row(row, plan, "ok", **numbers)


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


# --- inside a worker ---

_ticks: Any = None


def _send_to(ticks: Any) -> None:
    global _ticks
    _ticks = ticks


@lru_cache(maxsize=1)
def _ready(pickled: bytes, threads: int) -> Stage:
    stage: Stage = pickle.loads(pickled)  # noqa: S301 - our own bytes, made two lines below
    stage.setup(threads)
    return stage


def _annotate_one(
    stage: Stage,
    store: DeltaStore,
    row: dict[str, Any],
    fingerprint: str,
    target: Path,
    threads: int,
    memory_gb: float | None,
) -> dict[str, Any] | str | SetupFailure:
    try:
        ready = _ready(pickle.dumps(stage), threads)
    except Exception as e:
        if memory_gb is not None and out_of_memory(e):
            return SetupFailure(MemoryError(f"Stage {stage.name} cannot load its networks: {_too_much(memory_gb)}"))
        return SetupFailure(e)
    started = time.perf_counter()
    task = VideoTask(store, row, threads, lambda n: _ticks.put(n) if _ticks is not None else None)
    temporary = target.with_suffix(f".{uuid.uuid4().hex}.tmp")
    schema = ready.spec.schema
    count = 0
    try:
        with explained(store.root, f"{ready.name} of video {row['video_id']}"):
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
        if memory_gb is not None and out_of_memory(e):
            return _too_much(memory_gb)
        return str(e) if isinstance(e, LakeError) else f"{type(e).__name__}: {e}"


def _too_much(memory_gb: float) -> str:
    return (
        f"Wants more than {memory_gb:.1f} GiB of memory in one worker: raise workers.memory_gb, or lower "
        "workers.workers, which share the machine"
    )


def _complete(chunk: pa.RecordBatch, schema: pa.Schema, row: Mapping[str, Any], fingerprint: str) -> pa.RecordBatch:
    added = {"batch": row["batch"], "video_id": row["video_id"], "fingerprint": fingerprint}
    arrays = [
        pa.repeat(added[f.name], chunk.num_rows) if f.name in _ADDED_BY_RUNNER else chunk.column(f.name).cast(f.type)
        for f in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def read_numbers(path: Path) -> dict[str, Any] | None:
    try:
        if time.time() - path.stat().st_mtime > _STAGED_S:
            return None
        return json.loads(pq.read_metadata(path).metadata[b"itryon"])
    except (KeyError, OSError, TypeError, ValueError):
        return None
