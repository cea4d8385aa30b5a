"""Commands that measure: try-on videos, annotators, judges. `dagster_project.cli` mounts them as `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from dagster_project.settings_file import build_settings, read_settings
from dagster_project.terminal import ConfigOption, VerboseOption, console, errors, fail, materialized

app = typer.Typer()


@app.callback(invoke_without_command=True)
def evaluate(
    context: typer.Context,
    pred: Annotated[Path | None, typer.Option(help="Folder of try-on videos, to compare without a lake")] = None,
    gt: Annotated[Path | None, typer.Option(help="Folder of real videos; pairs have the same file name")] = None,
    mode: Annotated[
        str | None, typer.Option(help="corrected, or legacy: as the field's published script computes")
    ] = None,
    setting: Annotated[
        str, typer.Option(help="paired, unpaired, or auto: paired where at least one name is in both folders")
    ] = "auto",
    networks: Annotated[Path | None, typer.Option(help="Folder of published network files")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Also write everything to this file")] = None,
    config: ConfigOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Score the newest try-on videos through Dagster: metrics and interaction success rate; or two folders."""
    if (command := context.invoked_subcommand) is not None:
        if given := [p.opts[0] for p in context.command.params if _given(context, p.name)]:
            raise fail(f"{', '.join(given)}: before `{command}` it has no effect; name options of `{command}` after it")
        return
    resources = read_settings(config)
    chosen = {"mode": mode, "networks": None if networks is None else str(networks)}
    values = resources.get("evaluation", {}) | {k: v for k, v in chosen.items() if v is not None}
    if pred is None and gt is None:
        if as_json is not None or setting != "auto":
            raise fail("--json and --setting are for two folders: name --pred and --gt")
        from dagster_project.reports import metadata_of
        from dagster_project.scoring import print_scores
        from pipelines.store import DeltaStore

        scored = ["video_metrics", "isr_scores", "leaderboard"]
        result = materialized("model", None, scored, resources | {"evaluation": values}, verbose)
        judge, agreement, judged = (
            metadata_of(result, "isr_scores", key) for key in ("judge", "judge_agreement", "checkpoint_id")
        )
        print_scores(DeltaStore(), judged, judge, agreement, console)
        return
    if pred is None or gt is None:
        raise fail("name both folders: --pred and --gt")
    from dagster_project.scoring import score_folders
    from pipelines.evaluation.settings import EvaluationSettings
    from pipelines.evaluation.values import UNREADABLE
    from pipelines.ingest.settings import IngestSettings

    models: dict[str, type[BaseModel]] = {"evaluation": EvaluationSettings, "ingest": IngestSettings}
    read = build_settings(resources | {"evaluation": values}, models, "comparing folders")
    try:
        report = score_folders(pred, gt, read["evaluation"], read["ingest"], setting, as_json, console)
    except (LookupError, OSError, ValueError) as e:
        raise fail(str(e)) from e
    unreadable = sum(reason.startswith(UNREADABLE) for reason in report.left_out.values())
    if unreadable and all(m.value is None for m in report.whole):
        raise fail(f"nothing was measured: {unreadable} videos cannot be read, see above")


def _given(context: typer.Context, parameter: str | None) -> bool:
    """Whether an option was named on the command line."""
    source = context.get_parameter_source(parameter) if parameter else None
    return source is not None and source.name == "COMMANDLINE"


@app.command()
def annotators(
    batch: Annotated[str, typer.Option(help="A batch rendered without labels and annotated up to captions")],
    as_json: Annotated[bool, typer.Option("--json", help="All figures, machine-readable")] = False,
    pictures: Annotated[Path | None, typer.Option(help="Folder to write the plots to")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Measure pose, hands, masks and captions of a rendered batch against its truth, through Dagster."""
    from dagster_project.annotators import print_report, report_json, save_pictures
    from pipelines.store import DeltaStore

    out = errors if as_json else console
    result = materialized("studio_report", batch, ["annotator_report"], verbose=verbose, out=out)
    if as_json:
        typer.echo(report_json(DeltaStore(), batch))
    else:
        print_report(DeltaStore(), batch, console)
    if pictures is not None:
        out.print(f"{len(save_pictures(result, pictures))} pictures in {pictures}", highlight=False)


@app.command()
def judge(
    batch: Annotated[str, typer.Option(help="A batch rendered with --undone and annotated up to agnostic_masks")],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures and verdicts, machine-readable")] = False,
    pictures: Annotated[Path | None, typer.Option(help="Folder to write the plots to")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Measure the judge of interactions, as `isr` in --config names it, against known truth, through Dagster."""
    from dagster_project.annotators import save_pictures
    from dagster_project.judges import judge_report_json, print_judge_report
    from dagster_project.reports import metadata_of
    from pipelines.store import DeltaStore

    out = errors if as_json else console
    result = materialized("judge", batch, ["judge_report"], read_settings(config), verbose, out)
    judge_digest = metadata_of(result, "judge_report", "judge_digest")
    if as_json:
        typer.echo(judge_report_json(DeltaStore(), batch, judge_digest))
    else:
        print_judge_report(DeltaStore(), batch, judge_digest, console)
    if pictures is not None:
        out.print(f"{len(save_pictures(result, pictures))} pictures in {pictures}", highlight=False)
