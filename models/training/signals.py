"""Leaving on a signal, between two steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

PARENT_ENV = "ITRYON_PARENT_PID"
"""Process that started the trainer, on the same machine; the trainer ends when it is gone."""


def end_with_parent() -> None:
    """Watch the process that `PARENT_ENV` names, if set, and end this one within a second of its death.

    A parent that is killed cannot stop its trainer, which would go on for days beside the one that the next run starts.
    """
    if not (parent := os.environ.get(PARENT_ENV)):
        return

    def watch() -> None:
        while _exists(int(parent)):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


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
