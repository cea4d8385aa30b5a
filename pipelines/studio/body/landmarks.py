"""MediaPipe's 33 body landmarks and 21 hand keypoints, read off a posed body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.studio.body.hand import SIDES, HandRig, joint_suffix
from pipelines.studio.body.rig import Posed, Rig, Shape

NUM_LANDMARKS = 33
_JOINTS = {
    11: "upperarm01", 13: "lowerarm01", 15: "wrist", 17: "finger5-1", 19: "finger2-1", 21: "finger1-2",
    23: "upperleg01", 25: "lowerleg01", 27: "foot", 31: "toe1-1",
}  # fmt: skip
"""Landmarks of the left side that are joints; the right one has the next number."""

# MediaPipe's shoulders lie on top of the joint and its hips below: metres from the rig's joints, trunk upright.
_OFFSET = {11: (0.0, 0.0, 0.028), 12: (0.0, 0.0, 0.028), 23: (0.0, 0.0, -0.024), 24: (0.0, 0.0, -0.024)}

# How deep a landmark lies under the skin, metres: what is nearer to the camera than that hides it.
_DEPTH = np.full(NUM_LANDMARKS, 0.03)
_DEPTH[[11, 12]], _DEPTH[[13, 14]], _DEPTH[[23, 24]], _DEPTH[[25, 26]] = 0.10, 0.08, 0.15, 0.10


@dataclass(frozen=True)
class Landmarks:
    """Where the landmarks of one person are on the rig: a joint, or the mean of some vertices."""

    joints: dict[int, int]
    vertices: dict[int, np.ndarray]
    trunk: int

    @classmethod
    def of(cls, rig: Rig, shape: Shape) -> Landmarks:
        """Find the landmarks on a body at rest."""
        v = shape.vertices
        joints = {
            number + i: rig.index(name + joint_suffix(side))
            for number, name in _JOINTS.items()
            for i, side in enumerate(SIDES)
        }
        head = np.asarray(rig.weights[:, rig.index("head")].todense()).ravel() > 0.6
        found: dict[int, np.ndarray] = {}
        eyes = {side: v[rig.eyes[side]].mean(0) for side in SIDES}
        middle = (eyes["left"] + eyes["right"]) / 2
        below = head & (np.abs(v[:, 0]) < 0.01) & (v[:, 2] < middle[2] - 0.01) & (v[:, 2] > middle[2] - 0.07)
        candidates = np.flatnonzero(below)
        found[0] = candidates[np.argsort(v[candidates, 1])[:1]]
        lids, lips = rig.marks["eyelids"] > 0.5, rig.marks["lips"] > 0.5
        for i, (side, sign) in enumerate((("left", 1), ("right", -1))):
            lid = np.flatnonzero(lids & (sign * v[:, 0] > 0))
            order = lid[np.argsort(sign * v[lid, 0])]
            found[1 + 3 * i], found[3 + 3 * i] = order[:3], order[-3:]
            eye = rig.eyes[side]
            found[2 + 3 * i] = eye[np.argsort(v[eye, 1])[:8]]
            ear = np.flatnonzero(head & (np.abs(v[:, 2] - middle[2] + 0.015) < 0.02) & (sign * v[:, 0] > 0.07))
            found[7 + i] = ear[np.argsort(v[ear, 1])[:6]]
            corner = np.flatnonzero(lips & (sign * v[:, 0] > 0))
            found[9 + i] = corner[np.argsort(-sign * v[corner, 0])[:3]]
            foot = np.asarray(rig.weights[:, rig.index("foot" + joint_suffix(side))].todense()).ravel() > 0.5
            heel = np.flatnonzero(foot)
            found[29 + i] = heel[np.argsort(-v[heel, 1])[:6]]
        return cls(joints, found, rig.index("spine01"))

    def positions(self, posed: Posed, vertices: np.ndarray) -> np.ndarray:
        """(33, 3) metres, world.

        Args:
            posed: The skeleton.
            vertices: (V, 3) skin in that pose.
        """
        out = np.empty((NUM_LANDMARKS, 3))
        for number, joint in self.joints.items():
            out[number] = posed.positions[joint]
            if number in _OFFSET:
                out[number] += posed.rotations[self.trunk] @ np.array(_OFFSET[number])
        for number, index in self.vertices.items():
            out[number] = vertices[index].mean(0)
        return out


def hand_keypoints(hand: HandRig, posed: Posed, vertices: np.ndarray) -> np.ndarray:
    """(21, 3) keypoints of one hand in MediaPipe order, metres, world."""
    from models.perception.hand_mesh import TIPS

    out = posed.positions[hand.keypoints]
    out[TIPS] = vertices[hand.tip_vertices].mean(1)
    return out


def visible(points: np.ndarray, pixels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Which landmarks can be seen: in the picture, and nothing before the body part they lie in.

    Args:
        points: (33, 3) metres, camera frame.
        pixels: (33, 2) where they are in the picture.
        depth: (H, W) metres, inf where nothing is.

    Returns:
        (33,) bool.
    """
    return _unhidden(points[:, 2], pixels, depth, _DEPTH)


def visible_share(points: np.ndarray, pixels: np.ndarray, normals: np.ndarray, depth: np.ndarray) -> float:
    """Share of a surface's camera-facing points that can be seen, 0 to 1.

    Args:
        points: (N, 3) metres, camera frame.
        pixels: (N, 2).
        normals: (N, 3) unit, camera frame, out of the surface.
        depth: (H, W) metres.
    """
    facing = (normals * points).sum(-1) < 0
    if not facing.any():
        return 0.0
    return float(_unhidden(points[facing, 2], pixels[facing], depth, np.full(facing.sum(), 0.012)).mean())


def _unhidden(z: np.ndarray, pixels: np.ndarray, depth: np.ndarray, tolerance: np.ndarray) -> np.ndarray:
    height, width = depth.shape
    x, y = np.rint(pixels).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    out = np.zeros(len(z), bool)
    out[inside] = depth[y[inside], x[inside]] > z[inside] - tolerance[inside]
    return out
