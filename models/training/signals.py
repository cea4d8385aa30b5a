"""Leaving on a signal, between two steps."""

from __future__ import annotations

import signal
import threading
from typing import Any


class StopFlag:
    """Remembers SIGTERM or SIGINT; the loop looks between steps.

    Further signals change nothing: Ctrl-C on a terminal reaches the trainer twice when Dagster passes it on too, and
    the second one must not end the saving. SIGKILL ends at once, and costs the steps since the last checkpoint.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def _handle(self, signum: int, _frame: Any) -> None:
        self.signum = self.signum or signum

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: Any) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
