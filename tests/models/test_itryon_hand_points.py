"""Point features of hand meshes against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.itryon.hand_points import (
    FEATURES,
    FRAME_CHANNELS,
    POINT_CHANNELS,
    ProjectedHand,
    frame_points,
    garment_distance,
    points_per_latent,
)
from models.perception.hands.base import Camera
from models.perception.mesh_render import vertex_normals
from models.perception.topologies import posed_hand

H, W = 32, 48
CAMERA = Camera(60.0, 60.0, 20.0, 15.0)


def hand(side: str, at: tuple[float, float, float], turn: float = 0.0, camera: Camera = CAMERA) -> ProjectedHand:
    pose = np.zeros((1, 20, 3))
    pose[0, 0] = (0.3, turn, 0.2)
    vertices, faces = posed_hand("cc0_hand", side, pose, np.ones(21), np.array([at]))
    return ProjectedHand(camera.project(vertices[0]), vertices[0], vertex_normals(vertices[0], faces), side)


def region() -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[10:28, 14:30] = 1
    return mask


def loop(hands: list[ProjectedHand], mask: np.ndarray) -> np.ndarray:
    """The definition, vertex by vertex."""
    out = np.zeros((2, 8, H // 8, W // 8))
    pixels = [(r, c) for r in range(H) for c in range(W)]
    for s, side in enumerate(("right", "left")):
        sums: dict[tuple[int, int], list[np.ndarray]] = {}
        for h in hands:
            if h.side != side:
                continue
            middle = sum(h.vertices[:, 2]) / len(h.vertices)
            for (x, y), vertex, normal in zip(h.points, h.vertices, h.normals):
                column, row = int(np.floor((x + 0.5) / 8)), int(np.floor((y + 0.5) / 8))
                if vertex @ normal >= 0 or vertex[2] <= 0 or not (0 <= column < W // 8 and 0 <= row < H // 8):
                    continue
                pr, pc = int(np.floor(y + 0.5)), int(np.floor(x + 0.5))
                others = [np.hypot(r - pr, c - pc) for r, c in pixels if mask[r, c] != mask[pr, pc]]
                distance = min(others) * (-1 if mask[pr, pc] else 1) / (0.25 * min(H, W))
                in_cell = (x + 0.5) / 4 - 2 * column - 1, (y + 0.5) / 4 - 2 * row - 1
                depth = (vertex[2] - middle) / 0.1
                values = [1, *in_cell, min(max(depth, -1), 1), *normal, min(max(distance, -1), 1)]
                sums.setdefault((row, column), []).append(np.array(values))
        for (row, column), values in sums.items():
            out[s, :, row, column] = np.round(sum(values) / len(values) * 127) / 127
    return out.reshape(16, H // 8, W // 8)


@pytest.mark.parametrize(
    "hands",
    [
        [],
        [hand("right", (0.0, 0.0, 0.5))],
        [hand("right", (-0.05, 0.0, 0.5), 2.5), hand("left", (0.1, 0.02, 0.4), -0.5)],
        [hand("left", (-0.2, -0.1, 0.45))],  # partly outside of the picture
        [hand("left", (3.0, 0.0, 0.5))],  # wholly outside
    ],
)
def test_features_equal_a_loop_over_vertices(hands):
    found = frame_points(hands, region())
    assert found.shape == (FRAME_CHANNELS, H // 8, W // 8) and found.dtype == np.float32
    # A mean that lies on the border of two steps may round either way.
    np.testing.assert_allclose(found, loop(hands, region()), atol=1e-6 + 1 / 127 if hands else 0)
    assert (np.abs(found - loop(hands, region())) > 1e-6).mean() < 0.01
    assert np.abs(found).max(initial=0) <= 1 and np.array_equal(np.rint(found * 127) / 127, found.astype(np.float64))


def test_sides_have_channels_of_their_own_and_the_hand_lies_where_it_is_seen():
    right, left = hand("right", (-0.1, 0.0, 0.5)), hand("left", (0.15, 0.0, 0.5))
    both = frame_points([left, right], region()).reshape(2, 8, H // 8, W // 8)
    assert np.array_equal(both[0], frame_points([right], region())[:8])
    assert np.array_equal(both[1], frame_points([left], region())[8:])
    for s, h in enumerate((right, left)):
        rows, columns = np.nonzero(both[s, FEATURES.index("present")])
        cells = np.floor((h.points + 0.5) / 8)
        assert len(rows) and cells[:, 0].min() <= columns.min() and columns.max() <= cells[:, 0].max()
        assert cells[:, 1].min() <= rows.min() and rows.max() <= cells[:, 1].max()
    # What is seen faces the camera, which looks along +z.
    seen = both[:, 0] > 0
    assert seen.any() and (both[:, FEATURES.index("normal_z")][seen] < 0).all()


def test_a_hand_that_moves_within_a_cell_is_told_from_one_at_rest():
    at_rest = [frame_points([hand("right", (0.0, 0.0, 0.5))], region())] * 5
    moving = [frame_points([hand("right", (0.004 * i, 0.0, 0.5))], region()) for i in range(5)]
    # Moved by under half a pixel a frame; the four frames of latent frame 1 differ.
    a, b = (points_per_latent(np.stack(p)).reshape(4, 16, 2, H // 8, W // 8)[:, :, 1] for p in (at_rest, moving))
    assert np.ptp(a, axis=0).max() == 0 and np.ptp(b, axis=0).max() > 0.1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_garment_distance_equals_the_nearest_pixel_of_the_other_kind(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((8, 11)) < rng.random()
    found = garment_distance(mask)
    for r in range(8):
        for c in range(11):
            others = np.argwhere(mask != mask[r, c])
            nearest = np.sqrt(((others - (r, c)) ** 2).sum(1).min()) / 2 if len(others) else np.inf
            expected = np.clip(-nearest if mask[r, c] else nearest, -1, 1)
            assert found[r, c] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_latent_frames_hold_the_frames_of_the_vae(frames):
    values = np.random.default_rng(0).normal(size=(frames, 16, 4, 6)).astype(np.float32)
    stacked = points_per_latent(values)
    assert stacked.shape == (POINT_CHANNELS, (frames - 1) // 4 + 1, 4, 6)
    for j in range(stacked.shape[1]):
        members = [0, 0, 0, 0] if j == 0 else [4 * j - 3, 4 * j - 2, 4 * j - 1, 4 * j]
        assert np.array_equal(stacked[:, j], np.concatenate([values[m] for m in members]))


def test_refusals():
    with pytest.raises(ValueError, match="multiple of 8"):
        frame_points([], np.zeros((30, 48)))
    with pytest.raises(ValueError, match="right or left"):
        frame_points([hand("right", (0, 0, 0.5)).__class__(*(np.zeros((1, n)) for n in (2, 3, 3)), "both")], region())
    with pytest.raises(ValueError, match="4n"):
        points_per_latent(np.zeros((4, 16, 2, 2)))
