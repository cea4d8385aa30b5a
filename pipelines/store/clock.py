"""Times of rows whose order matters."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pipelines.store.delta import DeltaStore
from pipelines.store.schemas import TableSpec


def later_than(store: DeltaStore, spec: TableSpec) -> datetime:
    """The time now, or a microsecond after the newest row of the table, whichever is later.

    The newest row is the one written last. Where two machines write, or a clock was set back, a row would else be older
    than rows from before it: a checkpoint just trained would not be the one that try-on takes.
    """
    times = [t for t in store.read(spec, ["created_at"])["created_at"].to_pylist() if t is not None]
    now = datetime.now(UTC)
    return max(now, max(times) + timedelta(microseconds=1)) if times else now
