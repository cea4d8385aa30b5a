"""Kills of Dagster runs: one lake goes through all moments, each run beginning where the one before was killed."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.store import DeltaStore
from tests.faults.lakes import (
    BATCH,
    check_after_kill,
    check_done,
    contents,
    end_processes_of,
    hold,
    make_source,
    new_lake,
    wait_for_orphans,
)
from tests.faults.suite import Case, Kind, Outcome, Runner, copied, draw
from tests.faults.victims import Victims

# Part of the graph, up to an asset, and its moments in the order in which a run comes by. `all`: the whole process
# group is killed; `run`: only the main process, and its workers and trainer have to notice.
PARTS = {
    "pose": [
        ("flush", "all"),
        ("blob:1", "run"),
        ("before:garments", "all"),
        ("after:garments", "run"),
        ("after:videos", "all"),
        ("file:staging/pose/b1/*-*.parquet", "run"),
        ("after:pose", "all"),
    ],
    "clips": [
        ("file:staging/hands/b1/*-*.parquet", "all"),
        ("after:hands", "run"),
        ("file:staging/agnostic_masks/b1/*-*.parquet", "run"),
        ("after:agnostic_masks", "all"),
        ("file:staging/captions/b1/*-*.parquet", "all"),
        ("after:captions", "run"),
        ("file:staging/clips/b1/*-*.parquet", "run"),
        ("after:clips", "all"),
        ("after:stage_status/clips", "run"),
    ],
    "out": [
        ("after:training_sets", "all"),
        ("file:training/*/checkpoints/step-00000002", "run"),
        ("file:training/*/checkpoints/step-00000004", "all"),
        ("file:checkpoints/*.tmp/*", "all"),
        ("after:training_metrics", "run"),
        ("blob:1", "all"),
        ("after:tryon_videos", "run"),
        ("before:video_metrics", "all"),
    ],
    "isr_scores": [
        ("before:isr_scores", "run"),
        ("after:isr_scores", "all"),
    ],
    "promote": [
        ("before:leaderboard", "all"),
        ("after:leaderboard", "run"),
        ("before:promotions", "all"),
        ("after:promotions", "run"),
    ],
}
# What was made by the way in the part before is made again, from a lake without it.
_UNMADE = {"isr_scores": ("isr_scores", "leaderboard")}


def cases(seed: int, count: int | None) -> list[Case]:
    """A case for each part of the graph, which goes through all of its moments."""
    found = [
        Case(f"to {to}: one lake through {len(moments)} moments", {"to": to, "moments": moments}, len(moments))
        for to, moments in PARTS.items()
    ]
    return draw(found, seed, count)


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """An undisturbed lake with a copy from before each part, and copies of those that are killed again and again."""
    victims = Victims(work / "victims", "cli")
    try:
        yield lambda case: go_through(victims, work, case.values["to"], case.values["moments"])
    finally:
        end_processes_of(str(work))
        victims.close()


def go_through(victims: Victims, work: Path, to: str, moments: list[tuple[str, str]]) -> Outcome:
    """Kill runs at the moments, then let one end; compare it with a run that nothing disturbs."""
    import dagster as dg

    def run(root: Path, to: str, moment: str = "none", whom: str = "all") -> int:
        settings = ["--config", str(work / "source" / "settings.yaml")]
        asset = [] if to == "out" else ["--only" if to in _UNMADE else "--to", to]
        arguments = ["promote"] if to == "promote" else ["materialize", "--batch", BATCH, *settings, *asset]
        return victims("materialize", root, moment, whom, arguments=arguments)

    before = _undisturbed(work, to, run)
    wanted = contents(DeltaStore(work / f"after-{to}"))
    meanwhile = wanted
    if to == "promote":
        # A checkpoint is on the leaderboard before it is promoted, and then is marked.
        unmarked = [row | {"is_current": False} for row in wanted["leaderboard"]]
        meanwhile = wanted | {"leaderboard": wanted["leaderboard"] + unmarked}
    root = copied(before, work / "killed")
    for moment, whom in moments:
        status = run(root, to, moment, whom)
        hold(status == -signal.SIGKILL, f"{moment}: the run ended with {status}: {victims.tail()}")
        left = wait_for_orphans(str(root))
        hold(not left, f"{moment}: processes {left} go on")
        check_after_kill(DeltaStore(root), meanwhile)
    hold(run(root, to) == 0, f"the last run failed: {victims.tail()}")
    removed = check_done(DeltaStore(root), wanted)
    with dg.DagsterInstance.from_config(f"{root}/dagster") as instance:
        states = [r.status.value for r in instance.get_runs(limit=len(moments) + 1)]
    hold(states == ["SUCCESS", *["FAILURE"] * len(moments)], f"a killed run seems to be running: {states}")
    return Outcome("", {"leftovers": len(removed)})


def _undisturbed(work: Path, to: str, run: Callable[[Path, str], int]) -> Path:
    """Bring an undisturbed lake to the end of the part; the lake from before the part."""
    parts = list(PARTS)
    if not (work / f"before-{parts[0]}").exists():
        shutil.rmtree(work / "source", ignore_errors=True)
        make_source(work / "source", videos=2, side=256)
        shutil.rmtree(work / "making", ignore_errors=True)
        new_lake(work / "making", work / "source" / "videos")
        (work / "making").rename(work / f"before-{parts[0]}")
    before = work / f"before-{parts[0]}"
    for part in parts[: parts.index(to) + 1]:
        after = work / f"after-{part}"
        if part != parts[0]:
            before = work / f"after-{parts[parts.index(part) - 1]}"
        if part in _UNMADE:
            without = work / f"before-{part}"
            if not without.exists():
                making = copied(before, work / "making")
                for table in _UNMADE[part]:
                    shutil.rmtree(making / "tables" / table)
                making.rename(without)
            before = without
        if not after.exists():
            root = copied(before, work / "undisturbed")
            hold(run(root, part) == 0, "the undisturbed run failed; see the log of the victims")
            copied(root, after)
    return before


KIND = Kind(
    "runs",
    "SIGKILL of a Dagster run, alone or with its workers and its trainer, from the first asset to the promotion",
    "after each kill: no row that an undisturbed run has not, none twice, each blob hashes to its name, no process "
    "goes on; after the run that ends: all rows equal, each killed run is marked as failed, nothing is left",
    cases,
    session,
)
