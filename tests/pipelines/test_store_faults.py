"""What a lake says and does when its disk is full, its files are damaged, or a killed process left something."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import URLError

import pyarrow as pa
import pytest
from pyarrow import fs

from models.filesystem import open_root
from pipelines.ingest import landing
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land, landing_folder
from pipelines.ingest.settings import IngestSettings
from pipelines.stage import VideoTask, WorkerSettings, run_stage
from pipelines.stage.base import scratch
from pipelines.store import Commit, DeltaStore, clock
from pipelines.store.blobs import TEMPORARY
from pipelines.store.clock import later_than
from pipelines.store.errors import DamagedTable, DiskFull, LakeError, LakeUnreachable, explain, explained
from pipelines.store.leftovers import remove_leftovers, remove_leftovers_daily
from pipelines.store.repair import DAMAGED, repair
from pipelines.store.schemas import CAPTIONS, CHECKPOINTS, POSE, STAGE_STATUS, VIDEOS
from tests.faults.lakes import names_remedy
from tests.pipelines.fake_stages import FakePose, FakeSettings
from tests.pipelines.lake_videos import BATCH, add_videos
from tests.pipelines.media import write_video
from tests.pipelines.test_stage import add_videos as add_fake_videos
from tests.pipelines.test_store import caption_rows

ONE = WorkerSettings(workers=1)


def write(store: DeltaStore, batch: str, texts: list[str]) -> None:
    store.replace(CAPTIONS, caption_rows(batch, texts), {"batch": batch}, Commit())


def data_files(store: DeltaStore, batch: str) -> list[Path]:
    return [
        p for u in store.open(CAPTIONS).file_uris() if f"batch={batch}/" in str(p := Path(u.removeprefix("file://")))
    ]


def age(path: Path, days: float) -> Path:
    for p in (*path.rglob("*"), path):
        os.utime(p, (time.time() - 86_400 * days,) * 2)
    return path


# --- errors ---


def test_a_full_disk_is_said_and_leaves_nothing(lake: DeltaStore, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipelines.store.blobs.os.fsync", full)
    with pytest.raises(DiskFull, match="free some space and run again") as caught:
        lake.blobs.put_bytes(b"x" * 100, ".bin")
    assert names_remedy(str(caught.value)) and caught.value.__cause__ is None
    assert [p for p in (Path(lake.root) / "blobs").rglob("*") if p.is_file()] == []


def test_errors_are_told_apart():
    def said(error: Exception, root: str = "/lake", what: str = "Table pose") -> type | None:
        better = explain(error, root, what)
        return type(better) if better else None

    assert said(OSError(errno.EDQUOT, "quota")) is DiskFull
    assert said(RuntimeError("I/O error: No space left on device (os error 28)")) is DiskFull
    assert said(OSError("Json error: Truncated record")) is DamagedTable
    assert said(OSError("Json error: Truncated record"), what="Blob x") is None
    assert said(OSError("error sending request"), "s3://b/lake") is LakeUnreachable
    assert said(OSError("error sending request")) is None, "a local lake has no store that could be away"
    assert said(FileNotFoundError("Path does not exist 'connect'"), "s3://b/lake") is None
    assert said(URLError("Connection refused"), "s3://b/lake") is None, "an address of somebody else"
    assert said(OSError("10 rows failed validation"), "s3://b/lake") is None
    # The stack and the colours of another language are left out.
    better = explain(OSError("\x1b[31mJson error\x1b[0m: x\n   0: <unknown>\n   1: y"), "/lake", "Table pose")
    assert "unknown" not in str(better) and "\x1b" not in str(better)


def test_what_a_caller_raises_while_it_reads_is_not_explained(lake: DeltaStore):
    write(lake, "a", ["x"])
    with pytest.raises(OSError, match="Json error of my own"):
        for _ in lake.batches(CAPTIONS):
            raise OSError("Json error of my own")


# --- damage and repair ---


def damage(path: Path, way: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if way != "gone":
        path.write_bytes(
            {"half": data[: len(data) // 2], "empty": b"", "flipped": data[:40] + b"\xff" * 60 + data[100:]}[way]
        )


@pytest.mark.parametrize("way", ["gone", "half", "empty", "flipped"])
def test_a_damaged_data_file_is_named_and_taken_out(lake: DeltaStore, way: str):
    for batch in ("a", "b"):
        write(lake, batch, ["one", "two"])
    (file,) = data_files(lake, "a")
    damage(file, way)
    with pytest.raises(DamagedTable, match=r"Table captions .*itryon repair"):
        lake.read(CAPTIONS)
    report = repair(lake, scratch(lake))
    assert (
        not report.left and len(report.done) == 1 and "Table captions" in report.done[0] and "batch=a" in report.done[0]
    )
    assert lake.read(CAPTIONS)["batch"].to_pylist() == ["b", "b"]
    write(lake, "a", ["three"])
    assert sorted(lake.read(CAPTIONS)["text"].to_pylist()) == ["one", "three", "two"]
    assert file.with_name(file.name + DAMAGED).exists() == (way != "gone")
    assert repair(lake, scratch(lake)).done == []


@pytest.mark.parametrize("way", ["half", "empty"])
def test_a_damaged_newest_commit_is_put_aside(lake: DeltaStore, way: str):
    write(lake, "a", ["one"])
    write(lake, "a", ["two"])
    log = sorted((Path(lake.root) / "tables/captions/_delta_log").glob("*.json"))
    damage(log[-1], way)
    if way == "half":
        with pytest.raises(DamagedTable, match="itryon repair"):
            # A process that read the commit before it was damaged remembers it.
            DeltaStore(lake.root).read(CAPTIONS)
    report = repair(lake, scratch(lake))
    assert not report.left and log[-1].name in report.done[0]
    assert lake.read(CAPTIONS)["text"].to_pylist() == ["one"]
    write(lake, "a", ["three"])
    assert lake.read(CAPTIONS)["text"].to_pylist() == ["three"]


def test_a_lost_commit_that_others_followed_is_made_one_of_nothing(lake: DeltaStore):
    write(lake, "a", ["one"])
    write(lake, "b", ["two"])
    log = sorted((Path(lake.root) / "tables/captions/_delta_log").glob("*.json"))
    damage(log[-1], "empty")
    # delta-rs goes on behind it, so that a run may have made the rows again before anybody looks.
    write(DeltaStore(lake.root), "b", ["two again"])
    found = repair(DeltaStore(lake.root), scratch(lake))
    assert not found.left and len(found.done) == 1 and f"{log[-1].name} was empty" in found.done[0]
    assert sorted(DeltaStore(lake.root).read(CAPTIONS)["text"].to_pylist()) == ["one", "two again"]
    assert repair(DeltaStore(lake.root), scratch(lake)).done == []


@pytest.mark.parametrize("way", ["half", "gone"])
def test_a_hole_in_the_log_is_refused_with_what_to_do(lake: DeltaStore, way: str):
    for text in ("one", "two", "three"):
        write(lake, "a", [text])
    log = sorted((Path(lake.root) / "tables/captions/_delta_log").glob("*.json"))
    data = log[1].read_bytes()
    damage(log[1], way)
    report = repair(lake, scratch(lake))
    assert report.done == [] and len(report.left) == 1 and "Put it back from a copy" in report.left[0]
    log[1].write_bytes(data)
    assert lake.read(CAPTIONS)["text"].to_pylist() == ["three"]
    assert repair(lake, scratch(lake)).left == []


@pytest.mark.parametrize("way", ["gone", "half", "empty", "flipped"])
def test_a_damaged_checkpoint_of_a_whole_log_loses_nothing(lake: DeltaStore, way: str, caplog):
    write(lake, "a", ["one"])
    lake.open(CAPTIONS).create_checkpoint()
    log = Path(lake.root) / "tables/captions/_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    damage(checkpoint, way)
    with pytest.raises(DamagedTable, match=r"Table captions .*itryon repair"):
        DeltaStore(lake.root).read(CAPTIONS)
    # Another table's damage does not fail the batch that was ingested.
    remove_leftovers_daily(DeltaStore(lake.root), scratch(lake))
    assert "Table captions" in caplog.text
    age(log, 8)
    report = repair(DeltaStore(lake.root), scratch(lake))
    assert not report.left and len(report.done) == 1 and "nothing is lost" in report.done[0]
    assert DeltaStore(lake.root).read(CAPTIONS)["text"].to_pylist() == ["one"]
    aside = sorted(log.glob(f"*{DAMAGED}"))
    assert [p.name for p in aside] == [p + DAMAGED for p in [checkpoint.name] * (way != "gone") + ["_last_checkpoint"]]
    for path in aside:
        age(path, 8)
    assert sorted(remove_leftovers(lake, scratch(lake))) == list(map(str, aside)) and not any(log.glob(f"*{DAMAGED}"))


def test_a_damaged_checkpoint_that_stands_for_entries_long_gone_is_refused(lake: DeltaStore):
    write(lake, "a", ["one"])
    table = lake.open(CAPTIONS)
    table.create_checkpoint()
    log = age(Path(lake.root) / "tables/captions/_delta_log", 400)
    table.cleanup_metadata()
    write(lake, "b", ["two"])
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    data = checkpoint.read_bytes()
    damage(checkpoint, "half")
    report = repair(DeltaStore(lake.root), scratch(lake))
    assert not report.done and len(report.left) == 1 and "Put it back from a copy" in report.left[0]
    checkpoint.write_bytes(data)
    assert sorted(DeltaStore(lake.root).read(CAPTIONS)["text"].to_pylist()) == ["one", "two"]


class BadSector:
    """A file system that cannot read blobs and data files, whole as they are."""

    def __init__(self, system: fs.FileSystem):
        self.system = system

    def __getattr__(self, name: str):
        return getattr(self.system, name)

    def open_input_stream(self, path: str):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def open_input_file(self, path: str):
        return self.system.open_input_file(path) if path.endswith(".json") else self.open_input_stream(path)


def test_what_cannot_be_read_is_not_taken_for_damaged(lake: DeltaStore, tmp_path: Path, monkeypatch):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4")
    land(tmp_path / "in", lake, "b")
    ingest_batch(lake, "b", IngestSettings(workers=1))
    before = lake.read(VIDEOS)
    with monkeypatch.context() as patch:
        system, base = open_root(lake.root)
        patch.setattr("pipelines.store.repair.open_root", lambda _: (BadSector(system), base))
        patch.setattr(lake.blobs, "_fs", BadSector(system))
        report = repair(lake, scratch(lake))
    assert not report.done and len(report.left) == 2 and all(names_remedy(t) for t in report.left)
    assert all("cannot be read (Input/output error) and stays" in t for t in report.left)
    assert lake.read(VIDEOS).equals(before) and not repair(lake, scratch(lake)).left
    assert lake.blobs.read_bytes(before["uri"][0].as_py())


def test_a_data_file_in_a_codec_that_nobody_knows_is_damaged(lake: DeltaStore, monkeypatch: pytest.MonkeyPatch):
    write(lake, "a", ["one"])

    def unknown(*_: object) -> None:
        raise pa.ArrowNotImplementedError("Unknown codec type in Thrift")

    monkeypatch.setattr("pipelines.store.repair.pq.ParquetFile", unknown)
    assert "Unknown codec" in repair(lake, scratch(lake)).done[0]


def test_rows_stand_only_while_their_blobs_are_there(lake: DeltaStore, tmp_path: Path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4")
    land(tmp_path / "in", lake, "b")
    settings = IngestSettings(workers=1)
    ingest_batch(lake, "b", settings)
    (row,) = lake.read(VIDEOS).to_pylist()
    path = Path(lake.root) / row["uri"]
    whole = path.read_bytes()
    assert ingest_batch(lake, "b", settings).reused == 1
    # Deleted, as the error of a damaged blob says; then cut, which a repair deletes.
    path.unlink()
    assert ingest_batch(lake, "b", settings).reused == 0 and path.read_bytes() == whole
    path.write_bytes(whole[:50])
    report = repair(lake, scratch(lake))
    assert len(report.done) == 1 and row["uri"] in report.done[0] and "batch b" in report.done[0] and not path.exists()
    ingest_batch(lake, "b", settings)
    assert path.read_bytes() == whole and lake.read(VIDEOS).to_pylist() == [row]


def test_a_stage_refuses_a_video_whose_bytes_changed(lake: DeltaStore, moving_video: Path):
    (row,) = add_videos(lake, moving_video)
    assert VideoTask(lake, row, 1, lambda n: None).path.read_bytes() == moving_video.read_bytes()
    path = Path(lake.root) / row["uri"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"damaged.*itryon repair"):
        _ = VideoTask(lake, row, 1, lambda n: None).path


def test_a_cut_blob_is_written_anew(lake: DeltaStore, tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(b"abc")
    uri = lake.blobs.put_file(tmp_path / "x.bin")
    for write_again in (lambda: lake.blobs.put_bytes(b"abc", ".bin"), lambda: lake.blobs.put_file(tmp_path / "x.bin")):
        (Path(lake.root) / uri).write_bytes(b"a")
        assert write_again() == uri
        assert lake.blobs.read_bytes(uri) == b"abc"


# --- leftovers ---


def test_leftovers_of_killed_runs_are_deleted_once_they_are_old(lake: DeltaStore):
    write(lake, "a", ["one"])
    write(lake, "a", ["two"])
    root, name = Path(lake.root), "0123456789abcdef" * 2
    (landing_folder(lake, "b")).mkdir(parents=True)
    old = [
        root / TEMPORARY / name,
        root / "blobs" / "ab" / f"abc.bin.{name}.tmp",
        root / "landing" / "b" / f".{name}.tmp",
        root / "cache" / "evaluation" / "ab" / f".{name}.tmp",
        root / "tables" / "captions" / "batch=a" / "part-00000-orphan.parquet",
        root / "tables" / "captions" / "batch=a" / "part-00000-half.parquet#1",
        # Whatever lies beside the data of a table and is named by no entry of its log.
        root / "tables" / "captions" / "half.tmp",
    ]
    folders = [root / "checkpoints" / f"c0ffee.{name}.tmp", root / "staging" / "pose" / "gone"]
    kept = [root / "landing" / "b" / "notes.tmp", root / "landing" / "b" / ".hidden.tmp"]
    for path in (*old, *(f / "file" for f in folders), *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    young = root / TEMPORARY / "young"
    young.write_bytes(b"x")
    half = root / "staging" / "hands" / "b"
    half.mkdir(parents=True)
    (half / "new.parquet").write_bytes(b"x")
    for path in (*old, *folders, *kept):
        age(path, 8)
    os.utime(half, (time.time() - 86_400 * 8,) * 2)
    told = remove_leftovers(lake, scratch(lake), dry_run=True)
    assert all(p.exists() for p in (*old, *folders))
    removed = remove_leftovers(lake, scratch(lake))
    assert removed == told and len(removed) == len(old) + len(folders)
    assert not any(p.exists() for p in (*old, *folders))
    assert all(p.exists() for p in (*kept, young, half / "new.parquet"))
    assert lake.read(CAPTIONS)["text"].to_pylist() == ["two"]
    assert lake.read(CAPTIONS, version=1)["text"].to_pylist() == ["one"], "older versions stay readable"


def test_what_a_run_takes_away_while_leftovers_are_looked_for_is_nobodys(lake: DeltaStore, monkeypatch):
    folder = Path(lake.root) / "checkpoints" / f"c0ffee.{'0123456789abcdef' * 2}.tmp"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x")
    age(folder, 8)
    lstat = Path.lstat

    def renamed(self: Path) -> os.stat_result:
        if self.name == "weights":
            self.unlink(missing_ok=True)
        return lstat(self)

    monkeypatch.setattr(Path, "lstat", renamed)
    assert remove_leftovers(lake, scratch(lake)) == [] and folder.exists()


def test_looking_for_leftovers_makes_no_table(tmp_path: Path):
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables([CAPTIONS])
    assert remove_leftovers(store, scratch(store)) == []
    assert [p.name for p in (tmp_path / "lake" / "tables").iterdir()] == ["captions"]


def test_older_versions_stay_however_old_their_files_are(lake: DeltaStore):
    write(lake, "a", ["one"])
    write(lake, "a", ["two"])
    age(Path(lake.root) / "tables" / "captions", 300)
    assert remove_leftovers(lake, scratch(lake)) == []
    assert lake.read(CAPTIONS, version=1)["text"].to_pylist() == ["one"]


def test_leftovers_are_looked_for_once_a_day_and_fail_nothing(
    lake: DeltaStore, monkeypatch: pytest.MonkeyPatch, caplog
):
    calls = []
    monkeypatch.setattr("pipelines.store.leftovers.remove_leftovers", lambda *_: calls.append(1) or [])
    for _ in range(3):
        remove_leftovers_daily(lake, scratch(lake))
    assert len(calls) == 1
    age(scratch(lake) / "locks" / "tidied", 1.1)

    def broken(*_):
        raise LakeError("the store does not answer")

    monkeypatch.setattr("pipelines.store.leftovers.remove_leftovers", broken)
    remove_leftovers_daily(lake, scratch(lake))
    assert "does not answer" in caplog.text


# --- clocks ---


def test_what_is_filed_later_is_newer_whatever_the_clock_says(lake: DeltaStore, monkeypatch: pytest.MonkeyPatch):
    ahead = datetime.now(UTC) + timedelta(hours=5)
    row = {
        f.name: None if f.nullable else {"string": "x", "double": 0.5}.get(str(f.type), 0) for f in CHECKPOINTS.schema
    }
    table = pa.Table.from_pylist([row | {"checkpoint_id": "a", "created_at": ahead}], CHECKPOINTS.schema)
    assert later_than(lake, CHECKPOINTS) <= datetime.now(UTC)
    lake.replace(CHECKPOINTS, table, {"checkpoint_id": "a"}, Commit())
    assert later_than(lake, CHECKPOINTS) == ahead + timedelta(microseconds=1)

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return ahead + timedelta(hours=1)

    monkeypatch.setattr(clock, "datetime", Later)
    assert later_than(lake, CHECKPOINTS) == ahead + timedelta(hours=1)


# --- two at once ---


def test_a_run_waits_for_another_one_of_the_same_stage_and_batch(lake: DeltaStore, tmp_path: Path, monkeypatch):
    """The first run to be done deleted the staged files of the other, which failed at its commit."""
    add_fake_videos(lake, "a.mp4", "b.mp4", "c.mp4")
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_STAGE_LOG", str(log))
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=_run_pose, args=(lake.root,)) for _ in range(2)]
    for r in runs:
        r.start()
    for r in runs:
        r.join()
    assert [r.exitcode for r in runs] == [0, 0]
    assert lake.read(POSE, where={"batch": BATCH}).num_rows == 21
    assert {s["status"] for s in lake.read(STAGE_STATUS).to_pylist()} == {"ok"}
    assert len(log.read_text().split()) == 3, "the second run found everything done"


def _run_pose(root: str) -> None:
    run_stage(FakePose(FakeSettings(delay_s=0.1)), DeltaStore(root), BATCH, settings=ONE)


def test_two_that_land_the_same_batch_lose_no_line(lake: DeltaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All would prepare a folder of their own, and only the first could give it the batch's name."""
    place_one = landing._place_one
    monkeypatch.setattr(landing, "_place_one", lambda *a: time.sleep(0.2) or place_one(*a))
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.mp4").write_bytes(name.encode())
        (tmp_path / name / "manifest.jsonl").write_text(f'{{"video": "{name}.mp4"}}\n')
    errors: list[BaseException] = []

    def put(name: str) -> None:
        try:
            land(tmp_path / name, lake, "b")
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=put, args=(n,)) for n in "abcd"]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    folder = landing_folder(lake, "b")
    assert sorted(p.name for p in folder.glob("*.mp4")) == ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    assert len((folder / "manifest.jsonl").read_text().split("\n")) == 5


def test_errors_pass_through_unless_they_are_known():
    with pytest.raises(ValueError, match="mine"), explained("/lake", "Table pose"):
        raise ValueError("mine")
