"""Files of the lake that somebody cuts, changes or deletes by hand: tables, their logs, blobs."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.stage.base import scratch
from pipelines.store import TABLES, DeltaStore
from pipelines.store.repair import RepairReport, repair
from tests.faults.lakes import (
    Rows,
    check_blobs,
    check_clean,
    check_same,
    contents,
    end_processes_of,
    fake_lake,
    hold,
    make_source,
    names_remedy,
    new_lake,
)
from tests.faults.stage_kills import FAKE
from tests.faults.suite import Case, Kind, Outcome, Runner, copied, draw
from tests.faults.victims import Victims

STAGES = ("ingest", "pose", "hands", "agnostic_masks", "captions", "clips")
SETTINGS = {"clips": {"sizes": [[64, 64]]}}
WAYS = ("gone", "half", "flipped", "empty")
# Which tables and blobs, and by which of the ways.
TABLE_FILES = [("pose", w) for w in WAYS] + [("videos", "gone"), ("stage_status", "half"), ("clips", "flipped")]
LOGS = [("captions", "half"), ("hands", "empty"), ("videos", "half"), ("stage_status", "half")]
BLOBS = [("videos", "uri", w) for w in WAYS] + [("clips", "latents_uri", w) for w in ("gone", "half", "flipped")]
BLOBS += [("garments", "mask_uri", "gone"), ("clips", "text_uri", "empty")]


def cases(seed: int, count: int | None) -> list[Case]:
    """Data files, newest and older entries of logs, and blobs."""
    found = [Case(f"a data file of {t} is {w}", {"what": "file", "table": t, "way": w}) for t, w in TABLE_FILES]
    found += [Case(f"the newest commit of {t} is {w}", {"what": "log", "table": t, "way": w}) for t, w in LOGS]
    found += [
        Case(f"an older commit of {t} is {w}", {"what": "older", "table": t, "way": w})
        for t, w in (("pose", "half"), ("videos", "gone"))
    ]
    found += [
        Case(f"a blob of {t}.{c} is {w}", {"what": "blob", "table": t, "column": c, "way": w}) for t, c, w in BLOBS
    ]
    return draw(found, seed, count)


def hurt(path: Path, way: str, rng: random.Random) -> None:
    """Take a file away, cut it, change some of its bytes, or leave nothing in it."""
    data = bytearray(path.read_bytes())
    path.unlink()
    if way == "gone":
        return
    if way == "half":
        data = data[: len(data) // 2]
    elif way == "empty":
        data = bytearray()
    else:
        for _ in range(64):
            data[rng.randrange(len(data))] ^= 0xFF
    path.write_bytes(data)


@contextlib.contextmanager
def session(work: Path, seed: int, stages: tuple[str, ...] = STAGES) -> Iterator[Runner]:
    """A lake with a batch in all its stages, of which each case damages a copy."""
    victims = Victims(work / "victims", "stages")
    try:
        if not (work / "whole").exists():
            shutil.rmtree(work / "source", ignore_errors=True)
            shutil.rmtree(work / "making", ignore_errors=True)
            if stages == FAKE:
                store = fake_lake(work / "making")
            else:
                make_source(work / "source", videos=2)
                store = new_lake(work / "making", work / "source" / "videos")
            status = victims(",".join(stages), store.root, settings=SETTINGS)
            hold(status == 0, f"the undisturbed run failed: {victims.last['error']}")
            (work / "making").rename(work / "whole")
        wanted = contents(DeltaStore(work / "whole"))

        def again(store: DeltaStore) -> int:
            return victims(",".join(stages), store.root, settings=SETTINGS)

        yield lambda case: _damage(work, victims, wanted, case, random.Random(f"{seed} {case.name}"), again)
    finally:
        end_processes_of(str(work))
        victims.close()


def _damage(
    work: Path, victims: Victims, wanted: Rows, case: Case, rng: random.Random, again: Callable[[DeltaStore], int]
) -> Outcome:
    store = DeltaStore(copied(work / "whole", work / "damaged"))
    what, table, way = (case.values[k] for k in ("what", "table", "way"))
    if what == "blob":
        column = case.values["column"]
        uris = sorted(filter(None, store.read(TABLES[table], [column])[column].to_pylist()))
        path = Path(store.root) / rng.choice(uris)
    else:
        path = _file_of(store, table, what, rng)
    hurt(path, way, rng)

    # What a run says first: an error that names the remedy, or nothing where it mends the damage by itself.
    status = again(store)
    said = victims.last["error"]
    hold(status == 0 or names_remedy(said), f"an error names no remedy: {said}")
    for row in store_status(store):
        hold(row["status"] == "ok" or names_remedy(row["reason"]), f"a reason names no remedy: {row['reason']}")
    report = repair(store, scratch(store))
    if what == "older":
        return _put_back(work, store, path, report, status, again, wanted)
    hold(not report.left, f"not mended: {report.left}")
    hold(status == 0 or report.done, "the run failed and nothing was found to mend")
    status = again(store)
    hold(status == 0, f"the run after the repair failed: {victims.last['error']}")
    check_same(contents(store), wanted)
    check_blobs(store)
    report = repair(store, scratch(store))
    hold(not report.done and not report.left, f"a second repair still finds something: {report}")
    _forget_aside(store)
    check_clean(store)
    return Outcome("repaired and made again")


def _put_back(
    work: Path,
    store: DeltaStore,
    path: Path,
    report: RepairReport,
    status: int,
    again: Callable[[DeltaStore], int],
    wanted: Rows,
) -> Outcome:
    hold(status != 0, "a table with a hole in its log was read as if it were whole")
    hold(report.left and all(names_remedy(t) for t in report.left), f"no remedy is named: {report.left}")
    shutil.copyfile(work / "whole" / path.relative_to(store.root), path)
    hold(again(store) == 0, "the lake cannot be used after the commit was put back")
    check_same(contents(store), wanted)
    return Outcome("refused by name; whole again once the commit was put back")


def _forget_aside(store: DeltaStore) -> None:
    """What a repair put aside is what was damaged."""
    for path in Path(store.root).rglob("*.damaged"):
        path.unlink()


def store_status(store: DeltaStore) -> list[dict[str, Any]]:
    """Rows of `stage_status`, where that table can be read."""
    try:
        return store.read(TABLES["stage_status"]).to_pylist()
    except OSError as e:
        hold(names_remedy(str(e)), f"an error names no remedy: {e}")
        return []


def _file_of(store: DeltaStore, table: str, what: str, rng: random.Random) -> Path:
    folder = Path(store.root) / "tables" / table
    log = sorted((folder / "_delta_log").glob("*.json"))
    if what == "log":
        return log[-1]
    if what == "older":
        return log[0]
    used = store.open(TABLES[table]).file_uris()
    return Path(rng.choice(sorted(u.removeprefix("file://") for u in used)))


KIND = Kind(
    "damage",
    "A data file, a log entry or a blob is deleted, cut, emptied, or has bytes changed",
    "the run mends it, or its error names `itryon repair`; after the repair the same command ends with the rows of the "
    "undisturbed lake and each blob hashes to its name; what cannot be mended is refused with what to put back",
    cases,
    session,
)
