"""The renderer against projections made by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.perception.hand_mesh import HandMesh
from models.perception.hands.base import Camera
from models.perception.mesh_render import LEFT_COLOR, RIGHT_COLOR, render_hands, render_meshes

CAMERA = Camera(500.0, 520.0, 300.2, 250.7)
SQUARE = np.array([[0, 1, 2], [0, 2, 3]])


def facing(box: tuple[float, float, float, float], z: float) -> np.ndarray:
    """Corners of a rectangle at depth z that covers the box (x0, y0, x1, y1) of pixels."""
    u = np.array([[box[0], box[1]], [box[2], box[1]], [box[2], box[3]], [box[0], box[3]]])
    return np.column_stack([(u - (CAMERA.cx, CAMERA.cy)) / (CAMERA.fx, CAMERA.fy) * z, np.full(4, z)])


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_pixels_whose_centres_are_covered(shift: float) -> None:
    # Nudged off the centres themselves, where either answer is right.
    box = np.array([100, 50, 300, 200]) + shift + 0.05
    _, depth = render_meshes([(facing(tuple(box), 2.0), SQUARE, (1, 1, 1))], CAMERA, 480, 640)
    rows, columns = np.nonzero(np.isfinite(depth))
    assert columns.min() == np.ceil(box[0]) and columns.max() == np.floor(box[2])
    assert rows.min() == np.ceil(box[1]) and rows.max() == np.floor(box[3])
    np.testing.assert_allclose(depth[rows, columns], 2.0, rtol=1e-3)


def test_depth_is_true_to_perspective_and_nearer_wins() -> None:
    slanted = facing((100, 50, 300, 200), 1.0) * np.array([2.0, 4.0, 4.0, 2.0])[:, None]
    near = facing((150, 100, 180, 130), 1.0)
    picture, depth = render_meshes([(near, SQUARE, (1, 0, 0)), (slanted, SQUARE, (0, 1, 0))], CAMERA, 480, 640)
    share = (240 - 100) / 200
    assert depth[150, 240] == pytest.approx(1 / ((1 - share) / 2 + share / 4), rel=2e-3)
    assert depth[115, 165] == pytest.approx(1.0, rel=1e-3)
    assert picture[115, 165, 1] == 0 and picture[150, 240, 0] == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_hand_covers_what_its_vertices_project_to(side: str) -> None:
    mesh = HandMesh(side)
    pose = np.zeros((1, 20, 3))
    pose[0, 0] = (0.3, 1.2, 0.4)
    vertices, _ = mesh(pose, translation=np.array([[0.05, 0.1, 0.8]]))
    picture, depth = render_hands([vertices[0]], [mesh.faces], [side], CAMERA, 480, 640)
    # Silhouette: triangles filled one by one.
    silhouette = np.zeros((480, 640), np.uint8)
    pixels = CAMERA.project(vertices[0])
    for face in mesh.faces:
        cv2.fillConvexPoly(silhouette, np.round(pixels[face] * 16).astype(np.int32), 1, shift=4)
    seen = np.isfinite(depth)
    assert (seen & (silhouette > 0)).sum() / (seen | (silhouette > 0)).sum() > 0.93
    assert (picture.any(-1) == seen).all()
    # Nothing is drawn deeper than a vertex that projects there, but for vertices on the outline.
    u, v = np.round(pixels).astype(int).T
    around = cv2.erode(np.nan_to_num(depth, posinf=1e6), np.ones((3, 3)))
    assert (around[v, u] < vertices[0, :, 2] + 0.002).all()
    color = picture[seen].astype(float).mean(0)
    dominant = {"right": RIGHT_COLOR, "left": LEFT_COLOR}[side]
    np.testing.assert_allclose(color / color.max(), dominant, atol=0.03)
    assert picture[seen].max(0).max() > 150 and picture[seen].std() > 10  # lit, not flat


def test_crop_does_not_show() -> None:
    """A hand half out of the frame is drawn as in a larger frame."""
    mesh = HandMesh("right")
    vertices, _ = mesh(np.zeros((1, 20, 3)), translation=np.array([[-0.45, -0.4, 0.9]]))
    wide = Camera(CAMERA.fx, CAMERA.fy, CAMERA.cx + 200, CAMERA.cy + 200)
    small, depth = render_hands([vertices[0]], [mesh.faces], ["right"], CAMERA, 480, 640)
    large, _ = render_hands([vertices[0]], [mesh.faces], ["right"], wide, 880, 1040)
    assert np.isfinite(depth).any()
    apart = np.abs(small.astype(int) - large[200:680, 200:840].astype(int)).max(-1)
    assert (apart > 8).mean() < 1e-3


def test_nothing_to_draw() -> None:
    mesh = HandMesh("right")
    behind, _ = mesh(np.zeros((1, 20, 3)), translation=np.array([[0, 0, -1.0]]))
    aside, _ = mesh(np.zeros((1, 20, 3)), translation=np.array([[5.0, 0, 1.0]]))
    for meshes in ([], [behind[0]], [aside[0]]):
        faces, sides = [mesh.faces] * len(meshes), ["right"] * len(meshes)
        picture, depth = render_hands(meshes, faces, sides, CAMERA, 48, 64)
        assert not picture.any() and np.isinf(depth).all()


def test_both_hands_are_drawn_wherever_they_are() -> None:
    rng = np.random.default_rng(0)
    pair = [HandMesh(side) for side in ("left", "right")]
    for _ in range(40):
        place = rng.uniform((-0.3, -0.2, 0.8), (0.3, 0.2, 1.3), (2, 3))
        place[1, 0] = place[0, 0] + np.sign(place[1, 0] - place[0, 0]) * 0.3  # side by side
        vertices = [m(rng.normal(0, 0.2, (1, 20, 3)), translation=p[None])[0][0] for m, p in zip(pair, place)]
        faces, sides = [m.faces for m in pair], ["left", "right"]
        both, depth = render_hands(vertices, faces, sides, CAMERA, 240, 320)
        alone = [
            np.isfinite(render_hands([v], [f], [s], CAMERA, 240, 320)[1]) for v, f, s in zip(vertices, faces, sides)
        ]
        seen = np.isfinite(depth)
        assert (seen != (alone[0] | alone[1])).mean() < 1e-4
        assert (both.any(-1) == seen).all()
