"""Pools of worker processes that end with the process that started them."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pebble import ProcessPool

SPAWN = multiprocessing.get_context("spawn")
"""How workers start; queues handed to them come from it too."""

# OpenCV, torch's allocator on CPUs, ffmpeg through PyAV, and the C++ runtime.
_OUT_OF_MEMORY = ("Insufficient memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


@contextlib.contextmanager
def worker_pool(
    workers: int,
    threads: int,
    setup: Callable[..., None] | None = None,
    *arguments: Any,
    memory_gb: float | None = None,
) -> Iterator[ProcessPool]:
    """A pool of processes; leaving by an exception drops what has not finished.

    Args:
        workers: Processes.
        threads: Threads of OpenMP and OpenCV in each.
        setup: Called in each process before its first task, with `arguments`.
        memory_gb: Most memory of one process, GiB, where the system can hold it to that; no limit by default.
    """
    initargs = (os.getpid(), threads, memory_gb, setup, arguments)
    with ProcessPool(workers, context=SPAWN, initializer=_start_worker, initargs=initargs) as pool:
        try:
            yield pool
        except BaseException:
            pool.stop()
            raise


def _start_worker(
    parent: int,
    threads: int,
    memory_gb: float | None,
    setup: Callable[..., None] | None,
    arguments: tuple[Any, ...],
) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Spinning threads burn the core that another worker needs: on a busy machine encoding clips took 110 s, not 3.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    _return_freed_frames()

    def watch() -> None:
        # A killed parent cannot stop its workers; without this they would go on with hours of video.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    import cv2

    cv2.setNumThreads(threads)
    _limit_memory(memory_gb)
    if setup is not None:
        setup(*arguments)


def _return_freed_frames() -> None:
    """Let frames go back to the system when they are freed, where the C library is glibc.

    It raises the size from which it does so with every large block that is freed; video frames then stay in a heap
    that fragments. 1080p frames through the pose stage: 294 MB with a fixed threshold of one megabyte, 614 MB after 700
    frames without, and 1.4 GB and growing after some thousands.
    """
    mmap_threshold = -3  # M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(mmap_threshold, 1 << 20)


def _limit_memory(gigabytes: float | None) -> None:
    """Hold this process to so much memory of its own; a decoder that asks for more is told that there is none.

    A header of a few bytes can announce a picture of many gigabytes. The limit is on written memory (RLIMIT_DATA), not
    on addresses (RLIMIT_AS): libraries reserve many more of those than they use.
    """
    if gigabytes is not None and sys.platform == "linux":
        limit = int(gigabytes * 2**30)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, in the words of Python, OpenCV or torch."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)
