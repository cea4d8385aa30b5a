"""`python -m tests.faults`: inject faults, check what is promised, write docs/faults.md. Run it again to go on.

Cases that are done are in `<work>/results.jsonl` and are not done again; `--fresh` forgets them. The same seed makes
the same cases.
"""

from __future__ import annotations

import json
import os
import resource
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.conftest import REPOSITORY
from tests.faults import (
    clocks,
    damage,
    disk_full,
    fuzzing,
    object_store,
    poison,
    races,
    run_kills,
    stage_kills,
    trainer_kills,
)
from tests.faults.lakes import Broken
from tests.faults.report import markdown
from tests.faults.suite import Case, Kind

KINDS: dict[str, Kind] = {
    m.KIND.name: m.KIND
    for m in (
        stage_kills,
        run_kills,
        trainer_kills,
        disk_full,
        object_store,
        races,
        clocks,
        damage,
        poison,
        fuzzing,
    )
}
"""Kind of fault by its name, in the order of the table."""


SESSION = "session"
"""Result of a row that says what CPU time a number of cases took."""


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main(
    seed: Annotated[int, typer.Option(help="Of everything that is drawn")] = 1,
    only: Annotated[list[str] | None, typer.Option(help=f"Only these kinds: {', '.join(KINDS)}")] = None,
    count: Annotated[
        int | None, typer.Option(help="Cases of each kind (files for fuzz); all by default", min=1)
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder for lakes and results")] = Path("faults"),
    out: Annotated[Path, typer.Option(help="Table to write")] = REPOSITORY / "docs" / "faults.md",
    fresh: Annotated[bool, typer.Option(help="Forget what was done before")] = False,
    report_only: Annotated[bool, typer.Option(help="Write the table of what there is")] = False,
) -> None:
    """Inject faults and hold the pipeline to its promises; 1 where one was broken."""
    console = Console()
    for name in only or ():
        if name not in KINDS:
            raise typer.BadParameter(f"there is no kind {name!r}; there are {', '.join(KINDS)}", param_hint="--only")
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    results = work / "results.jsonl"
    if fresh:
        results.unlink(missing_ok=True)
    done = read(results)
    if not report_only:
        for kind in KINDS.values():
            if not only or kind.name in only:
                run_kind(kind, seed, count, work, results, done, console)
    out.write_text(markdown(KINDS.values(), [r for r in done.values() if r["seed"] == seed], seed))
    cases = [r for r in done.values() if r["seed"] == seed and r["result"] != SESSION]
    broken = [r for r in cases if r["result"] == "broken"]
    for row in broken:
        text = f"{row['kind']}: {row['case']}: {row['note']}"
        console.print(f"[red]broken[/] {escape(text)}", highlight=False)
    console.print(f"{len(cases)} cases done, {len(broken)} broken; written to {out}", highlight=False)
    raise typer.Exit(1 if broken else 0)


def read(results: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What was done, by kind, case and seed; the last line about a case counts."""
    lines = results.read_text().splitlines() if results.exists() else []
    rows = [json.loads(line) for line in lines if line.strip()]
    return {(r["kind"], r["case"], r["seed"]): r for r in rows}


def run_kind(
    kind: Kind,
    seed: int,
    count: int | None,
    work: Path,
    results: Path,
    done: dict[tuple[str, str, int], dict[str, Any]],
    console: Console,
) -> None:
    """Do the cases of a kind that are not done, each result written as it comes. What broke is tried again."""
    cases = kind.cases(seed, count)
    left = [c for c in cases if done.get((kind.name, c.name, seed), {}).get("result") != "held"]
    if why := kind.skip():
        console.print(f"[yellow]{kind.name} is left out[/]: {why}", highlight=False)
        return
    if not left:
        console.print(f"{kind.name}: all {len(cases)} cases are done", highlight=False)
        return
    before = cpu_seconds()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar, kind.session(work / kind.name, seed) as run:
        task = bar.add_task(kind.name, total=len(cases), completed=len(cases) - len(left))
        for case in left:
            bar.update(task, description=f"{kind.name}: {case.name[:50]}")
            row = one(kind, case, run, seed)
            keep(row, results, done)
            bar.advance(task)
            if not console.is_terminal:
                console.print(f"{kind.name}: {case.name}: {row['result']} {row['note']}", highlight=False, markup=False)

    # What a session started has ended, so that its CPU time counts here.
    row = {"kind": kind.name, "case": datetime.now(UTC).isoformat(), "seed": seed, "result": SESSION}
    keep(row | {"figures": {"cpu_s": round(cpu_seconds() - before, 1)}}, results, done)


def keep(row: dict[str, Any], results: Path, done: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """Write a result as it comes."""
    done[row["kind"], row["case"], row["seed"]] = row
    with results.open("a") as f:
        f.write(json.dumps(row) + "\n")


def one(kind: Kind, case: Case, run: Any, seed: int) -> dict[str, Any]:
    """Do one case; what came of it as a row."""
    started, figures = time.perf_counter(), {}
    try:
        outcome = run(case)
        result, note, figures = "held", outcome.note, outcome.figures
    except Broken as e:
        result, note = "broken", str(e)
    except Exception as e:
        result, note = "broken", f"{type(e).__name__}: {e}"
    return {
        "kind": kind.name,
        "case": case.name,
        "seed": seed,
        "injections": case.injections,
        "result": result,
        "note": note,
        "figures": figures,
        "seconds": round(time.perf_counter() - started, 2),
        "date": datetime.now(UTC).date().isoformat(),
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    typer.run(main)
