"""Hands of the rig: named grips, the points of a hand that touch things, and how a hand is turned.

A grip is one rotation vector for each finger joint. They are flexions about axes read off the rest mesh, so one
description serves both hands; what no angle says by itself (that thumb and index meet) is solved for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from pipelines.studio.body.rig import Rig, Shape, load_rig

SIDES = ("left", "right")
GRIPS = ("relaxed", "flat", "open", "fist", "pinch", "grasp", "point")
POINTS = ("pinch", "palm", "knuckles", "tips")
"""Between the tips of thumb and index; middle of the palm's surface; front of a fist; under the finger pads."""

# Flexion in degrees of the three joints of index, middle, ring and little finger.
_FLEXIONS: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "relaxed": ((14, 24, 12), (18, 28, 14), (22, 32, 16), (26, 34, 18)),
    "flat": ((2, 4, 2), (1, 4, 2), (2, 4, 2), (3, 5, 3)),
    "open": ((-6, 6, 4), (-6, 6, 4), (-6, 6, 4), (-6, 6, 4)),
    "fist": ((72, 92, 55), (76, 95, 58), (78, 95, 58), (80, 92, 55)),
    "pinch": ((42, 46, 20), (34, 40, 20), (36, 46, 24), (38, 50, 26)),
    "grasp": ((52, 52, 22), (54, 56, 26), (58, 60, 28), (60, 62, 28)),
    "point": ((4, 8, 4), (70, 90, 55), (74, 92, 55), (76, 90, 55)),
}
# Spread in degrees of the four fingers away from the middle one.
_SPREAD = {"open": (10, 0, -9, -20), "flat": (2, 0, -2, -5)}
# Thumb tip is brought to these finger tips; else flexions of its three joints and the swing towards the palm.
_THUMB_MEETS = {"pinch": (0,), "grasp": (0, 1)}
_THUMB = {
    "relaxed": (10, 12, 15, 12),
    "flat": (0, 4, 6, 0),
    "open": (-12, 2, 4, -14),
    "fist": (22, 30, 40, 34),
    "point": (20, 30, 38, 30),
}


def joint_suffix(side: str) -> str:
    """`.L` or `.R`."""
    return {"left": ".L", "right": ".R"}[side]


class HandRig:
    """The joints of one hand and what they can do, for one person.

    Attributes:
        side: left or right.
        joints: Numbers in the rig of the wrist and of the 19 joints below it, in the order of `cc0_hand`.
        keypoints: Numbers of the 21 keypoints' joints (tips name their last joint).
        tip_vertices: (5, n) vertices whose mean is a finger's tip.
        fingers: (3,) unit, from the wrist to the middle knuckle at rest.
        palm: (3,) unit, out of the palm at rest.
    """

    def __init__(self, rig: Rig, shape: Shape, side: str):
        from models.perception.hand_mesh import shared_mesh

        self.rig, self.shape, self.side = rig, shape, side
        suffix = joint_suffix(side)
        mesh = shared_mesh(side)
        self.joints = np.array([rig.index(n + suffix) for n in mesh.names])
        self.keypoints = self.joints[mesh.keypoint_joint]
        self.tip_vertices = rig.hands[side][mesh.tip_vertices]
        wrist, index, middle, little = (
            shape.joints[rig.index(n + suffix)] for n in ("wrist", "finger2-1", "finger3-1", "finger5-1")
        )
        self.fingers = _unit(middle - wrist)
        out = np.cross(index - wrist, little - wrist) * (1 if side == "right" else -1)
        self.palm = _unit(out - (out @ self.fingers) * self.fingers)
        self._points = {g: self._touching(grip_rotations(side)[g]) for g in GRIPS}

    @property
    def wrist(self) -> int:
        """Number of the wrist's joint."""
        return int(self.joints[0])

    def turn(self, fingers: np.ndarray, palm: np.ndarray) -> np.ndarray:
        """World rotation (3, 3) that brings the hand's fingers and palm into these directions.

        Args:
            fingers: (3,) where the fingers point.
            palm: (3,) where the palm looks; what it shares with `fingers` is taken off.
        """
        f = _unit(fingers)
        p = _unit(palm - (palm @ f) * f)
        new = np.stack([f, p, np.cross(f, p)], -1)
        old = np.stack([self.fingers, self.palm, np.cross(self.fingers, self.palm)], -1)
        return new @ old.T

    def point(self, name: str, grip: Mapping[str, float]) -> np.ndarray:
        """(3,) from the wrist to a touching point (`POINTS`) at rest orientation, for weights of grips."""
        total = sum(grip.values())
        return np.asarray(sum(w * self._points[g][name] for g, w in grip.items()) / total)

    def _touching(self, grip: np.ndarray) -> dict[str, np.ndarray]:
        local = np.tile(np.eye(3), (len(self.rig.names), 1, 1))
        local[self.joints[1:]] = Rotation.from_rotvec(grip).as_matrix()
        posed = self.rig.pose(self.shape, local)
        skin = posed.skin(self.shape.vertices, self.rig.weights)
        wrist = self.shape.joints[self.wrist]
        tips = skin[self.tip_vertices].mean(1) - wrist
        knuckles = posed.positions[self.joints[[5, 9, 13, 17]]] - wrist
        middle = knuckles.mean(0) * 0.62
        hand = skin[self.rig.hands[self.side]] - wrist
        # Surfaces: the farthest skin along the direction that faces what is touched.
        near = np.linalg.norm(hand - middle - ((hand - middle) @ self.palm)[:, None] * self.palm, axis=1) < 0.018
        depth = ((hand[near] - middle) @ self.palm).max() if near.any() else 0.02
        # Laid down, a hand rests on fingers, heel and palm: on the farthest of them.
        lay = max(depth, np.quantile((hand - middle) @ self.palm, 0.97))
        front = knuckles.mean(0) + 0.3 * (tips[1:].mean(0) - knuckles.mean(0))
        return {
            "pinch": (tips[0] + tips[1]) / 2,
            "palm": middle + lay * self.palm,
            "knuckles": front + 0.012 * self.palm,
            "tips": tips[1:4].mean(0),
        }


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


