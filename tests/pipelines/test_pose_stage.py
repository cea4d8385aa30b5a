"""The pose stage from video file to Delta rows."""

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models import weights
from models.perception.identity import RIGHT_SHOULDER
from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.pose.settings import CODE_VERSION, PoseSettings
from pipelines.pose.stage import NoPersonError, PoseStage
from pipelines.registry import STAGES
from pipelines.stage import VideoTask, WorkerSettings, run_stage
from pipelines.store import DeltaStore
from pipelines.store.schemas import POSE, STAGE_STATUS
from pipelines.video import VideoReader, VideoWriter
from tests.pipelines.lake_videos import BATCH, add_videos

FRAMES = 24


@pytest.fixture(scope="module")
def dance(tmp_path_factory) -> Path:
    """A second of the dancer as a small mp4."""
    path = tmp_path_factory.mktemp("dance") / "dance.mp4"
    with VideoReader(weights.path("demo/dancer.avi"), max_side=384) as reader:
        frames = [f.rgb for f in islice(reader.frames(100), FRAMES)]
    with VideoWriter(path, fps=25, width=frames[0].shape[1], height=frames[0].shape[0]) as writer:
        for rgb in frames:
            writer.write(rgb)
    return path


@pytest.fixture(scope="module")
def stage() -> PoseStage:
    stage = PoseStage(PoseSettings())
    stage.setup(threads=1)
    return stage


def annotate(stage: PoseStage, store: DeltaStore, row: dict) -> tuple[pa.Table, VideoTask]:
    task = VideoTask(store, row, 1, lambda n: None)
    return pa.Table.from_batches(stage.annotate(task)), task


def test_rows_hold_pose_and_mask_of_every_frame(stage, lake, dance):
    (row,) = add_videos(lake, dance)
    table, task = annotate(stage, lake, row)
    assert table["frame"].to_pylist() == list(range(FRAMES))
    np.testing.assert_allclose(table["time_s"].to_numpy(), np.arange(FRAMES) / 25, atol=1e-3)
    assert task.frames == FRAMES and task.model_seconds > 0
    assert np.mean(table["detected"].to_numpy()) >= 0.99
    points = points_to_numpy(table["landmarks"], 33)
    world = points_to_numpy(table["world_landmarks"], 33)
    height, width = row["height"], row["width"]
    assert (points[:, RIGHT_SHOULDER, :2] > 0).all() and (points[:, RIGHT_SHOULDER, :2] < (width, height)).all()
    assert (points[..., 3] >= 0).all() and (points[..., 3] <= 1).all()
    # Metres: her shoulders are some 30 cm apart.
    assert 0.2 < np.median(np.linalg.norm(world[:, 11] - world[:, 12], axis=-1)) < 0.45
    visible = points[..., 3] > 0.9
    for i, row_ in enumerate(table.select(["person_mask", "person_area", "score"]).to_pylist()):
        mask = decode_mask(row_["person_mask"], height, width)
        assert mask.mean() == pytest.approx(row_["person_area"], rel=1e-5)
        spots = np.clip(np.rint(points[i, visible[i], :2]).astype(int), 0, (width - 1, height - 1))
        assert mask[spots[:, 1], spots[:, 0]].mean() > 0.85  # fingertips may lie a pixel outside
        assert row_["score"] == pytest.approx(points[i, [11, 12, 23, 24], 3].mean(), abs=1e-5)


def test_masks_follow_the_blue_screen(stage, lake, dance):
    (row,) = add_videos(lake, dance)
    table, _ = annotate(stage, lake, row)
    with VideoReader(dance) as reader:
        for frame, counts in zip(reader.frames(), table["person_mask"].to_pylist()):
            if frame.index % 8:
                continue
            mask = decode_mask(counts, row["height"], row["width"])
            rgb = frame.rgb.astype(int)
            figure = rgb[..., 2] - rgb[..., 0] < 45
            figure[int(0.9 * len(figure)) :] = False  # shadows on the floor
            mask[int(0.9 * len(mask)) :] = 0
            assert (mask & figure).sum() / (mask | figure).sum() > 0.8


def test_long_videos_come_in_chunks(stage, lake, dance, monkeypatch):
    (row,) = add_videos(lake, dance)
    whole, _ = annotate(stage, lake, row)
    monkeypatch.setattr("pipelines.pose.stage.CHUNK_FRAMES", 10)
    chunks = list(stage.annotate(VideoTask(lake, row, 1, lambda n: None)))
    assert [c.num_rows for c in chunks] == [10, 10, 4]
    assert pa.Table.from_batches(chunks).equals(whole)


def test_a_video_of_nobody_is_refused_with_a_reason(stage, lake, moving_video):
    (row,) = add_videos(lake, moving_video)
    with pytest.raises(NoPersonError, match="No person was found in any of 60 frames"):
        annotate(stage, lake, row)


def test_frames_without_the_person_are_rows_too(stage, lake, dance, tmp_path):
    path = tmp_path / "leaves.mp4"
    with VideoReader(dance) as reader:
        frames = [f.rgb for f in reader.frames()]
    empty = np.broadcast_to(frames[0][:, :1], frames[0].shape)
    with VideoWriter(path, fps=25, width=empty.shape[1], height=empty.shape[0]) as writer:
        for rgb in [*frames[:18], *[empty] * 4]:
            writer.write(np.ascontiguousarray(rgb))
    (row,) = add_videos(lake, path)
    table, _ = annotate(stage, lake, row)
    assert table["detected"].to_pylist() == [True] * 18 + [False] * 4
    lost = table.slice(18).to_pylist()
    assert all(r["landmarks"] == [] and r["person_mask"] is None and r["score"] is None for r in lost)


@pytest.mark.slow
def test_a_batch_through_the_runner(lake, dance, moving_video):
    rows = add_videos(lake, dance, moving_video)
    run_stage(PoseStage(PoseSettings()), lake, BATCH, settings=WorkerSettings(workers=1))
    status = {r["video_id"]: r for r in lake.read(STAGE_STATUS, where={"batch": BATCH, "stage": "pose"}).to_pylist()}
    assert status[rows[0]["video_id"]]["status"] == "ok"
    assert status[rows[1]["video_id"]]["status"] == "error"
    assert "No person" in status[rows[1]["video_id"]]["reason"]
    stored = lake.read(POSE, where={"batch": BATCH})
    assert stored.num_rows == FRAMES and set(stored["video_id"].to_pylist()) == {rows[0]["video_id"]}


def test_the_stage_travels_to_workers_and_names_its_weights():
    stage = pickle.loads(pickle.dumps(PoseStage(PoseSettings(smooth=False))))
    assert stage.settings.smooth is False
    assert stage.weights() == {n: weights.digest(n) for n in ("pose_detection.tflite", "pose_landmark_full.tflite")}
    assert STAGES["pose"].code_version == CODE_VERSION == PoseStage.code_version
    with pytest.raises(RuntimeError, match="setup"):
        next(stage.annotate(None))


def test_the_mediapipe_task_is_a_setting(lake, dance):
    stage = PoseStage(PoseSettings(estimator="task"))
    assert list(stage.weights()) == ["pose_landmarker_full.task"]
    stage.setup(threads=1)
    (row,) = add_videos(lake, dance)
    table, _ = annotate(stage, lake, row)
    assert np.mean(table["detected"].to_numpy()) >= 0.95
    masks = [decode_mask(m, row["height"], row["width"]) for m in table["person_mask"].to_pylist() if m]
    assert 0.05 < np.mean(masks) < 0.3


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.MissingWeights, match="itryon weights"):
        PoseStage(PoseSettings()).setup(threads=1)
