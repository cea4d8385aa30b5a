"""Regions, palm anchors and the choice of whose hand is whose."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.perception.hands.finder import HandFinder, hand_size, same_hand
from models.perception.hands.networks import (
    HandLandmarks,
    Region,
    box_iou,
    palm_anchors,
    region_from_landmarks,
    region_from_palm,
    region_from_pose,
)


def blob(width: int, height: int, x: float, y: float) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    value = 255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 3.0**2))
    return np.repeat(value[..., None], 3, axis=2).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(
    st.floats(60, 1500),
    st.floats(-np.pi, np.pi),
    st.floats(0.25, 0.75),
    st.floats(0.25, 0.75),
)
def test_crop_shows_what_to_frame_says(size: float, rotation: float, u: float, v: float) -> None:
    region = Region(320.0, 240.0, size, rotation)
    x, y = region.to_frame(np.array([u, v]))
    # The blob must lie whole in the frame, and nothing of its tail be repeated beyond the border.
    if not (20 < x < 620 and 20 < y < 460):
        return
    crop = region.crop(blob(640, 480, x, y), 224, cv2.BORDER_CONSTANT)[..., 0].astype(float)
    total = crop.sum()
    assert total > 0
    rows, columns = np.mgrid[:224, :224]
    found = np.array([(crop * columns).sum(), (crop * rows).sum()]) / total
    # The centre of pixel i of the crop lies at (i + 0.5) / 224 of the square.
    np.testing.assert_allclose((found + 0.5) / 224, (u, v), atol=max(0.6 / 224, 0.5 / size))


def upright_hand() -> np.ndarray:
    """21 keypoints of an open hand that points up: wrist at the origin, fingers along -y."""
    points = np.zeros((21, 2))
    for finger, x in enumerate((-40, -20, 0, 20, 40)):
        for joint in range(4):
            points[1 + 4 * finger + joint] = (x, -60 - 20 * joint)
    return points


@settings(max_examples=30, deadline=None)
@given(st.floats(-np.pi, np.pi), st.floats(0.2, 5), st.floats(-200, 200), st.floats(-200, 200))
def test_regions_turn_with_the_hand(angle: float, scale: float, x: float, y: float) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    hand = upright_hand()
    still, moved = region_from_landmarks(hand), region_from_landmarks(scale * hand @ turn.T + (x, y))
    np.testing.assert_allclose((moved.x, moved.y), scale * turn @ (still.x, still.y) + (x, y), atol=1e-6)
    assert moved.size == pytest.approx(scale * still.size)
    assert np.cos(moved.rotation - angle) == pytest.approx(1)
    inside = np.linalg.solve(moved.matrix()[:, :2], (scale * hand @ turn.T + (x, y) - moved.matrix()[:, 2]).T).T
    assert (inside > 0).all() and (inside < 1).all()
    # The wrist is below the fingers in the square.
    assert inside[0, 1] > inside[1:, 1].max()
    pose = region_from_pose(*(scale * turn @ p + (x, y) for p in (hand[0], hand[5], hand[17])))
    assert np.cos(pose.rotation - (angle + np.arctan2(0.0, 60.0))) > 0.99
    assert np.hypot(pose.x - moved.x, pose.y - moved.y) < 0.5 * moved.size


def test_palm_region_reaches_to_the_fingers() -> None:
    points = np.array([[50, 90], [35, 50], [50, 45], [60, 50], [70, 55], [30, 80], [25, 65]], float)
    region = region_from_palm(np.array([20.0, 40.0, 80.0, 100.0]), points)
    assert (region.x, region.y, region.rotation) == pytest.approx((50, 40, 0))
    assert region.size == pytest.approx(2.6 * 60)


def test_anchors_lie_on_the_two_grids() -> None:
    anchors = palm_anchors()
    assert anchors.shape == (2016, 2)
    expected = [((x + 0.5) / 24, (y + 0.5) / 24) for y in range(24) for x in range(24) for _ in range(2)]
    expected += [((x + 0.5) / 12, (y + 0.5) / 12) for y in range(12) for x in range(12) for _ in range(6)]
    np.testing.assert_allclose(anchors, expected)


def test_box_overlap() -> None:
    assert box_iou(np.array([0, 0, 2, 2]), np.array([1, 1, 3, 3])) == pytest.approx(1 / 7)
    assert box_iou(np.array([0, 0, 1, 1]), np.array([2, 2, 3, 3])) == 0


def result(x: float, y: float, right: float, presence: float = 0.9) -> HandLandmarks:
    return HandLandmarks(upright_hand() * 0.5 + (x, y), np.zeros((21, 3)), presence, right)


def body(left: tuple[float, float], right: tuple[float, float]) -> np.ndarray:
    pose = np.zeros((33, 4))
    pose[:, 3] = 1
    pose[11, :2], pose[12, :2] = (400, 150), (240, 150)
    pose[23, :2], pose[24, :2] = (370, 400), (270, 400)
    for points, wrist in (((13, 15, 17, 19, 21), left), ((14, 16, 18, 20, 22), right)):
        pose[points[0], :2] = wrist[0], wrist[1] + 80
        pose[list(points[1:]), :2] = wrist
        pose[points[2], :2] += (10, -30)
        pose[points[3], :2] += (-10, -30)
    return pose


class Scripted:
    """A landmark network that sees given hands: it answers with the one nearest to the region."""

    def __init__(self) -> None:
        self.hands: list[HandLandmarks] = []
        self.calls = 0

    def __call__(self, rgb: np.ndarray, region: Region) -> HandLandmarks:
        self.calls += 1
        near = [h for h in self.hands if np.hypot(*(h.points.mean(0) - (region.x, region.y))) < 0.5 * region.size]
        if not near:
            return result(region.x, region.y, 0.5, presence=0.0)
        return min(near, key=lambda h: np.hypot(*(h.points.mean(0) - (region.x, region.y))))


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> tuple[HandFinder, Scripted]:
    script = Scripted()
    monkeypatch.setattr("models.perception.hands.finder.PalmDetector", lambda path, threads: lambda rgb, region: [])
    monkeypatch.setattr("models.perception.hands.finder.HandLandmarkNetwork", lambda path, threads: script)
    monkeypatch.setattr(HandFinder, "reset", lambda self, inference=None: _reset(self))
    return HandFinder("palm", "landmark"), script


def _reset(self: HandFinder) -> None:
    self._memory, self._missing = {}, {"left": 0, "right": 0}


RGB = np.zeros((480, 640, 3), np.uint8)


def test_hands_keep_their_owner_through_a_crossing(finder) -> None:
    find, script = finder
    for t in np.linspace(0, 1, 21):
        left, right = (420 - 200 * t, 300.0), (220 + 200 * t, 260.0)
        script.hands = [result(*left, right=0.05), result(*right, right=0.95)]
        seen = {h.handedness: h for h in find(RGB, body(left, right))}
        assert set(seen) == {"left", "right"}
        np.testing.assert_allclose(seen["left"].points[0], left, atol=1e-9)
        np.testing.assert_allclose(seen["right"].points[0], right, atol=1e-9)


def test_one_real_hand_is_one_row(finder) -> None:
    find, script = finder
    script.hands = [result(320, 300, right=0.1)]
    for _ in range(4):
        seen = find(RGB, body((325, 300), (315, 300)))
        assert [h.handedness for h in seen] == ["left"]


def test_hand_of_somebody_else_is_left_alone(finder) -> None:
    find, script = finder
    script.hands = [result(600, 100, right=0.9)]
    assert find(RGB, body((420, 300), (220, 300))) == []


def test_follows_without_pose_but_starts_nothing(finder) -> None:
    find, script = finder
    script.hands = [result(420, 300, right=0.1)]
    assert find(RGB, None) == []
    assert len(find(RGB, body((420, 300), (220, 300)))) == 1
    assert [h.handedness for h in find(RGB, None)] == ["left"]
    script.hands = []
    assert find(RGB, None) == []


def test_missing_hand_is_searched_less(finder) -> None:
    find, script = finder
    script.hands = [result(420, 300, right=0.1)]
    pose = body((420, 300), (220, 300))
    calls = []
    for _ in range(30):
        before = script.calls
        find(RGB, pose)
        calls.append(script.calls - before)
    assert min(calls[10:]) == 1 and np.mean(calls[10:]) < np.mean(calls[1:5])


def test_palms_laid_together_are_two_hands() -> None:
    a, b = result(300, 300, right=0.05), result(305, 300, right=0.95)
    assert same_hand(a, result(305, 300, right=0.1))
    assert not same_hand(a, b)
    assert not same_hand(a, result(300 + hand_size(a.points), 300, right=0.1))
