"""Kills of workers and of the process of a run, at every boundary of every stage and at random moments."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.store import DeltaStore
from tests.faults.lakes import (
    Broken,
    Rows,
    check_blobs,
    check_clean,
    check_no_more,
    check_same,
    contents,
    end_processes_of,
    fake_lake,
    hold,
    make_source,
    new_lake,
    wait_for_orphans,
)
from tests.faults.moments import IN_WORKER
from tests.faults.suite import Case, Kind, Outcome, Runner, copied, draw
from tests.faults.victims import Victims

STAGES = ("ingest", "pose", "hands", "agnostic_masks", "captions", "clips")
FAKE = ("fake",)
"""A pose stage without networks, for the test suite."""
SETTINGS = {"clips": {"sizes": [[64, 64]]}}
RANDOM = 20
"""Kills at random moments, beside those at boundaries."""


def boundaries(stage: str) -> list[tuple[str, str]]:
    """(moment, whom) of every boundary that a stage has."""
    if stage == "ingest":
        parent = ["flush", "move", "moved", "blob:2", "before:garments", "after:garments"]
        parent += ["file:tables/videos/batch=b1/*.parquet", "before:videos", "after:videos"]
        return [(m, ("all", "run")[i % 2]) for i, m in enumerate(parent)] + [("analyse", "worker"), ("analyse", "run")]
    table = "pose" if stage == "fake" else stage
    parent = ["plan", f"file:tables/{table}/batch=b1/*.parquet", f"before:{table}", f"after:{table}"]
    parent += [f"before:stage_status/{table}", f"after:stage_status/{table}"]
    worker = [("chunk:1", "worker"), ("staged", "run"), ("renamed", "all"), ("renamed", "worker")]
    if stage == "clips":
        worker += [("w-flush", "worker"), ("w-move", "all"), ("w-moved", "run")]
    return [(m, ("run", "all")[i % 2]) for i, m in enumerate(parent)] + worker


def cases(seed: int, count: int | None, stages: tuple[str, ...] = STAGES) -> list[Case]:
    """Every boundary, then random moments, whose share of the stage's time and victim the seed draws."""
    found = [
        Case(f"{stage} {moment} kills {whom}", {"stage": stage, "moment": moment, "whom": whom})
        for stage in stages
        for moment, whom in boundaries(stage)
    ]
    rng = random.Random(seed)
    for i in range(RANDOM):
        stage, share = stages[i % len(stages)], rng.uniform(0.02, 0.98)
        whom = rng.choice(["all", "run", "worker"])
        values = {"stage": stage, "moment": "random", "whom": whom, "share": share}
        found.append(Case(f"{stage} random {share:.3f} kills {whom} ({i})", values))
    return draw(found, seed, count)


@contextlib.contextmanager
def session(work: Path, seed: int, stages: tuple[str, ...] = STAGES) -> Iterator[Runner]:
    """Make the undisturbed lake once, with a copy from before each stage, and kill runs on further copies."""
    victims = Victims(work / "victims", "stages")
    kills = _Kills(work, victims, stages)
    try:
        yield kills
    finally:
        end_processes_of(str(work))
        victims.close()


class _Kills:
    def __init__(self, work: Path, victims: Victims, stages: tuple[str, ...]):
        self.work, self.victims, self.stages = work, victims, stages
        self.wanted: dict[str, Rows] = {}
        self.seconds: dict[str, float] = {}
        self.source = work / "source"
        if stages != FAKE and not (work / "made").exists():
            shutil.rmtree(self.source, ignore_errors=True)
            make_source(self.source)

    def _reference(self, stage: str) -> None:
        """Bring the undisturbed lake up to the stage, keeping a copy from before it."""
        (self.work / "made").touch()
        for name in self.stages[: self.stages.index(stage) + 1]:
            if name in self.wanted:
                continue
            before, after = self._before(name), self.work / f"after-{name}"
            if not after.exists():
                root = self.work / "undisturbed"
                shutil.rmtree(root, ignore_errors=True)
                if name == self.stages[0]:
                    fake_lake(root) if self.stages == FAKE else new_lake(root, self.source / "videos")
                else:
                    copied(self._after(name, -1), root)
                copied(root, before)
                status = self.victims(name, root, settings=SETTINGS)
                hold(status == 0, f"the undisturbed run of {name} failed: {self.victims.last['error']}")
                (self.work / f"seconds-{name}").write_text(str(self.victims.last["seconds"]))
                copied(root, after)
            self.seconds[name] = float((self.work / f"seconds-{name}").read_text())
            self.wanted[name] = contents(DeltaStore(after))

    def _before(self, name: str) -> Path:
        return self.work / f"before-{name}"

    def _after(self, name: str, offset: int) -> Path:
        return self.work / f"after-{self.stages[self.stages.index(name) + offset]}"

    def __call__(self, case: Case) -> Outcome:
        stage, moment, whom = (case.values[k] for k in ("stage", "moment", "whom"))
        self._reference(stage)
        wanted = self.wanted[stage]
        share = case.values.get("share", 0.0)
        for _ in range(6):
            root, token = self.work / "killed", self.work / "fired"
            copied(self._before(stage), root)
            token.unlink(missing_ok=True)
            store = DeltaStore(root)
            delay = share * self.seconds[stage]
            request = {"settings": SETTINGS, "token": str(token), "delay_s": delay}
            status = self.victims(stage, root, moment, whom, **request)
            fired = self.victims.last["killed"] if moment == "random" else status < 0 or token.exists()
            if fired:
                break
            if moment != "random":
                raise Broken(f"the run ended with {status} before the moment came: {self.victims.last['error']}")
            # The machine was faster than when the undisturbed run was timed, or no worker was there yet.
            share = share * 0.6 if whom != "worker" else 0.25 + share / 2
        hold(fired, "the run was over before each of six tries to kill it")
        if whom == "worker":
            hold(status == 0, f"a worker's death ended the run: {self.victims.last['error']}")
        left = wait_for_orphans(str(root))
        hold(not left, f"{len(left)} processes of the killed run go on")
        check_blobs(store)
        check_no_more(contents(store), wanted)
        status = self.victims(stage, root, settings=SETTINGS)
        hold(status == 0, f"the run after it failed: {self.victims.last['error']}")
        check_same(contents(store), wanted)
        check_blobs(store)
        removed = check_clean(store)
        where = "in a worker" if moment.split(":")[0] in IN_WORKER else "at a boundary"
        return Outcome(f"{whom} killed {'at random' if moment == 'random' else where}", {"leftovers": len(removed)})


KIND = Kind(
    "stages",
    "SIGKILL of a worker, of the run's process, or of all, at each boundary of each stage and at random moments",
    "rows and blobs after the kill; then, run again: all rows equal those of an undisturbed run, each blob hashes to "
    "its name, no process goes on, nothing is left that is not deleted",
    cases,
    session,
)
