"""Poses the whole body: trunk and legs from angles, arms by two-bone inverse kinematics, fingers from grips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from pipelines.studio.body.hand import SIDES, HandRig, grip_rotations, joint_suffix
from pipelines.studio.body.rig import Posed, Rig, Shape

_SPINE = ("spine05", "spine04", "spine03", "spine02", "spine01")
_NECK = ("neck01", "neck02", "neck03", "head")


@dataclass(frozen=True)
class Trunk:
    """How the body is held, arms apart. Angles are rotation vectors in radians about the world's axes.

    Attributes:
        root: (3,) where the hips are, metres.
        turn: Rotation of the whole body, about z mostly.
        bend: Rotation of the chest against the hips.
        look: Rotation of the head against the chest.
        stride: Swing of the left leg forward and the right one back, radians.
        knee: left, right -> bend of the knee, radians.
        shrug: left, right -> how far the shoulder is raised, radians.
    """

    root: np.ndarray = field(default_factory=lambda: np.zeros(3))
    turn: np.ndarray = field(default_factory=lambda: np.zeros(3))
    bend: np.ndarray = field(default_factory=lambda: np.zeros(3))
    look: np.ndarray = field(default_factory=lambda: np.zeros(3))
    stride: float = 0.0
    knee: Mapping[str, float] = field(default_factory=dict)
    shrug: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class HandGoal:
    """Where one hand shall be.

    Attributes:
        position: (3,) where `point` of the hand goes, metres, world.
        rotation: (3, 3) world rotation of the hand against its rest (see `HandRig.turn`).
        grip: Grip -> weight.
        point: Which point of the hand.
        elbow: (3,) direction in which the elbow points away from the line from shoulder to wrist, world.
    """

    position: np.ndarray
    rotation: np.ndarray
    grip: Mapping[str, float]
    point: str = "palm"
    elbow: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.5, -1.0]))


class Poser:
    """Turns trunk and hand goals of one person into a posed skeleton."""

    def __init__(self, rig: Rig, shape: Shape):
        self.rig, self.shape = rig, shape
        self.hands = {side: HandRig(rig, shape, side) for side in SIDES}
        self._arms = {side: _Arm(rig, shape, side) for side in SIDES}

    def trunk(self, trunk: Trunk) -> np.ndarray:
        """(J, 3, 3) local rotations with arms and fingers at rest."""
        rig = self.rig
        local = np.tile(np.eye(3), (len(rig.names), 1, 1))
        local[0] = Rotation.from_rotvec(trunk.turn).as_matrix()
        part = Rotation.from_rotvec(trunk.bend / len(_SPINE)).as_matrix()
        for name in _SPINE:
            local[rig.index(name)] = part
        part = Rotation.from_rotvec(trunk.look / len(_NECK)).as_matrix()
        for name in _NECK:
            local[rig.index(name)] = part
        for side, sign in (("left", 1), ("right", -1)):
            suffix = joint_suffix(side)
            # A negative turn about x swings a hanging leg forward, which is -y.
            local[rig.index("upperleg01" + suffix)] = _about_x(-sign * trunk.stride)
            local[rig.index("lowerleg01" + suffix)] = _about_x(trunk.knee.get(side, 0.0))
            raised = trunk.shrug.get(side, 0.0)
            local[rig.index("clavicle" + suffix)] = Rotation.from_rotvec([0, -sign * raised, 0]).as_matrix()
        return local

    def pose(self, trunk: Trunk, local: np.ndarray) -> Posed:
        """The skeleton of these local rotations."""
        return self.rig.pose(self.shape, local, trunk.root + self.shape.joints[0])

    def reach(self, local: np.ndarray, posed: Posed, side: str, goal: HandGoal) -> np.ndarray:
        """Local rotations with one arm and its fingers turned so that the hand is where it shall be.

        An arm that is too short stretches towards the goal as far as it goes.

        Args:
            local: (J, 3, 3), changed in place and returned.
            posed: The skeleton of `local` as it was.
            side: left or right.
            goal: Where the hand goes.
        """
        hand = self.hands[side]
        wrist = goal.position - goal.rotation @ hand.point(goal.point, goal.grip)
        self._arms[side].reach(local, posed, wrist, goal.rotation, goal.elbow)
        total = sum(goal.grip.values())
        vectors = sum(w / total * grip_rotations(side)[g] for g, w in goal.grip.items())
        local[hand.joints[1:]] = Rotation.from_rotvec(vectors).as_matrix()
        return local


class _Arm:
    def __init__(self, rig: Rig, shape: Shape, side: str):
        suffix = joint_suffix(side)
        names = ("upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist")
        self.upper, self.upper_twist, self.lower, self.lower_twist, self.wrist = (rig.index(n + suffix) for n in names)
        self.parent = int(rig.parents[self.upper])
        s, e, w = (shape.joints[j] for j in (self.upper, self.lower, self.wrist))
        self.lengths = float(np.linalg.norm(e - s)), float(np.linalg.norm(w - e))
        self.rest_upper, self.rest_lower = _frames(s, e, w)
        self.rest_axis = (w - e) / np.linalg.norm(w - e)

    def reach(self, local: np.ndarray, posed: Posed, wrist: np.ndarray, hand: np.ndarray, elbow: np.ndarray) -> None:
        shoulder = posed.positions[self.upper]
        a, b = self.lengths
        line = wrist - shoulder
        far = float(np.linalg.norm(line))
        reach = float(np.clip(far, abs(a - b) + 0.03, 0.999 * (a + b)))
        line = line / far if far > 1e-6 else np.array([0.0, 0.0, -1.0])
        wrist = shoulder + reach * line
        pole = elbow - (elbow @ line) * line
        if np.linalg.norm(pole) < 1e-6:  # the elbow is asked to point along the arm: any way across will do
            pole = np.cross(line, [1.0, 0.0, 0.0] if abs(line[0]) < 0.9 else [0.0, 1.0, 0.0])
        pole = pole / np.linalg.norm(pole)
        cosine = np.clip((a * a + reach * reach - b * b) / (2 * a * reach), -1, 1)
        middle = shoulder + a * (cosine * line + np.sqrt(1 - cosine**2) * pole)
        upper, lower = _frames(shoulder, middle, wrist)
        upper, lower = upper @ self.rest_upper.T, lower @ self.rest_lower.T
        parent = posed.rotations[self.parent]
        # Skin twists over the length of a bone, not at its end: half of it is given to the joint in between.
        local_upper = parent.T @ upper
        axis = self.rest_upper[:, 0]
        twist = _twist(Rotation.from_matrix(local_upper), axis)
        half = Rotation.from_rotvec(-0.6 * twist * axis).as_matrix()
        local[self.upper] = local_upper @ half
        local[self.upper_twist] = half.T
        local[self.lower] = upper.T @ lower
        turned = Rotation.from_matrix(lower.T @ hand)
        twist = _twist(turned, self.rest_axis)
        forearm = Rotation.from_rotvec(0.65 * twist * self.rest_axis).as_matrix()
        local[self.lower_twist] = forearm
        local[self.wrist] = forearm.T @ turned.as_matrix()


def _frames(s: np.ndarray, e: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames (3, 3) of upper arm and forearm, columns: along the bone, the elbow's axis (shared), their cross."""
    u, f = (e - s) / np.linalg.norm(e - s), (w - e) / np.linalg.norm(w - e)
    axis = np.cross(u, f)
    axis = axis / max(float(np.linalg.norm(axis)), 1e-9)
    return np.stack([u, axis, np.cross(u, axis)], -1), np.stack([f, axis, np.cross(f, axis)], -1)


def _twist(rotation: Rotation, axis: np.ndarray) -> float:
    """Angle in -pi..pi by which a rotation turns about `axis` (swing-twist decomposition)."""
    x, y, z, w = rotation.as_quat()
    angle = 2 * np.arctan2(np.array([x, y, z]) @ axis, w)
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _about_x(angle: float) -> np.ndarray:
    return Rotation.from_rotvec([angle, 0, 0]).as_matrix()
