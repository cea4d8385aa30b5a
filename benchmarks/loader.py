"""The training loader: what a step waits for data, and what caching latents is worth.

Three ways to the same clips take turns within one process, a batch each: cached latents from the lake, frames decoded
and encoded on the fly, and the folder layout of the ViViD data set read as its users' loaders do. Ratios are medians
over the rounds of the two ways' CPU and wall times in the same round.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.lake import BATCH, ingested, with_clips
from benchmarks.videos import bench_videos
from benchmarks.vivid import read_vivid, write_vivid
from models.training.config import load_config
from models.training.data import BatchSequence, ClipSet, make_loader
from models.training.loop import train
from pipelines.checkpoints.live import LiveClips
from pipelines.clips.settings import ClipsSettings
from pipelines.store.schemas import VIDEOS

PRESET = "nano"
SEED = 0


def loader(rounds: int = 12, steps: int = 12, epochs: int = 20) -> dict[str, Any]:
    """Measure; see the module.

    Args:
        rounds: Batches of each way.
        steps: Training steps whose data wait is measured.
        epochs: Passes over the clips between two looks at the memory.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        description, videos = bench_videos(root)
        store = ingested(root, videos)
        settings = ClipsSettings()
        _, manifest = with_clips(store, settings)
        folder = root / "vivid"
        for video in store.read(VIDEOS, where={"batch": BATCH, "status": "ok"}).to_pylist():
            write_vivid(store, video, folder)

        cached = ClipSet(manifest, store.root, "train")
        live = ClipSet(manifest, store.root, "train", LiveClips(store, settings))
        paths = {"manifest": manifest, "blob_root": store.root, "output_dir": str(root / "run")}
        config = load_config(PRESET, {**paths, "steps": steps, "warmup_steps": 1, "checkpoint_every": 10 * steps})
        batches = BatchSequence(cached, config.batch_size, SEED)
        ways: dict[str, Callable[[list[int]], Any]] = {
            "cached": cached.collate,
            "on the fly": live.collate,
            "ViViD layout": lambda indices: [read_vivid(folder, cached.rows[i]) for i in indices],
        }
        times = _in_turns(ways, batches, rounds)
        memory = _memory(batches, epochs)
        summary = train(config)
        curve = pq.read_table(root / "run/metrics.parquet").to_pylist()
        blob_bytes = sum(
            (Path(store.root) / uri).stat().st_size for r in cached.rows for uri in (r["latents_uri"], r["text_uri"])
        )
        vivid_bytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    waits = [r["data_seconds"] / r["step_seconds"] for r in curve]
    return {
        "videos": description,
        "clips": len(cached.rows),
        "bucket": cached.rows[0]["bucket"],
        "batch_size": config.batch_size,
        "rounds": rounds,
        "ways": {
            name: {
                "wall_ms_per_clip": statistics.median(w / n for w, _, n in values) * 1000,
                "cpu_ms_per_clip": statistics.median(c / n for _, c, n in values) * 1000,
                "clips_per_second": statistics.median(n / w for w, _, n in values),
                "wall_ratio": statistics.median(w / b for (w, *_), (b, *_) in zip(values, times["cached"])),
                "cpu_ratio": statistics.median(c / b for (_, c, _), (_, b, _) in zip(values, times["cached"])),
            }
            for name, values in times.items()
        },
        "steps": steps,
        "step_s": summary["step_seconds_median"],
        "wait_share_median": statistics.median(waits),
        "wait_share_mean": sum(r["data_seconds"] for r in curve) / sum(r["step_seconds"] for r in curve),
        "memory_mb": memory,
        "epochs": epochs,
        "cached_bytes_per_clip": blob_bytes / len(cached.rows),
        "vivid_bytes": vivid_bytes,
    }


def _in_turns(
    ways: dict[str, Callable[[list[int]], Any]], batches: BatchSequence, rounds: int
) -> dict[str, list[tuple[float, float, int]]]:
    """Wall seconds, CPU seconds and clips of each round; a first one, with what only happens once, does not count."""
    times: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        indices = batches.indices(number)
        for name, read in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            read(indices)
            if number:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu, len(indices)))
    return times


def _memory(batches: BatchSequence, epochs: int) -> dict[str, float]:
    """Resident MB after one pass over the clips and after `epochs` more."""
    found = {}
    for name, passes in (("after one pass", 1), ("at the end", epochs)):
        for _ in make_loader(batches, 0, passes * batches.batches_per_epoch, 0, 1, 0):
            pass
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found[name] = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return found
