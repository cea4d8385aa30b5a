"""Batched inverse kinematics of the CC0 hand: degrees of freedom, derivatives, Levenberg-Marquardt.

The interface to it is `hand_ik`. A hand has 28 anatomical degrees of freedom (knuckles bend, spread and barely twist,
the other finger joints bend, the thumb's saddle joint turns freely within limits, the outer metacarpals give a little)
besides its place in space. Everything here is a right hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from models.perception.hand_mesh import KEYPOINT_PARENTS, TIPS, axis_angles, rotation_matrices, shared_mesh
from models.perception.hands.base import Camera

_PALM = np.array([0, 1, 5, 9, 13, 17])


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
    limit: float = np.radians(1.0)
    coupling: float = np.radians(20.0)


def _degrees(low: float, high: float, sigma: float) -> tuple[float, float, float]:
    return float(np.radians(low)), float(np.radians(high)), float(np.radians(sigma))


@lru_cache(maxsize=1)
def freedoms() -> tuple[Freedom, ...]:
    """The degrees of freedom of the right hand; axes are those of the mesh at rest."""
    mesh = shared_mesh("right")
    points = mesh.keypoints(np.zeros((1, len(mesh.joints), 3)))[0]
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


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # numpy's own takes three times as long on many short vectors.
    return a[..., [1, 2, 0]] * b[..., [2, 0, 1]] - a[..., [2, 0, 1]] * b[..., [1, 2, 0]]


class HandSolver:
    """Levenberg-Marquardt for many right hands at once; unknowns are turn of the hand (3), wrist (3), joint angles (D).

    Args:
        points: (N, 21, 2) keypoints, pixels.
        world: (N, 21, 3) keypoints, metres about any origin, axes of the camera.
        camera: Full-frame camera.
        shape: (21,) shape coefficients of the mesh.
        weights: Trust in the data and stiffness.
    """

    def __init__(self, points: np.ndarray, world: np.ndarray, camera: Camera, shape: np.ndarray, weights: FitWeights):
        self.mesh = shared_mesh("right")
        self.joints, self.tips = self.mesh.skeleton(shape)
        self.dofs = freedoms()
        self.owner = np.array([d.joint for d in self.dofs])
        self.axes = np.array([d.axis for d in self.dofs])
        self.low, self.high = (np.array([getattr(d, n) for d in self.dofs]) for n in ("low", "high"))
        self.sigma = np.array([d.sigma for d in self.dofs])
        self.moves = self._moves()
        self.coupled = self._coupled()
        self.points, self.camera, self.weights = points, camera, weights
        self.world = world - world.mean(1, keepdims=True)
        size = np.maximum(np.ptp(points, axis=1).max(-1), 4.0)
        self.pixel_sigma = np.maximum(weights.pixels * size, 0.5)

    def _moves(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (degree of freedom, keypoint it moves)."""
        below = np.eye(len(self.joints), dtype=bool)
        for j in range(len(self.joints) - 1, 0, -1):
            below[self.mesh.parents[j]] |= below[j]
        moves = below[self.owner][:, self.mesh.keypoint_joint]
        # A joint's own keypoint does not move with it; the finger's end does.
        inner = np.setdiff1d(np.arange(21), TIPS)
        moves[:, inner] &= self.mesh.keypoint_joint[inner] != self.owner[:, None]
        dof, keypoint = np.nonzero(moves)
        return dof, keypoint

    def _coupled(self) -> tuple[np.ndarray, np.ndarray]:
        """Degrees of freedom of the middle joints and of the end joints of the four fingers."""
        where = {d.joint: i for i, d in enumerate(self.dofs)}
        last = self.mesh.keypoint_joint[TIPS[1:]]
        return np.array([where[int(self.mesh.parents[j])] for j in last]), np.array([where[int(j)] for j in last])

    def angles_to_pose(self, q: np.ndarray) -> np.ndarray:
        """(N, D) angles to (N, J, 3) axis-angle; joint 0 is left at zero."""
        pose = np.zeros((len(q), len(self.joints), 3))
        for d, joint in enumerate(self.owner):
            pose[:, joint] += q[:, d, None] * self.axes[d]
        return pose

    def keypoints(self, turn: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keypoints (N, 21, 3) about the wrist, and rotations and positions of the joints."""
        local = rotation_matrices(pose)
        local[:, 0] = turn
        rotations, positions = self.mesh.transforms(local, self.joints)
        keypoints = positions[:, self.mesh.keypoint_joint]
        last = self.mesh.keypoint_joint[TIPS]
        keypoints[:, TIPS] += np.einsum("nfij,fj->nfi", rotations[:, last], self.tips - self.joints[last])
        return keypoints, rotations, positions

    def start(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Palm by Procrustes, joints from the angles between bones, wrist from the pixels."""
        n = len(self.points)
        q = np.zeros((n, len(self.dofs)))
        rest, _, _ = self.keypoints(np.eye(3)[None], np.zeros((1, len(self.joints), 3)))
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
        keypoints, _, _ = self.keypoints(turn, self.angles_to_pose(q))
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

    def evaluate(
        self, turn: np.ndarray, wrist: np.ndarray, q: np.ndarray, rows: np.ndarray | slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cost (N,), half its gradient (N, 6 + D) and the Gauss-Newton matrix (N, 6 + D, 6 + D) of some hands.

        Args:
            turn: (N, 3, 3) rotation of the hand; its three unknowns are a rotation vector applied before it.
            wrist: (N, 3) metres.
            q: (N, D) joint angles.
            rows: Which hands these are.
        """
        n, dofs, cam = len(q), len(self.dofs), self.camera
        pose = self.angles_to_pose(q)
        x, rotations, positions = self.keypoints(turn, pose)
        parent = np.maximum(self.mesh.parents[self.owner], 0)
        turned = (_left_jacobian(pose[:, self.owner]) @ self.axes[:, :, None])[..., 0]
        omega = (rotations[:, parent] @ turned[..., None])[..., 0]
        dof, keypoint = self.moves
        # Single precision for what only steers the steps; the cost that accepts them is double.
        dx = np.zeros((n, 6 + dofs, 21, 3), np.float32)
        dx[:, :3] = np.moveaxis(-_cross_matrix(x), -1, 1)
        dx[:, 6 + dof, keypoint] = _cross(omega[:, dof], x[:, keypoint] - positions[:, self.owner[dof]])
        j = np.empty((n, 6 + dofs, 21, 5), np.float32)
        # 3D keypoints about their mean
        r3 = ((x - x.mean(1, keepdims=True)) - self.world[rows]) / self.weights.metres
        np.subtract(dx, dx.mean(2, keepdims=True), out=j[..., 2:])
        j[..., 2:] *= np.float32(1 / self.weights.metres)
        # 2D keypoints
        dx[:, [3, 4, 5], :, [0, 1, 2]] = 1.0
        p = x + wrist[:, None]
        z = np.maximum(p[..., 2], 0.05)
        sigma = self.pixel_sigma[rows, None]
        focal = np.array([cam.fx, cam.fy])
        image = p[..., :2] / z[..., None]
        r2 = (image * focal + (cam.cx, cam.cy) - self.points[rows]) / sigma[..., None]
        np.subtract(dx[..., :2], image[:, None].astype(np.float32) * dx[..., 2:], out=j[..., :2])
        j[..., :2] *= (focal / (z * sigma)[..., None])[:, None].astype(np.float32)
        r = np.concatenate([r2, r3], -1).reshape(n, -1)
        rows_of_j = j.reshape(n, 6 + dofs, -1)
        cost, gradient = (r**2).sum(1), (rows_of_j @ r[..., None].astype(np.float32))[..., 0].astype(np.float64)
        normal = (rows_of_j @ np.swapaxes(rows_of_j, 1, 2)).astype(np.float64)
        self._add_priors(q, cost, gradient, normal)
        return cost, gradient, normal

    def _add_priors(self, q: np.ndarray, cost: np.ndarray, gradient: np.ndarray, normal: np.ndarray) -> None:
        """Rest, limits, and the coupling of a finger's last two joints; in place."""
        own = 6 + np.arange(len(self.dofs))
        over = np.maximum(q - self.high, 0) + np.minimum(q - self.low, 0)
        limit = 1 / self.weights.limit**2
        cost += ((q / self.sigma) ** 2 + over**2 * limit).sum(1)
        gradient[:, own] += q / self.sigma**2 + over * limit
        normal[:, own, own] += 1 / self.sigma**2 + (over != 0) * limit
        middle, end = self.coupled
        apart = (q[:, end] - 2 / 3 * q[:, middle]) / self.weights.coupling
        cost += (apart**2).sum(1)
        for factor, index in ((1.0, end), (-2 / 3, middle)):
            gradient[:, 6 + index] += factor * apart / self.weights.coupling
            normal[:, 6 + index, 6 + index] += (factor / self.weights.coupling) ** 2
        normal[:, 6 + end, 6 + middle] -= 2 / 3 / self.weights.coupling**2
        normal[:, 6 + middle, 6 + end] -= 2 / 3 / self.weights.coupling**2

    def solve(self, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """Poses (N, J, 3) and wrists (N, 3) after at most so many steps; hands that have settled are left alone."""
        turn, wrist, q = self.start()
        cost, gradient, normal = self.evaluate(turn, wrist, q)
        damping = np.full(len(q), 1e-3)
        active = np.arange(len(q))
        for _ in range(iterations):
            if not len(active):
                break
            diagonal = np.einsum("nii->ni", normal[active])
            system = normal[active]
            np.einsum("nii->ni", system)[:] += damping[active, None] * diagonal + 1e-9
            step = -np.linalg.solve(system, gradient[active][..., None])[..., 0]
            step[:, :3] = np.clip(step[:, :3], -1.0, 1.0)
            step[:, 6:] = np.clip(step[:, 6:], -0.7, 0.7)
            new_turn = Rotation.from_rotvec(step[:, :3]).as_matrix() @ turn[active]
            new_wrist, new_q = wrist[active] + step[:, 3:6], q[active] + step[:, 6:]
            new_wrist[:, 2] = np.maximum(new_wrist[:, 2], 0.1)
            new_cost, new_gradient, new_normal = self.evaluate(new_turn, new_wrist, new_q, active)
            better = new_cost < cost[active]
            settled = better & (cost[active] - new_cost < 2e-3 * new_cost)
            taken = active[better]
            turn[taken], wrist[taken], q[taken] = new_turn[better], new_wrist[better], new_q[better]
            cost[taken], gradient[taken], normal[taken] = new_cost[better], new_gradient[better], new_normal[better]
            damping[active] *= np.where(better, 0.2, 10.0)
            active = active[~settled & (damping[active] < 1e6)]
        pose = self.angles_to_pose(q)
        pose[:, 0] = axis_angles(turn)
        return pose, wrist


def _bend(points: np.ndarray, k: int) -> np.ndarray:
    """Angle between the bones that meet in keypoint k, radians; points (N, 21, 3)."""
    a = points[:, k] - points[:, KEYPOINT_PARENTS[k]]
    b = points[:, k + 1] - points[:, k]
    cosine = (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-9)
    return np.arccos(np.clip(cosine, -1, 1))
