"""Hand-mesh vertices as point features on the latent grid: the guider's second kind of input, without a VAE.

The paper speaks of point clouds and mesh vertices "projected into feature space" without saying how. Here every vertex
that faces the camera falls into the latent position (8x8 pixels) it is seen in; a position holds, for each side, the
mean over its vertices of what `FEATURES` names. Right and left hand have channels of their own: averaged into one, two
hands that meet would give a normal and a depth that neither has. Vertices that face away are left out, because the
normals of the two faces of a thin hand cancel.

The frames of a latent frame are stacked, not averaged: how the hand moves within them is what an interaction consists
of, and an average over four frames would leave a blur of it. Latent frame 0 holds frame 0 alone; it is repeated, which
reads as a hand at rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.itryon.losses import TEMPORAL_FACTOR, num_latent_frames

SIDES = ("right", "left")
FEATURES = ("present", "offset_x", "offset_y", "depth", "normal_x", "normal_y", "normal_z", "garment_distance")
FRAME_CHANNELS = len(SIDES) * len(FEATURES)
"""Channels of one frame: side 0's features, then side 1's."""

POINT_CHANNELS = TEMPORAL_FACTOR * FRAME_CHANNELS
"""Channels of one latent frame: its four frames in time order."""

STEPS = 127
"""Features are multiples of 1 / 127, so int8 stores them without loss and training reads what inference computes."""

_CELL = 8  # pixels of a latent position, each way
_DEPTH_M = 0.1  # a hand reaches about this far before and behind its middle
_REACH = 0.25  # farthest garment distance told apart, as a share of the picture's shorter side


@dataclass(frozen=True)
class ProjectedHand:
    """One hand of one frame on the model's canvas.

    Attributes:
        points: (V, 2) vertices in canvas pixels, the first pixel's centre at (0, 0).
        vertices: (V, 3) vertices in metres in the camera frame (x right, y down, z away).
        normals: (V, 3) unit normals in that frame, outwards.
        side: right or left.
    """

    points: np.ndarray
    vertices: np.ndarray
    normals: np.ndarray
    side: str


def garment_distance(region: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the edge of the garment region, negative inside; -1 to 1, 1 without a region.

    Args:
        region: (H, W), nonzero inside. A distance of 1 is a quarter of the shorter side, or more.
    """
    import cv2  # only where features are made: the trainer has no need of it

    inside = (np.asarray(region) > 0).astype(np.uint8)
    if not inside.any():
        return np.ones(inside.shape, np.float32)
    if inside.all():
        return np.full(inside.shape, -1, np.float32)
    to_region = cv2.distanceTransform(1 - inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    to_outside = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip((to_region - to_outside) / (_REACH * min(inside.shape)), -1, 1)


def frame_points(hands: Sequence[ProjectedHand], region: np.ndarray) -> np.ndarray:
    """Point features of one frame.

    Per side and position, means over the vertices that face the camera and lie in it, all in -1 to 1: `present` is 1;
    `offset` is the place within the position; `depth` is from the hand's middle, 1 = 0.1 m behind it; `normal` in the
    camera frame; `garment_distance` as in the function of that name. All are 0 where the side has no vertex.

    Args:
        hands: The frame's hands, any number.
        region: (H, W) garment region on the canvas, nonzero inside; H and W multiples of 8.

    Returns:
        (16, H / 8, W / 8) float32, multiples of 1 / 127.

    Raises:
        ValueError: A side other than right and left, or a canvas of other size.
    """
    height, width = region.shape
    if height % _CELL or width % _CELL:
        raise ValueError(f"The canvas must be a multiple of {_CELL} pixels each way, not {width}x{height}")
    rows, columns = height // _CELL, width // _CELL
    out = np.zeros((len(SIDES), len(FEATURES), rows * columns), np.float64)
    distance = garment_distance(region)
    for side in sorted({h.side for h in hands}):
        if side not in SIDES:
            raise ValueError(f"A hand is right or left, not {side!r}")
        cells, values = zip(*(_vertex_features(h, distance) for h in hands if h.side == side))
        cell, value = np.concatenate(cells), np.concatenate(values)
        count = np.bincount(cell, minlength=rows * columns)
        for i in range(len(FEATURES)):
            total = np.bincount(cell, value[:, i], rows * columns)
            out[SIDES.index(side), i] = total / np.maximum(count, 1)
    return (np.rint(out * STEPS) / STEPS).reshape(FRAME_CHANNELS, rows, columns).astype(np.float32)


def _vertex_features(hand: ProjectedHand, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position number and features (N, 8) of the vertices that face the camera, inside the canvas."""
    height, width = distance.shape
    depth = hand.vertices[:, 2]
    place = (hand.points + 0.5) / _CELL
    seen = (hand.vertices * hand.normals).sum(-1) < 0
    # Behind the camera, projection means nothing.
    seen &= (depth > 0) & (place >= 0).all(-1) & (place < (width / _CELL, height / _CELL)).all(-1)
    place, points = place[seen], hand.points[seen]
    position = np.floor(place).astype(np.int64)
    column, row = np.floor(points + 0.5).astype(np.int64).T
    features = np.concatenate(
        [
            np.ones((len(place), 1)),
            2 * (place - position) - 1,
            np.clip((depth[seen] - depth.mean()) / _DEPTH_M, -1, 1)[:, None],
            hand.normals[seen],
            distance[row, column][:, None],
        ],
        1,
    )
    return position[:, 1] * (width // _CELL) + position[:, 0], features


def points_per_latent(per_frame: np.ndarray) -> np.ndarray:
    """(F, C, h, w) features of frames -> (4 C, T, h, w) of latent frames: frame 0 four times, then frames 4j-3 to 4j.

    Raises:
        ValueError: F is not 4n + 1.
    """
    count = num_latent_frames(len(per_frame))
    frames = np.concatenate([np.repeat(per_frame[:1], TEMPORAL_FACTOR - 1, axis=0), per_frame])
    grouped = frames.reshape(count, TEMPORAL_FACTOR * per_frame.shape[1], *per_frame.shape[2:])
    return np.ascontiguousarray(grouped.transpose(1, 0, 2, 3))
