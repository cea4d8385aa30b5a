"""`itryon evaluate --pred DIR --gt DIR`: metrics of two folders, with a progress bar and a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipelines.evaluation.settings import EvaluationSettings
from pipelines.ingest.manifest import readable

if TYPE_CHECKING:
    from pipelines.evaluation.values import EvaluationReport, MetricValue

_MOST_ROWS = 40
"""Videos in the table; all are in the JSON."""


def score_folders(
    pred: Path, gt: Path, values: dict[str, Any], setting: str, out: Path | None, console: Console
) -> EvaluationReport:
    """Compare two folders and print what was measured.

    Args:
        pred: Folder of try-on videos.
        gt: Folder of real videos.
        values: Fields of `EvaluationSettings`.
        setting: paired, unpaired or auto.
        out: JSON file to write.
        console: Where tables go.

    Raises:
        ValueError: A setting is unknown or out of range.
        pipelines.evaluation.metrics.NothingToEvaluate: There is nothing to compare, with what to do.
    """
    if setting not in ("auto", "paired", "unpaired"):
        raise ValueError(f"--setting is auto, paired or unpaired, not {setting}")
    try:
        settings = EvaluationSettings.model_validate(values)
    except ValidationError as e:
        raise ValueError(readable(e)) from e
    from pipelines.evaluation.metrics import evaluate_folders

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("metrics", total=None)
        report = evaluate_folders(
            pred,
            gt,
            settings,
            setting=cast(Literal["auto", "paired", "unpaired"], setting),
            on_video=lambda name: bar.update(task, description=escape(name)),
        )
    if out is not None:
        out.write_text(json.dumps({"pred": str(pred), "gt": str(gt), **report.as_json()}, indent=2) + "\n")
    print_metrics(report, console)
    if out is not None:
        console.print(f"written to {out}", highlight=False)
    return report


def print_metrics(report: EvaluationReport, console: Console) -> None:
    """Metrics of videos and of the set; what could not be computed with its reason, what was left out by name."""
    compared = {v: {m.metric: m.value for m in ms} for v, ms in sorted(report.videos.items())}
    names = sorted({n for values in compared.values() for n, v in values.items() if v is not None})
    if names:
        table = Table("video", *names)
        for video, values in list(compared.items())[:_MOST_ROWS]:
            table.add_row(escape(video), *("-" if values.get(n) is None else f"{values[n]:.4f}" for n in names))
        console.print(table)
        if len(compared) > _MOST_ROWS:
            console.print(f"and {len(compared) - _MOST_ROWS} more videos", highlight=False)
    if report.setting == "unpaired":
        console.print("Unpaired: no video has a ground truth of its own, only the sets are compared.", highlight=False)
    table = Table("metric", "value", "interval", "samples", "network", title=f"mode {report.mode}")
    for m in report.whole:
        if m.value is not None:
            interval = "-" if m.low is None or m.high is None else f"{m.low:.4f} to {m.high:.4f}"
            table.add_row(m.metric, f"{m.value:.4f}", interval, str(m.num_samples), _network(m))
    if table.row_count:
        console.print(table)
    for m in report.whole:
        if text := m.note if m.value is not None else f"not computed: {m.reason}":
            console.print(f"{m.metric}: {escape(text)}", highlight=False)
    for name, reason in sorted(report.left_out.items()):
        console.print(f"[yellow]left out[/] {escape(name)}: {escape(reason)}", highlight=False)
    if report.left_out:
        console.print(f"{len(report.left_out)} left out", highlight=False)


def _network(value: MetricValue) -> str:
    name, _, digest = value.network.partition(" ")
    return f"{name} {digest[:12]}".strip() or "-"
