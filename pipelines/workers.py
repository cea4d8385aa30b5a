"""Pools of worker processes that end with the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pebble import ProcessPool

SPAWN = multiprocessing.get_context("spawn")
"""How workers start; queues handed to them come from it too."""


@contextlib.contextmanager
def worker_pool(
    workers: int, threads: int, setup: Callable[..., None] | None = None, *arguments: Any
) -> Iterator[ProcessPool]:
    """A pool of processes; leaving by an exception drops what has not finished.

    Args:
        workers: Processes.
        threads: Threads of OpenMP and OpenCV in each.
        setup: Called in each process before its first task, with `arguments`.
    """
    initargs = (os.getpid(), threads, setup, arguments)
    with ProcessPool(workers, context=SPAWN, initializer=_start_worker, initargs=initargs) as pool:
        try:
            yield pool
        except BaseException:
            pool.stop()
            raise


def _start_worker(parent: int, threads: int, setup: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # Spinning threads burn the core that another worker needs: on a busy machine encoding clips took 110 s, not 3.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

    def watch() -> None:
        # A killed parent cannot stop its workers; without this they would go on with hours of video.
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    import cv2

    cv2.setNumThreads(threads)
    if setup is not None:
        setup(*arguments)
