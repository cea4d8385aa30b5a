"""Measures of a body that clothes are cut by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from models.perception.mesh_render import vertex_normals
from pipelines.studio.body.rig import Rig, Shape
from pipelines.studio.garments.sections import PolarMap, hull_radius, ray_radius, section

_ARM = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
_HEAD = ("neck02", "neck03", "head", "eye")
_STEP = 0.0125
COLUMNS = 97
SIDES = ("left", "right")
_UPRIGHT = np.eye(3)


@dataclass(frozen=True)
class Arm:
    """The axis of an arm at rest, from shoulder to wrist.

    Attributes:
        s: (S,) places along it, metres from the shoulder joint.
        centre: (S, 3).
        frame: (S, 3, 3) rows: up or out of the arm, its back, against its direction.
    """

    s: np.ndarray
    centre: np.ndarray
    frame: np.ndarray

    @property
    def length(self) -> float:
        """From shoulder to wrist, metres."""
        return float(self.s[-1])

    def at(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Centres (..., 3) and frames (..., 3, 3) at places s."""
        centre = np.stack([np.interp(s, self.s, self.centre[:, k]) for k in range(3)], -1)
        index = np.clip(np.searchsorted(self.s, s), 0, len(self.s) - 1)
        return centre, self.frame[index]


_made: list[Mannequin] = []


def mannequin_of(rig: Rig, shape: Shape) -> Mannequin:
    """The measures of a person; those of the last one are kept, since one person wears several things."""
    if not (_made and _made[0].rig is rig and _made[0].shape is shape):
        _made[:] = [Mannequin(rig, shape)]
    return _made[0]


class Mannequin:
    """One person's body at rest, measured.

    Attributes:
        normals: (V, 3) outward.
        arm_weight: left, right -> (V,) how much a vertex goes with that arm.
        head_weight: (V,) how much it goes with head and upper neck.
        trunk: Vertices of torso and legs.
        tree: KD-tree over `trunk`.
        armpit_z, crotch_z, waist_z, thigh_z, calf_z, neck_z: Heights, metres.
        leg_weight: left, right -> (V,) how much a vertex goes with that leg.
        trunk_faces: (F, 3) faces of torso and legs.
        arm_faces: left, right -> (F, 3) faces of that arm.
        body: Distance of torso and legs from an upright axis.
        hull: The same for their horizontal convex hulls.
        arms: left, right -> axis of the arm.
    """

    def __init__(self, rig: Rig, shape: Shape):
        self.rig, self.shape = rig, shape
        v = shape.vertices
        self.normals = vertex_normals(v, rig.faces)
        self.arm_weight = {side: self._weight(_ARM, f".{side[0].upper()}") for side in SIDES}
        self.head_weight = self._weight(_HEAD)
        any_arm = self.arm_weight["left"] + self.arm_weight["right"]
        self.trunk = np.flatnonzero((any_arm < 0.35) & (self.head_weight < 0.5))
        self.tree = cKDTree(v[self.trunk])
        between = (any_arm > 0.3) & (any_arm < 0.7)
        self.armpit_z = float(v[between, 2].min())
        legs = {side: self._weight(("upperleg", "lowerleg", "foot", "toe"), f".{side[0].upper()}") for side in SIDES}
        middle = (np.abs(v[:, 0]) < 0.004) & (any_arm < 0.1)
        self.crotch_z = float(v[middle, 2].min())
        self.leg_weight = legs
        j = {n: shape.joints[rig.index(n)] for n in ("spine04", "upperleg01.L", "lowerleg01.L", "neck01", "foot.L")}
        self.waist_z = float(j["spine04"][2] + 0.25 * (self.joint("spine03")[2] - j["spine04"][2]))
        self.thigh_z = float(0.5 * (j["upperleg01.L"][2] + j["lowerleg01.L"][2]))
        self.calf_z = float(0.5 * (j["lowerleg01.L"][2] + j["foot.L"][2]))
        self.neck_z = float(j["neck01"][2])
        self.trunk_faces = rig.faces[np.isin(rig.faces, self.trunk).all(1)]
        self.body, self.hull = self._maps()
        self.arms = {side: self._arm(side) for side in SIDES}
        self.arm_faces = {s: rig.faces[(self.arm_weight[s] > 0.5)[rig.faces].all(1)] for s in SIDES}

    def joint(self, name: str) -> np.ndarray:
        """(3,) a joint at rest, metres."""
        return self.shape.joints[self.rig.index(name)]

    def _weight(self, prefixes: tuple[str, ...], suffix: str = "") -> np.ndarray:
        take = [i for i, n in enumerate(self.rig.names) if n.startswith(prefixes) and n.endswith(suffix)]
        return np.asarray(self.rig.weights[:, take].sum(1)).ravel()

    def _maps(self) -> tuple[PolarMap, PolarMap]:
        v = self.shape.vertices
        heights = np.arange(self.calf_z - 0.05, self.neck_z + 0.01, _STEP)
        angles = np.linspace(-np.pi, np.pi, COLUMNS)
        segments = [section(v, self.trunk_faces, np.array([0, 0, z + 1e-6]), _UPRIGHT) for z in heights]
        centre = np.array([0.5 * (s[..., 1].min() + s[..., 1].max()) for s in segments])
        # The middle of the calves is far behind that of the hips: below the hips the axis is upright.
        low = heights < self.crotch_z
        centre[low] = centre[~low][0]
        centre = gaussian_filter1d(centre, 2.0, mode="nearest")
        body, hull = [], []
        for s, y in zip(segments, centre):
            at = s - np.array([0, y])
            body.append(ray_radius(at, angles))
            hull.append(hull_radius(at.reshape(-1, 2), angles))
        return PolarMap(heights, centre, np.stack(body)), PolarMap(heights, centre, np.stack(hull))

    def _arm(self, side: str) -> Arm:
        end = f".{side[0].upper()}"
        corners = np.stack([self.joint(n + end) for n in ("upperarm01", "lowerarm01", "wrist")])
        long = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
        s = np.linspace(0, long[-1], 121)
        line = np.stack([np.interp(s, long, corners[:, k]) for k in range(3)], -1)
        # Sleeves turn gently where bones have a corner.
        centre = gaussian_filter1d(line, 0.03 / (s[1] - s[0]), axis=0, mode="nearest")
        tangent = np.gradient(gaussian_filter1d(line, 0.02 / (s[1] - s[0]), axis=0, mode="nearest"), axis=0)
        tangent[:12], tangent[-12:] = tangent[12], tangent[-13]
        tangent = gaussian_filter1d(tangent, 6, axis=0, mode="nearest")
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        back = np.array([0.0, 1.0, 0.0])
        # The back is kept from turning about the arm: each frame is the last one's, made upright on the new direction.
        frames = []
        for t in tangent:
            back = back - t * (back @ t)
            back = back / np.linalg.norm(back)
            frames.append(np.stack([np.cross(back, -t), back, -t]))
        return Arm(s, centre, np.stack(frames))

    def arm_radius(self, side: str, s: float, angles: np.ndarray) -> np.ndarray:
        """(A,) metres from the arm's axis to the skin at one place along it."""
        centre, frame = self.arms[side].at(np.array(s))
        segments = section(self.shape.vertices, self.arm_faces[side], centre, frame)
        near = np.linalg.norm(segments, axis=-1).max(1) < 0.13
        return ray_radius(segments[near], angles)
