"""The stage runner: only what is missing is done, every error is a row, a kill at any point loses nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from models.vlm.client import EndpointError
from pipelines.checks import check_stage
from pipelines.registry import STAGES
from pipelines.stage import VideoTask, WorkerSettings, run_stage
from pipelines.stage.pool import _annotate_one
from pipelines.store import BlobStore, Commit, DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, CLIPS, POSE, STAGE_STATUS, VIDEOS
from tests.pipelines.fake_stages import FakeClips, FakeMasks, FakePose, FakeSettings

BATCH = "b1"


def add_videos(store: DeltaStore, *names: str, frames: int = 7) -> list[str]:
    rows = [
        {
            "batch": BATCH,
            "video_id": name.encode().hex()[:16].ljust(16, "0"),
            "source_path": name,
            "uri": None,
            "sha256": name.encode().hex().ljust(64, "0")[:64],
            "num_frames": frames,
            "status": "rejected" if "rejected" in name else "ok",
            "fingerprint": "f",
        }
        for name in names
    ]
    store.replace(VIDEOS, pa.Table.from_pylist(rows, VIDEOS.schema), {"batch": BATCH}, Commit())
    return [r["video_id"] for r in rows]


@pytest.fixture
def store(tmp_path) -> DeltaStore:
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables()
    return store


def pose_rows(store: DeltaStore) -> list[tuple]:
    table = store.read(POSE, ["video_id", "frame", "score", "fingerprint"], {"batch": BATCH})
    return [tuple(r.values()) for r in table.to_pylist()]


def status(store: DeltaStore, stage: str = "pose") -> dict[str, dict]:
    rows = store.read(STAGE_STATUS, where={"batch": BATCH, "stage": stage}).to_pylist()
    return {r["video_id"]: r for r in rows}


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_while_it_starts_is_a_reason(store, monkeypatch):
    (video_id,) = add_videos(store, "a.mp4")
    with monkeypatch.context() as killing:
        killing.setattr("pipelines.stage.pool._send_to", die)
        report = run_stage(FakePose(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=1))
    assert report.failures == {video_id: "The worker processes died before they began; the next run tries again"}
    assert run_stage(FakePose(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=1)).videos_ok == 1


def test_bad_videos_are_rows_with_reasons_and_the_rest_goes_on(store):
    good, bad, crash, hang, _ = add_videos(store, "a.mp4", "bad.mp4", "crash.mp4", "hang.mp4", "rejected.mp4")
    seen = []
    report = run_stage(
        FakePose(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=2, timeout_s=5), on_progress=seen.append
    )
    assert (report.videos_ok, report.videos_failed, report.rows, report.frames) == (1, 3, 7, 7)
    rows = status(store)
    assert rows[good]["status"] == "ok" and rows[good]["rows"] == 7
    assert rows[bad]["reason"] == "ValueError: no person in the video"
    assert "exit code 9" in rows[crash]["reason"]
    assert "longer than 5 s" in rows[hang]["reason"]
    assert [r[1] for r in pose_rows(store)] == list(range(7))
    assert seen[-1].videos_done == 4 and seen[-1].videos_total == 4
    outcomes = {o.name: o for o in check_stage(store, POSE, BATCH)}
    assert all(o.passed for o in outcomes.values())
    assert outcomes["coverage"].figures["coverage"] == 0.25
    # Downstream, what failed upstream says so and is not tried.
    report = run_stage(FakeMasks(FakeSettings()), store, BATCH, settings=WorkerSettings(workers=1))
    assert (report.videos_ok, report.videos_failed) == (1, 3)
    assert report.failures[bad] == "pose failed: ValueError: no person in the video"


class EndpointAway(FakePose):
    """A stage whose vision-language model does not answer."""

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        raise EndpointError("http://127.0.0.1:9/v1 cannot be reached: Connection error")
        yield


def test_an_endpoint_that_is_away_is_not_taken_for_the_object_store(tmp_path):
    row = {"batch": BATCH, "video_id": "a", "source_path": "a.mp4", "num_frames": 7}
    args = (EndpointAway(FakeSettings()), DeltaStore("s3://bucket/lake"), row, "f", tmp_path / "a.parquet", 1, None)
    assert _annotate_one(*args) == "EndpointError: http://127.0.0.1:9/v1 cannot be reached: Connection error"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA")
def test_a_video_that_wants_too_much_memory_is_a_row_with_the_setting(store):
    good, huge = add_videos(store, "a.mp4", "huge.mp4")
    settings = WorkerSettings(workers=1, memory_gb=1.5)
    report = run_stage(FakePose(FakeSettings()), store, BATCH, settings=settings)
    assert report.videos_ok == 1 and status(store)[good]["status"] == "ok"
    assert "more than 1.5 GiB" in report.failures[huge] and "workers.memory_gb" in report.failures[huge]


def test_workers_share_the_machine_unless_told(monkeypatch):
    monkeypatch.setattr("pipelines.stage.base.machine_memory", lambda: 64 * 2**30)
    assert WorkerSettings().limit_gb(4) == 16
    assert WorkerSettings().limit_gb(64) == 4, "what the default networks need"
    assert WorkerSettings(memory_gb=2).limit_gb(4) == 2
    assert WorkerSettings(memory_gb=0).limit_gb(4) is None


def test_a_second_run_does_only_what_is_missing(store, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_STAGE_LOG", str(log))
    add_videos(store, "a.mp4", "b.mp4", "bad.mp4")
    run = lambda **kw: run_stage(  # noqa: E731
        FakePose(FakeSettings(**kw)), store, BATCH, settings=WorkerSettings(workers=1)
    )

    class Counted:
        @staticmethod
        def take() -> int:
            count = len(log.read_text().split()) if log.exists() else 0
            log.unlink(missing_ok=True)
            return count

    first = run()
    assert Counted.take() == 3
    again = run()
    assert Counted.take() == 1, "only the video that failed is tried again"
    assert again.videos_reused == 2 and again.data_version == first.data_version
    ids = add_videos(store, "a.mp4", "c.mp4")
    third = run()
    assert Counted.take() == 1 and third.videos_ok == 2
    assert {r[0] for r in pose_rows(store)} == set(ids), "rows of a video that left the batch are gone"
    version = store.version(POSE)
    idle = run()
    assert Counted.take() == 0 and store.version(POSE) == version and idle.table_version == version
    changed = run(shift=1)
    assert Counted.take() == 2 and changed.data_version != third.data_version


def test_a_run_with_nothing_to_do_touches_no_blob(store, monkeypatch):
    """Whether they are there is asked, once for all of them; none is read, written, hashed or copied."""
    add_videos(store, "a.mp4", "b.mp4")
    stages = [FakePose(FakeSettings()), FakeMasks(FakeSettings()), FakeClips(FakeSettings())]
    for stage in stages:
        assert run_stage(stage, store, BATCH, settings=WorkerSettings(workers=1)).videos_ok == 2
    uris = store.read(CLIPS, ["latents_uri"], {"batch": BATCH})["latents_uri"].to_pylist()
    assert uris and all(map(store.blobs.exists, uris))
    touching = ("put_bytes", "put_file", "read_bytes", "local_path", "verified_path", "verify", "_fetch", "_write")
    calls: list[str] = []
    for name in ("missing", *touching):
        monkeypatch.setattr(BlobStore, name, counted(name, getattr(BlobStore, name), calls))
    for stage in stages:
        assert run_stage(stage, store, BATCH, settings=WorkerSettings(workers=1)).videos_reused == 2
    assert calls == ["missing"] * len(stages)
    # The counter counts.
    store.blobs.read_bytes(uris[0])
    assert "read_bytes" in calls


def counted(name, method, calls):
    def counting(*arguments, **named):
        calls.append(name)
        return method(*arguments, **named)

    return counting


def test_rows_of_other_settings_left_by_a_killed_run_are_not_taken_for_ours(store, monkeypatch):
    """Killed between the table's commit and that of its status, with settings that are then taken back."""
    add_videos(store, "a.mp4", "b.mp4")
    workers = WorkerSettings(workers=1)
    run_stage(FakePose(FakeSettings()), store, BATCH, settings=workers)
    expected = pose_rows(store)
    replace = DeltaStore.replace

    def killed(self, spec, *arguments):
        if spec is STAGE_STATUS:
            raise KeyboardInterrupt
        return replace(self, spec, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DeltaStore, "replace", killed)
        run_stage(FakePose(FakeSettings(shift=1)), store, BATCH, settings=workers)
    assert pose_rows(store) != expected
    report = run_stage(FakePose(FakeSettings()), store, BATCH, settings=workers)
    assert pose_rows(store) == expected and report.videos_reused == 0
    # The same with a video that came and went.
    add_videos(store, "a.mp4", "b.mp4", "c.mp4")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DeltaStore, "replace", killed)
        run_stage(FakePose(FakeSettings()), store, BATCH, settings=workers)
    add_videos(store, "a.mp4", "b.mp4")
    report = run_stage(FakePose(FakeSettings()), store, BATCH, settings=workers)
    assert pose_rows(store) == expected and report.videos_reused == 2


