"""A lake on a server that speaks S3: tables, writers at the same time, blobs, and a stage from video to rows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from deltalake.exceptions import CommitFailedError

from pipelines.checkpoints.train import CheckpointMissing, _copy_folder, checkpoint_folder, validation_sheet
from pipelines.ingest.landing import land
from pipelines.stage import WorkerSettings, run_stage
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import CAPTIONS, POSE, STAGE_STATUS, VIDEOS
from tests.pipelines.fake_stages import FakePose, FakeSettings
from tests.pipelines.lake_videos import BATCH, add_videos
from tests.pipelines.test_store import caption_rows
from tests.s3_store import S3Store

pytest.importorskip("moto", reason="the extra `dev` is not installed: it brings the S3 server")
boto3 = pytest.importorskip("boto3")
pytestmark = pytest.mark.slow

WRITERS, ROUNDS = 4, 5


@pytest.fixture(scope="module")
def endpoint() -> Iterator[S3Store]:
    with S3Store() as server:
        yield server


@pytest.fixture
def s3(endpoint, monkeypatch, request) -> tuple[DeltaStore, Any]:
    """A lake in a bucket of its own, and the client that looks at its objects."""
    for name, value in endpoint.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{abs(hash(request.node.name)) % 10**9}"
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    return DeltaStore(f"s3://{bucket}/some/lake"), client


def keys(store: DeltaStore, client: Any) -> list[str]:
    listed = client.list_objects_v2(Bucket=store.root.split("/")[2])
    return [o["Key"] for o in listed.get("Contents", [])]


def _overwrite(root: str, batch: str) -> None:
    store = DeltaStore(root)
    for i in range(ROUNDS):
        store.replace(CAPTIONS, caption_rows(batch, [str(i)] * 3), {"batch": batch}, Commit(f"{batch}-{i}"))


def test_writers_at_the_same_time_lose_nothing(s3):
    store, _ = s3
    store.ensure_tables([CAPTIONS])
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_overwrite, args=(store.root, f"b{i}")) for i in range(WRITERS)]
    for w in writers:
        w.start()
    for w in writers:
        w.join(300)
    assert [w.exitcode for w in writers] == [0] * WRITERS
    rows = store.read(CAPTIONS)
    assert rows.num_rows == 3 * WRITERS and set(rows["text"].to_pylist()) == {str(ROUNDS - 1)}
    # Every commit is there: one version each, and none was written over by another.
    history = [h.get("itryon/run_id") for h in store.open(CAPTIONS).history()]
    assert store.version(CAPTIONS) == WRITERS * ROUNDS
    assert sorted(r for r in history if r) == sorted(f"b{b}-{i}" for b in range(WRITERS) for i in range(ROUNDS))


def test_the_store_decides_who_comes_first(s3):
    store, _ = s3
    store.replace(CAPTIONS, caption_rows("a", ["one"]), {"batch": "a"}, Commit())
    stale = store.open(CAPTIONS)
    store.replace(CAPTIONS, caption_rows("a", ["two"]), {"batch": "a"}, Commit())
    with pytest.raises(CommitFailedError):
        write_deltalake(stale, caption_rows("a", ["three"]), mode="overwrite", predicate="batch = 'a'")
    assert store.read(CAPTIONS)["text"].to_pylist() == ["two"]


def test_blobs_are_whole_verified_and_cached(s3, tmp_path, monkeypatch):
    store, client = s3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = bytes(range(256)) * 30_000
    (tmp_path / "clip.MP4").write_bytes(data)
    uri = store.blobs.put_file(tmp_path / "clip.MP4")
    assert uri.endswith(".mp4") and store.blobs.exists(uri) and store.blobs.put_bytes(data, ".mp4") == uri
    assert store.blobs.read_bytes(uri) == data
    cached = store.blobs.local_path(uri)
    assert cached.read_bytes() == data and cached.is_relative_to(tmp_path / "cache")
    assert [k for k in keys(store, client) if not k.endswith("/")] == [f"some/lake/{uri}"], "nothing is left beside it"
    client.delete_object(Bucket=store.root.split("/")[2], Key=f"some/lake/{uri}")
    assert store.blobs.local_path(uri) == cached, "what was read once is not asked for again"
    assert not store.blobs.exists(uri)
    with pytest.raises(FileNotFoundError):
        store.blobs.read_bytes(uri)


def test_a_damaged_remote_blob_is_named_and_not_cached(s3, tmp_path, monkeypatch):
    store, client = s3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = store.blobs.put_bytes(b"what was meant", ".bin")
    client.put_object(Bucket=store.root.split("/")[2], Key=f"some/lake/{uri}", Body=b"what came of it")
    for read in (store.blobs.local_path, store.blobs.read_bytes):
        with pytest.raises(OSError, match="damaged"):
            read(uri)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_a_file_that_changes_while_it_is_stored_leaves_nothing(s3, tmp_path):
    store, client = s3
    with (tmp_path / "f").open("wb+") as changed:
        changed.write(b"other bytes")
        changed.seek(0)
        with pytest.raises(OSError, match="changed while"):
            store.blobs._write(changed, store.blobs.uri_for("ab" * 32, ".bin"), "ab" * 32)
    assert [k for k in keys(store, client) if not k.endswith("/")] == []


def test_a_checkpoint_goes_to_a_remote_lake_and_comes_back(s3, tmp_path, monkeypatch):
    store, _ = s3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    final = tmp_path / "final"
    (final / "transformer").mkdir(parents=True)
    (final / "transformer" / "weights.safetensors").write_bytes(bytes(range(256)) * 100)
    (final / "validation.jpg").write_bytes(b"a picture")
    row = {"checkpoint_id": "c0ffee", "uri": "checkpoints/c0ffee"}
    for _ in range(2):
        _copy_folder(final, store, row["uri"])
    folder = checkpoint_folder(store, row)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {p.relative_to(final).as_posix(): p.read_bytes() for p in final.rglob("*") if p.is_file()}
    assert checkpoint_folder(store, row) == folder and validation_sheet(store, row) == b"a picture"
    with pytest.raises(CheckpointMissing, match=r"gone from s3://.*restore the folder from a copy"):
        checkpoint_folder(store, {"checkpoint_id": "abad1dea", "uri": "checkpoints/abad1dea"})


def test_a_stage_runs_on_a_remote_lake(s3, moving_video, tmp_path, monkeypatch):
    store, _ = s3
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ITRYON_LANDING", str(tmp_path / "landing"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(Path(moving_video).read_bytes())
    assert land(tmp_path / "in", store, BATCH).folder == tmp_path / "landing" / BATCH
    (row,) = add_videos(store, moving_video)
    report = run_stage(FakePose(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=1))
    assert (report.videos_ok, report.videos_failed, report.rows) == (1, 0, row["num_frames"])
    assert store.read(POSE).num_rows == row["num_frames"]
    assert store.read(STAGE_STATUS)["status"].to_pylist() == ["ok"]
    before = store.version(POSE)
    again = run_stage(FakePose(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=1))
    assert again.videos_reused == 1 and store.version(POSE) == before
    assert not list((tmp_path / "cache").rglob("*.parquet")), "staged rows are gone after their commit"
    assert store.read(VIDEOS, ["uri"]).num_rows == 1 and isinstance(store.read(POSE), pa.Table)
