"""`itryon evaluate --pred DIR --gt DIR`: metrics of two folders, with a progress bar and a table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipelines.evaluation.settings import EvaluationSettings
from pipelines.ingest.settings import IngestSettings

if TYPE_CHECKING:
    from pipelines.evaluation.values import EvaluationReport
    from pipelines.store import DeltaStore

_MOST_ROWS = 40
"""Videos in the table; all are in the JSON."""


def score_folders(
    pred: Path,
    gt: Path,
    settings: EvaluationSettings,
    limits: IngestSettings,
    setting: str,
    out: Path | None,
    console: Console,
) -> EvaluationReport:
    """Compare two folders and print what was measured.

    Args:
        pred: Folder of try-on videos.
        gt: Folder of real videos.
        settings: What to measure.
        limits: Time and memory of the processes that decode a video first.
        setting: paired, unpaired or auto.
        out: JSON file to write.
        console: Where tables go.

    Raises:
        ValueError: The setting is none of these.
        pipelines.evaluation.metrics.NothingToEvaluate: There is nothing to compare, with what to do.
    """
    if setting not in ("auto", "paired", "unpaired"):
        raise ValueError(f"--setting is auto, paired or unpaired, not {setting}")
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
            limits=limits,
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
    compared = {v: {m.metric: m for m in ms} for v, ms in sorted(report.videos.items())}
    names = sorted({n for found in compared.values() for n, m in found.items() if m.value is not None})
    if names:
        console.print(f"Mode {report.mode}. Values of a video are means over its frames, without an interval.")
        table = Table("video", *names, "frames")
        for video, found in list(compared.items())[:_MOST_ROWS]:
            values = ["-" if (m := found.get(n)) is None or m.value is None else f"{m.value:.4f}" for n in names]
            frames = max((m.num_samples for m in found.values()), default=0)
            table.add_row(escape(video), *values, str(frames) if frames else "-")
        console.print(table)
        if len(compared) > _MOST_ROWS:
            console.print(f"and {len(compared) - _MOST_ROWS} more videos", highlight=False)
    if report.setting == "unpaired":
        console.print("Unpaired: no video has a ground truth of its own, only the sets are compared.", highlight=False)
    print_set([asdict(m) for m in report.whole], console)
    for name, reason in sorted(report.left_out.items()):
        console.print(f"[yellow]left out[/] {escape(name)}: {escape(reason)}", highlight=False)
    if report.left_out:
        console.print(f"{len(report.left_out)} left out", highlight=False)


def print_set(metrics: list[dict[str, Any]], console: Console) -> None:
    """Metrics of a set, each with interval, samples, mode and network; what could not be computed with its reason.

    Args:
        metrics: As in `video_metrics`.
        console: Where to.
    """
    from pipelines.evaluation.values import network_shown

    table = Table("metric", "value", "interval", "samples", "mode", "network")
    for m in metrics:
        if m["value"] is not None:
            interval = "-" if m["low"] is None or m["high"] is None else f"{m['low']:.4f} to {m['high']:.4f}"
            network = network_shown(m["network"]) or "-"
            table.add_row(m["metric"], f"{m['value']:.4f}", interval, str(m["num_samples"]), m["mode"], network)
    if table.row_count:
        console.print(table)
    for m in metrics:
        if text := m.get("note") if m["value"] is not None else f"not computed: {m['reason']}":
            console.print(f"{m['metric']}: {escape(text)}", highlight=False)


def print_scores(store: DeltaStore, checkpoint_id: str, judge: str, agreement: str, console: Console) -> None:
    """Metrics of a checkpoint's try-on videos, and its success rate with interval, count and judge.

    Args:
        store: The lake.
        checkpoint_id: Checkpoint.
        judge: Judge of the rate.
        agreement: What is known of its agreement with known truth.
        console: Where to.
    """
    from pipelines.evaluation.leaderboard import leaderboard_rows
    from pipelines.evaluation.shown import shown

    (row,) = leaderboard_rows(store, [checkpoint_id])
    print_set(row["metrics"], console)
    rate = "nothing judged"
    if row["isr"] is not None:
        rate = f"{shown(row['isr'], row['isr_low'], row['isr_high'])} of {row['isr_judged']} judged"
    unanswered = f", {row['isr_unanswered']} unanswered" if row["isr_unanswered"] else ""
    console.print(f"ISR {rate}{unanswered}, judge {escape(judge)}: {escape(agreement)}", highlight=False)
