"""Kills of workers and of the process of a run, at every boundary of every stage and at random moments."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipelines.store import DeltaStore
from tests.faults.lakes import (
    Broken,
    Rows,
    check_after_kill,
    check_done,
    contents,
    end_processes_of,
    fake_lake,
    hold,
    make_source,
    new_lake,
    wait_for_orphans,
)
from tests.faults.suite import Case, Kind, Outcome, Runner, copied, draw
from tests.faults.victims import Victims

STAGES = ("ingest", "pose", "hands", "agnostic_masks", "captions", "clips")
FAKE = ("fake",)
"""A pose stage without networks: what runs, stages and commits is the same for all, and it is killed at a tenth of the
cost. It is the one that is killed at random moments."""
SETTINGS = {"clips": {"sizes": [[64, 64]]}, "fake": {"delay_s": 0.05}}
RANDOM_LAKES, RANDOM_KILLS = 10, 4
"""Lakes for kills at random moments, and kills of each."""

KILLED = {"worker": "workers", "run": "main processes", "all": "whole runs"}

Kill = tuple[str, str, float]
"""Moment, whom it kills, and for a random one the share of the stage's time after which it comes."""


def boundaries(stage: str) -> list[list[tuple[str, str]]]:
    """(moment, whom) of every boundary that a stage has, in the order in which runs of one lake come by.

    Each run goes on where the one before was killed: a video whose staged file has its name is not made again, and one
    whose worker died is an error row until the next run. A list of its own is a lake of its own.
    """
    if stage == "ingest":
        parent = ["flush", "move", "moved", "blob:2", "before:garments", "after:garments"]
        parent += ["file:tables/videos/batch=b1/*.parquet", "before:videos", "after:videos"]
        return [[(m, ("all", "run")[i % 2]) for i, m in enumerate(parent)], [("analyse", "worker"), ("analyse", "run")]]
    table = "pose" if stage == "fake" else stage
    whole = [("w-move", "all"), ("w-moved", "run")] if stage == "clips" else []
    failed = [("w-flush", "worker")] if stage == "clips" else []
    parent = [f"before:{table}", f"file:tables/{table}/batch=b1/*.parquet", f"after:{table}"]
    parent += [f"before:stage_status/{table}", f"after:stage_status/{table}"]
    return [
        [
            ("plan", "run"),
            *whole,
            ("staged", "run"),
            ("renamed", "all"),
            *failed,
            ("chunk:1", "worker"),
            ("renamed", "worker"),
            *((m, ("all", "run")[i % 2]) for i, m in enumerate(parent)),
        ]
    ]


def cases(seed: int, count: int | None, stages: tuple[str, ...] = (*FAKE, *STAGES)) -> list[Case]:
    """A lake through the boundaries of each stage, and lakes through moments whose time and victim the seed draws."""
    found = []
    rng = random.Random(seed)
    for _ in range(RANDOM_LAKES):
        shares = sorted(rng.uniform(0.02, 0.98) for _ in range(RANDOM_KILLS))
        kills: list[Kill] = [("random", rng.choice(["all", "run", "worker"]), share) for share in shares]
        text = ", ".join(f"{whom} at {share:.3f}" for _, whom, share in kills)
        found.append(Case(f"{FAKE[0]}, random: {text}", {"stage": FAKE[0], "kills": kills}, len(kills)))
    for stage in stages:
        for number, chain in enumerate(boundaries(stage)):
            kills = [(moment, whom, 0.0) for moment, whom in chain]
            found.append(Case(f"{stage}, boundaries ({number})", {"stage": stage, "kills": kills}, len(kills)))
    return draw(found, seed, count)


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """Make the undisturbed lake once, with a copy from before each stage, and kill runs on further copies."""
    opened: dict[tuple[str, ...], _Kills] = {}

    def run(case: Case) -> Outcome:
        stages = FAKE if case.values["stage"] in FAKE else STAGES
        if stages not in opened:
            folder, kind = (work / "fake", "light") if stages == FAKE else (work / "real", "stages")
            opened[stages] = _Kills(folder, Victims(folder / "victims", kind), stages)
        return opened[stages](case)

    try:
        yield run
    finally:
        end_processes_of(str(work))
        for kills in opened.values():
            kills.victims.close()


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
        stage, kills = case.values["stage"], case.values["kills"]
        self._reference(stage)
        root = copied(self._before(stage), self.work / "killed")
        figures: Counter[str] = Counter()
        for moment, whom, share in kills:
            self._kill(stage, root, moment, whom, share)
            where = "at random" if moment == "random" else "at a boundary"
            figures[f"{KILLED[whom]} killed {where}"] += 1
            left = wait_for_orphans(str(root))
            hold(not left, f"{moment} kills {whom}: {len(left)} processes of the killed run go on")
            try:
                check_after_kill(DeltaStore(root), self.wanted[stage])
            except Broken as e:
                raise Broken(f"{moment} kills {whom}: {e}") from e
        status = self.victims(stage, root, settings=SETTINGS)
        hold(status == 0, f"the run after the kills failed: {self.victims.last['error']}")
        figures["leftovers"] = len(check_done(DeltaStore(root), self.wanted[stage]))
        return Outcome("", dict(figures))

    def _kill(self, stage: str, root: Path, moment: str, whom: str, share: float) -> None:
        """Run the stage until the moment comes; where a random one finds the run over, on a new lake and sooner."""
        token = self.work / "fired"
        for _ in range(6):
            token.unlink(missing_ok=True)
            request = {"settings": SETTINGS, "token": str(token), "delay_s": share * self.seconds[stage]}
            status = self.victims(stage, root, moment, whom, **request)
            if self.victims.last["killed"] if moment == "random" else status < 0 or token.exists():
                break
            end = f"the run ended with {status} before {moment} came: {self.victims.last['error']}"
            hold(moment == "random", end)
            # The machine was faster than when the undisturbed run was timed, or no worker was there yet.
            share = share * 0.6 if whom != "worker" else 0.25 + share / 2
            copied(self._before(stage), root)
        else:
            raise Broken("the run was over before each of six tries to kill it")
        hold(whom != "worker" or status == 0, f"a worker's death ended the run: {self.victims.last['error']}")


KIND = Kind(
    "stages",
    "SIGKILL of a worker, of the run's process, or of all, at each boundary of each stage, and at random moments of "
    "one without networks; each run goes on where the one before was killed",
    "after each kill: no row that an undisturbed run has not, none twice, each blob hashes to its name, no process "
    "goes on; after the run that ends: all rows equal those of an undisturbed run, nothing is left that is not deleted",
    cases,
    session,
)
