"""Where the hands are and how they are held, in units of the body: what the kinematic backend rests on.

Everything is measured in the frame of the torso, so it does not change with the size of the person in the picture:
`u` runs from the person's right to the left in body units (shoulder widths) from the middle of the body, `v` from the
shoulder line (0) to the hip line (1). Only measurements belong here; what they mean is for the contact network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 11, 12, 23, 24
ELBOW = {"left": 13, "right": 14}
WRIST = {"left": 15, "right": 16}
# Wrist, knuckle of the little finger and of the index, as the pose model sees them.
_POSE_HAND = {"left": (15, 17, 19), "right": (16, 18, 20)}
PALM = (0, 5, 9, 13, 17)
INDEX_KNUCKLE, PINKY_KNUCKLE, THUMB_TIP, INDEX_TIP = 5, 17, 4, 8
# Shoulders to hips over the distance of the shoulder joints, MediaPipe's joints: about 1.6 in adults.
_TORSO_PER_SHOULDERS = 1.6


@dataclass(frozen=True)
class Body:
    """The torso in every frame.

    Attributes:
        shoulders: Shape (frames, 2), middle of the shoulders, pixels.
        across: Shape (frames, 2), unit vector towards the person's left, in the picture.
        down: Shape (frames, 2), unit vector from shoulders to hips.
        unit_px: Shape (frames,), pixels of one body unit.
        torso_px: Shape (frames,), pixels from shoulders to hips.
        inward: Shape (frames, 3), unit normal of the torso pointing into the body from its front (x right, y down,
            z away from the camera).
        landmarks: Shape (frames, 33, 4).
        world: Shape (frames, 33, 3), metres.
    All NaN where no person was found.
    """

    shoulders: np.ndarray
    across: np.ndarray
    down: np.ndarray
    unit_px: np.ndarray
    torso_px: np.ndarray
    inward: np.ndarray
    landmarks: np.ndarray
    world: np.ndarray

    def to_torso(self, points: np.ndarray) -> np.ndarray:
        """(u, v) of pixel positions of shape (frames, ..., 2)."""
        extra = points.ndim - 2

        def wide(a: np.ndarray) -> np.ndarray:
            return a.reshape(len(a), *([1] * extra), *a.shape[1:])

        offset = points - wide(self.shoulders)
        u = (offset * wide(self.across)).sum(-1) / wide(self.unit_px)
        v = (offset * wide(self.down)).sum(-1) / wide(self.torso_px)
        return np.stack([u, v], -1)


@dataclass(frozen=True)
class Hand:
    """One hand in every frame; NaN where it is not known.

    Attributes:
        side: left or right.
        keypoints: Shape (frames, 21, 2), pixels.
        space: Shape (frames, 21, 3), metres; x right, y down, z away from the camera.
        score: Shape (frames,), detector confidence, 0 where interpolated or absent.
        palm: Shape (frames, 2), (u, v) of the middle of the palm.
        reach: Shape (frames, 2), (u, v) of the middle between the tips of thumb and index.
        inside: Shape (frames,), share of the keypoints inside the torso's outline.
        speed: Shape (frames,), body units a second.
        pinch: Shape (frames,), distance of the tips of thumb and index over the length of the palm, in space.
        elbow_flexion: Shape (frames,), angle between upper arm and forearm in degrees; 180 is a straight arm.
        from_other_forearm: Shape (frames,), distance of the palm from the other forearm, body units.
    """

    side: str
    keypoints: np.ndarray
    space: np.ndarray
    score: np.ndarray
    palm: np.ndarray
    reach: np.ndarray
    inside: np.ndarray
    speed: np.ndarray
    pinch: np.ndarray
    elbow_flexion: np.ndarray
    from_other_forearm: np.ndarray


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """`vectors` at length 1 along the last axis; NaN for those of length 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def running(function: Callable[[np.ndarray], np.ndarray], values: np.ndarray, length: int) -> np.ndarray:
    """`function` over windows of `length` values around each; NaN outside of what is known.

    Args:
        function: Takes shape (windows, length), reduces the last axis, such as `np.nanmedian`.
        values: Shape (frames,).
        length: Odd number of values.
    """
    half = length // 2
    padded = np.pad(values.astype(float), half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    known = np.isfinite(windows).any(-1)
    out = np.full(len(values), np.nan)
    if known.any():
        out[known] = function(windows[known])
    return out


def measure_body(landmarks: np.ndarray, world: np.ndarray, fps: float) -> Body:
    """The torso's frame of reference, with sizes steadied over a second.

    Args:
        landmarks: Shape (frames, 33, 4): x_px, y_px, z, visibility; NaN where no person was found.
        world: Shape (frames, 33, 3), metres; x right, y down, z away from the camera.
        fps: Frames a second.
    """
    second = 2 * round(fps / 2) + 1
    points = landmarks[..., :2].astype(float)
    shoulders = points[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(1)
    spine = points[:, [LEFT_HIP, RIGHT_HIP]].mean(1) - shoulders
    down = unit_vectors(spine)
    width = points[:, LEFT_SHOULDER] - points[:, RIGHT_SHOULDER]
    across = np.stack([down[:, 1], -down[:, 0]], -1)
    # Seen from behind, the person's left is on the left of the picture.
    across *= np.where((across * width).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    torso = running(lambda w: np.nanmedian(w, -1), np.linalg.norm(spine, axis=-1), second)
    span = running(lambda w: np.nanmedian(w, -1), np.linalg.norm(width, axis=-1), second)
    # A person who turns sideways keeps the torso's height, not the width between the shoulders.
    unit = np.fmax(span, torso / _TORSO_PER_SHOULDERS)
    wide = (world[:, LEFT_SHOULDER] - world[:, RIGHT_SHOULDER]).astype(float)
    tall = (world[:, [LEFT_HIP, RIGHT_HIP]].mean(1) - world[:, [LEFT_SHOULDER, RIGHT_SHOULDER]].mean(1)).astype(float)
    return Body(shoulders, across, down, unit, torso, unit_vectors(np.cross(wide, tall)), landmarks, world)


def measure_hand(
    side: str,
    keypoints: np.ndarray,
    space: np.ndarray,
    score: np.ndarray,
    body: Body,
    fps: float,
) -> Hand:
    """What can be said of one hand in every frame.

    Args:
        side: left or right.
        keypoints: Shape (frames, 21, 2), pixels, MediaPipe order; NaN where absent.
        space: Shape (frames, 21, 3), metres; x right, y down, z away from the camera.
        score: Shape (frames,), detector confidence.
        body: The torso.
        fps: Frames a second.
    """
    on_torso = body.to_torso(keypoints)
    palm, reach = on_torso[:, PALM].mean(1), on_torso[:, [THUMB_TIP, INDEX_TIP]].mean(1)
    u, v = on_torso[..., 0], on_torso[..., 1]
    known = np.isfinite(u).all(-1)
    trunk = (np.abs(u) < 0.6) & (v > 0) & (v < 1.1)
    # A collar stands above the line of the shoulder joints; the mouth is at about -0.3.
    neck = (np.abs(u) < 0.35) & (v > -0.15) & (v <= 0)
    inside = (trunk | neck).mean(-1)

    step = max(1, round(fps / 15))
    position = palm * [1.0, _TORSO_PER_SHOULDERS]
    speed = np.full(len(palm), np.nan)
    if len(palm) > 2 * step:
        moved = np.linalg.norm(position[2 * step :] - position[: -2 * step], axis=-1)
        speed[step:-step] = moved * fps / (2 * step)
    if np.isfinite(speed).any():
        filled = running(lambda w: np.nanmin(w, -1), speed, 2 * step + 1)
        speed = np.where(np.isfinite(speed), speed, filled)

    length = np.linalg.norm(space[:, 9] - space[:, 0], axis=-1)
    pinch = np.linalg.norm(space[:, THUMB_TIP] - space[:, INDEX_TIP], axis=-1) / length

    points = body.landmarks[..., :2].astype(float)
    shoulder = LEFT_SHOULDER if side == "left" else RIGHT_SHOULDER
    upper, lower = points[:, shoulder] - points[:, ELBOW[side]], points[:, WRIST[side]] - points[:, ELBOW[side]]
    cosine = (unit_vectors(upper) * unit_vectors(lower)).sum(-1)
    flexion = np.degrees(np.arccos(np.clip(cosine, -1, 1)))

    other = "left" if side == "right" else "right"
    centre = keypoints[:, PALM].mean(1)
    forearm = _distance_to_segment(centre, points[:, ELBOW[other]], points[:, WRIST[other]]) / body.unit_px
    return Hand(
        side,
        keypoints,
        space,
        score,
        palm,
        reach,
        np.where(known, inside, np.nan),
        speed,
        pinch,
        flexion,
        forearm,
    )


def hand_distance(body: Body) -> np.ndarray:
    """Shape (frames,), distance of the two hands in body units.

    It comes from the pose, which places hands that hide each other; and from hands, not wrists, because the wrists of
    crossed arms meet while the hands lie on either side of the chest.
    """
    points = body.landmarks[..., :2].astype(float)
    left, right = (points[:, list(_POSE_HAND[side])].mean(1) for side in ("left", "right"))
    return np.linalg.norm(left - right, axis=-1) / body.unit_px


def surroundings(keypoints: np.ndarray, reach: float = 0.35, count: int = 24) -> np.ndarray:
    """Points around a hand, off its outline, without those where its own forearm is.

    Args:
        keypoints: Shape (21, 2), pixels.
        reach: How far off, as a share of the hand's size.
        count: Directions.

    Returns:
        Shape (points, 2), pixels.
    """
    centre = keypoints.mean(0)
    offsets = keypoints - centre
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)], -1)
    size = np.linalg.norm(offsets, axis=-1).max()
    # The support function of the keypoints is the outline's distance in each direction.
    radius = (offsets @ directions.T).max(0) + reach * size
    arm = keypoints[0] - keypoints[list(PALM[1:])].mean(0)
    arm = arm / max(np.linalg.norm(arm), 1e-6)
    keep = directions @ arm < np.cos(np.radians(50))
    return centre + directions[keep] * radius[keep, None]


def _distance_to_segment(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    along = b - a
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.clip(((points - a) * along).sum(-1) / (along**2).sum(-1), 0, 1)
    return np.linalg.norm(points - (a + t[:, None] * along), axis=-1)
