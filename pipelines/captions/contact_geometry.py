"""What the contact network is told of a hand's geometry: numbers in units of the body, alike for both hands.

Everything is seen from the torso, and a left hand is mirrored onto the right one, so size, place and side in the
picture do not show. Values are sampled on a regular grid in time, so neither does the frame rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.captions.features import (
    ELBOW,
    INDEX_KNUCKLE,
    INDEX_TIP,
    LEFT_HIP,
    LEFT_SHOULDER,
    PALM,
    PINKY_KNUCKLE,
    RIGHT_HIP,
    RIGHT_SHOULDER,
    THUMB_TIP,
    WRIST,
    Body,
    Hand,
    hand_distance,
    unit_vectors,
)
from pipelines.captions.tracks import Tracks

GRID_FPS = 15.0
"""Samples a second. A hand that reaches, grips or lets go takes a fifth of a second at least."""

_TIPS = (4, 8, 12, 16, 20)
_CHAINS = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
_MIDDLE_KNUCKLE, _MIDDLE_TIP, _NOSE = 9, 12, 0
_POSE_PINKY, _POSE_INDEX = {"left": 17, "right": 18}, {"left": 19, "right": 20}
_CORNERS = [LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP]
_FAR = 4.0
"""Body units; what a landmark that was lost can be off by must not drown the rest."""

_XY, _XYZ = ("x", "y"), ("x", "y", "z")
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")


def _named(stem: str, parts: Sequence[str]) -> list[str]:
    return [f"{stem}_{p}" for p in parts]


POSITIONS = (
    *_named("palm", _XY),
    *_named("reach", _XY),
)
"""Features from whose change in time a velocity is made."""

FEATURES: tuple[str, ...] = (
    *POSITIONS,
    *(name for f in _FINGERS for name in _named(f"tip_{f}", _XY)),
    *_named("wrist", _XY),
    *_named("palm_normal", _XYZ),
    *_named("fingers", _XYZ),
    *(f"curl_{f}" for f in _FINGERS),
    "pinch",
    "thumb_middle",
    "spread",
    "scale_hand",
    "size_palm",
    *_named("pose_elbow", _XY),
    *_named("pose_wrist", _XY),
    *_named("pose_hand", _XY),
    *_named("world_elbow", _XYZ),
    *_named("world_wrist", _XYZ),
    *_named("world_index", _XYZ),
    "length_upper",
    "length_fore",
    "flexion",
    *_named("visible", ("elbow", "wrist", "index")),
    *_named("other_hand", _XY),
    *_named("other_elbow", _XY),
    "other_flexion",
    "other_apart",
    "other_forearm",
    "other_along",
    *_named("nose", _XY),
    *_named("turn", _XYZ),
    "torso_aspect",
    "torso_narrow",
    "inside",
    "garment_around",
    "score",
    "known",
    "person",
    *(f"speed_{p}" for p in POSITIONS),
    *_named("speed_body", _XY),
)
"""Names of the features in order. The words before the first underscore are the groups that training leaves out."""


def measure_geometry(tracks: Tracks, around: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Features of both hands in every frame, without velocities.

    Args:
        tracks: Body and hands.
        around: Side -> shape (frames,), share of the hand's surroundings inside the garment; NaN where not known.

    Returns:
        Side -> shape (frames, features before the first `speed_`), NaN where not known.
    """
    apart = hand_distance(tracks.body)
    return {
        side: _of_hand(tracks.body, hand, tracks.hands[_other(side)], around[side], apart)
        for side, hand in tracks.hands.items()
    }


def on_grid(values: np.ndarray, times_s: np.ndarray, body: Body, grid_s: np.ndarray, side: str) -> np.ndarray:
    """Features at regular times, with velocities.

    Args:
        values: Shape (frames, columns), of `measure_geometry`.
        times_s: Shape (frames,), presentation times, ascending.
        body: The torso.
        grid_s: Shape (T,), times apart by 1 / `GRID_FPS`.
        side: left or right.

    Returns:
        Shape (T, len(`FEATURES`)), NaN where not known.
    """
    sampled = interpolate(values, times_s, grid_s)
    moving = [FEATURES.index(p) for p in POSITIONS]
    mirror = np.array([-1.0 if side == "left" else 1.0, 1.0])
    with np.errstate(invalid="ignore", divide="ignore"):
        place = interpolate(body.shoulders / body.unit_px[:, None], times_s, grid_s) * mirror
    speeds = _gradient(np.concatenate([sampled[:, moving], place], 1))
    out = np.concatenate([sampled, speeds], 1)
    assert out.shape[1] == len(FEATURES)
    return np.clip(out, -_FAR, _FAR).astype(np.float32)


