"""Fits the CC0 hand mesh to 21 keypoints by inverse kinematics: batched Gauss-Newton over frames, analytic derivatives.

Only the fit of single frames and of the shape they share belongs here; smoothing over time is the caller's. A hand has
28 anatomical degrees of freedom (knuckles bend, spread and barely twist, the other finger joints bend, the thumb's
saddle joint turns freely within limits, the outer metacarpals give a little) besides its place in space. Everything is
solved for the right hand; a left one is mirrored before and after.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from models.perception.hand_mesh import (
    KEYPOINT_PARENTS,
    TIPS,
    axis_angles,
    mirrored,
    rotation_matrices,
    shared_mesh,
)
from models.perception.hands.base import MIRROR, Camera, HandFit

_PALM = np.array([0, 1, 5, 9, 13, 17])
_CHUNK = 512


@dataclass(frozen=True)
class Freedom:
    """One degree of freedom: rotation of `joint` about `axis`, with limits, resting spread and stiffness (radians)."""

    joint: int
    axis: np.ndarray
    low: float
    high: float
    sigma: float


@dataclass(frozen=True)
class FitWeights:
    """How far the data may be off, and how stiff the hand is.

    Attributes:
        pixels: Error of a 2D keypoint as a share of the hand's size in the frame.
        metres: Error of a 3D keypoint.
        limit: Softness of joint limits, radians.
        coupling: How far the end joint of a finger may bend apart from two thirds of the middle joint, radians.
    """

    pixels: float = 0.02
    metres: float = 0.008
    limit: float = np.radians(3.0)
    coupling: float = np.radians(20.0)


def _degrees(low: float, high: float, sigma: float) -> tuple[float, float, float]:
    return float(np.radians(low)), float(np.radians(high)), float(np.radians(sigma))


@lru_cache(maxsize=1)
def freedoms() -> tuple[Freedom, ...]:
    """The degrees of freedom of the right hand; axes are those of the mesh at rest."""
    mesh = shared_mesh("right")
    _, keypoints = mesh(np.zeros((1, len(mesh.joints), 3)), with_vertices=False)
    points = keypoints[0]
    out: list[Freedom] = []
    for finger in range(5):
        first = 1 + 4 * finger
        bones = np.diff(points[first : first + 4], axis=0)
        hinge = np.cross(bones[0], bones[2])
        hinge /= np.linalg.norm(hinge)
        along = bones[0] / np.linalg.norm(bones[0])
        spread = np.cross(along, hinge)
        a, b, c = (int(mesh.keypoint_joint[first + i]) for i in range(3))
        # A finger at rest is bent a little; straight is as far below zero.
        bends = [np.arccos(bones[i] @ bones[i + 1] / np.prod(np.linalg.norm(bones[i : i + 2], axis=1))) for i in (0, 1)]
        straight = np.degrees(bends)
        if finger == 0:
            out += [
                Freedom(a, hinge, *_degrees(-55, 55, 25)),
                Freedom(a, spread, *_degrees(-50, 50, 25)),
                Freedom(a, along, *_degrees(-40, 40, 15)),
                Freedom(b, hinge, *_degrees(-straight[0] - 15, 75, 30)),
                Freedom(b, spread, *_degrees(-12, 12, 6)),
                Freedom(c, hinge, *_degrees(-straight[1] - 25, 85, 35)),
            ]
            continue
        if finger >= 3:
            out.append(Freedom(int(mesh.parents[a]), hinge, *_degrees(-5, 20, 6)))
        out += [
            Freedom(a, hinge, *_degrees(-45, 95, 50)),
            Freedom(a, spread, *_degrees(-28, 28, 12)),
            Freedom(a, along, *_degrees(-12, 12, 5)),
            Freedom(b, hinge, *_degrees(-straight[0] - 5, 112, 50)),
            Freedom(c, hinge, *_degrees(-straight[1] - 12, 85, 40)),
        ]
    return tuple(out)


def bone_lengths(keypoints: np.ndarray) -> np.ndarray:
    """Lengths of the 20 bones of keypoints (..., 21, 3), in the order of the keypoint at their far end."""
    return np.linalg.norm(keypoints[..., 1:, :] - keypoints[..., KEYPOINT_PARENTS[1:], :], axis=-1)


def estimate_shape(world: np.ndarray, scale_range: tuple[float, float] = (0.7, 1.3)) -> np.ndarray:
    """Shape coefficients (21,) of the hand whose bones are as long as the median over frames (T, 21, 3), metres.

    The uniform scale is that of the palm, within what hands of people measure; every bone may be 0.6 to 1.7 times as
    long as the mesh's.
    """
    mesh = shared_mesh("right")
    _, rest = mesh(np.zeros((1, len(mesh.joints), 3)), with_vertices=False)
    ratio = np.median(bone_lengths(np.asarray(world, np.float64)), axis=0) / bone_lengths(rest[0])
    scale = float(np.clip(np.mean(ratio[[4, 8, 12, 16]]), *scale_range))
    return np.concatenate([[scale], np.clip(ratio / scale, 0.6, 1.7)])


def viewing_rotation(points: np.ndarray, camera: Camera) -> np.ndarray:
    """(T, 3, 3) rotations from axes along each hand's viewing ray to the camera's.

    A landmark network sees a crop as if the camera looked straight at it; towards the frame's border that turns the
    hand it reports.
    """
    centre = points.mean(-2)
    ray = np.stack(
        [
            (centre[..., 0] - camera.cx) / camera.fx,
            (centre[..., 1] - camera.cy) / camera.fy,
            np.ones(centre.shape[:-1]),
        ],
        -1,
    )
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    axis = np.cross([0.0, 0.0, 1.0], ray)
    sine = np.linalg.norm(axis, axis=-1, keepdims=True)
    return rotation_matrices(axis / np.maximum(sine, 1e-12) * np.arctan2(sine, ray[..., 2:]))


def fit_hands(
    points: np.ndarray,
    world: np.ndarray,
    camera: Camera,
    handedness: str,
    shape: np.ndarray | None = None,
    weights: FitWeights | None = None,
    iterations: int = 12,
) -> HandFit:
    """Fit the mesh to every frame of one hand.

    Args:
        points: (T, 21, 2) keypoints, pixels.
        world: (T, 21, 3) keypoints, metres about any origin, axes of the viewing ray.
        camera: Full-frame camera.
        handedness: left or right.
        shape: (21,) shape coefficients; estimated from `world` by default.
        weights: Trust in the data and stiffness.
        iterations: Gauss-Newton steps.
    """
    points, world = np.asarray(points, np.float64), np.asarray(world, np.float64)
    if shape is None:
        shape = estimate_shape(world)
    turned = np.einsum("tij,tkj->tki", viewing_rotation(points, camera), world)
    if handedness == "left":
        points = (2 * camera.cx, 0.0) + points * (-1.0, 1.0)
        turned = turned * MIRROR
    poses, translations = [], []
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        solver = _Solver(points[part], turned[part], camera, shape, weights or FitWeights())
        pose, translation = solver.solve(iterations)
        poses.append(pose)
        translations.append(translation)
    if not poses:
        return HandFit(np.zeros((0, len(shared_mesh("right").joints), 3)), shape, np.zeros((0, 3)))
    pose, translation = np.concatenate(poses), np.concatenate(translations)
    if handedness == "left":
        pose, translation = mirrored(pose), translation * MIRROR
    return HandFit(pose, shape, translation)


def _left_jacobian(theta: np.ndarray) -> np.ndarray:
    """d(rotation)/d(axis-angle) as angular velocity: (..., 3) to (..., 3, 3)."""
    angle = np.linalg.norm(theta, axis=-1)[..., None, None]
    safe = np.maximum(angle, 1e-6)
    k = _cross_matrix(theta)
    first = np.where(angle < 1e-4, 0.5, (1 - np.cos(safe)) / safe**2)
    second = np.where(angle < 1e-4, 1 / 6, (safe - np.sin(safe)) / safe**3)
    return np.eye(3) + first * k + second * (k @ k)


def _cross_matrix(v: np.ndarray) -> np.ndarray:
    out = np.zeros((*v.shape, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    return out - np.swapaxes(out, -1, -2)


class _Solver:
    """Gauss-Newton for a chunk of right hands; unknowns are turn of the hand (3), wrist (3), joint angles (D)."""

    def __init__(self, points: np.ndarray, world: np.ndarray, camera: Camera, shape: np.ndarray, weights: FitWeights):
        self.mesh = shared_mesh("right")
        self.joints, self.tips, _ = self.mesh.rest(shape)
        self.dofs = freedoms()
        self.owner = np.array([d.joint for d in self.dofs])
        self.axes = np.array([d.axis for d in self.dofs])
        self.low, self.high = (np.array([getattr(d, n) for d in self.dofs]) for n in ("low", "high"))
        self.sigma = np.array([d.sigma for d in self.dofs])
        self.moves = self._descendants()[self.owner][:, self.mesh.keypoint_joint]
        # A joint's own keypoint does not move with it; the finger's end does.
        inner = np.setdiff1d(np.arange(21), TIPS)
        for d, joint in enumerate(self.owner):
            self.moves[d, inner[self.mesh.keypoint_joint[inner] == joint]] = False
        self.pairs = self._coupled()
        self.points, self.camera, self.weights = points, camera, weights
        self.world = world - world.mean(1, keepdims=True)
        size = np.maximum(np.ptp(points, axis=1).max(-1), 4.0)
        self.pixel_sigma = np.maximum(weights.pixels * size, 0.5)

    def _descendants(self) -> np.ndarray:
        below = np.eye(len(self.joints), dtype=bool)
        for j in range(len(self.joints) - 1, 0, -1):
            below[self.mesh.parents[j]] |= below[j]
        return below

    def _coupled(self) -> list[tuple[int, int]]:
        """Degrees of freedom (middle joint, end joint) of the four fingers."""
        where = {(d.joint): i for i, d in enumerate(self.dofs)}
        last = self.mesh.keypoint_joint[TIPS[1:]]
        return [(where[int(self.mesh.parents[j])], where[int(j)]) for j in last]

    def angles_to_pose(self, q: np.ndarray) -> np.ndarray:
        """(N, D) angles to (N, J, 3) axis-angle; joint 0 is left at zero."""
        pose = np.zeros((len(q), len(self.joints), 3))
        for d, joint in enumerate(self.owner):
            pose[:, joint] += q[:, d, None] * self.axes[d]
        return pose

    def _keypoints(self, turn: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        local = rotation_matrices(pose)
        local[:, 0] = turn
        rotations, positions = self.mesh.transforms(local, self.joints)
        keypoints = positions[:, self.mesh.keypoint_joint]
        last = self.mesh.keypoint_joint[TIPS]
        keypoints[:, TIPS] += np.einsum("nfij,fj->nfi", rotations[:, last], self.tips - self.joints[last])
        return keypoints, rotations, positions

    def _start(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Palm by Procrustes, joints from the angles between bones, wrist from the pixels."""
        n = len(self.points)
        q = np.zeros((n, len(self.dofs)))
        rest, _, _ = self._keypoints(np.eye(3)[None], np.zeros((1, len(self.joints), 3)))
        for d, (joint, dof) in enumerate(zip(self.owner, self.dofs)):
            k = int(np.flatnonzero(self.mesh.keypoint_joint == joint)[0]) if joint in self.mesh.keypoint_joint else 0
            if k in (0, 1, 5, 9, 13, 17) or dof.sigma < np.radians(20):
                continue
            q[:, d] = np.clip(_bend(self.world, k) - _bend(rest, k), dof.low, dof.high)
        source = rest[0, _PALM] - rest[0, _PALM].mean(0)
        target = self.world[:, _PALM] - self.world[:, _PALM].mean(1, keepdims=True)
        u, _, vt = np.linalg.svd(np.einsum("nki,kj->nij", target, source))
        u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]
        turn = u @ vt
        keypoints, _, _ = self._keypoints(turn, self.angles_to_pose(q))
        return turn, self._place(keypoints), q

    def _place(self, keypoints: np.ndarray) -> np.ndarray:
        """Wrist positions (N, 3) whose projection is nearest, linear in the unknowns."""
        cam = self.camera
        ray = (self.points - (cam.cx, cam.cy)) / (cam.fx, cam.fy)
        a = np.zeros((*ray.shape, 3))
        a[..., 0, 0] = a[..., 1, 1] = 1.0
        a[..., 2] = -ray
        b = ray * keypoints[..., 2:] - keypoints[..., :2]
        a, b = a.reshape(len(a), -1, 3), b.reshape(len(b), -1, 1)
        t = np.linalg.solve(np.swapaxes(a, 1, 2) @ a, np.swapaxes(a, 1, 2) @ b)[..., 0]
        # Behind the camera or inside it the linear solution means nothing.
        t[:, 2] = np.maximum(t[:, 2], 0.1)
        return t

    def residuals(self, turn: np.ndarray, wrist: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals (N, M) over their sigmas, and their Jacobian (N, M, 6 + D)."""
        n, dofs, cam = len(q), len(self.dofs), self.camera
        pose = self.angles_to_pose(q)
        x, rotations, positions = self._keypoints(turn, pose)
        parent = np.maximum(self.mesh.parents[self.owner], 0)
        omega = np.einsum("ndij,ndjk,dk->ndi", rotations[:, parent], _left_jacobian(pose[:, self.owner]), self.axes)
        lever = (x[:, None] - positions[:, self.owner, None]) * self.moves[None, :, :, None]
        by_angle = np.cross(omega[:, :, None], lever)  # (N, D, 21, 3)
        dx = np.zeros((n, 21, 3, 6 + dofs))
        dx[..., :3] = -_cross_matrix(x)
        dx[..., 6:] = np.moveaxis(by_angle, 1, -1)
        # 3D keypoints about their mean
        spread = dx - dx.mean(1, keepdims=True)
        r3 = ((x - x.mean(1, keepdims=True)) - self.world) / self.weights.metres
        j3 = spread / self.weights.metres
        # 2D keypoints
        dx[..., 3:6] = np.eye(3)
        p = x + wrist[:, None]
        z = np.maximum(p[..., 2], 0.05)
        sigma = self.pixel_sigma[:, None]
        focal = np.array([cam.fx, cam.fy])
        image = p[..., :2] / z[..., None]
        r2 = (image * focal + (cam.cx, cam.cy) - self.points) / sigma[..., None]
        j2 = (dx[:, :, :2] - image[..., None] * dx[:, :, 2:]) * (focal[:, None] / (z * sigma)[..., None, None])
        # Rest, limits, and the coupling of a finger's last two joints
        eye = np.zeros((dofs, 6 + dofs))
        eye[:, 6:] = np.eye(dofs)
        over = np.maximum(q - self.high, 0) + np.minimum(q - self.low, 0)
        rl, jl = over / self.weights.limit, (over != 0)[..., None] * eye / self.weights.limit
        rp, jp = q / self.sigma, np.broadcast_to(eye / self.sigma[:, None], (n, dofs, 6 + dofs))
        middle, end = (np.array(i) for i in zip(*self.pairs))
        rc = (q[:, end] - 2 / 3 * q[:, middle]) / self.weights.coupling
        jc = np.broadcast_to((eye[end] - 2 / 3 * eye[middle]) / self.weights.coupling, (n, len(end), 6 + dofs))
        flat = (n, -1, 6 + dofs)
        return (
            np.concatenate([r2.reshape(n, -1), r3.reshape(n, -1), rl, rp, rc], 1),
            np.concatenate([j2.reshape(flat), j3.reshape(flat), jl, jp, jc], 1),
        )

    def solve(self, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """Poses (N, J, 3) and wrists (N, 3)."""
        turn, wrist, q = self._start()
        damping = np.full(len(q), 1e-3)
        r, j = self.residuals(turn, wrist, q)
        cost = (r**2).sum(1)
        for _ in range(iterations):
            jt = np.swapaxes(j, 1, 2)
            normal, gradient = jt @ j, (jt @ r[..., None])[..., 0]
            diagonal = np.einsum("nii->ni", normal)
            normal = normal + (damping[:, None] * diagonal + 1e-9)[..., None] * np.eye(normal.shape[1])
            step = -np.linalg.solve(normal, gradient[..., None])[..., 0]
            step[:, :3] = np.clip(step[:, :3], -1.0, 1.0)
            step[:, 6:] = np.clip(step[:, 6:], -0.7, 0.7)
            new = (
                Rotation.from_rotvec(step[:, :3]).as_matrix() @ turn,
                wrist + step[:, 3:6],
                q + step[:, 6:],
            )
            new[1][:, 2] = np.maximum(new[1][:, 2], 0.1)
            r_new, j_new = self.residuals(*new)
            cost_new = (r_new**2).sum(1)
            better = cost_new < cost
            gain = np.where(better, cost - cost_new, 0.0)
            turn = np.where(better[:, None, None], new[0], turn)
            wrist, q = np.where(better[:, None], new[1], wrist), np.where(better[:, None], new[2], q)
            r, j = np.where(better[:, None], r_new, r), np.where(better[:, None, None], j_new, j)
            cost = np.where(better, cost_new, cost)
            damping = np.where(better, damping * 0.2, damping * 10)
            if (gain < 1e-3 * cost + 1e-6).all() and better.mean() > 0.5:
                break
        pose = self.angles_to_pose(q)
        pose[:, 0] = axis_angles(turn)
        return pose, wrist


def _bend(points: np.ndarray, k: int) -> np.ndarray:
    """Angle between the bones that meet in keypoint k, radians; points (N, 21, 3)."""
    a = points[:, k] - points[:, KEYPOINT_PARENTS[k]]
    b = points[:, k + 1] - points[:, k]
    cosine = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-9)
    return np.arccos(np.clip(cosine, -1, 1))
