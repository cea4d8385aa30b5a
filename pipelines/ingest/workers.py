"""Runs decoders in processes of their own, so that one that crashes or hangs costs one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from pebble import ProcessExpired

from pipelines.workers import worker_pool

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class WorkerFailure:
    """A task that gave no result: it crashed, hung, or raised what it should not."""

    reason: str


def run_isolated(
    tasks: Mapping[Key, tuple[Callable[..., Any], tuple[Any, ...]]],
    workers: int | None,
    timeout_s: float,
    memory_gb: float | None = None,
) -> Iterator[tuple[Key, Any]]:
    """Run functions in worker processes; yields (key, result or `WorkerFailure`) as they finish.

    Args:
        tasks: Key -> function and arguments, all picklable, in the order they are started.
        workers: Processes; the number of cores by default.
        timeout_s: Longest time for one task; its worker is killed then.
        memory_gb: Most memory of one worker, GiB, where the system can hold a process to it.
    """
    if not tasks:
        return
    with worker_pool(min(workers or os.cpu_count() or 1, len(tasks)), 1, memory_gb=memory_gb) as pool:
        futures: dict[Any, Key] = {
            pool.schedule(f, args=args, timeout=timeout_s): key for key, (f, args) in tasks.items()
        }
        pending: set[Any] = set(futures)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield futures[future], _outcome(future, timeout_s, memory_gb)


def _outcome(future: Any, timeout_s: float, memory_gb: float | None) -> Any:
    try:
        return future.result()
    except TimeoutError:
        return WorkerFailure(f"Took longer than {timeout_s:.0f} s to read and was stopped (ingest.timeout_s)")
    except ProcessExpired as e:
        return WorkerFailure(
            f"The decoder crashed on it (exit code {e.exitcode}); the next run tries again. Encode the file anew if it "
            "happens each time"
        )
    except BrokenProcessPool:
        # One was killed before it took anything up, and then pebble gives up all that is left.
        return WorkerFailure("The worker processes died before they read it; the next run tries again")
    except MemoryError:
        return WorkerFailure(f"Wants more than {memory_gb} GiB of memory to be read (ingest.memory_gb)")
    except Exception as e:
        return WorkerFailure(f"{type(e).__name__}: {e}")
