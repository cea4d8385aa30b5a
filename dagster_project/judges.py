"""What `itryon evaluate judge` prints, from the tables `judge_reports` and `judge_cases`."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.evaluation.judges.validation import METRICS, figure_shown
from pipelines.store import DeltaStore
from pipelines.store.studio_schemas import JUDGE_CASE_KINDS, JUDGE_CASES, JUDGE_REPORTS


def print_judge_report(store: DeltaStore, batch: str, judge_digest: str, console: Console) -> None:
    """Figures over all cases, accuracy of every kind of case, and the confusion of every action."""
    where = {"batch": batch, "judge_digest": judge_digest}
    rows = store.read(JUDGE_REPORTS, where=where).to_pylist()
    cases = store.read(JUDGE_CASES, where=where).to_pylist()
    looks = sorted({r["pictures"] for r in rows}, key=lambda p: p != "rendered")
    of = {(r["metric"], r["pictures"], r["split"]): r for r in rows}
    name = escape(rows[0]["judge"])
    table = Table("figure", *looks, title=f"{name} on {escape(batch)}")
    for metric in METRICS:
        table.add_row(metric, *(figure_shown(of.get((metric, p, "all"))) for p in looks))
    for kind in JUDGE_CASE_KINDS:
        values = [of.get(("accuracy", p, f"case={kind}")) for p in looks]
        if any(values):
            table.add_row(f"accuracy, {kind}", *map(figure_shown, values))
    console.print(table)
    for look in looks:
        table = Table("action", "done, said done", "done, said not", "not, said done", "not, said not", "none", "kappa")
        table.title = f"Confusion by action asked for, {look} results"
        for action in sorted({c["action"] for c in cases}):
            counts = Counter(
                (c["expected"], c["success"]) for c in cases if (c["action"], c["pictures"]) == (action, look)
            )
            cells = [counts[e, s] for e in (True, False) for s in (True, False)]
            none = counts[True, None] + counts[False, None]
            table.add_row(
                action, *map(str, cells), str(none), figure_shown(of.get(("kappa", look, f"action={action}")))
            )
        console.print(table)
    if not rows[0]["held_back"]:
        console.print("[yellow]The judge was fitted on clips of this batch: it looks better than it is.[/]")


def judge_report_json(store: DeltaStore, batch: str, judge_digest: str) -> str:
    """All figures and all cases as JSON."""
    where = {"batch": batch, "judge_digest": judge_digest}

    def plain(spec: Any) -> list[dict[str, Any]]:
        return [{**r, "created_at": r["created_at"].isoformat()} for r in store.read(spec, where=where).to_pylist()]

    values = {"batch": batch, "figures": plain(JUDGE_REPORTS), "cases": plain(JUDGE_CASES)}
    return json.dumps(values, indent=2)
