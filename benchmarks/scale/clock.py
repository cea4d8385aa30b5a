"""Wall and CPU time of named operations."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any


def cpu_seconds() -> float:
    """CPU time of this process and of those of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


class Clock:
    """Collects times of operations: name -> `wall_s` and `cpu_s`."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Do the work and note its times; returns what it returns."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        value = work()
        self.taken[name] = {"wall_s": time.perf_counter() - wall, "cpu_s": cpu_seconds() - cpu}
        return value
