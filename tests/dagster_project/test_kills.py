"""A run killed at any moment, run again, ends with the rows of an undisturbed one: nothing lost, doubled or halved."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from PIL import Image

from pipelines.ingest.landing import land
from pipelines.store import TABLES, DeltaStore
from pipelines.store.blobs import sha256_file
from tests.pipelines.media import dancer_frames, write_frames

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 240
BATCH = "b1"
# When a row was written, by which run and how fast: what two runs with the same rows differ in.
VOLATILE = {
    "created_at",
    "trained_at",
    "run_id",
    "seconds",
    "model_seconds",
    "step_seconds",
    "peak_memory_mb",
    "table_versions",
}

# In the order in which a run comes by, so that each run starts where the one before was killed. True: the whole
# process group is killed; False: only the main process, and its workers and trainer have to notice.
MOMENTS = [
    ("flush", True),
    ("blob:1", False),
    ("before:garments", True),
    ("after:garments", False),
    ("after:videos", True),
    ("file:staging/pose/b1/*-*.parquet", False),
    ("after:pose", True),
    ("file:staging/hands/b1/*-*.parquet", True),
    ("after:hands", False),
    ("file:staging/agnostic_masks/b1/*-*.parquet", False),
    ("after:agnostic_masks", True),
    ("file:staging/captions/b1/*-*.parquet", True),
    ("after:captions", False),
    ("file:staging/clips/b1/*-*.parquet", False),
    ("after:clips", True),
    ("after:stage_status/clips", False),
    ("after:training_sets", True),
    ("file:training/*/checkpoints/step-00000002", False),
    ("file:training/*/checkpoints/step-00000004", True),
    ("after:training_metrics", False),
    ("blob:1", True),
    ("after:tryon_videos", False),
    ("before:video_metrics", True),
]


class Runner:
    """Runs of the command line, one after the other, each killed at its moment."""

    def __init__(self, folder: Path):
        self.log = folder / "log"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "PASSIVE"}
        environment.pop("DAGSTER_HOME", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.dagster_project.killed_run"],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, store: DeltaStore, *arguments: str, moment: str = "none", whole_group: bool = True) -> int:
        request = {"arguments": arguments, "moment": moment, "whole_group": whole_group}
        request |= {"lake": store.root, "log": str(self.log)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        assert ready, f"{moment}: still running after {TIMEOUT_S} s\n{self.tail()}"
        return json.loads(self.process.stdout.readline())["status"]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def close(self) -> None:
        for pid in processes_of(str(self.log.parent)):
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


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


def wait_for_orphans(lake: str, seconds: float = 8) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := processes_of(lake)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Two real clips of 18 frames and a file that is none, and settings that make short work of them."""
    folder = tmp_path_factory.mktemp("source") / "videos"
    folder.mkdir()
    frames = dancer_frames(100, 36, max_side=256)
    write_frames(folder / "a.mp4", frames[:18])
    write_frames(folder / "b.mp4", frames[18:])
    (folder / "garments").mkdir()
    Image.fromarray(frames[0]).save(folder / "garments" / "dress.png")
    (folder / "bad.mp4").write_bytes(b"no video")
    # A checkpoint after every second of four steps, so that there is one to go on from.
    recipe = {"preset": "nano", "precision": "fp32", "checkpoint_every": 2, "seed": 1}
    (folder.parent / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    settings = {
        "training": {"recipe": str(folder.parent / "recipe.yaml"), "steps": 4, "batch_size": 1},
        "clips": {"sizes": [[64, 64]]},
        "tryon": {"steps": 1, "max_videos": 1, "max_frames": 17, "pairs": "paired", "sizes": [[64, 64]]},
    }
    (folder.parent / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("kills"))
    yield runner
    runner.close()


def new_lake(runner: Runner, source: Path, name: str) -> DeltaStore:
    store = DeltaStore(runner.log.parent / name)
    store.ensure_tables()
    land(source, store, BATCH)
    return store


def arguments(source: Path) -> list[str]:
    return ["materialize", "--batch", BATCH, "--config", str(source.parent / "settings.yaml")]


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, source: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table after one run that nothing disturbs."""
    store = new_lake(runner, source, "undisturbed")
    assert runner(store, *arguments(source)) == 0, runner.tail()
    return contents(store)


def contents(store: DeltaStore) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table, sorted, without what differs between two runs that did the same."""
    out = {}
    for name, spec in TABLES.items():
        rows = [{k: v for k, v in r.items() if k not in VOLATILE} for r in store.read(spec).to_pylist()]
        for row in rows:
            if name == "checkpoints":
                row["config"] = row["config"].replace(store.root, "LAKE")
            if name == "tryon_videos":
                row["record"] = {k: v for k, v in json.loads(row["record"]).items() if k != "table_versions"}
        out[name] = sorted(rows, key=repr)
    return out


def check_blobs(store: DeltaStore) -> None:
    """Every blob that a row names is there, whole, and hashes to its name."""
    text = repr([store.read(spec).to_pylist() for spec in TABLES.values()])
    named = set(re.findall(r"blobs/[0-9a-f]{2}/[^'\" ]+", text))
    assert not any(n.endswith(".tmp") for n in named)
    for uri in named:
        assert sha256_file(store.blobs.local_path(uri)) == Path(uri).name.split(".")[0]


def check_tables(store: DeltaStore, rows: dict[str, list[dict[str, Any]]], done: dict[str, list[dict[str, Any]]]):
    """Whatever moment: no table holds a row that the undisturbed run has not, or holds one twice."""
    for name, mine in rows.items():
        theirs = [repr(r) for r in done[name]]
        extra = [r for r in mine if repr(r) not in theirs]
        if name == "stage_status":
            extra = [r for r in extra if r["status"] == "ok"]
        assert not extra, (name, extra[:1])
        assert len({repr(r) for r in mine}) == len(mine), name


def test_a_run_killed_at_any_moment_ends_with_the_rows_of_an_undisturbed_one(runner, source, undisturbed):
    store = new_lake(runner, source, "killed")
    for moment, whole_group in MOMENTS:
        status = runner(store, *arguments(source), moment=moment, whole_group=whole_group)
        assert status == -signal.SIGKILL, f"{moment}: the run ended with {status}\n{runner.tail()}"
        left = wait_for_orphans(store.root)
        assert not left, f"{moment}: processes {left} are still running"
        check_blobs(store)
        check_tables(store, contents(store), undisturbed)
    assert runner(store, *arguments(source)) == 0, runner.tail()
    mine = contents(store)
    for name in TABLES:
        assert mine[name] == undisturbed[name], name
    check_blobs(store)
    assert not [p for p in (Path(store.root) / "staging").rglob("*") if p.is_file()]
    with dg.DagsterInstance.from_config(f"{store.root}/dagster") as instance:
        states = [r.status.value for r in instance.get_runs()]
    assert states == ["SUCCESS", *["FAILURE"] * len(MOMENTS)], "the newest first; no killed run seems to be running"
