"""One run at a time on a stage of a batch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from urllib.parse import quote

from filelock import FileLock, Timeout

from pipelines.stage.base import scratch
from pipelines.store import DeltaStore

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def turn(store: DeltaStore, stage: str, batch: str) -> Iterator[None]:
    """Wait until no other process of this machine works on the stage of this batch.

    Two runs of a batch share their staged files. The one that was done first deleted them under the other, which
    failed at its commit or took its videos for bad ones. The system drops the lock when its process dies.
    """
    folder = scratch(store) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{stage}-{quote(batch, safe='')}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("%s of batch %s is being made by another run: waiting for it to end", stage, batch)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
