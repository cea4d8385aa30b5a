"""What all commands share: where they print, how they fail, their common options, and running a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from dagster_project.settings_file import SettingsError
from models.weights import WeightsError

if TYPE_CHECKING:
    import dagster as dg

ConfigOption = Annotated[
    Path | None, typer.Option(help="YAML: resource name -> settings, such as `hands: {backend: hamer}`")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print Dagster's log")]
console = Console()
errors = Console(stderr=True)


def fail(message: str) -> typer.Exit:
    """Print an error that says what to do; raise what it returns."""
    errors.print(f"[bold red]error[/] {escape(message)}", highlight=False)
    return typer.Exit(1)


class Commands(TyperGroup):
    """Commands that end with a message, not with a traceback, where files, the lake or settings are at fault."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # Who reads the output has enough of it.
        except (OSError, WeightsError, SettingsError) as e:
            raise fail(str(e)) from e


def materialized(
    job: str,
    batch: str | None,
    assets: list[str] | None = None,
    resources: dict[str, dict] | None = None,
    verbose: bool = False,
    out: Console = console,
) -> dg.ExecuteInProcessResult:
    """Run a job in this process and print what it made; a run that failed ends the command.

    Args:
        job: Name of the job.
        batch: Its partition.
        assets: Assets of the job; all by default.
        resources: Resource -> settings that differ from the defaults.
        verbose: Print Dagster's own log.
        out: Where to print.
    """
    import dagster as dg

    from dagster_project.instance import run_job
    from dagster_project.reports import print_run

    try:
        result = run_job(job, batch=batch, assets=assets, resources=resources, verbose=verbose)
    except (dg.DagsterInvalidConfigError, dg.DagsterInvalidSubsetError) as e:
        raise fail(str(e)) from e
    print_run(result, out)
    if not result.success:
        raise fail(f"run {result.run_id} failed; see `itryon ui`, or run again with --verbose")
    return result