def grid_times(times_s: np.ndarray) -> np.ndarray:
    """Shape (T,), the grid from 0 to the last frame."""
    return np.arange(int(np.floor(times_s[-1] * GRID_FPS + 1e-6)) + 1) / GRID_FPS if len(times_s) else np.zeros(0)


def interpolate(values: np.ndarray, times_s: np.ndarray, at_s: np.ndarray) -> np.ndarray:
    """Linear interpolation of each column; next to NaN the other neighbour counts alone.

    Args:
        values: Shape (frames, columns).
        times_s: Shape (frames,), ascending.
        at_s: Shape (T,); outside of `times_s` the first or last value holds.

    Returns:
        Shape (T, columns).
    """
    right = np.clip(np.searchsorted(times_s, at_s, side="right"), 1, max(1, len(times_s) - 1))
    left, right = right - 1, np.minimum(right, len(times_s) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.clip((at_s - times_s[left]) / (times_s[right] - times_s[left]), 0, 1)
    w = np.nan_to_num(w)[:, None]
    a, b = values[left], values[right]
    a, b = np.where(np.isnan(a), b, a), np.where(np.isnan(b), a, b)
    # A neighbour that is not needed must not be asked: a hand is not known before it appears.
    a = np.where((w >= 1 - 1e-6) & np.isnan(values[right]), np.nan, a)
    b = np.where((w <= 1e-6) & np.isnan(values[left]), np.nan, b)
    return (1 - w) * a + w * b


def _of_hand(body: Body, hand: Hand, other: Hand, around: np.ndarray, apart: np.ndarray) -> np.ndarray:
    side, away = hand.side, _other(hand.side)
    mirror = np.array([-1.0 if side == "left" else 1.0, 1.0])

    def flat(points: np.ndarray) -> np.ndarray:
        """Pixels (frames, ..., 2) to the torso's axes in body units, mirrored."""
        u_v = body.to_torso(points)
        ratio = (body.torso_px / body.unit_px).reshape(-1, *([1] * (u_v.ndim - 2)))
        return np.stack([u_v[..., 0] * mirror[0], u_v[..., 1] * ratio], -1)

    frame = _frame_in_space(body) * np.append(mirror, 1.0)[:, None]
    wide = np.linalg.norm(body.world[:, LEFT_SHOULDER] - body.world[:, RIGHT_SHOULDER], axis=-1)
    top = body.world[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(1)

    def deep(joint: int) -> np.ndarray:
        """A joint from the middle of the shoulders, torso's frame, in shoulder widths."""
        return np.einsum("fij,fj->fi", frame, body.world[:, joint] - top) / wide[:, None]

    points = body.landmarks[..., :2].astype(float)
    keypoints = flat(hand.keypoints.astype(float))
    centre = keypoints.mean(1)
    space = np.einsum("fij,fkj->fki", frame, hand.space - hand.space[:, :1])
    normal = unit_vectors(np.cross(space[:, INDEX_KNUCKLE], space[:, PINKY_KNUCKLE]))
    length = np.linalg.norm(space[:, _MIDDLE_KNUCKLE], axis=-1)
    shoulder = LEFT_SHOULDER if side == "left" else RIGHT_SHOULDER
    joints = flat(points[:, [shoulder, ELBOW[side], WRIST[side], _POSE_PINKY[side], _POSE_INDEX[side]]])
    others = flat(points[:, [ELBOW[away], WRIST[away], _POSE_PINKY[away], _POSE_INDEX[away]]])
    palm = keypoints[:, PALM].mean(1)
    forearm = others[:, 1] - others[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        along = ((palm - others[:, 0]) * forearm).sum(-1) / (forearm**2).sum(-1)
        scale = np.log(_pixels_a_metre(hand.keypoints, hand.space) / _torso_scale(body))
        aspect = body.torso_px / body.unit_px
        narrow = np.linalg.norm(points[:, LEFT_SHOULDER] - points[:, RIGHT_SHOULDER], axis=-1) / body.unit_px
    known = np.isfinite(hand.keypoints).all((1, 2))
    columns = [
        palm,
        keypoints[:, [THUMB_TIP, INDEX_TIP]].mean(1),
        (keypoints[:, _TIPS] - centre[:, None]).reshape(len(palm), -1),
        keypoints[:, 0] - centre,
        normal,
        unit_vectors(space[:, _MIDDLE_KNUCKLE]),
        *(_curl(space[:, chain]) for chain in _CHAINS),
        hand.pinch,
        np.linalg.norm(space[:, THUMB_TIP] - space[:, _MIDDLE_TIP], axis=-1) / length,
        np.linalg.norm(space[:, INDEX_TIP] - space[:, _MIDDLE_TIP], axis=-1) / length,
        scale,
        np.linalg.norm(keypoints[:, PALM] - palm[:, None], axis=-1).mean(-1),
        joints[:, 1],
        joints[:, 2],
        joints[:, 2:].mean(1),
        deep(ELBOW[side]),
        deep(WRIST[side]),
        deep(_POSE_INDEX[side]),
        np.linalg.norm(joints[:, 1] - joints[:, 0], axis=-1),
        np.linalg.norm(joints[:, 2] - joints[:, 1], axis=-1),
        hand.elbow_flexion / 180,
        body.landmarks[:, [ELBOW[side], WRIST[side], _POSE_INDEX[side]], 3],
        others[:, 1:].mean(1),
        others[:, 0],
        other.elbow_flexion / 180,
        apart,
        hand.from_other_forearm,
        along,
        flat(points[:, _NOSE]),
        body.inward * np.append(mirror, 1.0),
        aspect,
        narrow,
        hand.inside,
        around,
        hand.score,
        known.astype(float),
        np.isfinite(body.unit_px).astype(float),
    ]
    return np.concatenate([c.reshape(len(palm), -1) for c in columns], 1)


def _frame_in_space(body: Body) -> np.ndarray:
    """Shape (frames, 3, 3): rows are the torso's axes (to the person's left, down, inward) in the camera's axes."""
    across = unit_vectors(body.world[:, LEFT_SHOULDER] - body.world[:, RIGHT_SHOULDER])
    return np.stack([across, np.cross(body.inward, across), body.inward], 1)


def _pixels_a_metre(pixels: np.ndarray, metres: np.ndarray) -> np.ndarray:
    """Shape (frames,), scale of a weak-perspective view of points (frames, n, 2) and (frames, n, 3)."""
    seen = pixels - pixels.mean(1, keepdims=True)
    real = (metres - metres.mean(1, keepdims=True))[..., :2]
    return np.sqrt((seen**2).sum((1, 2)) / (real**2).sum((1, 2)))


def _torso_scale(body: Body) -> np.ndarray:
    return _pixels_a_metre(body.landmarks[:, _CORNERS, :2], body.world[:, _CORNERS])


def _curl(chain: np.ndarray) -> np.ndarray:
    """0 for a straight finger, towards 1 for one whose tip is back at the knuckle; shape (frames,)."""
    way = np.linalg.norm(np.diff(chain, axis=1), axis=-1).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - np.linalg.norm(chain[:, -1] - chain[:, 0], axis=-1) / way


def _gradient(values: np.ndarray) -> np.ndarray:
    """Change a second on the grid, central where both neighbours are known, else one-sided; NaN alone."""
    step = np.diff(values, axis=0) * GRID_FPS
    gap = np.full((1, values.shape[1]), np.nan)
    before, after = np.concatenate([gap, step]), np.concatenate([step, gap])
    known = np.isfinite(before).astype(int) + np.isfinite(after)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known > 0, (np.nan_to_num(before) + np.nan_to_num(after)) / known, np.nan)


def _other(side: str) -> str:
    return "right" if side == "left" else "left"
