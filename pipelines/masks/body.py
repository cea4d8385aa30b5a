"""The body as polygons and capsules around pose landmarks, and its drawing into part maps.

Only geometry belongs here; which parts a garment covers is decided by the backends. Widths are fractions of body
lengths from adult anthropometry, so one set of numbers serves every image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import cv2
import numpy as np

NOSE, MOUTH_L, MOUTH_R = 0, 9, 10
EYES = (1, 2, 3, 4, 5, 6)
EAR_L, EAR_R = 7, 8
SHOULDER_L, SHOULDER_R, ELBOW_L, ELBOW_R, WRIST_L, WRIST_R = 11, 12, 13, 14, 15, 16
HIP_L, HIP_R, KNEE_L, KNEE_R, ANKLE_L, ANKLE_R = 23, 24, 25, 26, 27, 28
HEEL_L, HEEL_R, TOE_L, TOE_R = 29, 30, 31, 32
ARMS = {"left": (SHOULDER_L, ELBOW_L, WRIST_L), "right": (SHOULDER_R, ELBOW_R, WRIST_R)}
LEGS = {"left": (HIP_L, KNEE_L, ANKLE_L), "right": (HIP_R, KNEE_R, ANKLE_R)}
FEET = {"left": (ANKLE_L, HEEL_L, TOE_L), "right": (ANKLE_R, HEEL_R, TOE_R)}

_SHIFT = 4  # OpenCV draws with 4 fractional bits: outlines do not jump by whole pixels between frames


class Part(IntEnum):
    """Body parts of a part map; 0 is none."""

    TORSO = 1
    ARM = 2
    LEG = 3
    FOOT = 4
    HEAD = 5
    HAND = 6


@dataclass(frozen=True)
class Body:
    """Landmarks in working pixels with the lengths derived from them.

    Attributes:
        points: Shape (33, 2).
        visible: Shape (33,), bool.
        z: Shape (33,), smaller is nearer.
        size: Torso size: the longer of torso length and 1.3 shoulder widths, so that turning sideways or bending
            forward does not shrink it.
        up: Unit vector from hips to shoulders.
    """

    points: np.ndarray
    visible: np.ndarray
    z: np.ndarray
    size: float
    up: np.ndarray

    @classmethod
    def of(cls, landmarks: np.ndarray, scale: float, min_visibility: float) -> Body:
        """From (33, 4) landmarks in frame pixels."""
        points = landmarks[:, :2].astype(np.float64) * scale
        shoulders, hips = points[[SHOULDER_L, SHOULDER_R]], points[[HIP_L, HIP_R]]
        axis = shoulders.mean(0) - hips.mean(0)
        length = float(np.linalg.norm(axis))
        size = max(length, 1.3 * float(np.linalg.norm(shoulders[0] - shoulders[1])), 4.0)
        up = axis / length if length > 1e-6 else np.array([0.0, -1.0])
        return cls(points, landmarks[:, 3] >= min_visibility, landmarks[:, 2], size, up)

    @cached_property
    def head(self) -> tuple[np.ndarray, tuple[float, float], float]:
        """Head as an ellipse: centre, (half width, half height), angle in degrees; its lower end is the chin.

        Eyes lie half way up a head and the mouth at 0.57 of the way from eyes to chin.
        """
        p = self.points
        eyes, mouth = p[list(EYES)].mean(0), p[[MOUTH_L, MOUTH_R]].mean(0)
        down = mouth - eyes
        drop = float(np.linalg.norm(down))
        ears = float(np.linalg.norm(p[EAR_L] - p[EAR_R]))
        down = down / drop if drop > 1e-6 else -self.up
        # A face seen from far above or below, or from the side, shortens one of the two: the other stands in.
        drop = max(drop, 0.42 * ears, 0.08 * self.size)
        half_height = 1.72 * drop
        half_width = max(0.55 * ears, 1.20 * drop)
        return eyes, (half_width, half_height), float(np.degrees(np.arctan2(down[1], down[0])) - 90.0)

    def chin(self) -> np.ndarray:
        """Lower end of the head."""
        centre, (_, half_height), angle = self.head
        a = np.radians(angle + 90.0)
        return centre + half_height * np.array([np.cos(a), np.sin(a)])

    def arm_radius(self) -> float:
        """Half the width of a clothed upper arm."""
        return 0.11 * self.size

    def leg_radius(self) -> float:
        """Half the width of a clothed thigh."""
        hips = float(np.linalg.norm(self.points[HIP_L] - self.points[HIP_R]))
        return max(0.5 * hips, 0.14 * self.size)


def fixed(points: np.ndarray) -> np.ndarray:
    """Points as OpenCV's fixed-point integers, held inside its range."""
    return np.rint(np.minimum(np.maximum(points, -8000.0), 8000.0) * (1 << _SHIFT)).astype(np.int32)


