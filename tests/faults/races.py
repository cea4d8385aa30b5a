"""Two runs of one batch at once, and two decisions."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.checkpoints.current import current_id, decisions
from pipelines.evaluation.leaderboard import read_leaderboard, write_leaderboard
from pipelines.evaluation.promotion import promote, rollback
from pipelines.store import DeltaStore
from tests.faults.lakes import (
    BATCH,
    Rows,
    check_blobs,
    check_done,
    check_same,
    contents,
    end_processes_of,
    hold,
    make_source,
    new_lake,
)
from tests.faults.suite import Case, Kind, Outcome, Runner, draw
from tests.faults.victims import Victims
from tests.pipelines.scored_checkpoints import add_checkpoint, add_training_set

WORK = "ingest,fake"
_DECISIONS = 5


def cases(seed: int, count: int | None) -> list[Case]:
    """Two or three runs, as quick or slow as each other or not."""
    found = []
    for number in (2, 3):
        for delay in (0.0, 0.05, 0.2):
            values = {"at_once": number, "delay": delay}
            found.append(Case(f"{number} runs, {delay} s for a third of a video", values))
    found.append(Case("2 Dagster runs from landing folder to pose", {"at_once": 2, "dagster": True}))
    found.append(Case(f"a promotion and a rollback, {_DECISIONS} times", {"decisions": _DECISIONS}, _DECISIONS))
    return draw(found, seed, count)


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """An undisturbed lake to compare with."""
    shutil.rmtree(work, ignore_errors=True)
    make_source(work / "source")
    victims = Victims(work / "victims", "light")
    wanted: dict[float, Rows] = {}

    def run(case: Case) -> Outcome:
        if case.values.get("dagster"):
            return dagster_runs(work)
        if times := case.values.get("decisions"):
            return decisions_at_once(victims, work, times)
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
        check_done(store, wanted[delay])
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


def decisions_at_once(victims: Victims, work: Path, times: int) -> Outcome:
    """A promotion and a rollback that look at the same decisions; one of them has to look again."""
    for number in range(times):
        store = DeltaStore(work / f"decisions-{number}")
        store.ensure_tables()
        add_training_set(store)
        for name in ("first", "second", "third"):
            add_checkpoint(store, name, verdicts=[True, False])
        write_leaderboard(store)
        promote(store, "first")
        promote(store, "second")
        hold(victims(f"{__name__}:decide", store.root, at_once=2) == 0, f"one failed: {victims.last['error']}")
        made = decisions(store)
        hold([d["sequence"] for d in made] == [1, 2, 3, 4], "two decisions took the same place, or one is lost")
        hold({d["kind"] for d in made[2:]} == {"promoted", "rolled_back"}, "a decision is not recorded")
        hold(made[3]["previous_checkpoint_id"] == made[2]["current_checkpoint_id"], "decided on what was overtaken")
        marked = [r["checkpoint_id"] for r in read_leaderboard(store) if r["is_current"]]
        hold(marked == [current_id(store)], f"the leaderboard marks {marked}, current is {current_id(store)}")
    return Outcome("all runs succeeded")


def decide(store: DeltaStore) -> None:
    """Promote, or roll back where another process promotes, both at the same moment."""
    mine, other = Path(store.root) / "promotes", Path(store.root) / "rolls-back"
    act = promote
    try:
        os.close(os.open(mine, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        act, mine, other = rollback, other, mine  # type: ignore[assignment]
        mine.touch()
    deadline = time.monotonic() + 60
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    act(store, *(["third"] if act is promote else []))


KIND = Kind(
    "races",
    "Two or three runs of one batch at once: ingestion and a stage, and two Dagster runs; a promotion and a rollback",
    "all succeed; rows equal those of one run alone, none twice; each blob hashes to its name; nothing is left; the "
    "second decision is made on what the first one made of it",
    cases,
    session,
)
