"""The studio on a terminal: a bar over frames, then what was made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pipelines.studio.settings import StudioSettings

if TYPE_CHECKING:
    from pipelines.studio.batch import StudioReport


def render_with_progress(settings: StudioSettings, folder: Path, console: Console) -> StudioReport:
    """Render a batch into a folder; see `pipelines.studio.batch.render_batch`."""
    from pipelines.studio.batch import render_batch

    columns = (
        TextColumn("rendering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("studio", total=settings.clips * settings.frames)
        report = render_batch(settings, folder, on_progress=lambda done, total: bar.update(task, completed=done))
    table = Table("performance", "clips")
    for performance, count in sorted(report.performances.items()):
        table.add_row(performance, str(count))
    console.print(table)
    console.print(
        f"{report.clips} clips with {report.frames} frames in {time.monotonic() - started:.0f} s; interactions in "
        f"{100 * report.interaction_share:.1f} % of the frames",
        highlight=False,
    )
    return report
