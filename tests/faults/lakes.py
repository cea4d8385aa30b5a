"""Lakes to disturb, and what must hold of a lake whatever was done to it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipelines.ingest.landing import land
from pipelines.stage.base import scratch
from pipelines.store import TABLES, DeltaStore
from pipelines.store.blobs import sha256_file
from pipelines.store.leftovers import remove_leftovers
from tests.pipelines.media import dancer_frames, write_frames

BATCH = "b1"
FRAMES = 17
# When a row was written, by which run and how fast: what two runs with the same rows differ in.
VOLATILE = {
    "created_at",
    "promoted_at",
    "trained_at",
    "run_id",
    "seconds",
    "model_seconds",
    "step_seconds",
    "peak_memory_mb",
    "table_versions",
}
_REMEDY = re.compile(
    r"run [\w` ]*again|[Rr]un `itryon|next run tries again|`itryon [a-z]+|free some space|[Pp]ut it back|materialise|"
    r"\(\w+\.\w+\)|check [\w_]+|encode the file anew|delete (it|the checkpoint|\S+ and run)"
)

Rows = dict[str, list[dict[str, Any]]]


class Broken(AssertionError):
    """A promise that did not hold; the message says which and where."""


def hold(condition: object, promise: str) -> None:
    """Raise `Broken` unless the condition holds; an `assert` would be gone under `python -O`."""
    if not condition:
        raise Broken(promise)


def names_remedy(message: str) -> bool:
    """Whether an error says what to do: a command, a setting in brackets, or an order."""
    return bool(_REMEDY.search(message))


def make_source(folder: Path, videos: int = 3, side: int = 192) -> Path:
    """A folder to ingest: short clips of a real person, a photo and a file that is no video; settings beside it."""
    source = folder / "videos"
    (source / "garments").mkdir(parents=True)
    frames = dancer_frames(100, FRAMES * videos, max_side=side)
    for i in range(videos):
        write_frames(source / f"{'abcdef'[i]}.mp4", frames[i * FRAMES : (i + 1) * FRAMES])
    Image.fromarray(np.asarray(frames[0])).save(source / "garments" / "dress.png")
    (source / "bad.mp4").write_bytes(b"no video")
    # A checkpoint after every second of four steps, so that there is one to go on from.
    recipe = {"preset": "nano", "precision": "fp32", "checkpoint_every": 2, "seed": 1}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    settings = {
        "training": {"recipe": str(folder / "recipe.yaml"), "steps": 4, "batch_size": 1},
        "clips": {"sizes": [[64, 64]]},
        "tryon": {"steps": 1, "max_videos": 1, "max_frames": 17, "pairs": "paired", "sizes": [[64, 64]]},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return source


def new_lake(root: Path, source: Path) -> DeltaStore:
    """A lake with its tables and a batch that has landed."""
    store = DeltaStore(root)
    store.ensure_tables()
    land(source, store, BATCH)
    return store


def fake_lake(root: Path) -> DeltaStore:
    """A lake with videos that are rows alone, for stages without networks."""
    from tests.pipelines.test_stage import add_videos

    store = DeltaStore(root)
    store.ensure_tables()
    add_videos(store, "a.mp4", "b.mp4", "c.mp4", frames=30)
    return store


def read_all(store: DeltaStore) -> Rows:
    """Rows of every table of a local lake; those that nobody wrote to are not opened."""
    return {name: store.read(spec).to_pylist() if _written(store, name) else [] for name, spec in TABLES.items()}


def _written(store: DeltaStore, name: str) -> bool:
    return len(list((Path(store.root) / "tables" / name / "_delta_log").glob("*.json"))) > 1


def contents(store: DeltaStore, tables: Iterable[str] | None = None) -> Rows:
    """Rows of tables, sorted, without what differs between two runs that did the same."""
    rows = read_all(store) if tables is None else {n: store.read(TABLES[n]).to_pylist() for n in tables}
    return comparable(store, rows)


def comparable(store: DeltaStore, tables: Rows) -> Rows:
    """Rows without what differs between two runs that did the same, sorted."""
    out: Rows = {}
    for name, found in tables.items():
        rows = [{k: v for k, v in r.items() if k not in VOLATILE} for r in found]
        for row in rows:
            if name == "checkpoints":
                # Where the lake was when it was trained; a copy of it is elsewhere.
                row["config"] = row["config"].replace(json.loads(row["config"])["blob_root"], "LAKE")
            if name == "tryon_videos":
                row["record"] = {k: v for k, v in json.loads(row["record"]).items() if k != "table_versions"}
        out[name] = sorted(rows, key=repr)
    return out


def check_same(mine: Rows, wanted: Rows) -> None:
    """No row is lost, doubled or other than in the undisturbed lake."""
    for name in wanted:
        hold(mine[name] == wanted[name], f"table {name} has other rows than after an undisturbed run")


def check_no_more(mine: Rows, wanted: Rows) -> None:
    """Whatever moment: no table holds a row that the undisturbed run has not, or holds one twice."""
    for name, rows in mine.items():
        theirs = {repr(r) for r in wanted[name]}
        extra = [r for r in rows if repr(r) not in theirs]
        if name == "stage_status":
            for row in extra:
                if row["status"] != "ok":
                    hold(names_remedy(row["reason"]), f"a reason names no remedy: {row['reason']}")
            extra = [r for r in extra if r["status"] == "ok"]
        if name in ("videos", "garments"):
            for row in (r for r in extra if r["status"] == "error"):
                hold(names_remedy(row["reason"]), f"a reason names no remedy: {row['reason']}")
            extra = [r for r in extra if r["status"] != "error"]
        hold(not extra, f"table {name} holds a row that is not in the undisturbed lake: {extra[:1]}")
        hold(len({repr(r) for r in rows}) == len(rows), f"table {name} holds a row twice")


def named_blobs(rows: Rows) -> set[str]:
    """URIs of the blobs that any row names, wherever in the row."""
    return set(re.findall(r"blobs/[0-9a-z]+/[^'\" ]+", repr(rows)))


def check_blobs(store: DeltaStore, rows: Rows | None = None) -> None:
    """Every blob that a row names is there, whole, and hashes to its name."""
    for uri in named_blobs(read_all(store) if rows is None else rows):
        hold(not uri.startswith("blobs/tmp"), f"a row names a temporary file: {uri}")
        path = Path(store.root) / uri
        hold(path.is_file(), f"a row names a blob that is not there: {uri}")
        hold(sha256_file(path) == path.name.split(".")[0], f"a row names a damaged blob: {uri}")


def check_after_kill(store: DeltaStore, wanted: Rows) -> None:
    """What holds whenever a run dies; see `check_no_more` and `check_blobs`."""
    rows = read_all(store)
    check_blobs(store, rows)
    check_no_more(comparable(store, rows), wanted)


def check_done(store: DeltaStore, wanted: Rows) -> list[str]:
    """What holds when a run is done: the rows and blobs of an undisturbed run, and no file besides.

    Returns:
        Leftovers that were deleted on the way, as `remove_leftovers` does after some days.
    """
    staged = [p for p in (Path(store.root) / "staging").rglob("*") if p.is_file()]
    hold(not staged, f"staged files are left after a run that succeeded: {[p.name for p in staged][:3]}")
    check_same(contents(store), wanted)
    removed = remove_leftovers(store, scratch(store), days=0)
    rows = read_all(store)
    check_same(comparable(store, rows), wanted)
    check_blobs(store, rows)
    named = named_blobs(rows)
    for path in sorted(Path(store.root).rglob("*")):
        inside = path.relative_to(store.root).as_posix()
        hold(".tmp" not in path.name and "#" not in path.name, f"a temporary file is never deleted: {inside}")
        if inside.startswith("blobs/") and path.is_file():
            hold(inside in named, f"a blob that no row names is left: {inside}")
    return removed


def processes_of(lake: str) -> list[int]:
    """Processes that know this lake, by their environment or command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                text = (folder / "environ").read_bytes() + b"\0" + (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if lake.encode() in text:
                found.append(int(folder.name))
    return found


def wait_for_orphans(lake: str, seconds: float = 300) -> list[int]:
    """Processes of a killed run that are still there after some time.

    The time is long, since a worker that was just being started notices only once it has imported what it needs.
    """
    deadline = time.monotonic() + seconds
    while (left := processes_of(lake)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def end_processes_of(lake: str) -> None:
    """End what was started for a lake of these tests, by process id."""
    for pid in processes_of(lake):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