@lru_cache(maxsize=2)
def grip_rotations(side: str) -> dict[str, np.ndarray]:
    """Grip -> (19, 3) rotation vectors of the joints below the wrist, in the order of `HandRig.joints`."""
    rig = load_rig()
    shape = rig.shape()
    suffix = joint_suffix(side)
    joint = {n: shape.joints[rig.index(n + suffix)] for n in _joint_names()}
    wrist, index, little = joint["wrist"], joint["finger2-1"], joint["finger5-1"]
    palm = np.cross(index - wrist, little - wrist) * (1 if side == "right" else -1)
    palm = _unit(palm)
    return {grip: _grip(rig, shape, side, grip, joint, palm) for grip in GRIPS}


@lru_cache(maxsize=1)
def _joint_names() -> tuple[str, ...]:
    from models.perception.hand_mesh import shared_mesh

    return tuple(shared_mesh("right").names)


def _grip(rig: Rig, shape: Shape, side: str, grip: str, joint: dict[str, np.ndarray], palm: np.ndarray) -> np.ndarray:
    names = _joint_names()
    out = {n: np.zeros(3) for n in names[1:]}
    for finger, (flexions, spread) in enumerate(zip(_FLEXIONS[grip], _SPREAD.get(grip, (0, 0, 0, 0))), start=2):
        first, second = joint[f"finger{finger}-1"], joint[f"finger{finger}-2"]
        along = _unit(second - first)
        axis = _unit(np.cross(along, palm))
        for k, degrees in enumerate(flexions, start=1):
            out[f"finger{finger}-{k}"] = np.radians(degrees) * axis
        # Positive spread goes towards the thumb, which is the other way round on the other hand.
        out[f"finger{finger}-1"] = out[f"finger{finger}-1"] + np.radians(spread) * palm * (-1 if side == "right" else 1)
    along = _unit(joint["finger1-3"] - joint["finger1-2"])
    across = _unit(joint["finger5-1"] - joint["finger2-1"])
    bend = _unit(np.cross(along, _unit(across + 0.6 * palm)))
    swing = _unit(np.cross(along, palm))

    def thumb(angles: np.ndarray) -> None:
        a, b, c, d = np.radians(angles)
        out["finger1-1"] = a * bend + d * swing
        out["finger1-2"] = b * bend
        out["finger1-3"] = c * bend

    if grip not in _THUMB_MEETS:
        thumb(np.array(_THUMB[grip], float))
        return np.stack([out[n] for n in names[1:]])

    from models.perception.hand_mesh import shared_mesh

    ids = np.array([rig.index(n + joint_suffix(side)) for n in names])
    tips = rig.hands[side][shared_mesh(side).tip_vertices]
    touched = tips.ravel()
    weights, rest = rig.weights[touched], shape.vertices[touched]

    def miss(angles: np.ndarray) -> np.ndarray:
        thumb(angles)
        local = np.tile(np.eye(3), (len(rig.names), 1, 1))
        local[ids[1:]] = Rotation.from_rotvec(np.stack([out[n] for n in names[1:]])).as_matrix()
        ends = rig.pose(shape, local).skin(rest, weights).reshape(5, -1, 3).mean(1)
        goal = ends[[1 + f for f in _THUMB_MEETS[grip]]].mean(0)
        # The pads touch, not the centres of the tips: cloth and skin keep them a centimetre apart.
        gap = np.linalg.norm(ends[0] - goal) - 0.010
        return np.array([100 * gap, *(0.01 * (angles - [15, 20, 25, 25]))])

    thumb(least_squares(miss, [15.0, 20.0, 25.0, 25.0], bounds=([-20, -5, -5, -30], [60, 60, 70, 70])).x)
    return np.stack([out[n] for n in names[1:]])
