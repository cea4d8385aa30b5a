"""Times what a lake is asked for all day, in an empty lake, in one of the paper's size and in one ten times as large.

Wall and CPU time of every operation are taken in turns: the same batch into one lake after the other, so that a
machine that is busy for a while is busy for all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.scale.clock import Clock
from benchmarks.scale.lake import (
    BATCHES_PER_CHECKPOINT,
    Source,
    add_checkpoint,
    add_generated,
    add_many,
    land_real,
    stage_rows,
)
from benchmarks.scale.rows import BatchRows
from pipelines.checks import batches_without_clips, check_stage, check_videos
from pipelines.evaluation.leaderboard import leaderboard_rows
from pipelines.ingest.batch import ingest_batch
from pipelines.registry import STAGES
from pipelines.stage import run_stage
from pipelines.store import TABLES, BlobStore, DeltaStore
from pipelines.store.schemas import CHECKPOINTS, VIDEOS
from pipelines.training_sets.build import build_training_set
from pipelines.training_sets.due import NotDue, retraining_due
from pipelines.training_sets.settings import RetrainingSettings
from pipelines.tryon.batch import choose_pairs
from pipelines.tryon.settings import TryOnSettings

PAPER_VIDEOS, FRAMES, BATCH_VIDEOS = 5292, 189, 100
LAKES = {"empty": 0, "paper": PAPER_VIDEOS, "ten times": 10 * PAPER_VIDEOS}
ROUNDS = 2
BATCHES_AT_ONCE = 10
_BLOB_CALLS = ("put_file", "put_bytes", "read_bytes", "local_path")
"""Those for bytes. Whether a blob is there is asked of those that the batch's rows name."""


def scale(
    lakes: dict[str, int] | None = None, frames: int = FRAMES, rounds: int = ROUNDS, folder: str | None = None
) -> dict[str, Any]:
    """Build the lakes and measure them.

    Args:
        lakes: Name of a lake -> its videos, the smallest first; the first is what the others are compared with.
        frames: Frames of a video.
        rounds: Measurements of each operation.
        folder: Where to build them, and leave them; a temporary folder by default.
    """
    lakes = lakes or LAKES
    with contextlib.nullcontext(folder) if folder else tempfile.TemporaryDirectory(prefix="scale") as chosen:
        root = Path(chosen)
        source, rows = Source(root / "source", frames), BatchRows(BATCH_VIDEOS, frames)
        started = time.perf_counter()
        stores = build(root, lakes, source, rows)
        built_s = time.perf_counter() - started
        result = {
            "lakes": lakes,
            "frames_per_video": frames,
            "batch_videos": BATCH_VIDEOS,
            "rounds": rounds,
            "built_s": built_s,
            "sizes": {name: sizes(store, lakes[name] * frames) for name, store in stores.items()},
        }
        taken: dict[str, dict[str, list[dict[str, float]]]] = {}
        for number in range(rounds):
            for name, store in stores.items():
                for what, figures in _one_round(store, source, rows, number).items():
                    taken.setdefault(what, {}).setdefault(name, []).append(figures)
        for name, store in stores.items():
            for what, several in _through_dagster(store, source, rows, rounds).items():
                taken.setdefault(what, {})[name] = several
        result["operations"] = {
            what: {name: _medians(figures) for name, figures in of.items()} for what, of in taken.items()
        }
        result["code_location"] = _child(root, "load", "")
    return result


def build(root: Path, lakes: dict[str, int], source: Source, rows: BatchRows) -> dict[str, DeltaStore]:
    """Lakes that share their beginning: each is the one before, with more batches behind.

    What is behind the paper's size is written `BATCHES_AT_ONCE` at a time. A lake that is there already is taken as it
    is: the run before was killed.
    """
    stores: dict[str, DeltaStore] = {}
    growing = DeltaStore(root / "growing")
    growing.ensure_tables()
    for name, videos in lakes.items():
        copy = root / name.replace(" ", "_")
        batches = _names(videos)
        if not copy.is_dir():
            _grow(growing, source, rows, batches)
            # Files of tables are never changed, so that a lake's copy need not be one.
            shutil.copytree(growing.root, copy.with_suffix(".tmp"), copy_function=_link)
            copy.with_suffix(".tmp").rename(copy)
        _child(copy, "history", json.dumps(list(batches)))
        stores[name] = DeltaStore(copy)
    return stores


def _names(videos: int) -> dict[str, int]:
    """Batch -> its videos."""
    starts = range(0, videos, BATCH_VIDEOS)
    return {f"b{i:05}": min(BATCH_VIDEOS, videos - start) for i, start in enumerate(starts)}


