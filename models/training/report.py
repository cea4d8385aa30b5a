"""Where a run reports: a progress bar on a terminal, log lines elsewhere, and Dagster when it started the process."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("training")


def open_pipes() -> Any | None:
    """The Dagster Pipes context when Dagster launched this process, else None.

    Only the main process of a distributed run may call it: one writer a message file.
    """
    from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, open_dagster_pipes

    return open_dagster_pipes() if os.environ.get(DAGSTER_PIPES_CONTEXT_ENV_VAR) else None


class Reporter:
    """Sends steps and messages of a run to whoever watches.

    Args:
        steps: Steps of the run.
        pipes: Context of `open_pipes`, or None. Sends custom messages with `kind` step or summary.
        quiet: Say nothing (processes of a distributed run other than the main one).
    """

    def __init__(self, steps: int, pipes: Any | None = None, quiet: bool = False):
        self.steps = steps
        self.pipes = pipes
        self.quiet = quiet
        self._bar: Progress | None = None

    def __enter__(self) -> Reporter:
        if not self.quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("training", total=self.steps, numbers="")
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.stop()

    def message(self, text: str) -> None:
        """One line for the log."""
        if self.quiet:
            return
        if self._bar:
            self._bar.console.print(text)
        if self.pipes:
            self.pipes.log.info(text)
        elif not self._bar:
            log.info(text)

    def step(self, record: dict[str, float], log_now: bool) -> None:
        """A finished step; `record` holds the columns of the metrics and samples_per_second, peak_memory_mb."""
        if self.quiet:
            return
        numbers = (
            f"loss {record['loss']:.4f}  std {record['loss_std']:.4f}  action {record['loss_action']:.4f}  "
            f"{record['step_seconds']:.2f} s/step  {record['samples_per_second']:.2f} clips/s  "
            f"{record['peak_memory_mb']:.0f} MB"
        )
        if self._bar:
            self._bar.update(self._task, completed=record["step"], numbers=numbers)
        if log_now and not self._bar:
            self.message(f"step {int(record['step'])}/{self.steps}  {numbers}")
        if log_now and self.pipes:
            self.pipes.report_custom_message({"kind": "step", "steps": self.steps, **record})

    def summary(self, summary: dict[str, Any]) -> None:
        """The end of a finished run."""
        if not self.quiet and self.pipes:
            self.pipes.report_custom_message({"kind": "summary", **summary})
