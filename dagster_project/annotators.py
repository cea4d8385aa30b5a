"""What `itryon evaluate annotators` prints, from the table `annotator_reports`."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.evaluation.annotators.goals import GOALS
from pipelines.evaluation.shown import interval_shown, shown
from pipelines.store import DeltaStore
from pipelines.store.studio_schemas import ANNOTATOR_REPORTS

_PICTURE = re.compile(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)")


def print_report(store: DeltaStore, batch: str, console: Console) -> None:
    """Goals with what was reached, the same figures by what the videos show, and all others over all videos."""
    rows = store.read(ANNOTATOR_REPORTS, where={"batch": batch}).to_pylist()
    overall = [r for r in rows if r["split"] == "all"]
    table = _table("goal", "annotator", "bound", "value", "95 % interval", "", title=f"Annotators on {batch}")
    for goal in GOALS:
        for r in (r for r in overall if r["metric"] == goal.metric):
            verdict = {None: "no data", True: "[green]met[/]", False: "[red]missed[/]"}[r["met"]]
            bound = f"{goal.sign} {shown(goal.limit, unit=r['unit'])}"
            table.add_row(
                goal.title, escape(r["annotator"]), bound, shown(r["value"], unit=r["unit"]), _interval(r), verdict
            )
    console.print(table)
    backends = [(g, r["annotator"]) for g in GOALS for r in overall if r["metric"] == g.metric]
    several = {g.metric for g in GOALS if sum(g is other for other, _ in backends) > 1}
    heads = [_head(g.metric) + (f"\n{b}" if g.metric in several else "") for g, b in backends]
    table = _table("", *map(escape, heads), title="By what the videos show")
    value_of = {(r["metric"], r["split"], r["annotator"]): shown(r["value"], unit=r["unit"]) for r in rows}
    names = list(dict.fromkeys(r["split"] for r in rows if r["split"] != "all"))
    for name in sorted(names, key=lambda n: not n.startswith("performance")):
        values = (value_of.get((g.metric, name, b), "–") for g, b in backends)
        table.add_row(escape(name.split("=")[-1]), *(v.removesuffix(" %").removesuffix(" mm") for v in values))
    console.print(table)
    table = _table("figure", "annotator", "value", "95 % interval", "samples", title="All figures, over all videos")
    for r in overall:
        if "/" not in r["metric"]:
            value = shown(r["value"], unit=r["unit"])
            table.add_row(r["metric"], escape(r["annotator"]), value, _interval(r), f"{r['num_samples']:,}")
    console.print(table)


def _table(first: str, *others: str, title: str) -> Table:
    """A narrow table in which only the first column wraps: terminals have 80 columns."""
    table = Table(title=title, padding=(0, 0, 0, 1), collapse_padding=True)
    table.add_column(first, overflow="fold", min_width=min(12, len(first)))
    for name in others:
        table.add_column(name, no_wrap=True)
    return table


def _head(metric: str) -> str:
    """A metric's name over several short lines."""
    family, name = metric.split(".", 1)
    return "\n".join([family, *name.split("_")])


def _interval(row: dict[str, Any]) -> str:
    return interval_shown(row["low"], row["high"], unit=row["unit"])


def report_json(store: DeltaStore, batch: str) -> str:
    """All figures of the batch, and the goals with whether they are met, as JSON."""
    rows = store.read(ANNOTATOR_REPORTS, where={"batch": batch}).to_pylist()
    for row in rows:
        row["created_at"] = row["created_at"].isoformat()
    goals = [
        {"goal": g.title, "metric": g.metric, "limit": g.limit, "better": g.better}
        | {k: r[k] for k in ("annotator", "value", "low", "high", "num_samples", "met")}
        for g in GOALS
        for r in rows
        if r["metric"] == g.metric and r["split"] == "all"
    ]
    return json.dumps({"batch": batch, "goals": goals, "figures": rows}, indent=2)


def save_pictures(result: dg.ExecuteInProcessResult, folder: Path) -> list[Path]:
    """Write the pictures of a run's materialisations as files; those written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for event in result.get_asset_materialization_events():
        for name, entry in event.step_materialization_data.materialization.metadata.items():
            if found := _PICTURE.search(str(entry.value)):
                path = folder / f"{name}.{found[1].replace('jpeg', 'jpg')}"
                path.write_bytes(base64.b64decode(found[2]))
                written.append(path)
    return written
