"""The hand stage: tracks through time, and real clips from video file to rows and rendered hands."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.transform import Rotation

from models import weights
from models.perception.hand_mesh import NUM_SHAPE, HandMesh
from models.perception.hands.base import Camera, HandFit, HandTrack
from models.perception.hands.hamer import HamerUnavailable
from pipelines.arrays import points_to_numpy, structs_to_numpy
from pipelines.hands.render import hand_video
from pipelines.hands.settings import HandsSettings
from pipelines.hands.stage import HandsStage
from pipelines.hands.track import drop_outliers, fill_and_smooth, runs, smooth_rotations
from pipelines.pose.settings import PoseSettings
from pipelines.pose.stage import PoseStage
from pipelines.stage import VideoTask
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import HANDS, POSE
from pipelines.video import VideoReader, VideoWriter
from tests.pipelines.lake_videos import add_videos

CAMERA = Camera.from_field_of_view(640, 480, 55.0)
MESH = HandMesh("right")


def keypoints(fit: HandFit) -> np.ndarray:
    return MESH.keypoints(fit.pose, fit.shape, fit.translation)


def moving_hand(count: int) -> HandFit:
    """A hand that travels, turns and closes smoothly."""
    t = np.linspace(0, 1, count)
    pose = np.zeros((count, 20, 3))
    turn = Rotation.from_rotvec([0.3, 0.2, 0.1]) * Rotation.from_rotvec(np.outer(t, [0.0, 0.9, 0.4]))
    pose[:, 0] = turn.as_rotvec()
    pose[:, [5, 9, 13, 17], 2] = 0.8 * np.sin(2 * t)[:, None]
    place = np.stack([0.2 * np.sin(3 * t), 0.1 * t, 0.9 + 0.1 * t], -1)
    return HandFit(pose, np.ones(NUM_SHAPE), place)


def track_of(fit: HandFit, frames: np.ndarray) -> HandTrack:
    points = CAMERA.project(keypoints(fit))
    return HandTrack("right", frames, np.full(len(frames), 0.9), points, np.zeros((len(frames), 21, 3)))


def fill(fit: HandFit, rows: np.ndarray, **options):
    """Fill and smooth what is left of a hand when only some frames are seen."""
    part = HandFit(fit.pose[rows], fit.shape, fit.translation[rows])
    return fill_and_smooth(track_of(part, rows), part, CAMERA, 30.0, keypoints=keypoints, **options)


def test_gaps_are_filled_along_the_motion_and_flagged() -> None:
    truth = moving_hand(40)
    rows = np.array([i for i in range(40) if not 15 <= i < 21])
    filled = fill(truth, rows, max_gap=6, smoothing_s=0, depth_smoothing_s=0)
    assert filled.frames.tolist() == list(range(40))
    assert np.flatnonzero(filled.interpolated).tolist() == list(range(15, 21))
    assert (filled.score[filled.interpolated] == 0).all() and (filled.score[~filled.interpolated] > 0).all()
    apart = np.linalg.norm(keypoints(filled.fit) - keypoints(truth), axis=-1)
    assert apart[~filled.interpolated].max() < 1e-6
    assert apart.max() < 0.01  # the path bends a centimetre at most within six frames


def test_filled_hands_follow_the_wrist_of_the_body_pose() -> None:
    truth = moving_hand(41)
    # A swing within the gap that the two ends tell nothing of.
    truth.translation[:, 1] += 0.15 * np.sin(np.linspace(0, 4 * np.pi, 41))
    rows = np.array([i for i in range(41) if not 15 <= i < 23])
    wrists = CAMERA.project(truth.translation) + np.array([4.0, -3.0])
    apart = {}
    for name, given in (("led", wrists), ("alone", None)):
        filled = fill(truth, rows, max_gap=8, smoothing_s=0, depth_smoothing_s=0, wrists=given)
        apart[name] = np.linalg.norm(keypoints(filled.fit) - keypoints(truth), axis=-1)[15:23].mean()
    assert apart["led"] < 0.3 * apart["alone"]


def test_long_gaps_and_cuts_stay_open() -> None:
    truth = moving_hand(40)
    rows = np.array([i for i in range(40) if not 10 <= i < 17])
    assert not fill(truth, rows, max_gap=6).interpolated.any()
    cut = fill(truth, rows, max_gap=10, cuts=[12])
    assert cut.frames.tolist() == rows.tolist() and not cut.interpolated.any()
    assert [r.tolist() for r in runs(np.array([0, 1, 4, 5, 9]), 2, [5])] == [[0, 1, 2], [3], [4]]


def test_jitter_goes_and_motion_stays() -> None:
    truth = moving_hand(60)
    rng = np.random.default_rng(0)
    noisy = HandFit(truth.pose + rng.normal(0, 0.05, truth.pose.shape), truth.shape, truth.translation.copy())
    noisy.translation[:, 2] *= np.exp(rng.normal(0, 0.04, 60))
    noisy.translation[:, :2] = truth.translation[:, :2] * noisy.translation[:, 2:] / truth.translation[:, 2:]
    # What is seen are the true keypoints with a pixel of noise.
    seen = track_of(truth, np.arange(60))
    seen.points = seen.points + rng.normal(0, 1.0, seen.points.shape)
    smooth = fill_and_smooth(seen, noisy, CAMERA, 30.0, keypoints=keypoints)

    def error(fit: HandFit) -> float:
        return float(np.linalg.norm(keypoints(fit) - keypoints(truth), axis=-1).mean())

    assert error(smooth.fit) < 0.5 * error(noisy)

    def pixels(fit: HandFit) -> float:
        return float(np.linalg.norm(CAMERA.project(keypoints(fit)) - CAMERA.project(keypoints(truth)), axis=-1).mean())

    assert pixels(smooth.fit) < 0.75 * pixels(noisy)
    # A jerk far beyond the noise is motion: it must come through.
    jerk = moving_hand(60)
    jerk.pose[30:34, 9, 2] += 1.2
    kept = smooth_rotations(jerk.pose, 5)
    assert kept[31:33, 9, 2].min() > jerk.pose[31:33, 9, 2].min() - 0.25


def test_smoothing_does_not_care_how_rotations_are_written() -> None:
    """Half turns flip the sign of axis-angle vectors; the rotation goes on smoothly all the same."""
    angle = np.linspace(np.pi - 0.3, np.pi + 0.3, 21)
    pose = Rotation.from_rotvec(np.outer(angle, [0.0, 1.0, 0.0])).as_rotvec()[:, None]
    assert np.abs(np.diff(pose[:, 0, 1])).max() > 3
    smooth = Rotation.from_rotvec(smooth_rotations(pose, 7)[:, 0])
    apart = (smooth * Rotation.from_rotvec(np.outer(angle, [0.0, 1.0, 0.0])).inv()).magnitude()
    assert apart.max() < 1e-3


def test_detections_that_jump_there_and_back_are_dropped() -> None:
    track = track_of(moving_hand(20), np.arange(20))
    track.points[8] += (300, 0)
    kept = drop_outliers(track)
    assert kept.frames.tolist() == [i for i in range(20) if i != 8]
    # A hand that moves off for good is no outlier.
    moved = track_of(moving_hand(20), np.arange(20))
    moved.points[10:] += (300, 0)
    assert len(drop_outliers(moved).frames) == 20


# --- real clips ----------------------------------------------------------------------------------------------------


def complete(table: pa.Table, schema: pa.Schema, row: dict) -> pa.Table:
    for name, value in (("batch", "b1"), ("video_id", row["video_id"]), ("fingerprint", "f")):
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table.select(schema.names).cast(schema)


@pytest.fixture(scope="module")
def stages() -> tuple[PoseStage, HandsStage]:
    pair = PoseStage(PoseSettings()), HandsStage(HandsSettings())
    for stage in pair:
        stage.setup(threads=1)
    return pair


def annotate(stages: tuple[PoseStage, HandsStage], store: DeltaStore, path: Path) -> tuple[pa.Table, pa.Table, dict]:
    """Rows of `pose` and `hands` of one video file."""
    pose_stage, hands_stage = stages
    (row,) = add_videos(store, path)
    pose = pa.Table.from_batches(pose_stage.annotate(VideoTask(store, row, 1, lambda n: None)))
    store.replace(POSE, complete(pose, POSE.schema, row), {"batch": "b1"}, Commit())
    task = VideoTask(store, row, 1, lambda n: None)
    hands = complete(pa.Table.from_batches(hands_stage.annotate(task)), HANDS.schema, row)
    assert task.frames == row["num_frames"] and task.model_seconds > 0
    return pose, hands, row


def check_rows(pose: pa.Table, hands: pa.Table, row: dict) -> None:
    """What holds for the rows of any clip."""
    frames, sides = hands["frame"].to_numpy(), hands["handedness"].to_pylist()
    assert len(set(zip(frames.tolist(), sides))) == hands.num_rows
    assert (np.diff(frames) >= 0).all()
    seen = ~hands["interpolated"].to_numpy()
    score = hands["score"].to_numpy()
    assert ((score > 0) == seen).all() and (score <= 1).all()
    points, metres = points_to_numpy(hands["keypoints_2d"], 21), points_to_numpy(hands["keypoints_3d"], 21)
    camera, wrist = structs_to_numpy(hands["camera"]), structs_to_numpy(hands["mesh_translation"])
    np.testing.assert_allclose(metres[:, 0], wrist, atol=1e-4)
    assert (metres[..., 2] > 0.1).all()
    projected = metres[..., :2] / metres[..., 2:] * camera[:, None, :2] + camera[:, None, 2:]
    apart = np.linalg.norm(projected - points, axis=-1).mean(1)
    np.testing.assert_allclose(hands["reprojection_error_px"].to_numpy(), apart, atol=0.05)
    size = np.ptp(points, axis=1).max(-1)
    assert np.median(apart[seen] / size[seen]) < 0.05
    for i in np.linspace(0, hands.num_rows - 1, 5).astype(int):
        mesh_pose = np.array(hands["mesh_pose"][int(i)].as_py()).reshape(1, 20, 3)
        _, again = HandMesh(sides[i])(mesh_pose, np.array(hands["mesh_shape"][int(i)].as_py()), wrist[i, None])
        np.testing.assert_allclose(again[0], metres[i], atol=1e-4)
    landmarks = points_to_numpy(pose["landmarks"], 33)
    shoulders = np.nanmedian(np.linalg.norm(landmarks[:, 11, :2] - landmarks[:, 12, :2], axis=-1))
    wrists = np.array([landmarks[f, 15 if s == "left" else 16, :2] for f, s in zip(frames, sides)])
    off = np.linalg.norm(points[:, 0] - wrists, axis=-1) / shoulders
    assert np.nanmedian(off[seen]) < 0.25
    # Hands of people: wrist to middle knuckle.
    palm = np.linalg.norm(metres[:, 9] - metres[:, 0], axis=-1)
    assert (palm > 0.05).all() and (palm < 0.13).all()


def check_video(hands: pa.Table, row: dict) -> None:
    """The rendered hands are where the keypoints are, and nothing is where no hand is."""
    frames = np.unique(np.linspace(0, row["num_frames"] - 1, 6).astype(int))
    pictures = list(hand_video(hands, row["height"], row["width"], frames=frames))
    points, numbers = points_to_numpy(hands["keypoints_2d"], 21), hands["frame"].to_numpy()
    for frame, picture in zip(frames, pictures):
        assert picture.shape == (row["height"], row["width"], 3) and picture.dtype == np.uint8
        mine = np.flatnonzero(numbers == frame)
        if not len(mine):
            assert not picture.any()
        for i in mine:
            # Around the middle of the palm (hands seen from the edge are narrow), where it lies in the frame.
            u, v = np.round(points[i, [0, 5, 9, 13, 17]].mean(0)).astype(int)
            r = int(0.1 * np.ptp(points[i], axis=0).max()) + 1
            if 0 <= u < row["width"] and 0 <= v < row["height"]:
                assert picture[max(v - r, 0) : v + r + 1, max(u - r, 0) : u + r + 1].any()
    whole = list(hand_video(hands, 48, 64))
    assert len(whole) == numbers.max() + 1


def test_clip_that_ships_with_the_weights(stages, lake, tmp_path) -> None:
    path = tmp_path / "dancer.mp4"
    with VideoReader(weights.path("demo/dancer.avi")) as reader:
        frames = [f.rgb for f in islice(reader.frames(300), 30)]
    with VideoWriter(path, fps=25, width=frames[0].shape[1], height=frames[0].shape[0]) as writer:
        for rgb in frames:
            writer.write(rgb)
    pose, hands, row = annotate(stages, lake, path)
    assert hands.num_rows > 15
    check_rows(pose, hands, row)
    check_video(hands, row)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start", "end"), [("please", 16, 60), ("want", 13, 28), ("school", 28, 71)])
def test_real_clips_with_hands_before_the_body(stages, lake, samples, name, start, end) -> None:
    pose, hands, row = annotate(stages, lake, samples / "videos" / f"intel_asl_{name}.mkv")
    check_rows(pose, hands, row)
    check_video(hands, row)
    covered = set(hands["frame"].to_pylist()) & set(range(start, end))
    assert len(covered) >= 0.95 * (end - start)
    seen = hands.filter(pa.compute.invert(hands["interpolated"]))
    assert len(set(seen["frame"].to_pylist()) & set(range(start, end))) >= 0.85 * (end - start)


def test_video_without_a_person_has_no_rows(stages, lake, moving_video) -> None:
    (row,) = add_videos(lake, moving_video)
    empty = {name: [] for name in POSE.schema.names}
    lake.replace(POSE, pa.table(empty, schema=POSE.schema), {"batch": "b1"}, Commit())
    task = VideoTask(lake, row, 1, lambda n: None)
    assert sum(b.num_rows for b in stages[1].annotate(task)) == 0
    assert list(hand_video(HANDS.schema.empty_table(), 8, 8)) == []
    (black,) = hand_video(HANDS.schema.empty_table(), 8, 8, frames=np.array([3]))
    assert not black.any()


def test_stage_pickles_and_knows_its_weights() -> None:
    stage = pickle.loads(pickle.dumps(HandsStage(HandsSettings(max_gap_frames=4))))
    assert stage.settings.max_gap_frames == 4
    names = {"palm_detection_full.tflite", "hand_landmark_full.tflite", "hand_lifter.safetensors"}
    assert set(stage.weights()) == names


def test_hamer_without_its_files_says_what_to_do(tmp_path) -> None:
    stage = HandsStage(HandsSettings(backend="hamer", hamer={"data": str(tmp_path)}))
    for run in (lambda: stage.setup(1), stage.weights):
        with pytest.raises(HamerUnavailable, match=r"MANO_RIGHT\.pkl"):
            run()
