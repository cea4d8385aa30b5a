"""Fits the CC0 hand mesh to 21 keypoints by inverse kinematics: all frames of a video at once, one shape for them all.

Only the fit of single frames and of the shape they share belongs here; smoothing over time is the caller's, and the
solver is in `hand_ik_solver`. Everything is solved for the right hand; a left one is mirrored before and after.
"""

from __future__ import annotations

import numpy as np

from models.perception.hand_ik_solver import FitWeights, HandSolver
from models.perception.hand_mesh import KEYPOINT_PARENTS, mirrored, rotation_matrices, shared_mesh
from models.perception.hands.base import MIRROR, Camera, HandFit

_CHUNK = 128


def bone_lengths(keypoints: np.ndarray) -> np.ndarray:
    """Lengths of the 20 bones of keypoints (..., 21, 3), in the order of the keypoint at their far end."""
    return np.linalg.norm(keypoints[..., 1:, :] - keypoints[..., KEYPOINT_PARENTS[1:], :], axis=-1)


def estimate_shape(world: np.ndarray, scale_range: tuple[float, float] = (0.7, 1.3)) -> np.ndarray:
    """Shape coefficients (21,) of the hand whose bones are as long as the median over frames (T, 21, 3), metres.

    The uniform scale is that of the palm, within what hands of people measure; every bone may be 0.6 to 1.7 times as
    long as the mesh's.
    """
    mesh = shared_mesh("right")
    rest = mesh.keypoints(np.zeros((1, len(mesh.joints), 3)))
    ratio = np.median(bone_lengths(np.asarray(world, np.float64)), axis=0) / bone_lengths(rest[0])
    scale = float(np.clip(np.mean(ratio[[4, 8, 12, 16]]), *scale_range))
    return np.concatenate([[scale], np.clip(ratio / scale, 0.6, 1.7)])


def refine_shape(
    observed: list[tuple[np.ndarray, np.ndarray, str]],
    camera: Camera,
    shape: np.ndarray,
    weights: FitWeights | None = None,
    rounds: int = 2,
    frames: int = 32,
) -> np.ndarray:
    """Bone lengths that fit many frames at once, starting from `shape` (21,).

    The network's metric bones are a guess; how long they are in the picture, over many poses, is not. For given
    rotations keypoints are linear in bone lengths, so each round is one least-squares problem after one fit.

    Args:
        observed: Points (T, 21, 2), world points (T, 21, 3) and handedness of each track.
        camera: Full-frame camera.
        shape: Where to start; its uniform scale stays.
        weights: As in `fit_hands`.
        rounds: Fits.
        frames: How many frames of all tracks are looked at, evenly spaced.
    """
    weights = weights or FitWeights()
    canonical = [_canonical(np.asarray(p, np.float64), np.asarray(w, np.float64), camera, h) for p, w, h in observed]
    points, world = (np.concatenate([c[i] for c in canonical]) for i in range(2))
    chosen = np.unique(np.linspace(0, len(points) - 1, frames).astype(int))
    points, world = points[chosen], world[chosen]
    start, shape = shape[1:].copy(), shape.copy()
    for _ in range(rounds):
        pose, wrist = HandSolver(points, world, camera, shape, weights).solve(8)
        x = _posed(pose, shape)
        basis = np.stack([_posed(pose, shape + step) - x for step in np.eye(21)[1:]], -1)  # (N, 21, 3, 20)
        size = np.maximum(np.ptp(points, axis=1).max(-1), 4.0)
        sigma = np.maximum(weights.pixels * size, 0.5)[:, None, None]
        camera_points = x + wrist[:, None]
        z = camera_points[..., 2:]
        image = camera_points[..., :2] / z
        focal = np.array([camera.fx, camera.fy])
        r2 = (image * focal + (camera.cx, camera.cy) - points) / sigma
        j2 = (basis[:, :, :2] - image[..., None] * basis[:, :, 2:]) * (focal / (z * sigma))[..., None]
        r3 = ((x - x.mean(1, keepdims=True)) - (world - world.mean(1, keepdims=True))) / weights.metres
        j3 = (basis - basis.mean(1, keepdims=True)) / weights.metres
        j = np.concatenate([j2.reshape(-1, 20), j3.reshape(-1, 20)])
        r = np.concatenate([r2.ravel(), r3.ravel()])
        # Errors of frames of one video are alike: they count as a tenth of their number against the prior.
        prior = 0.1 * len(points) / 0.1**2
        step = np.linalg.solve(j.T @ j + prior * np.eye(20), -(j.T @ r + prior * (shape[1:] - start)))
        shape[1:] = np.clip(shape[1:] + step, 0.6, 1.7)
    return shape


def _posed(pose: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return shared_mesh("right").keypoints(pose, shape)


def _canonical(points: np.ndarray, world: np.ndarray, camera: Camera, handedness: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and camera-aligned metres of the hand as a right one: a left hand is mirrored about the camera's axis."""
    turned = np.einsum("tij,tkj->tki", viewing_rotation(points, camera), world)
    if handedness == "left":
        return (2 * camera.cx, 0.0) + points * (-1.0, 1.0), turned * MIRROR
    return points, turned


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
    points, turned = _canonical(points, world, camera, handedness)
    poses, translations = [], []
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        solver = HandSolver(points[part], turned[part], camera, shape, weights or FitWeights())
        pose, translation = solver.solve(iterations)
        poses.append(pose)
        translations.append(translation)
    if not poses:
        return HandFit(np.zeros((0, len(shared_mesh("right").joints), 3)), shape, np.zeros((0, 3)))
    pose, translation = np.concatenate(poses), np.concatenate(translations)
    if handedness == "left":
        pose, translation = mirrored(pose), translation * MIRROR
    return HandFit(pose, shape, translation)
