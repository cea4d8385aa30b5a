"""Runs decoders in processes of their own, so that one that crashes or hangs costs one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
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
    tasks: Mapping[Key, tuple[Callable[..., Any], tuple[Any, ...]]], workers: int | None, timeout_s: float
) -> Iterator[tuple[Key, Any]]:
    """Run functions in worker processes; yields (key, result or `WorkerFailure`) as they finish.

    Args:
        tasks: Key -> function and arguments, all picklable, in the order they are started.
        workers: Processes; the number of cores by default.
        timeout_s: Longest time for one task; its worker is killed then.
    """
    if not tasks:
        return
    with worker_pool(min(workers or os.cpu_count() or 1, len(tasks)), threads=1) as pool:
        futures: dict[Any, Key] = {
            pool.schedule(f, args=args, timeout=timeout_s): key for key, (f, args) in tasks.items()
        }
        pending: set[Any] = set(futures)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield futures[future], _outcome(future, timeout_s)


def _outcome(future: Any, timeout_s: float) -> Any:
    try:
        return future.result()
    except TimeoutError:
        return WorkerFailure(f"Took longer than {timeout_s:.0f} s to read and was stopped (ingest.timeout_s)")
    except ProcessExpired as e:
        return WorkerFailure(f"The decoder crashed on it (exit code {e.exitcode})")
    except Exception as e:
        return WorkerFailure(f"{type(e).__name__}: {e}")
