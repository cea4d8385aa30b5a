"""Whether the cloth next to a hand goes along with it, from tracked points in two pictures.

Points are tracked one by one (Lucas-Kanade, checked forwards and backwards). Dense flow cannot tell: it is smooth by
construction, so the motion of the hand spreads over still cloth around it. On real clips of hands that rub a shirt
dense flow in a ring around the hand has 0.4 of the hand's speed with contact and 0.3 to 0.55 without, while tracked
points show that the cloth outside of the hand's outline in fact stays where it is (0.01 to 0.02). So only motion is
evidence, stillness is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.captions.features import ELBOW, LEFT_HIP, LEFT_SHOULDER, PALM, RIGHT_HIP, RIGHT_SHOULDER, WRIST

# Body units from the hand's outline.
_NEAR, _FAR = 0.35, 0.45
_MIN_POINTS = 8
# Tracking is good to about a third of a pixel; a fifth of the hand's motion has to stand out from that.
_MIN_MOTION_PX = 2.0
_ALONG = 0.2


@dataclass(frozen=True)
class Scene:
    """One picture and what is in it, at a size where the body unit is a fixed number of pixels.

    Attributes:
        grey: Shape (height, width), uint8.
        landmarks: Shape (33, 2), pixels of `grey`.
        hands: Side -> keypoints of shape (21, 2), pixels of `grey`; hands that are known.
        unit: Pixels of one body unit in `grey`.
    """

    grey: np.ndarray
    landmarks: np.ndarray
    hands: dict[str, np.ndarray]
    unit: float


def drag_shares(before: Scene, after: Scene, sides: Sequence[str]) -> dict[str, float]:
    """Share of the tracked cloth points next to each hand that move along with it, 0 to 1.

    A point moves along when its motion, with that of the torso taken away, has at least a fifth of the hand's motion
    in the hand's direction.

    Args:
        before, after: Two pictures, about a tenth of a second apart, of the same size.
        sides: Which hands.

    Returns:
        Side -> share; NaN where it cannot be said: the hand is not known in both pictures or does not move, or too few
        points can be tracked.
    """
    out = dict.fromkeys(sides, float("nan"))
    asked = [s for s in sides if s in before.hands and s in after.hands]
    corners = before.landmarks[[LEFT_SHOULDER, RIGHT_SHOULDER, RIGHT_HIP, LEFT_HIP]]
    if not asked or not np.isfinite(corners).all():
        return out
    box = _box(corners, before.grey.shape, margin=0.1 * before.unit)
    before, after = _cropped(before, box), _cropped(after, box)
    if min(before.grey.shape) < 16:
        return out
    start, flow = _tracks(before, after)
    if len(start) < 2 * _MIN_POINTS:
        return out
    x, y = start.astype(int).T
    for side in asked:
        away = _distance_outside(before.hands[side], before.grey.shape)[y, x] / before.unit
        near, far = away < _NEAR, away > _FAR
        if near.sum() < _MIN_POINTS or far.sum() < _MIN_POINTS:
            continue
        torso_motion = np.median(flow[far], axis=0)
        hand_motion = (after.hands[side] - before.hands[side])[list(PALM)].mean(0) - torso_motion
        size = float(np.linalg.norm(hand_motion))
        if size >= _MIN_MOTION_PX:
            along = (flow[near] - torso_motion) @ hand_motion / size**2
            out[side] = float((along > _ALONG).mean())
    return out


def _tracks(before: Scene, after: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Points on the torso off hands and forearms, shape (points, 2), and their motion to the second picture."""
    torso = np.zeros(before.grey.shape, np.uint8)
    corners = before.landmarks[[LEFT_SHOULDER, RIGHT_SHOULDER, RIGHT_HIP, LEFT_HIP]]
    cv2.fillConvexPoly(torso, corners.astype(np.int32), 1)
    usable = torso & (1 - (_limbs(before) | _limbs(after)))
    points = cv2.goodFeaturesToTrack(before.grey, 150, 0.01, max(2.0, before.unit / 32), mask=usable)
    if points is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    window = (2 * round(before.unit / 20) + 1,) * 2
    moved, ok, _ = cv2.calcOpticalFlowPyrLK(before.grey, after.grey, points, points.copy(), winSize=window, maxLevel=2)
    back, ok_back, _ = cv2.calcOpticalFlowPyrLK(
        after.grey, before.grey, moved, moved.copy(), winSize=window, maxLevel=2
    )
    good = (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (np.linalg.norm(back - points, axis=-1)[:, 0] < 0.5)
    return points[good, 0], (moved - points)[good, 0]


def _limbs(scene: Scene) -> np.ndarray:
    """Mask of hands and forearms with a margin: what moves by itself and hides cloth."""
    mask = np.zeros(scene.grey.shape, np.uint8)
    for keypoints in scene.hands.values():
        cv2.fillConvexPoly(mask, cv2.convexHull(keypoints.astype(np.int32)), 1)
    for side in ("left", "right"):
        a, b = scene.landmarks[[ELBOW[side], WRIST[side]]]
        if np.isfinite([a, b]).all():
            cv2.line(mask, tuple(map(int, a)), tuple(map(int, b)), 1, max(1, round(0.3 * scene.unit)))
    margin = 2 * max(1, round(0.05 * scene.unit)) + 1
    return cv2.dilate(mask, np.ones((margin, margin), np.uint8))


def _distance_outside(keypoints: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    outside = np.ones(shape, np.uint8)
    cv2.fillConvexPoly(outside, cv2.convexHull(keypoints.astype(np.int32)), 0)
    if outside.all():  # the hand lies outside of the crop: everything is far from it
        return np.full(shape, np.inf, np.float32)
    return cv2.distanceTransform(outside, cv2.DIST_L2, 3)


def _box(points: np.ndarray, shape: tuple[int, ...], margin: float) -> tuple[int, int, int, int]:
    x0, y0 = np.maximum(points.min(0) - margin, 0).astype(int)
    x1, y1 = np.minimum(np.ceil(points.max(0) + margin), (shape[1], shape[0])).astype(int)
    return int(x0), int(y0), int(max(x0, x1)), int(max(y0, y1))


def _cropped(scene: Scene, box: tuple[int, int, int, int]) -> Scene:
    x0, y0, x1, y1 = box
    offset = np.array([x0, y0], np.float32)
    hands = {side: keypoints - offset for side, keypoints in scene.hands.items()}
    grey = np.ascontiguousarray(scene.grey[y0:y1, x0:x1])
    return Scene(grey, scene.landmarks - offset, hands, scene.unit)
