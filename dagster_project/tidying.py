"""The command `tidy`: the lake's maintenance now. `dagster_project.cli` mounts it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dagster_project.settings_file import read_settings
from dagster_project.terminal import ConfigOption, VerboseOption, console, fail

app = typer.Typer()


@app.command()
def tidy(
    days: Annotated[int | None, typer.Option(help="Age from which what nothing needs is removed; at least 14")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed, and remove nothing")] = False,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Merge small files and remove old versions and blobs that no current row and no training set needs."""
    import dagster as dg

    from dagster_project.instance import run_job

    resources = read_settings(config)
    chosen = {"days": days, "dry_run": dry_run or None}
    retention = resources.get("retention", {}) | {k: v for k, v in chosen.items() if v is not None}
    try:
        result = run_job("maintenance", resources=resources | {"retention": retention}, verbose=verbose)
    except dg.DagsterInvalidConfigError as e:
        raise fail(str(e)) from e
    if not result.success:
        (failure,) = result.filter_events(lambda e: e.is_step_failure)
        error = failure.step_failure_data.error
        cause = error.cause if error and error.cause else error
        raise fail(cause.message.strip() if cause else f"run {result.run_id} failed")
    print_report(result.output_for_node("tidy_lake"))


def print_report(report: dict[str, Any]) -> None:
    """What was tidied, for people."""
    would = "would be " if report["dry_run"] else ""
    files = sum(report["removed_files"].values())
    console.print(f"{files} files of replaced rows {would}removed", highlight=False)
    size = report["removed_bytes"] / 1e6
    console.print(
        f"{report['removed_blobs']} of {report['blobs']} blobs {would}removed ({size:.1f} MB)", highlight=False
    )
    if report["leftovers"]:
        console.print(f"{len(report['leftovers'])} leftovers of killed runs {would}removed", highlight=False)
    if report["merged"]:
        console.print(f"{sum(report['merged'].values())} small files merged", highlight=False)
    pinned = {table: len(versions) for table, versions in report["kept_versions"].items()}
    if pinned:
        console.print(f"kept for training sets, versions: {pinned}", highlight=False)
    if report["lost_versions"]:
        console.print(
            f"[yellow]versions whose log is gone[/], their training sets live on in their manifests: "
            f"{report['lost_versions']}",
            highlight=False,
        )
    if report["missing_blobs"]:
        console.print(f"[red]{report['missing_blobs']} blobs that rows name are missing[/]", highlight=False)
    if report["conflicts"]:
        console.print(f"written meanwhile, left for the next time: {', '.join(report['conflicts'])}", highlight=False)