def test_changed_rows_upstream_are_followed_downstream(store):
    add_videos(store, "a.mp4")
    workers = WorkerSettings(workers=1)
    run_stage(FakePose(FakeSettings()), store, BATCH, settings=workers)
    run_stage(FakeMasks(FakeSettings()), store, BATCH, settings=workers)
    run_stage(FakePose(FakeSettings(shift=1)), store, BATCH, settings=workers)
    report = run_stage(FakeMasks(FakeSettings()), store, BATCH, settings=workers)
    assert report.videos_reused == 0
    assert store.read(AGNOSTIC_MASKS, ["area_fraction"])["area_fraction"].to_pylist()[0] == 1.0


def test_a_stage_that_cannot_start_raises_and_writes_nothing(store):
    add_videos(store, "a.mp4")
    with pytest.raises(FileNotFoundError, match="run `itryon weights`"):
        run_stage(FakePose(FakeSettings(shift=-1)), store, BATCH)
    assert status(store) == {}
    with pytest.raises(LookupError, match="has no videos"):
        run_stage(FakePose(FakeSettings()), store, "nothing-here")


_CHILD = """
import sys
from pipelines.stage import WorkerSettings, run_stage
from pipelines.store import DeltaStore
from tests.pipelines.fake_stages import FakePose, FakeSettings
if __name__ == "__main__":
    settings = FakeSettings(delay_s=0.15)
    run_stage(FakePose(settings), DeltaStore(sys.argv[1]), "b1", settings=WorkerSettings(workers=1))
"""


