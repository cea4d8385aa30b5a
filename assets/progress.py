"""Progress of a stage: a bar on a terminal, lines in the run's log elsewhere."""

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


@contextlib.contextmanager
def stage_progress(context: dg.AssetExecutionContext, name: str) -> Iterator[Callable[[StageProgress], None]]:
    """A callback for `run_stage(on_progress=)`.

    Runs started by the command line execute in its own process, so a bar can be drawn there; the UI's runs have no
    terminal, and people read their log.
    """
    console = Console(file=sys.stderr)
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("frames  {task.fields[videos]} videos"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as bar:
            task = bar.add_task(name, total=None, videos="")

            def draw(p: StageProgress) -> None:
                videos = f"{p.videos_done}/{p.videos_total}"
                bar.update(task, total=p.frames_total, completed=p.frames_done, videos=videos)

            yield draw
        return

    last = time.monotonic()

    def log(p: StageProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= _LOG_EVERY_S:
            last = time.monotonic()
            context.log.info(
                f"{name}: {p.frames_done}/{p.frames_total} frames, {p.videos_done}/{p.videos_total} videos"
            )

    yield log
