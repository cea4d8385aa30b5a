"""Kills of Dagster runs: one lake goes through all moments, each run beginning where the one before was killed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from pipelines.store import DeltaStore
from tests.faults.lakes import (
    BATCH,
    Rows,
    check_blobs,
    check_clean,
    check_no_more,
    check_same,
    contents,
    end_processes_of,
    hold,
    make_source,
    new_lake,
    wait_for_orphans,
)
from tests.faults.suite import Case, Kind, Outcome, Runner
from tests.faults.victims import Victims

# In the order in which a run comes by. `all`: the whole process group is killed; `run`: only the main process, and its
# workers and trainer have to notice.
MOMENTS = [
    ("flush", "all"),
    ("blob:1", "run"),
    ("before:garments", "all"),
    ("after:garments", "run"),
    ("after:videos", "all"),
    ("file:staging/pose/b1/*-*.parquet", "run"),
    ("after:pose", "all"),
    ("file:staging/hands/b1/*-*.parquet", "all"),
    ("after:hands", "run"),
    ("file:staging/agnostic_masks/b1/*-*.parquet", "run"),
    ("after:agnostic_masks", "all"),
    ("file:staging/captions/b1/*-*.parquet", "all"),
    ("after:captions", "run"),
    ("file:staging/clips/b1/*-*.parquet", "run"),
    ("after:clips", "all"),
    ("after:stage_status/clips", "run"),
    ("after:training_sets", "all"),
    ("file:training/*/checkpoints/step-00000002", "run"),
    ("file:training/*/checkpoints/step-00000004", "all"),
    ("file:checkpoints/*.tmp/*", "all"),
    ("after:training_metrics", "run"),
    ("blob:1", "all"),
    ("after:tryon_videos", "run"),
    ("before:video_metrics", "all"),
]


def cases(seed: int, count: int | None) -> list[Case]:
    """One case of all moments, or of the first `count`."""
    moments = MOMENTS[:count]
    return [Case(f"one lake through {len(moments)} moments", {"moments": moments}, len(moments))]


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """An undisturbed lake, and one that is killed again and again."""
    victims = Victims(work / "victims", "cli")
    try:
        yield lambda case: go_through(victims, work, case.values["moments"])
    finally:
        end_processes_of(str(work))
        victims.close()


def go_through(victims: Victims, work: Path, moments: list[tuple[str, str]]) -> Outcome:
    """Kill runs at the moments, then let one end; compare it with a run that nothing disturbs."""
    import shutil

    import dagster as dg

    for name in ("source", "undisturbed", "killed"):
        shutil.rmtree(work / name, ignore_errors=True)
    make_source(work / "source", videos=2, side=256)
    command = ["materialize", "--batch", BATCH, "--config", str(work / "source" / "settings.yaml")]

    def run(store: DeltaStore, moment: str = "none", whom: str = "all") -> int:
        return victims("materialize", store.root, moment, whom, arguments=command)

    undisturbed = new_lake(work / "undisturbed", work / "source" / "videos")
    hold(run(undisturbed) == 0, f"the undisturbed run failed: {victims.tail()}")
    wanted: Rows = contents(undisturbed)
    store = new_lake(work / "killed", work / "source" / "videos")
    for moment, whom in moments:
        status = run(store, moment, whom)
        hold(status == -signal.SIGKILL, f"{moment}: the run ended with {status}: {victims.tail()}")
        left = wait_for_orphans(store.root)
        hold(not left, f"{moment}: processes {left} go on")
        check_blobs(store)
        check_no_more(contents(store), wanted)
    hold(run(store) == 0, f"the last run failed: {victims.tail()}")
    check_same(contents(store), wanted)
    check_blobs(store)
    removed = check_clean(store)
    with dg.DagsterInstance.from_config(f"{store.root}/dagster") as instance:
        states = [r.status.value for r in instance.get_runs()]
    hold(states == ["SUCCESS", *["FAILURE"] * len(moments)], f"a killed run seems to be running: {states}")
    return Outcome("", {"leftovers": len(removed)})


KIND = Kind(
    "runs",
    "SIGKILL of a Dagster run, alone or with its workers and its trainer, in every asset from ingestion to metrics",
    "after each kill: no row that an undisturbed run has not, none twice, each blob hashes to its name, no process "
    "goes on; after the run that ends: all rows equal, each killed run is marked as failed, nothing is left",
    cases,
    session,
)
