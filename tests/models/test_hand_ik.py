"""Inverse kinematics: derivatives against differences, and round trips through poses that hands can take."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from models.perception.hand_ik import bone_lengths, estimate_shape, fit_hands, refine_shape, viewing_rotation
from models.perception.hand_ik_solver import FitWeights, HandSolver, freedoms
from models.perception.hand_mesh import NUM_SHAPE, HandMesh, mirrored
from models.perception.hands.base import MIRROR, Camera, HandFit

CAMERA = Camera.from_field_of_view(640, 480, 55.0)


def random_hands(count: int, seed: int, handedness: str = "right", shape: np.ndarray | None = None) -> HandFit:
    """Hands in any orientation, joints within three quarters of their limits, half a metre to two metres away."""
    rng = np.random.default_rng(seed)
    dofs = freedoms()
    pose = np.zeros((count, 20, 3))
    low, high = np.array([d.low for d in dofs]), np.array([d.high for d in dofs])
    spread = np.array([min(1.0, 1.5 * d.sigma / (d.high - d.low)) for d in dofs])
    q = 0.75 * spread * (low + (high - low) * rng.uniform(0, 1, (count, len(dofs))))
    for i, dof in enumerate(dofs):
        pose[:, dof.joint] += q[:, i, None] * dof.axis
    pose[:, 0] = Rotation.random(count, random_state=seed).as_rotvec()
    z = rng.uniform(0.5, 2.0, count)
    place = np.stack([rng.uniform(-0.35, 0.35, count) * z, rng.uniform(-0.25, 0.25, count) * z, z], -1)
    if handedness == "left":
        pose = mirrored(pose)
    return HandFit(pose, np.ones(NUM_SHAPE) if shape is None else shape, place)


def observe(truth: HandFit, handedness: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints, their projections, and what a network would call world landmarks (axes of the viewing ray)."""
    _, keypoints = HandMesh(handedness)(truth.pose, truth.shape, truth.translation)
    points = CAMERA.project(keypoints)
    world = keypoints - keypoints.mean(1, keepdims=True)
    return keypoints, points, np.einsum("tji,tkj->tki", viewing_rotation(points, CAMERA), world)


@pytest.mark.parametrize("handedness", ["left", "right"])
def test_round_trip(handedness: str) -> None:
    truth = random_hands(64, 3, handedness)
    keypoints, points, world = observe(truth, handedness)
    fit = fit_hands(points, world, CAMERA, handedness, truth.shape)
    _, found = HandMesh(handedness)(fit.pose, fit.shape, fit.translation)
    pixels = np.linalg.norm(CAMERA.project(found) - points, axis=-1).mean(1)
    about = found - found.mean(1, keepdims=True) - (keypoints - keypoints.mean(1, keepdims=True))
    millimetres = 1e3 * np.linalg.norm(about, axis=-1).mean(1)
    assert np.median(pixels) < 0.5 and np.percentile(pixels, 95) < 2.0
    assert np.median(millimetres) < 2.0 and np.percentile(millimetres, 95) < 6.0
    depth = np.abs(fit.translation[:, 2] / truth.translation[:, 2] - 1)
    assert np.median(depth) < 0.01


def test_noise_is_averaged_not_amplified() -> None:
    truth = random_hands(64, 4)
    keypoints, points, world = observe(truth, "right")
    rng = np.random.default_rng(0)
    noisy = world + rng.normal(0, 0.008, world.shape)
    fit = fit_hands(points + rng.normal(0, 1.0, points.shape), noisy, CAMERA, "right", truth.shape)
    _, found = HandMesh("right")(fit.pose, fit.shape, fit.translation)
    error = found - found.mean(1, keepdims=True) - (keypoints - keypoints.mean(1, keepdims=True))
    noise = noisy - world
    assert np.linalg.norm(error, axis=-1).mean() < 0.7 * np.linalg.norm(noise, axis=-1).mean()