def fill(canvas: np.ndarray, polygon: np.ndarray, value: int) -> None:
    """Fill the convex hull of (N, 2) points."""
    hull = cv2.convexHull(np.clip(polygon, -8000, 8000).astype(np.float32))[:, 0]
    cv2.fillConvexPoly(canvas, fixed(hull), value, cv2.LINE_8, _SHIFT)


def capsules(canvas: np.ndarray, a: np.ndarray, b: np.ndarray, ra: np.ndarray, rb: np.ndarray, value: int) -> None:
    """Draw limbs that taper: for each, the hull of a disc of radius `ra` at `a` and one of `rb` at `b`.

    Args:
        canvas: (height, width) uint8.
        a: Shape (N, 2).
        b: Shape (N, 2).
        ra: Shape (N,).
        rb: Shape (N,).
        value: Value to write.
    """
    direction = b - a
    length = np.maximum(np.hypot(direction[:, 0], direction[:, 1]), 1e-6)
    normal = np.stack([-direction[:, 1], direction[:, 0]], 1) / length[:, None]
    u, v = normal * ra[:, None], normal * rb[:, None]
    for quad in fixed(np.concatenate([a + u, b + v, b - v, a - u], 1)).reshape(-1, 4, 2):
        cv2.fillConvexPoly(canvas, quad, value, cv2.LINE_8, _SHIFT)
    # Discs that limbs share are drawn once.
    ends = fixed(np.concatenate([a, b]))
    radii = fixed(np.concatenate([ra, rb]))
    for x, y, radius in {(x, y, r) for (x, y), r in zip(ends.tolist(), radii.tolist())}:
        if radius > 0:
            cv2.circle(canvas, (x, y), radius, value, -1, cv2.LINE_8, _SHIFT)


def capsule(canvas: np.ndarray, a: np.ndarray, b: np.ndarray, ra: float, rb: float, value: int) -> None:
    """Draw one limb; see `capsules`."""
    capsules(canvas, a[None], b[None], np.array([ra]), np.array([rb]), value)


def draw_head(canvas: np.ndarray, body: Body, value: int, grow: float = 1.0) -> None:
    """Fill the head's ellipse, `grow` times its size."""
    centre, axes, angle = body.head
    scaled = [max(1, round(grow * x * (1 << _SHIFT))) for x in axes]
    cv2.ellipse(canvas, fixed(centre).tolist(), scaled, angle, 0, 360, value, -1, cv2.LINE_8, _SHIFT)


def torso_outline(body: Body, hem: float) -> np.ndarray:
    """Corners of the torso from the sides of the neck to `hem` torso sizes below the hips, (N, 2)."""
    p = body.points
    shoulders, hips = p[[SHOULDER_L, SHOULDER_R]], p[[HIP_L, HIP_R]]
    middle, low = shoulders.mean(0), hips.mean(0)
    # Hip landmarks sit in the joints, a good way inside the outline.
    wide = low + 1.45 * (hips - low)
    below = wide - hem * body.size * body.up
    outer = middle + 1.12 * (shoulders - middle)
    neck = middle + 0.4 * (shoulders - middle) + 0.10 * body.size * body.up
    return np.concatenate([neck, outer, wide, below])


def draw_neck(canvas: np.ndarray, body: Body, value: int) -> None:
    """Neck and collar, from the jaw to the shoulders; what lies beside the neck is collar, not head."""
    shoulders = body.points[[SHOULDER_L, SHOULDER_R]]
    middle = shoulders.mean(0)
    centre, (half_width, half_height), _ = body.head
    down = body.chin() - centre
    down /= max(float(np.linalg.norm(down)), 1e-6)
    if float((middle - centre) @ down) < half_height:
        return  # head lowered onto the chest: there is no neck to see
    across = np.array([-down[1], down[0]])
    jaw = centre + 0.82 * half_height * down
    sides = np.stack([jaw + 0.78 * half_width * across, jaw - 0.78 * half_width * across])
    fill(canvas, np.concatenate([sides, middle + 0.75 * (shoulders - middle)]), value)


