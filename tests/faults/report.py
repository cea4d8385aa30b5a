"""The table in docs/faults.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.faults.suite import Kind

_HEAD = """# Faults

Written by `make faults` (`python -m tests.faults --seed {seed}`), not by hand. It kills, fills, cuts, refuses and
poisons, and looks after each injection at what is promised: **no row is lost or doubled, no row names a half blob,
every error says what to do, and the same command run again ends as an undisturbed run does.** It can be stopped and run
again, and takes `--only KIND` and `--count N`. The injections below took {minutes:.0f} minutes of CPU time, not
counting runs that were stopped. A few of each kind are part of `make test` (`tests/faults`).

| kind | fault | injections | checked | result | date |
|---|---|---|---|---|---|
"""


def markdown(kinds: Iterable[Kind], rows: Sequence[dict[str, Any]], seed: int) -> str:
    """The page: one row a kind of fault, then what happened, in numbers, and what broke."""
    minutes = sum(r["figures"]["cpu_s"] for r in rows if "cpu_s" in r["figures"]) / 60
    rows = [r for r in rows if "cpu_s" not in r["figures"]]
    lines, details, broken = [], [], []
    for kind in kinds:
        mine = [r for r in rows if r["kind"] == kind.name]
        if not mine:
            lines.append(f"| {kind.name} | {kind.fault} | 0 | {kind.checked} | not run | |")
            continue
        bad = [r for r in mine if r["result"] != "held"]
        total, failed = (sum(r["injections"] for r in some) for some in (mine, bad))
        result = f"{total - failed} of {total} held"
        dates = sorted({r["date"] for r in mine})
        date = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        lines.append(f"| {kind.name} | {kind.fault} | {total} | {kind.checked} | {result} | {date} |")
        details += [f"- **{kind.name}**: {text}" for text in _details(mine)]
        broken += [f"- {r['kind']}, {r['case']}: {r['note']}" for r in bad]
    page = _HEAD.format(seed=seed, minutes=minutes) + "\n".join(lines) + "\n\n## What happened\n\n" + "\n".join(details)
    if broken:
        page += "\n\n## Broken promises\n\n" + "\n".join(broken)
    return page + "\n"


def _details(rows: Sequence[dict[str, Any]]) -> list[str]:
    notes = Counter(r["note"] for r in rows if r["result"] == "held" and r["note"])
    figures: Counter[str] = Counter()
    for row in rows:
        figures.update({k: int(v) for k, v in row["figures"].items()})
    parts = [f"{n} × {text}" for text, n in notes.most_common()]
    parts += [f"{text}: {n:,}" for text, n in figures.items()]
    return ["; ".join(parts)] if parts else []