def _grow(store: DeltaStore, source: Source, rows: BatchRows, batches: dict[str, int]) -> None:
    """Bring a lake to these batches, and to a checkpoint for every few of them."""
    there = set(store.read(VIDEOS, ["batch"])["batch"].unique().to_pylist())
    missing = {name: count for name, count in batches.items() if name not in there}
    paper = _names(PAPER_VIDEOS)
    for name in [n for n in missing if n in paper]:
        add_generated(store, rows, source, name, missing.pop(name))
    for names in _chunks(list(missing), BATCHES_AT_ONCE):
        add_many(store, rows, source, {n: missing[n] for n in names})
    done, names = store.read(CHECKPOINTS, ["checkpoint_id"]).num_rows, list(batches)
    for number in range(done, len(names) // BATCHES_PER_CHECKPOINT):
        add_checkpoint(store, names[number * BATCHES_PER_CHECKPOINT :][:BATCHES_PER_CHECKPOINT], number)


def _chunks(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _link(source: str, target: str) -> None:
    # A table's pointer to its last checkpoint is the one file that is written over.
    (shutil.copy2 if source.endswith("_last_checkpoint") else os.link)(source, target)


def sizes(store: DeltaStore, frames: int) -> dict[str, Any]:
    """Bytes and files of tables and their logs, and of blobs."""
    tables = {}
    for name in TABLES:
        data = log = files = 0
        for path in Path(store.root, "tables", name).rglob("*"):
            if path.is_file():
                in_log = "_delta_log" in path.parts
                files += not in_log
                log, data = (log + path.stat().st_size, data) if in_log else (log, data + path.stat().st_size)
        if files:
            tables[name] = {"bytes": data, "log_bytes": log, "files": files}
    blobs = [p.stat().st_size for p in Path(store.root, "blobs").rglob("*") if p.is_file()]
    return {
        "tables": tables,
        "table_bytes": sum(t["bytes"] for t in tables.values()),
        "log_bytes": sum(t["log_bytes"] for t in tables.values()),
        "files": sum(t["files"] for t in tables.values()),
        "bytes_per_frame": sum(t["bytes"] for t in tables.values()) / frames if frames else None,
        "blobs": len(blobs),
        "blob_bytes": sum(blobs),
    }


def _one_round(store: DeltaStore, source: Source, rows: BatchRows, number: int) -> dict[str, dict[str, float]]:
    clock = Clock()
    batch = f"new-{number}"
    stages = [entry.build() for entry in STAGES.values()]
    land_real(store, source, batch, BATCH_VIDEOS)
    clock("ingest a batch", lambda: _ingest(store, batch))
    stage_rows(store, rows, stages, batch)
    clock("commit a batch's annotations", lambda: _stages(store, stages, batch))
    with _counted_blobs() as touched:
        clock("stages, nothing to do", lambda: _stages(store, stages, batch))
        clock("ingest, nothing to do", lambda: _ingest(store, batch))
    if touched:
        raise RuntimeError(f"A run with nothing to do asked for blobs: {touched}")
    if number == 0:
        # What asks the lake as a whole takes long in a large one.
        _operations(store, clock, number)
    return clock.taken


def _through_dagster(
    store: DeltaStore, source: Source, rows: BatchRows, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Runs and ticks, in one process, after imports."""
    batches = [f"run-{number}" for number in range(rounds)]
    for batch in batches:
        land_real(store, source, batch, BATCH_VIDEOS)
        _ingest(store, batch)
        stage_rows(store, rows, [entry.build() for entry in STAGES.values()], batch)
    return _child(Path(store.root), "dagster", json.dumps(batches))


def _ingest(store: DeltaStore, batch: str) -> None:
    report = ingest_batch(store, batch)
    checked = check_videos(store, batch, VIDEOS.name in report.committed)
    if report.ok != BATCH_VIDEOS or not all(o.passed for o in checked):
        raise RuntimeError(f"{batch}: {report.ok} of {BATCH_VIDEOS} videos are usable: {report.problems}")


def _operations(store: DeltaStore, clock: Clock, number: int) -> None:
    """What is asked of the lake as a whole."""
    from dagster_project.reports import lake_status
    from pipelines.stage.base import scratch
    from pipelines.store.retention import tidy

    fresh = DeltaStore(store.root)
    clock("open all tables in a new process", fresh.ensure_tables)
    clock("open all tables again", fresh.ensure_tables)
    row = clock("plan a training set of all clips", lambda: build_training_set(store))
    clock("plan the same training set again", lambda: build_training_set(store))
    if row["num_clips"] < BATCH_VIDEOS:
        raise RuntimeError(f"The training set has {row['num_clips']} clips")
    clock("is a retraining due", lambda: _due(store))
    clock("choose videos for try-on", lambda: choose_pairs(store, TryOnSettings()))
    clock(
        "choose videos of one batch for try-on", lambda: choose_pairs(store, TryOnSettings(batches=[f"new-{number}"]))
    )
    clock("gather the leaderboard", lambda: leaderboard_rows(store))
    clock("look for batches left behind", lambda: batches_without_clips(store))
    clock("status of the lake", lambda: lake_status(store))
    clock("look for what can be removed", lambda: tidy(store, scratch(store), 30, dry_run=True))


def _due(store: DeltaStore) -> None:
    try:
        retraining_due(store, RetrainingSettings(evaluation_batches=["none"]))
    except NotDue:
        return


def _stages(store: DeltaStore, stages: list[Any], batch: str) -> None:
    for stage in stages:
        report = run_stage(stage, store, batch)
        if report.videos_ok != BATCH_VIDEOS or not all(o.passed for o in check_stage(store, stage.spec, batch)):
            raise RuntimeError(f"{stage.name} of {batch}: {report.videos_ok} of {BATCH_VIDEOS} videos")


class _counted_blobs:
    """Counts calls for the bytes of blobs while it lasts."""

    def __enter__(self) -> dict[str, int]:
        self.calls: dict[str, int] = {}
        self.methods = {name: getattr(BlobStore, name) for name in _BLOB_CALLS}
        for name, method in self.methods.items():
            setattr(BlobStore, name, self._counting(name, method))
        return self.calls

    def _counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] = self.calls.get(name, 0) + 1
            return method(*args, **kwargs)

        return counted

    def __exit__(self, *error: object) -> None:
        for name, method in self.methods.items():
            setattr(BlobStore, name, method)


def _child(lake: Path, what: str, argument: str) -> dict[str, Any]:
    """Ask `benchmarks.scale.child` in a process of its own, since a lake and its history belong to a process."""
    environment = {**os.environ, "ITRYON_LAKE": str(lake), "DAGSTER_HOME": str(lake / "dagster")}
    command = [sys.executable, "-m", "benchmarks.scale.child", what, argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _medians(figures: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(f[key] for f in figures) for key in figures[0]}
