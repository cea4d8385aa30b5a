"""The rig, its hands and its poses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from models.perception.hand_mesh import shared_mesh
from pipelines.studio.body import load_rig
from pipelines.studio.body.hand import GRIPS, HandRig, grip_rotations
from pipelines.studio.body.landmarks import Landmarks, hand_keypoints, visible
from pipelines.studio.body.posing import HandGoal, Poser, Trunk

SIDES = ("left", "right")


@pytest.fixture(scope="module")
def rig():
    return load_rig()


@pytest.fixture(scope="module")
def poser(rig):
    return Poser(rig, rig.shape())


def test_the_rest_pose_leaves_every_vertex_where_it_is(rig):
    shape = rig.shape()
    posed = rig.pose(shape, np.tile(np.eye(3), (len(rig.names), 1, 1)))
    assert np.abs(posed.skin(shape.vertices, rig.weights) - shape.vertices).max() < 1e-12


def test_forward_kinematics_agrees_with_a_walk_up_the_chain(rig):
    rng = np.random.default_rng(0)
    shape = rig.shape(rng.normal(size=rig.num_components))
    local = Rotation.from_rotvec(rng.normal(0, 0.4, (len(rig.names), 3))).as_matrix()
    posed = rig.pose(shape, local, np.array([1.0, 2.0, 3.0]))
    for name in ("finger3-3.L", "toe1-1.R", "head"):
        # A point of a bone is carried by each joint above it in turn, about where that joint is at rest.
        point = shape.joints[rig.index(name)] + [0.01, 0.02, 0.03]
        expected, joint = point.copy(), rig.index(name)
        while joint >= 0:
            expected = local[joint] @ (expected - shape.joints[joint]) + shape.joints[joint]
            joint = rig.parents[joint]
        expected = expected - shape.joints[0] + [1.0, 2.0, 3.0]
        affine = posed.affine[rig.index(name)]
        assert np.allclose(affine[:, :3] @ point + affine[:, 3], expected)


def test_bodies_differ_and_are_people(rig):
    heights = [np.ptp(rig.shape(c).vertices[:, 2]) for c in 1.5 * np.eye(rig.num_components)]
    assert all(1.4 < h < 2.1 for h in heights) and np.ptp(heights) > 0.05
    with pytest.raises(ValueError, match="coefficients"):
        rig.shape(np.zeros(3))


@pytest.mark.parametrize("side", SIDES)
def test_the_hand_is_the_hand_mesh_of_the_annotators(rig, side):
    """Vertex by vertex, after the best similarity: truth and annotations are compared in this order."""
    mine, theirs = rig.shape().vertices[rig.hands[side]], shared_mesh(side).vertices[:-1]
    a, b = theirs - theirs.mean(0), mine - mine.mean(0)
    u, d, vt = np.linalg.svd(a.T @ b)
    assert np.abs(b - d.sum() / (a**2).sum() * a @ (u @ vt)).max() < 0.0015


@pytest.mark.parametrize("side", SIDES)
def test_pinching_brings_thumb_and_index_together_and_a_flat_hand_is_straight(rig, side):
    shape = rig.shape()
    hand = HandRig(rig, shape, side)

    def keypoints(grip):
        local = np.tile(np.eye(3), (len(rig.names), 1, 1))
        local[hand.joints[1:]] = Rotation.from_rotvec(grip_rotations(side)[grip]).as_matrix()
        posed = rig.pose(shape, local)
        return hand_keypoints(hand, posed, posed.skin(shape.vertices, rig.weights))

    assert np.linalg.norm(np.subtract(*keypoints("pinch")[[4, 8]])) < 0.02
    assert np.linalg.norm(np.subtract(*keypoints("flat")[[4, 8]])) > 0.05
    reach = {g: np.linalg.norm(keypoints(g)[12] - keypoints(g)[0]) for g in GRIPS}
    assert reach["fist"] < 0.7 * reach["flat"]


@settings(max_examples=40, deadline=None)
@given(
    target=arrays(float, 3, elements=st.floats(-1, 1)),
    turn=arrays(float, 3, elements=st.floats(-1, 1)),
    side=st.sampled_from(SIDES),
)
def test_a_hand_arrives_where_it_is_sent_if_the_arm_is_long_enough(target, turn, side):
    rig = load_rig()
    poser = Poser(rig, rig.shape())
    hand = poser.hands[side]
    trunk = Trunk()
    local = poser.trunk(trunk)
    posed = poser.pose(trunk, local)
    shoulder = posed.positions[rig.index("upperarm01" + (".L" if side == "left" else ".R"))]
    a, b = poser._arms[side].lengths
    rotation = Rotation.from_rotvec(turn).as_matrix()
    far = np.linalg.norm(target)
    direction = target / far if far > 1e-3 else np.array([0.0, -1.0, 0.0])
    wrist = shoulder + direction * np.clip(np.linalg.norm(target), abs(a - b) + 0.05, 0.98 * (a + b))
    grip = {"pinch": 1.0}
    goal = HandGoal(wrist + rotation @ hand.point("pinch", grip), rotation, grip, "pinch", np.array([0.3, 0.4, -1.0]))
    poser.reach(local, posed, side, goal)
    posed = poser.pose(trunk, local)
    # The joint in the middle of the upper arm, which takes part of its twist, is not quite on its axis.
    assert np.linalg.norm(posed.positions[hand.wrist] - wrist) < 0.006
    assert np.allclose(posed.rotations[hand.wrist], rotation, atol=1e-6)
    assert np.allclose(local @ local.transpose(0, 2, 1), np.eye(3), atol=1e-9)


def test_landmarks_are_where_people_have_them(rig):
    shape = rig.shape()
    posed = rig.pose(shape, np.tile(np.eye(3), (len(rig.names), 1, 1)))
    p = Landmarks.of(rig, shape).positions(posed, shape.vertices)
    left, right = [1, 2, 3, 7, 9, *range(11, 33, 2)], [4, 5, 6, 8, 10, *range(12, 33, 2)]
    # The person's left is +x, the body is symmetric, the nose is the foremost point of the head and below the eyes.
    assert (p[left, 0] > 0).all() and np.allclose(p[left] * [-1, 1, 1], p[right], atol=0.006)
    assert p[0, 1] == p[:11, 1].min() and p[0, 2] < p[2, 2] and p[9, 2] < p[0, 2]
    assert p[7, 0] > p[3, 0] > p[2, 0] > p[1, 0] > 0
    heights = p[[2, 11, 13, 23, 25, 27, 29], 2]
    assert (np.diff(heights) < 0).all()


def test_what_is_behind_something_or_outside_is_not_visible():
    points = np.zeros((33, 3))
    points[:, 2] = 2.0
    pixels = np.tile([[5.0, 5.0]], (33, 1))
    pixels[3] = [-4, 5]
    depth = np.full((10, 10), 2.0)
    assert visible(points, pixels, depth).sum() == 32
    depth[5, 5] = 1.0
    assert not visible(points, pixels, depth).any()
