"""Progress of an asset: a bar on a terminal, lines in the run's log elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import dagster as dg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipelines.stage import Progress as StageProgress

_LOG_EVERY_S = 15.0

Show = Callable[[int, int | None, str], None]
"""Takes what is done, of how much (None: not known), and a note."""


@contextlib.contextmanager
def stage_progress(context: dg.AssetExecutionContext, name: str) -> Iterator[Callable[[StageProgress], None]]:
    """A callback for `run_stage(on_progress=)`: frames and videos done."""
    with _bar_or_log(context, name, "frames") as show:
        yield lambda p: show(p.frames_done, p.frames_total, f"{p.videos_done}/{p.videos_total} videos")


@contextlib.contextmanager
def steps_progress(context: dg.AssetExecutionContext, name: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """A callback for work that reports (what, done, total)."""
    with _bar_or_log(context, name, "steps") as show:
        yield lambda what, done, total: show(done, total, what)


@contextlib.contextmanager
def _bar_or_log(context: dg.AssetExecutionContext, name: str, unit: str) -> Iterator[Show]:
    """A bar on a terminal, else a line in the run's log every few seconds.

    Runs started by the command line execute in its own process, so a bar can be drawn there; the UI's runs have no
    terminal, and people read their log.
    """
    console = Console(file=sys.stderr)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit + "  {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(name, total=None, note="")
            yield lambda done, total, note: bar.update(task, total=total, completed=done, note=note)
        return
    last = time.monotonic()

    def log(done: int, total: int | None, note: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_EVERY_S:
            last = time.monotonic()
            context.log.info(f"{name}: {done}{f'/{total}' if total else ''} {unit} {note}")

    yield log
