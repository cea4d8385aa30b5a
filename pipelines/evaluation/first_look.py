"""The first look at videos of anyone's folders: in processes of their own, which a file may crash or stall.

The networks decode in the process that runs them. What gets there has been decoded once, whole, where it does no harm.
Videos of a lake had that look when they were ingested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipelines.evaluation.cache import ArrayCache, content_digest
from pipelines.evaluation.values import UNREADABLE
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.workers import WorkerFailure, run_isolated
from pipelines.video import VideoError, VideoReader

_VERSION = 1


def harmful_videos(
    videos: Sequence[Path],
    limits: IngestSettings | None = None,
    cache: ArrayCache | None = None,
    on_video: Callable[[str], None] | None = None,
) -> dict[Path, str]:
    """Videos that crash a decoder, or want more time or memory than the limits, each with the reason.

    A file that merely cannot be read, or opened, is not among them: whoever reads it says so.

    Args:
        videos: Files.
        limits: Time and memory for one file, and the number of processes.
        cache: Where it is kept that a file of some content is harmless; nowhere by default.
        on_video: Called with the name of each video looked at.
    """
    limits, cache = limits or IngestSettings(), cache or ArrayCache(None)
    keys = {v: key for v in videos if (key := _key(v))} if cache.folder else {}
    unseen = [v for v in videos if v in keys and cache.get(keys[v]) is None] if cache.folder else list(videos)
    harmful = {}
    tasks = {video: (decode_whole, (video,)) for video in unseen}
    for video, outcome in run_isolated(tasks, limits.workers, limits.timeout_s, limits.memory_gb):
        if isinstance(outcome, WorkerFailure):
            harmful[video] = f"{UNREADABLE}: {outcome.reason}"
        elif video in keys:
            cache.put(keys[video], np.array(outcome))
        if on_video:
            on_video(video.name)
    return harmful


def _key(video: Path) -> str | None:
    """By what it is kept that a file is harmless; None where it cannot be read."""
    try:
        return ArrayCache.key(first_look=_VERSION, content=content_digest(video))
    except OSError:
        return None


def decode_whole(video: Path) -> int:
    """Frames of a video that decode; for a worker process."""
    try:
        with VideoReader(video) as reader:
            return sum(1 for _ in reader.frames())
    except VideoError:
        return 0
