"""What the hand lifter learns from: hands that were found, each beside the true one, in the axes of its crop."""

from __future__ import annotations

import json

import numpy as np
import pytest

from models.perception.hand_ik import viewing_rotation
from models.perception.hands.base import HandObservation
from pipelines.hands import lifter_data
from pipelines.stage import VideoTask
from pipelines.store import DeltaStore
from pipelines.store.schemas import POSE, VIDEOS
from pipelines.store.studio_schemas import STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS
from pipelines.studio.samples import UnusableClip, write_batch
from tests.pipelines.annotator_scene import (
    BATCH,
    CAMERA,
    HEIGHT,
    WIDTH,
    Hand,
    clip,
    fill,
    pose_row,
    truth_frame,
    video,
)
from tests.pipelines.media import write_video

FRAMES = 4


@pytest.fixture
def scene(lake: DeltaStore, tmp_path):
    """Two hands in every frame, no pose in the last one."""
    path = write_video(tmp_path / "a.mp4", FRAMES, WIDTH, HEIGHT)
    uri = lake.blobs.put_file(path)
    hands = {"left": Hand("left", at=(-0.1, 0.1, 0.7)), "right": Hand("right", at=(0.15, 0.1, 0.7))}
    rows = {
        VIDEOS: [video("a", uri=uri, frames=FRAMES)],
        STUDIO_CLIPS: [clip("a", "walk")],
        STUDIO_FRAMES: [truth_frame("a", f) for f in range(FRAMES)],
        STUDIO_HANDS: [h.truth("a", f) for f in range(FRAMES) for h in hands.values()],
        POSE: [
            *(pose_row("a", f) for f in range(FRAMES - 1)),
            pose_row("a", FRAMES - 1, detected=False, landmarks=None),
        ],
    }
    fill(lake, rows, done=("pose",))
    return lake, hands


class Finder:
    """Finds what it is told to, frame by frame, and remembers the poses it was shown."""

    def __init__(self, frames: list[list[HandObservation]]):
        self.frames, self.poses = iter(frames), []

    def __call__(self, rgb: np.ndarray, pose: np.ndarray | None) -> list[HandObservation]:
        self.poses.append(pose)
        return next(self.frames)


def _observed(hand: Hand, shift: tuple[float, float] = (0, 0)) -> HandObservation:
    _, keypoints = hand.posed()
    return HandObservation(hand.side, 0.9, CAMERA.project(keypoints) + shift, keypoints - keypoints.mean(0))


def _measure(
    lake: DeltaStore, monkeypatch, frames: list[list[HandObservation]]
) -> tuple[dict[str, np.ndarray], Finder]:
    finder = Finder(frames)
    monkeypatch.setattr(lifter_data, "hand_finder", lambda: finder)
    (row,) = lake.read(VIDEOS).to_pylist()
    return lifter_data.measured(VideoTask(lake, row, 1, lambda frames: None)), finder


def test_every_hand_that_was_found_has_its_truth(scene, monkeypatch):
    lake, hands = scene
    right, left = _observed(hands["right"], (1, 0)), _observed(hands["left"])
    found, finder = _measure(lake, monkeypatch, [[right, left], [], [left], [right]])
    assert found["frame"].tolist() == [0, 0, 2, 3] and found["left"].tolist() == [False, True, True, False]
    _, keypoints = hands["right"].posed()
    np.testing.assert_allclose(found["points"][0] - found["true_points"][0], np.tile([1, 0], (21, 1)), atol=1e-4)
    np.testing.assert_allclose(found["true_points"][0], CAMERA.project(keypoints), atol=1e-4)
    # One pixel at the hand's mean depth.
    np.testing.assert_allclose(found["metres_per_pixel"][0], keypoints[:, 2].mean() / CAMERA.fx, rtol=1e-5)
    # The finder is shown the pose of each frame, and a sample holds its arm where there is one.
    assert [pose is not None for pose in finder.poses] == [True, True, True, False]
    assert np.isfinite(found["arm"][:3]).all() and np.isnan(found["arm"][3]).all()
    assert all(v.dtype != np.float64 for v in found.values())


def test_truth_is_in_the_axes_of_the_crop(scene, monkeypatch):
    lake, hands = scene
    found, _ = _measure(lake, monkeypatch, [[_observed(hands["right"])], [], [], []])
    _, keypoints = hands["right"].posed()
    turn = viewing_rotation(CAMERA.project(keypoints)[None], CAMERA)[0]
    truth = found["true_world"][0]
    np.testing.assert_allclose(truth @ turn.T, keypoints - keypoints.mean(0), atol=1e-5)
    # Seen from the crop, the ray through the hand's centre is straight ahead.
    ray = keypoints.mean(0) @ turn
    assert np.abs(ray[:2]).max() < 0.01 * ray[2]


def test_another_hand_than_the_true_one_teaches_nothing(scene, monkeypatch):
    lake, hands = scene
    _, keypoints = hands["right"].posed()
    size = np.ptp(CAMERA.project(keypoints), axis=0).max()
    near, far = _observed(hands["right"], (0.4 * size, 0)), _observed(hands["right"], (0.6 * size, 0))
    found, _ = _measure(lake, monkeypatch, [[near], [far], [], []])
    assert found["frame"].tolist() == [0]
    with pytest.raises(UnusableClip, match="no hand was found"):
        _measure(lake, monkeypatch, [[far]] * FRAMES)


def test_files_depend_on_the_networks(scene, monkeypatch, tmp_path):
    lake, hands = scene
    monkeypatch.setattr(lifter_data.weights, "digest", lambda name: f"digest of {name}")
    monkeypatch.setattr(lifter_data, "hand_finder", lambda: Finder([[_observed(hands["right"])]] * FRAMES))
    kind = lifter_data.lifter_samples()
    assert {"digest of palm_detection_full.tflite", "digest of hand_landmark_full.tflite"} <= set(kind.version)
    assert list(write_batch(lake, BATCH, tmp_path / "out", kind)) == [("a", None)]
    with np.load(tmp_path / "out" / "a.npz") as file:
        assert file["frame"].tolist() == list(range(FRAMES))
        assert json.loads(str(file["notes"]))["side"] == "right"
