"""A disk that fills up: a small file system of its own, filled until an undisturbed run would not fit any more.

The file system is a tmpfs in a mount namespace of a helper process, `python -m tests.faults.disk_full`, which does the
cases: nobody else sees it, and it is gone with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land
from pipelines.ingest.settings import IngestSettings
from pipelines.stage import WorkerSettings, run_stage
from pipelines.store import DeltaStore
from tests.conftest import REPOSITORY
from tests.faults.lakes import (
    BATCH,
    Broken,
    check_blobs,
    check_clean,
    check_no_more,
    contents,
    hold,
    make_source,
    names_remedy,
    new_lake,
)
from tests.faults.suite import Case, Kind, Outcome, Runner, draw
from tests.pipelines.fake_stages import FakePose, FakeSettings

SIZE_MB = 48
TARGETS = ("land", "ingest", "stage", "trainer")
CASES_EACH = 6


def cases(seed: int, count: int | None) -> list[Case]:
    """For each target, shares of the space it needs that are left to it: none, and others drawn by the seed."""
    rng = random.Random(seed + 2)
    found = []
    for target in TARGETS:
        for share in [0.0, *sorted(rng.uniform(0.05, 0.9) for _ in range(CASES_EACH - 1))]:
            values = {"target": target, "share": share}
            found.append(Case(f"{target} with {share:.4f} of the space it needs", values))
    return draw(found, seed, count)


def _unshare() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


def skip() -> str:
    """Why no file system can be mounted here; empty where one can."""
    if shutil.which("unshare") is None:
        return "no `unshare` on this machine"
    command = [*_unshare(), "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no file system of our own can be mounted ({done.stderr.strip()})"


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """Start the helper with its file system."""
    source, mount = work / "source", work / "disk"
    shutil.rmtree(work, ignore_errors=True)
    mount.mkdir(parents=True)
    make_source(source)
    inner = f'mount -t tmpfs -o size={SIZE_MB}m tmpfs "$1" && exec "$2" -m tests.faults.disk_full "$1" "$3"'
    process = subprocess.Popen(
        [*_unshare(), "sh", "-c", inner, "sh", str(mount), sys.executable, str(source)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(work / "log").open("w"),
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None

    def run(case: Case) -> Outcome:
        process.stdin.write(json.dumps(case.values) + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        answer = json.loads(process.stdout.readline() or '{"broken": "the helper process died"}')  # type: ignore[union-attr]
        hold("broken" not in answer, answer.get("broken", ""))
        return Outcome(answer["note"])

    try:
        yield run
    finally:
        process.stdin.close()
        process.wait()


# --- in the helper ---


class _Disk:
    def __init__(self, mount: Path, source: Path):
        self.mount, self.source = mount, source
        self.needed: dict[str, int] = {}
        self.results: dict[str, object] = {}

    def free(self) -> int:
        state = os.statvfs(self.mount)
        return state.f_bavail * state.f_frsize

    def clear(self) -> None:
        for path in self.mount.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextlib.contextmanager
    def filled(self, leaving: int) -> Iterator[None]:
        file = self.mount / "fill"
        with file.open("wb") as f:
            os.posix_fallocate(f.fileno(), 0, max(1, self.free() - leaving))
        try:
            yield
        finally:
            file.unlink()

    def case(self, target: str, share: float) -> str:
        if target not in self.needed:
            self.clear()
            self.prepare(target)
            before = self.free()
            self.do(target)
            self.needed[target] = before - self.free()
            self.results[target] = self.result(target)
        self.clear()
        self.prepare(target)
        before_rows = self.result(target)
        with self.filled(int(share * self.needed[target])):
            try:
                said = self.do(target)
            except (OSError, RuntimeError) as e:
                said = [f"{type(e).__name__}: {e}"]
            hold(said, "the disk was full and nobody said so")
            for text in said:
                hold("is full" in text and names_remedy(text), f"an error names no remedy: {text}")
            if target != "trainer":
                self.check_between(target, before_rows)
        hold(not self.do(target), "the run with space again failed")
        hold(self.result(target) == self.results[target], "the run after it has other results than an undisturbed one")
        if target in ("ingest", "stage"):
            check_blobs(DeltaStore(self.mount / "lake"))
            check_clean(DeltaStore(self.mount / "lake"))
        return f"{target}: said that the disk is full"

    def check_between(self, target: str, before: object) -> None:
        store = DeltaStore(self.mount / "lake")
        check_blobs(store)
        if target in ("ingest", "stage"):
            check_no_more(contents(store), self.results[target])  # type: ignore[arg-type]
        else:
            hold(not (self.mount / "lake" / "landing" / BATCH).exists(), "half a batch has landed")

    def prepare(self, target: str) -> None:
        if target == "trainer":
            from tests.models.training_clips import make_clip, write_manifest

            clips = self.mount / "clips"
            clips.mkdir()
            write_manifest(clips, [make_clip(clips, f"clip{i}", i) for i in range(3)])
        elif target == "ingest":
            new_lake(self.mount / "lake", self.source / "videos")
        else:
            store = DeltaStore(self.mount / "lake")
            store.ensure_tables()
            if target == "stage":
                from tests.pipelines.test_stage import add_videos

                add_videos(store, "a.mp4", "b.mp4", "c.mp4", frames=20_000)

    def do(self, target: str) -> list[str]:
        """Do it; what it said went wrong."""
        store = DeltaStore(self.mount / "lake")
        if target == "land":
            return list(land(self.source / "videos", store, BATCH).refused.values())
        if target == "ingest":
            report = ingest_batch(store, BATCH, IngestSettings(workers=1))
            return [r for p, r in report.problems.items() if p != "bad.mp4"]
        if target == "stage":
            report = run_stage(FakePose(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=1))
            return list(report.failures.values())
        return self.train()

    def train(self) -> list[str]:
        from tests.models.training_runs import config

        file = self.mount.parent / "trainer.json"
        file.write_text(config(self.mount / "clips", self.mount / "out", steps=4).model_dump_json())
        done = subprocess.run(
            [sys.executable, "-m", "models.training", "--config", str(file)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        return [done.stderr.strip()] if done.returncode else []

    def result(self, target: str) -> object:
        if target == "land":
            landed = self.mount / "lake" / "landing" / BATCH
            return {p.relative_to(landed).as_posix(): p.read_bytes() for p in landed.rglob("*") if p.is_file()}
        if target == "trainer":
            from tests.faults.trainer_kills import results

            return results(self.mount / "out") if (self.mount / "out" / "summary.json").exists() else None
        return contents(DeltaStore(self.mount / "lake"))


def main(mount: Path, source: Path) -> None:
    """Do the cases of standard input, one JSON line each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What libraries print is no answer.
    disk = _Disk(mount, source)
    for line in sys.stdin:
        try:
            answer = {"note": disk.case(**json.loads(line))}
        except Broken as e:
            answer = {"broken": str(e)}
        except Exception as e:
            answer = {"broken": f"{type(e).__name__}: {e}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


KIND = Kind(
    "disk",
    "A file system that fills up during landing, ingestion, a stage, and training",
    "every error says that the disk is full and what to do; no half file, no row that is not whole; with space again "
    "the same command ends as an undisturbed one, the trainer to the bit",
    cases,
    session,
    skip,
)

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