def draw_legs(canvas: np.ndarray, body: Body, value: int, hem: float) -> None:
    """Both legs down to the ankles, from `hem` torso sizes below the hips; above that line they are torso."""
    p, radius = body.points, body.leg_radius()
    for hip, knee, ankle in LEGS.values():
        # A knee out of sight is a guess: the thigh then goes straight on.
        k = p[knee] if body.visible[knee] else p[hip] - 0.9 * body.size * body.up
        thigh = k - p[hip]
        length = float(np.hypot(*thigh))
        top = p[hip] + thigh * min(1.0, (max(hem, 0.0) * body.size + radius) / max(length, 1e-6))
        capsule(canvas, top, k, radius, 0.75 * radius, value)
        if body.visible[knee] and body.visible[ankle]:
            capsule(canvas, k, p[ankle], 0.75 * radius, 0.5 * radius, value)


def draw_feet(canvas: np.ndarray, body: Body, value: int) -> None:
    """Both feet, from the ankles down."""
    for ankle, heel, toe in FEET.values():
        if body.visible[ankle] and body.visible[toe]:
            reach = float(np.linalg.norm(body.points[toe] - body.points[ankle]))
            radius = max(0.05 * body.size, 0.3 * reach)
            points = body.points[[ankle, heel, toe]]
            capsule(canvas, points[1], points[2], radius, radius, value)


def draw_arm(canvas: np.ndarray, body: Body, side: str, value: int, widen: float = 1.0, upper: bool = True) -> None:
    """One arm from shoulder to wrist; only the forearm unless `upper`."""
    shoulder, elbow, wrist = ARMS[side]
    p, radius = body.points, widen * body.arm_radius()
    if not body.visible[elbow]:
        return
    if upper:
        capsule(canvas, p[shoulder], p[elbow], radius, 0.85 * radius, value)
    if body.visible[wrist]:
        capsule(canvas, p[elbow], p[wrist], 0.85 * radius, 0.55 * radius, value)


# Hand, in fractions of hand length (189 mm in adults; finger breadth 15 to 20 mm): from, to, radius at both.
_THUMB = ((1, 2, 0.075, 0.065), (2, 3, 0.065, 0.057), (3, 4, 0.057, 0.047))
_FINGERS = tuple(
    (5 + 4 * f + i, 6 + 4 * f + i, r - 0.004 * i, r - 0.004 * (i + 1))
    for f, r in enumerate((0.055, 0.056, 0.053, 0.047))
    for i in range(3)
)
_KNUCKLES = ((2, 5, 0.05, 0.05), (5, 9, 0.05, 0.05), (9, 13, 0.05, 0.05), (13, 17, 0.05, 0.05))
_WHOLE = np.array([*_THUMB, *_FINGERS, *_KNUCKLES])
# Of a hand that was not seen, only what it surely covers: fingers of a moving hand are elsewhere than guessed.
_SURE = np.array([*_THUMB[:2], *_FINGERS[::3], *_KNUCKLES])
# Joints 3, 7, ... 19 and the tips after them: nail and pulp reach a little beyond the last keypoint.
_LAST = np.array([3, 7, 11, 15, 19])
# The wrist lies below the cuff: the visible hand begins this far on the way from it to thumb and little finger.
_HEEL = ((1, 0.35), (17, 0.25))

# Lengths between keypoints of the palm over hand length; the palm is rigid, so each gives the scale.
_PALM_LENGTHS = ((0, 5, 0.49), (0, 9, 0.49), (0, 13, 0.47), (0, 17, 0.45), (5, 17, 0.32))


def hand_length(keypoints: np.ndarray) -> float:
    """Wrist to fingertip of the stretched hand in pixels, from (21, 2) keypoints.

    Foreshortening only shortens, and it shortens the palm's directions unequally, so the longest one counts.
    """
    return max(float(np.linalg.norm(keypoints[a] - keypoints[b])) / share for a, b, share in _PALM_LENGTHS)