def test_a_run_killed_anywhere_ends_with_the_rows_of_an_undisturbed_one(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(_CHILD)
    names = ["a.mp4", "b.mp4", "c.mp4", "d.mp4"]
    expected = None
    for delay in (None, 0.1, 0.9):
        store = DeltaStore(tmp_path / f"lake{delay}")
        store.ensure_tables()
        add_videos(store, *names)
        log = tmp_path / f"log{delay}"
        command = [sys.executable, str(script), store.root]
        env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "FAKE_STAGE_LOG": str(log)}
        if delay is not None:
            child = subprocess.Popen(command, env=env)
            deadline = time.time() + 60
            while not log.exists() and time.time() < deadline:
                time.sleep(0.02)
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            child.wait()
        subprocess.run(command, env=env, check=True, timeout=120)
        rows = pose_rows(store)
        expected = expected or rows
        assert len(rows) == 28 and rows == expected
        assert all(s["status"] == "ok" for s in status(store).values())
        assert not list((tmp_path / f"lake{delay}" / "staging").rglob("*.parquet"))


_VLM = {"backend": "vlm", "vlm": {"endpoint": {"base_url": "http://a/v1", "model": "m"}}}


@pytest.mark.parametrize(
    ("stage", "values", "other", "same"),
    [
        ("pose", {}, {"people": 4}, True),
        ("pose", {"estimator": "task"}, {"people": 4}, False),
        ("hands", {}, {"hamer": {"data": "/a"}}, True),
        ("hands", {"backend": "hamer"}, {"hamer": {"data": "/a", "device": "cpu"}}, True),
        ("hands", {"backend": "hamer"}, {"hamer": {"box_scale": 3}}, False),
        ("agnostic_masks", {}, {"parsing": {"batch_size": 9, "model": "/a"}}, True),
        ("agnostic_masks", {"backend": "parsing"}, {"parsing": {"batch_size": 9, "device": "cpu"}}, True),
        ("agnostic_masks", {"backend": "parsing"}, {"parsing": {"model": "/a"}}, False),
        ("captions", {}, {"vlm": {"endpoint": {"model": "m"}}}, True),
        ("captions", _VLM, {"vlm": {"endpoint": {"base_url": "http://b/v1", "model": "m", "timeout_s": 9}}}, True),
        ("captions", _VLM, {"kinematic": {"min_probability": 0.4}}, True),
        ("captions", _VLM, {"vlm": {"endpoint": {"model": "n"}}}, False),
        ("captions", {}, {"kinematic": {"min_probability": 0.4}}, False),
        ("clips", {}, {"max_windows": 3}, False),
    ],
)
def test_rows_depend_on_the_settings_that_change_them(stage, values, other, same):
    model = STAGES[stage].settings
    assert (model.model_validate(values).content() == model.model_validate(values | other).content()) == same
