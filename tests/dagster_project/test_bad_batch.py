"""One batch of everything that goes wrong with footage, through the DAG to captions: each file a row that says why."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dagster_project.instance import run_job
from pipelines.arrays import points_to_numpy
from pipelines.ingest.landing import land, landing_folder
from pipelines.store import DeltaStore
from pipelines.store.schemas import CAPTIONS, POSE, STAGE_STATUS, VIDEOS
from tests.pipelines.media import (
    dancer_frames,
    resized,
    write_audio,
    write_cut_off,
    write_frames,
    write_rotated,
    write_timed,
    write_video,
)

pytestmark = pytest.mark.slow

FRAMES = 12
LONG = "x" * 196 + ".mp4"
STAGES = ("pose", "hands", "agnostic_masks", "captions")
GOOD = ["good.mp4", "odd.mkv", "phone.mov", "vfr.mkv", "uhd.mp4", "two.mp4", "enters.mp4", "衣服 và é.mp4", LONG]


@pytest.fixture(scope="module")
def batch(tmp_path_factory) -> DeltaStore:
    """The batch, after one run as far as captions."""
    root = tmp_path_factory.mktemp("bad")
    source = root / "source"
    source.mkdir()
    person, other = dancer_frames(100, FRAMES), dancer_frames(160, FRAMES)
    empty = [np.broadcast_to(f[:, :1], f.shape) for f in other]  # the blue screen alone
    write_frames(source / "good.mp4", person)
    (source / "zero.mp4").touch()
    write_cut_off(source / "cut.mp4")
    (source / "text.mp4").write_text("this is no video")
    write_audio(source / "audio.mp4")
    write_frames(source / "one.mp4", person[:1])
    write_timed(source / "odd.mkv", [40 * i for i in range(FRAMES)], frames=resized(person, 163, 147))
    write_timed(source / "small.mkv", [40 * i for i in range(FRAMES)], frames=resized(person, 63, 47))
    write_rotated(source / "phone.mov", 90, frames=[np.rot90(f, -1) for f in person])
    ticks = [0, 40, 80, 120, 400, 440, 480, 520, 900, 940, 980, 1400]
    write_timed(source / "vfr.mkv", ticks, frames=resized(person, 256, 240))
    write_frames(source / "uhd.mp4", resized(person[:9], 3840, 2160))
    write_frames(source / "two.mp4", [np.hstack(pair) for pair in zip(person, other)])
    # Walking in from the right: more of the right half's own width each frame, from the fourth on.
    seen = [max(0, i - 3) * other[0].shape[1] // (FRAMES - 4) for i in range(FRAMES)]
    entering = [np.hstack([p, e[:, w:], o[:, :w]]) for p, e, o, w in zip(person, empty, other, seen)]
    write_frames(source / "enters.mp4", entering)
    write_video(source / "nobody.mp4", FRAMES, 256, 240)
    write_frames(source / "衣服 và é.mp4", other)
    write_frames(source / LONG, dancer_frames(200, FRAMES))
    (source / "twin.mp4").write_bytes((source / "good.mp4").read_bytes())
    lines = [
        json.dumps({"video": "good.mp4", "split": "train"}),
        '{"video": "two.mp4", "split": ',
        json.dumps({"video": "not_here.mp4"}),
    ]
    (source / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    outside = write_video(root / "outside.mp4", seed=9)

    patch = pytest.MonkeyPatch()
    patch.setenv("ITRYON_LAKE", str(root / "lake"))
    patch.delenv("DAGSTER_HOME", raising=False)
    store = DeltaStore()
    store.ensure_tables()
    land(source, store, "b1")
    (landing_folder(store, "b1") / "escape.mp4").symlink_to(outside)
    result = run_job("annotate", batch="b1", assets=["videos", "garments", *STAGES])
    assert result.success, [str(e.step_failure_data.error) for e in result.all_events if e.is_step_failure]
    yield store
    patch.undo()


def rows(store: DeltaStore) -> dict[str, dict[str, Any]]:
    return {r["source_path"]: r for r in store.read(VIDEOS).to_pylist()}


@pytest.mark.parametrize(
    ("path", "status", "what", "remedy"),
    [
        ("zero.mp4", "error", "empty (zero bytes)", "copy it again"),
        ("cut.mp4", "error", "cut off, damaged, or no video", "copy or export it again"),
        ("text.mp4", "error", "cut off, damaged, or no video", "copy or export it again"),
        ("audio.mp4", "error", "no video stream", "(audio only); remove it"),
        ("one.mp4", "rejected", "Has 1 frame, fewer than 9", "ingest.min_frames"),
        ("small.mkv", "rejected", "Is 63x47 pixels, a side is below 64", "ingest.min_side"),
        ("twin.mp4", "rejected", "same bytes as 'good.mp4'", "which is kept"),
        ("escape.mp4", "error", "leaves the landing folder", "copy the file instead"),
        ("manifest.jsonl:2", "error", "the line is not JSON", "manifest.jsonl:2"),
        ("manifest.jsonl:3", "error", "there is no file 'not_here.mp4'", "correct the name or add the file"),
    ],
)
def test_what_cannot_be_used_says_why_and_what_to_do(batch, path, status, what, remedy):
    row = rows(batch)[path]
    assert row["status"] == status
    assert what in row["reason"] and remedy in row["reason"]
    assert row["reason"][0].isupper() or row["reason"].startswith("manifest.jsonl:")


def test_nothing_is_left_out(batch):
    found = rows(batch)
    assert len(found) == len(GOOD) + 1 + 10
    for path in [*GOOD, "nobody.mp4"]:
        assert found[path]["status"] == "ok" and found[path]["reason"] is None, (path, found[path]["reason"])
    assert (found["odd.mkv"]["width"], found["odd.mkv"]["height"]) == (163, 147)
    assert found["phone.mov"]["rotation"] in (90, 270) and found["phone.mov"]["width"] > found["phone.mov"]["height"]
    assert found["vfr.mkv"]["variable_frame_rate"]
    assert found["uhd.mp4"]["width"] == 3840


@pytest.mark.parametrize("path", GOOD)
def test_what_can_be_used_reaches_captions(batch, path):
    row = rows(batch)[path]
    status = {s["stage"]: s for s in batch.read(STAGE_STATUS, where={"video_id": row["video_id"]}).to_pylist()}
    assert {stage: status[stage]["reason"] for stage in STAGES} == dict.fromkeys(STAGES)
    assert all(s["status"] == "ok" for s in status.values())
    captions = batch.read(CAPTIONS, where={"video_id": row["video_id"]}).to_pylist()
    assert [c["text"] != "" for c in captions if c["kind"] == "global"] == [True]
    assert status["pose"]["rows"] == status["agnostic_masks"]["rows"] == row["num_frames"]


def test_nobody_in_the_picture_is_said_once_and_passed_on(batch):
    video_id = rows(batch)["nobody.mp4"]["video_id"]
    status = {s["stage"]: s for s in batch.read(STAGE_STATUS, where={"video_id": video_id}).to_pylist()}
    assert all(s["status"] == "error" and "No person was found" in s["reason"] for s in status.values())
    assert set(status) == set(STAGES) and "remove it from the batch" in status["captions"]["reason"]
    assert batch.read(POSE, where={"video_id": video_id}).num_rows == 0


@pytest.mark.parametrize("path", ["two.mp4", "enters.mp4"])
def test_one_person_is_followed_all_along(batch, path):
    row = rows(batch)[path]
    pose = batch.read(POSE, ["frame", "detected", "landmarks"], {"video_id": row["video_id"]})
    assert all(pose["detected"].to_pylist())
    shoulders = points_to_numpy(pose["landmarks"], 33)[:, 11:13, 0].mean(axis=1)
    left = shoulders < row["width"] / 2
    assert left.all() or (path == "two.mp4" and not left.any()), "the row jumps from one person to the other"