def test_gradient_agrees_with_differences() -> None:
    truth = random_hands(4, 5)
    _, points, world = observe(truth, "right")
    turned = np.einsum("tij,tkj->tki", viewing_rotation(points, CAMERA), world)
    solver = HandSolver(points, turned, CAMERA, truth.shape, FitWeights())
    rng = np.random.default_rng(1)
    turn, wrist, _ = solver.start()
    q = rng.normal(0, 0.3, (4, len(solver.dofs)))
    q[:, ::4] += 1.0  # some beyond their limits

    def cost(unknowns: np.ndarray) -> np.ndarray:
        turned = Rotation.from_rotvec(unknowns[:, :3]).as_matrix() @ turn
        return solver.evaluate(turned, wrist + unknowns[:, 3:6], q + unknowns[:, 6:])[0]

    _, half, normal = solver.evaluate(turn, wrist, q)
    step = 1e-5
    for i in range(normal.shape[1]):
        change = np.zeros((4, normal.shape[1]))
        change[:, i] = step
        numeric = (cost(change) - cost(-change)) / (2 * step)
        np.testing.assert_allclose(2 * half[:, i], numeric, rtol=2e-3, atol=2e-3 * np.abs(half).max())
    assert (np.linalg.eigvalsh(normal) > 0).all()


def test_joint_angles_keep_their_limits() -> None:
    truth = random_hands(16, 6)
    _, points, world = observe(truth, "right")
    # Fingers bent backwards, as no hand can: the fit must refuse most of it.
    broken = world.copy()
    broken[:, [7, 8]] = 2 * broken[:, [6]] - broken[:, [7, 8]]
    solver = HandSolver(points, broken, CAMERA, truth.shape, FitWeights(pixels=10.0))
    pose, _ = solver.solve(12)
    for dof in freedoms():
        alone = sum(d.joint == dof.joint for d in freedoms()) == 1
        if alone:
            angle = pose[:, dof.joint] @ dof.axis
            assert (angle > dof.low - np.radians(10)).all() and (angle < dof.high + np.radians(10)).all()


def test_shape_is_recovered_from_many_frames() -> None:
    rng = np.random.default_rng(7)
    shape = np.array([0.9, *rng.uniform(0.85, 1.2, 20)])
    truth = random_hands(48, 8, shape=shape)
    keypoints, points, world = observe(truth, "right")
    first = estimate_shape(world)
    lengths = HandMesh("right")(np.zeros((1, 20, 3)), first)[1][0]
    expected = np.median(bone_lengths(keypoints), axis=0)
    np.testing.assert_allclose(bone_lengths(lengths), expected, rtol=0.02)
    wrong = first.copy()
    wrong[1:] *= rng.uniform(0.93, 1.07, 20)
    refined = refine_shape([(points, world, "right")], CAMERA, wrong)

    def error(s: np.ndarray) -> float:
        fit = fit_hands(points, world, CAMERA, "right", s)
        return float(
            np.linalg.norm(CAMERA.project(HandMesh("right")(fit.pose, s, fit.translation)[1]) - points, axis=-1).mean()
        )

    assert error(refined) < 0.6 * error(wrong)


def test_both_hands_share_a_shape_through_the_mirror() -> None:
    right, left = random_hands(24, 9), random_hands(24, 9, "left")
    left.translation = right.translation * MIRROR
    seen = [(*observe(t, side)[1:], side) for t, side in ((right, "right"), (left, "left"))]
    start = np.ones(NUM_SHAPE)
    start[1:] = 1.05
    shapes = [refine_shape([s], CAMERA, start) for s in seen]
    np.testing.assert_allclose(shapes[0], shapes[1], atol=1e-3)


def test_no_frames_no_hands() -> None:
    fit = fit_hands(np.zeros((0, 21, 2)), np.zeros((0, 21, 3)), CAMERA, "left", np.ones(NUM_SHAPE))
    assert fit.pose.shape == (0, 20, 3) and fit.translation.shape == (0, 3)
