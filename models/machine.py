"""What the machine has, as far as anything here asks before it starts something large."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def machine_memory() -> float:
    """Bytes of memory that this process may count on: the machine's, or its container's where that is less."""
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if _CGROUP_LIMIT.is_file() and (text := _CGROUP_LIMIT.read_text().strip()).isdigit():
        total = min(total, float(text))
    return total
