"""Speed, memory and size of the annotation half."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.baseline import plain_loop, plain_stage
from benchmarks.lake import ANNOTATIONS, BATCH, ingested
from benchmarks.videos import bench_videos, long_video
from pipelines.registry import STAGES
from pipelines.stage import StageReport, WorkerSettings, run_stage
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import VIDEOS


def throughput() -> dict[str, Any]:
    """The pipeline's annotation half against the plain loop, both over the same videos, in this run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        description, videos = bench_videos(root)
        store = ingested(root, videos)
        reports: dict[str, StageReport] = {}
        started = time.perf_counter()
        for name in ANNOTATIONS:
            reports[name] = run_stage(STAGES[name].build(), store, BATCH)
        pipeline_s = time.perf_counter() - started
        failures = {v: r for report in reports.values() for v, r in report.failures.items()}
        if failures:
            raise RuntimeError(f"The benchmark's videos must all work: {failures}")

        out = root / "plain"
        started = time.perf_counter()
        frames = plain_loop(videos, out)
        loop_s = time.perf_counter() - started
        tasks = []
        rows = store.read(VIDEOS, where={"batch": BATCH, "status": "ok"}).to_pylist()
        for row in rows:
            where = {"batch": BATCH, "video_id": row["video_id"]}
            tables = {n: store.read(TABLES[n], where=where) for n in ANNOTATIONS}
            tasks.append((store.blobs.local_path(row["uri"]), row, tables))
        started = time.perf_counter()
        for name in ("agnostic_masks", "captions"):
            plain_stage(name, tasks, out)
        functions_s = time.perf_counter() - started

        plain_bytes = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        delta_bytes = {n: _table_bytes(store, n) for n in ANNOTATIONS}
    workers = min(os.cpu_count() or 1, len(videos))
    model_s = sum(r.model_seconds for r in reports.values())
    busy_s = sum(r.worker_seconds for r in reports.values())
    return {
        "videos": description,
        "frames": frames,
        "workers": workers,
        "stages": {
            n: {
                "frames_per_second": r.frames / r.wall_seconds,
                "wall_s": r.wall_seconds,
                "inference_ms_per_frame": 1000 * r.model_seconds / r.frames,
                "other_ms_per_frame": 1000 * (r.worker_seconds - r.model_seconds) / r.frames,
                "peak_memory_mb": r.peak_memory_mb,
                "bytes_per_frame": delta_bytes[n] / frames,
            }
            for n, r in reports.items()
        },
        "pipeline_s": pipeline_s,
        "pipeline_fps": frames / pipeline_s,
        "baseline_s": loop_s + functions_s,
        "baseline_loop_s": loop_s,
        "baseline_functions_s": functions_s,
        "baseline_fps": frames / (loop_s + functions_s),
        "speedup": (loop_s + functions_s) / pipeline_s,
        "other_share_in_workers": 1 - model_s / busy_s,
        "other_share_of_wall": 1 - model_s / (pipeline_s * workers),
        "delta_bytes_per_frame": sum(delta_bytes.values()) / frames,
        "plain_bytes_per_frame": plain_bytes / frames,
    }


def _table_bytes(store: DeltaStore, name: str) -> int:
    table = store.open(TABLES[name])
    return sum(Path(uri.removeprefix("file://")).stat().st_size for uri in table.file_uris())


def memory(minutes: tuple[float, ...], fps: float, height: int = 1080) -> dict[str, Any]:
    """Peak memory of one worker for ever longer videos."""
    results = []
    for length in minutes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            _, videos = bench_videos(root)
            source = long_video(videos[0], root / "long.mp4", 60 * length, fps, height)
            store = ingested(root, [source])
            peaks = {}
            frames = 0
            for name in ANNOTATIONS:
                report = run_stage(STAGES[name].build(), store, BATCH, settings=WorkerSettings(workers=1))
                if report.failures:
                    raise RuntimeError(str(report.failures))
                peaks[name] = report.peak_memory_mb
                frames = report.frames
            results.append({"minutes": length, "frames": frames, "peak_memory_mb": peaks})
    return {"height": height, "fps": fps, "lengths": results}
