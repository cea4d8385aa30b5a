"""Two runs of one batch at once."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.store import DeltaStore
from tests.faults.lakes import (
    BATCH,
    Rows,
    check_blobs,
    check_clean,
    check_same,
    contents,
    end_processes_of,
    hold,
    make_source,
    new_lake,
)
from tests.faults.suite import Case, Kind, Outcome, Runner, draw
from tests.faults.victims import Victims

WORK = "ingest,fake"


def cases(seed: int, count: int | None) -> list[Case]:
    """Two or three runs, as quick or slow as each other or not."""
    found = []
    for number in (2, 3):
        for delay in (0.0, 0.05, 0.2):
            values = {"at_once": number, "delay": delay}
            found.append(Case(f"{number} runs, {delay} s for a third of a video", values))
    found.append(Case("2 Dagster runs from landing folder to pose", {"at_once": 2, "dagster": True}))
    return draw(found, seed, count)


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """An undisturbed lake to compare with."""
    shutil.rmtree(work, ignore_errors=True)
    make_source(work / "source")
    victims = Victims(work / "victims", "stages")
    wanted: dict[float, Rows] = {}

    def run(case: Case) -> Outcome:
        if case.values.get("dagster"):
            return dagster_runs(work)
        settings = {"fake": {"delay_s": case.values["delay"]}}
        delay = case.values["delay"]
        if delay not in wanted:
            shutil.rmtree(work / "alone", ignore_errors=True)
            alone = new_lake(work / "alone", work / "source" / "videos")
            hold(victims(WORK, alone.root, settings=settings) == 0, f"the run alone failed: {victims.last['error']}")
            wanted[delay] = contents(alone)
        shutil.rmtree(work / "together", ignore_errors=True)
        store: DeltaStore = new_lake(work / "together", work / "source" / "videos")
        victims(WORK, store.root, settings=settings, at_once=case.values["at_once"])
        statuses = victims.last["statuses"]
        hold(set(statuses) == {0}, f"of the runs at once some failed: {statuses} {victims.last['error']}")
        check_same(contents(store), wanted[delay])
        check_blobs(store)
        check_clean(store)
        return Outcome("all runs succeeded")

    try:
        yield run
    finally:
        end_processes_of(str(work))
        victims.close()


def dagster_runs(work: Path) -> Outcome:
    """Two command lines that materialise the same batch at the same time."""
    victims = Victims(work / "command-lines", "cli")
    command = ["materialize", "--batch", BATCH, "--to", "pose"]
    rows = []
    try:
        for name, number in (("alone", 1), ("together", 2)):
            shutil.rmtree(work / name, ignore_errors=True)
            store = new_lake(work / name, work / "source" / "videos")
            victims("materialize", store.root, arguments=command, at_once=number)
            statuses = victims.last["statuses"]
            hold(set(statuses) == {0}, f"of {number} runs some failed: {statuses} {victims.tail()}")
            check_blobs(store)
            rows.append(contents(store))
    finally:
        victims.close()
    check_same(rows[1], rows[0])
    return Outcome("all runs succeeded")


KIND = Kind(
    "races",
    "Two or three runs of one batch at once: ingestion and a stage, and two Dagster runs",
    "all succeed; rows equal those of one run alone, none twice; each blob hashes to its name; nothing is left",
    cases,
    session,
)
