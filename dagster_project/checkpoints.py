"""Commands about checkpoints, from the leaderboard to a published one. `dagster_project.cli` mounts them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table

from dagster_project.settings_file import build_settings, read_settings
from dagster_project.terminal import ConfigOption, VerboseOption, console, fail, materialized
from pipelines.store import DeltaStore

app = typer.Typer()


def _store() -> DeltaStore:
    store = DeltaStore()
    store.ensure_tables()
    return store


@app.command()
def leaderboard(
    ablation: Annotated[
        list[Path] | None,
        typer.Option(help="Results of `make ablation`, a file or a folder, to list in place of those in the lake"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable")] = False,
) -> None:
    """All checkpoints with what was measured of them, best first; and below them the rows of the ablation."""
    from pipelines.evaluation import ablation as ablations
    from pipelines.evaluation.leaderboard import leaderboard_rows

    store = _store()
    try:
        found = ablations.read_ablations(store) if ablation is None else _ablation_rows(ablation)
    except ablations.AblationError as e:
        raise fail(str(e)) from e
    rows = leaderboard_rows(store)
    if as_json:
        listed = [{"kind": "checkpoint"} | r for r in rows] + [{"kind": ablations.KIND} | r for r in found]
        typer.echo(json.dumps(listed, indent=2, default=str))
        return
    if not rows and not found:
        raise fail("no checkpoint was trained yet: run `itryon train`")
    if rows:
        print_leaderboard(rows, console)
    if found:
        print_ablations(found, console)


def _ablation_rows(paths: list[Path]) -> list[dict[str, Any]]:
    from pipelines.evaluation.ablation import ablation_rows, read_results

    return ablation_rows(read_results(paths))


@app.command()
def promote(verbose: VerboseOption = False) -> None:
    """Make the checkpoint evaluated last the current one, unless it falls behind; through Dagster."""
    from dagster_project.reports import metadata_of

    result = materialized("promote", None, verbose=verbose)
    current, reason = (metadata_of(result, "promotions", key) for key in ("current_checkpoint_id", "reason"))
    console.print(f"current checkpoint: {current} ({escape(reason)})", highlight=False)


@app.command()
def rollback(
    to: Annotated[str | None, typer.Option(help="checkpoint_id or its first digits; the one before by default")] = None,
) -> None:
    """Make an earlier checkpoint, or any other one, the current one."""
    import dagster as dg

    from dagster_project.instance import dagster_home, open_instance
    from pipelines.evaluation import promotion

    try:
        row = promotion.rollback(_store(), to)
    except LookupError as e:
        raise fail(str(e)) from e
    # The UI shows it among the asset's events, like any decision.
    with open_instance(dagster_home()) as instance:
        shown = {k: row[k] or "none" for k in ("current_checkpoint_id", "previous_checkpoint_id", "reason")}
        instance.report_runless_asset_event(dg.AssetMaterialization("promotions", metadata=shown))
    before = row["previous_checkpoint_id"] or "none"
    console.print(f"current checkpoint: {row['checkpoint_id']} (before: {before})", highlight=False)


@app.command()
def retrain(config: ConfigOption = None, verbose: VerboseOption = False) -> None:
    """Retrain now on the clips that no training set holds yet, and decide on what comes of it; through Dagster."""
    from dagster_project.retraining import run_resources
    from pipelines.training_sets.due import NotDue, retraining_due
    from pipelines.training_sets.settings import RetrainingSettings, TrainingSetSettings

    asked = read_settings(config)
    read = build_settings(asked, {"retraining": RetrainingSettings, "training_set": TrainingSetSettings})
    settings = read["retraining"].model_copy(update={"min_new_clips": 1})
    try:
        due = retraining_due(_store(), settings, read["training_set"])
    except NotDue as e:
        raise fail(str(e)) from e
    mine: dict[str, dict[str, Any]] = run_resources(due, settings)
    merged = {k: asked.get(k, {}) | mine.get(k, {}) for k in (asked.keys() - {"retraining"}) | mine.keys()}
    materialized("retrain", None, resources=merged, verbose=verbose)


@app.command()
def report(
    checkpoint: Annotated[str, typer.Option(help="checkpoint_id or its first digits, `current` or `latest`")],
    out: Annotated[Path, typer.Option(help="Folder for the page and its videos")],
) -> None:
    """Write a page with videos, success rates, metrics and lineage of a checkpoint, to open without a server."""
    from pipelines.checkpoints.train import named_checkpoint
    from pipelines.evaluation.html_report import write_report

    store = _store()
    try:
        written = write_report(store, named_checkpoint(store, checkpoint)["checkpoint_id"], out)
    except (LookupError, OSError) as e:
        raise fail(str(e)) from e
    for uri in written.missing:
        console.print(f"[yellow]gone from the lake[/] {escape(uri)}", highlight=False)
    console.print(f"{written.page} with {written.videos} videos", highlight=False)


@app.command()
def publish(
    checkpoint: Annotated[str, typer.Argument(help="checkpoint_id or its first digits, `current` or `latest`")],
    out: Annotated[Path, typer.Option(help="Folder to write; empty, or not there yet")],
    licence: Annotated[
        str | None,
        typer.Option("--license", help="SPDX identifier for the weights; by default that of what they started from"),
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Put in frames of the worst and best try-on videos")] = True,
) -> None:
    """Write a checkpoint in half precision with its model card, to hand on or to upload to a hub."""
    from pipelines.publish.checkpoint import publish_checkpoint

    try:
        done = publish_checkpoint(_store(), checkpoint, out, licence=licence, pictures=pictures)
    except (LookupError, OSError, ValueError) as e:
        raise fail(str(e)) from e
    for line in done.missing:
        console.print(f"[yellow]missing on the card[/] {escape(line)}", highlight=False)
    if done.pictures:
        console.print(f"{len(done.pictures)} pictures show people: hand them on only if they agreed", highlight=False)
    console.print(f"checkpoint {done.checkpoint_id}: {done.card}", highlight=False, soft_wrap=True)


def print_leaderboard(rows: list[dict[str, Any]], console: Console) -> None:
    """The leaderboard as a table; in a terminal less than half as wide, a list for each checkpoint."""
    from pipelines.evaluation.leaderboard import columns, heads, shown_metrics

    names = shown_metrics(rows)
    titles, cells = heads(names), [[escape(c) for c in columns(row, names)] for row in rows]
    # Other commands take the id: a narrow terminal may shorten anything else.
    table = Table(Column(titles[0], min_width=12, overflow="fold"), *titles[1:], title="Leaderboard, best first")
    for row in cells:
        table.add_row(*row)
    if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= 2 * console.width:
        console.print(table)
        return
    for number, row in enumerate(cells, 1):
        table = Table(title=f"{number} of {len(cells)}" + (", the best" if number == 1 else ""), show_header=False)
        for title, cell in zip(titles, row):
            table.add_row(title, cell)
        console.print(table)


def print_ablations(rows: list[dict[str, Any]], console: Console) -> None:
    """Rows of an ablation as a table of their own."""
    from pipelines.evaluation.ablation import HEADS, TITLE, cells

    table = Table(*HEADS, title=TITLE)
    for row in rows:
        table.add_row(*map(escape, cells(row)))
    console.print(table)