@dataclass(frozen=True)
class HandOutline:
    """One hand, in full-frame pixels.

    Attributes:
        side: left or right, the person's own hand.
        keypoints: Shape (21, 2), MediaPipe order.
        length_px: Wrist to fingertip of the stretched hand, undoing foreshortening.
        precise: False where the hand was not seen: interpolated, or guessed from the body pose.
    """

    side: str
    keypoints: np.ndarray
    length_px: float
    precise: bool = True


def draw_hand(canvas: np.ndarray, hand: HandOutline, scale: float, value: int, grow: float = 0.0) -> None:
    """Fill a hand's silhouette: the palm, and each finger by itself, so that gaps between fingers stay open.

    Of a hand that is not precise, only the palm and the first joints are drawn.

    Args:
        canvas: (height, width) uint8.
        hand: Hand in frame pixels.
        scale: Canvas pixels for one frame pixel.
        value: Value to write.
        grow: Added to every radius, fraction of hand length.
    """
    points = hand.keypoints.astype(np.float64) * scale
    length = hand.length_px * scale
    heel = [points[0] + share * (points[to] - points[0]) for to, share in _HEEL]
    fill(canvas, np.stack([*heel, *points[[1, 2, 5, 9, 13, 17]]]), value)
    bones = _WHOLE if hand.precise else _SURE
    starts, ends = points[bones[:, 0].astype(int)], points[bones[:, 1].astype(int)]
    ra, rb = bones[:, 2], bones[:, 3]
    if hand.precise:
        direction = points[_LAST + 1] - points[_LAST]
        norm = np.maximum(np.hypot(direction[:, 0], direction[:, 1]), 1e-6)[:, None]
        starts = np.concatenate([starts, points[_LAST + 1]])
        ends = np.concatenate([ends, points[_LAST + 1] + direction / norm * 0.02 * length])
        ra, rb = np.append(ra, np.full(5, 0.044)), np.append(rb, np.full(5, 0.040))
    # The edge of the hand below the little finger is soft and lies outside the keypoints.
    starts, ends = np.vstack([starts, points[17]]), np.vstack([ends, heel[1]])
    ra, rb = np.append(ra, 0.05) + grow, np.append(rb, 0.05) + grow
    capsules(canvas, starts, ends, ra * length, rb * length, value)


def hand_from_pose(body: Body, side: str, scale: float) -> HandOutline | None:
    """A rough hand where none was found: pose landmarks give wrist, thumb and the knuckles of index and little finger.

    None where the wrist is not visible.
    """
    elbow, wrist, little, index, thumb = (13, 15, 17, 19, 21) if side == "left" else (14, 16, 18, 20, 22)
    p = body.points / scale
    if not (body.visible[wrist] and body.visible[index]):
        return None
    # The forearm is 1.37 hand lengths; where it points at the camera the torso gives the scale (2.7 hand lengths).
    length = max(float(np.linalg.norm(p[wrist] - p[elbow])) / 1.37, 0.30 * body.size / scale)
    knuckles = p[[index, little]]
    forward = knuckles.mean(0) - p[wrist]
    norm = float(np.linalg.norm(forward))
    if norm < 1e-6:
        return None
    forward /= norm
    reach = min(max(norm, 0.35 * length), 0.52 * length)
    across = knuckles[0] - knuckles[1]
    across -= forward * float(across @ forward)
    width = float(np.linalg.norm(across))
    across = across / width if width > 1e-6 else np.array([-forward[1], forward[0]])
    half = 0.5 * min(max(width, 0.2 * length), 0.34 * length)
    keypoints = np.zeros((21, 2))
    keypoints[0] = p[wrist]
    for f, offset in enumerate((1.0, 0.33, -0.33, -1.0)):
        knuckle = p[wrist] + reach * forward + offset * half * across
        for j, beyond in enumerate((0.0, 0.16, 0.27, 0.36)):
            keypoints[5 + 4 * f + j] = knuckle + beyond * length * forward
    keypoints[1:5] = p[wrist] + np.linspace(0.25, 1.0, 4)[:, None] * (p[thumb] - p[wrist])
    return HandOutline(side, keypoints.astype(np.float32), length, precise=False)
