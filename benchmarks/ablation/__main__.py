"""`python -m benchmarks.ablation`: run what is missing, then write the table and the picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.ablation import report
from benchmarks.ablation.data import prepare
from benchmarks.ablation.plan import AblationSettings, jobs
from benchmarks.ablation.run import run_jobs

HERE = Path(__file__).parent


def main(
    work: Annotated[Path, typer.Option(help="Folder for clips, lake and checkpoints")] = Path("ablation"),
    seeds: Annotated[int, typer.Option(help="Seeds of the paper's five rows", min=1, max=report.MOST_SEEDS)] = 3,
    row: Annotated[list[str] | None, typer.Option(help="Only these rows")] = None,
    workers: Annotated[int, typer.Option(help="Jobs at a time, one core each")] = os.cpu_count() or 1,
    minutes: Annotated[float | None, typer.Option(help="Start no job after this time; run again to go on")] = None,
    report_only: Annotated[bool, typer.Option(help="Write table and picture of what there is")] = False,
) -> None:
    """Reproduce the paper's ablation in small. It takes hours; run it again to go on where it stopped."""
    settings, console = AblationSettings(), Console()
    wanted = jobs(seeds, tuple(row or ()))
    if not report_only:
        store = prepare(settings, work, workers)
        left = run_jobs(wanted, settings, store, work, workers, None if minutes is None else 60 * minutes, console)
        if left:
            console.print(f"{len(left)} of {len(wanted)} jobs are left: run this again to go on")
    found = report.measured(settings)
    if not found:
        console.print("nothing was measured yet")
        raise typer.Exit(1)
    (HERE / "RESULTS.md").write_text(report.markdown(settings, found))
    report.plot(found, HERE / "RESULTS.png")
    console.print(f"written to {HERE / 'RESULTS.md'}")


if __name__ == "__main__":
    typer.run(main)
