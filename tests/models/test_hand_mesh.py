"""The hand mesh against linear blend skinning written out one vertex at a time, and what its shape promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from models.perception.hand_ik import bone_lengths
from models.perception.hand_mesh import NUM_SHAPE, TIPS, HandMesh, axis_angles, mirrored, rotation_matrices
from models.perception.mesh_render import vertex_normals


def skew(v: np.ndarray) -> np.ndarray:
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


def chain(mesh: HandMesh, pose: np.ndarray, joint: int) -> np.ndarray:
    """4x4 map from the rest pose to the posed hand along the ancestors of one joint, by matrix exponentials."""
    total = np.eye(4)
    while joint >= 0:
        turn, there, back = np.eye(4), np.eye(4), np.eye(4)
        turn[:3, :3] = expm(skew(pose[joint]))
        there[:3, 3], back[:3, 3] = mesh.joints[joint], -mesh.joints[joint]
        total = there @ turn @ back @ total
        joint = mesh.parents[joint]
    return total


@pytest.mark.parametrize("side", ["left", "right"])
def test_skinning_is_the_weighted_sum_of_joint_maps(side: str) -> None:
    mesh = HandMesh(side)
    pose = np.random.default_rng(0).normal(0, 0.4, (len(mesh.joints), 3))
    move = np.array([0.1, -0.2, 0.9])
    vertices, keypoints = mesh(pose[None], translation=move[None])
    maps = [chain(mesh, pose, j) for j in range(len(mesh.joints))]
    for v in range(0, len(mesh.vertices), 23):
        point = np.append(mesh.vertices[v], 1.0)
        expected = sum(w * (m @ point)[:3] for w, m in zip(mesh.weights[v], maps)) + move
        np.testing.assert_allclose(vertices[0, v], expected, atol=1e-12)
    for k in range(21):
        rest = mesh.tips[TIPS.tolist().index(k)] if k in TIPS else mesh.joints[mesh.keypoint_joint[k]]
        expected = (maps[mesh.keypoint_joint[k]] @ np.append(rest, 1.0))[:3] + move
        np.testing.assert_allclose(keypoints[0, k], expected, atol=1e-12)


def test_left_hand_mirrors_the_right_one() -> None:
    pose = np.random.default_rng(1).normal(0, 0.4, (2, 20, 3))
    right, right_points = HandMesh("right")(pose)
    left, left_points = HandMesh("left")(mirrored(pose))
    np.testing.assert_allclose(left, right * (-1, 1, 1), atol=1e-12)
    np.testing.assert_allclose(left_points, right_points * (-1, 1, 1), atol=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
def test_mesh_is_watertight_and_faces_outwards(side: str) -> None:
    mesh = HandMesh(side)
    edges = {(int(a), int(b)) for f in mesh.faces for a, b in zip(f, np.roll(f, -1))}
    assert len(edges) == mesh.faces.size
    assert all((b, a) in edges for a, b in edges)
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
    assert 1.5e-4 < volume < 5e-4  # cubic metres: a hand is about a third of a litre
    normals = vertex_normals(mesh.vertices, mesh.faces)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-9)


def test_keypoints_are_a_hand() -> None:
    _, points = HandMesh("right")(np.zeros((1, 20, 3)))
    tips = np.linalg.norm(points[0, TIPS], axis=1)
    assert tips.argmax() == 2  # the middle finger reaches farthest
    assert 0.15 < tips.max() < 0.22
    # Fingers lie side by side in order: thumb, index, middle, ring, little finger along -z for the right hand.
    assert (np.diff(points[0, [5, 9, 13, 17], 2]) < 0).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(0.7, 1.3), st.lists(st.floats(0.6, 1.7), min_size=20, max_size=20), st.integers(0, 2**31))
def test_shape_sets_bone_lengths_in_any_pose(scale: float, lengths: list[float], seed: int) -> None:
    mesh = HandMesh("right")
    pose = np.random.default_rng(seed).normal(0, 0.3, (1, 20, 3))
    # The metacarpals would change the straight distance from wrist to knuckle.
    pose[:, [i for i, n in enumerate(mesh.names) if n.startswith("metacarpal")]] = 0
    rest = bone_lengths(mesh(np.zeros((1, 20, 3)))[1][0])
    shape = np.array([scale, *lengths])
    _, points = mesh(pose, shape)
    np.testing.assert_allclose(bone_lengths(points[0]), scale * np.array(lengths) * rest, rtol=1e-6)
    np.testing.assert_allclose(mesh.keypoints(pose, shape), points, atol=1e-12)


def test_unit_shape_is_the_mesh_itself() -> None:
    mesh = HandMesh("right")
    for ours, given_ in zip(mesh.rest(np.ones(NUM_SHAPE)), mesh.rest()):
        np.testing.assert_allclose(ours, given_, atol=1e-12)


def test_wrong_shape_and_side_are_refused() -> None:
    with pytest.raises(ValueError, match="21 coefficients"):
        HandMesh("right").rest(np.ones(10))
    with pytest.raises(ValueError, match="left or right"):
        HandMesh("both")


def test_rotations_round_trip() -> None:
    vectors = np.random.default_rng(2).normal(0, 0.8, (5, 20, 3))
    np.testing.assert_allclose(axis_angles(rotation_matrices(vectors)), vectors, atol=1e-9)
    mirror = np.diag([-1.0, 1.0, 1.0])
    np.testing.assert_allclose(
        rotation_matrices(mirrored(vectors)), mirror @ rotation_matrices(vectors) @ mirror, atol=1e-12
    )
