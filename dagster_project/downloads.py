"""Weights with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from models import weights


def fetch_with_progress(
    groups: Sequence[str] | None, console: Console, quiet: bool = False, also_default: bool = False
) -> None:
    """Fetch groups of weights.

    Args:
        groups: Names; the default groups if None.
        console: Where the bar goes.
        quiet: Draw a bar only when something has to be fetched, and print nothing at the end.
        also_default: Add the default groups to `groups`.

    Raises:
        models.weights.WeightsError: A download failed or a file is not what the registry says.
    """
    if also_default:
        fetch_with_progress(None, console, quiet)
    if quiet and not weights.verify(groups):
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("weights", total=None)
        root = weights.fetch(
            groups,
            on_progress=lambda text, done, total: bar.update(task, description=text, completed=done, total=total),
        )
    if not quiet:
        console.print(f"weights are in {root}", highlight=False)
