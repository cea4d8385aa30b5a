"""A drawn person whose hands do what a test wants: pose, hands, masks and pictures from one geometry.

The camera is orthographic, 200 pixels a metre; x points right, y down, z away from it, as in the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.arrays import encode_mask, points_to_arrow
from pipelines.store.schemas import LANDMARK, POINT_2D, POINT_3D

FPS = 30.0
WIDTH, HEIGHT, PX = 320, 320, 200.0
CENTRE = np.array([160.0, 110.0])
"""Middle of the shoulders, pixels."""
SHOULDER, HIP = 0.18, 0.12
TORSO = 0.55

# Wrist, then thumb, index, middle, ring and little finger from knuckle to tip: (along the fingers, across the palm).
_FLAT = np.array(
    [(0, 0)]
    + [(0.02, -0.03), (0.04, -0.05), (0.06, -0.065), (0.08, -0.075)]
    + [(0.09 + 0.03 * k, -0.03) for k in range(4)]
    + [(0.095 + 0.03 * k, -0.01) for k in range(4)]
    + [(0.09 + 0.03 * k, 0.01) for k in range(4)]
    + [(0.08 + 0.025 * k, 0.03) for k in range(4)]
)


def hand_in_space(palm_turn_deg: float, side: str = "right", pinch: bool = False) -> np.ndarray:
    """(21, 3) metres from the wrist: fingers point to the other side of the body, the thumb is up.

    At 0 degrees the palm faces the body; turning goes about the axis of the fingers, so 180 shows it to the camera.
    """
    flat = _FLAT.copy()
    if pinch:
        flat[4] = flat[8] = (0.11, -0.05)
    angle = np.radians(palm_turn_deg)
    across = np.array([0.0, np.cos(angle), np.sin(angle)])
    along = np.array([1.0 if side == "right" else -1.0, 0.0, 0.0])
    return flat[:, :1] * along + flat[:, 1:] * across


@dataclass
class Person:
    """Tracks of a person who stands still.

    Attributes:
        landmarks: (frames, 33, 4).
        world: (frames, 33, 3).
        keypoints, space: Side -> (frames, 21, 2) and (frames, 21, 3); only the hands that are seen.
    """

    landmarks: np.ndarray
    world: np.ndarray
    keypoints: dict[str, np.ndarray]
    space: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.landmarks)


def person(
    palm_path: np.ndarray,
    turn_deg: np.ndarray | float = 0.0,
    side: str = "right",
    pinch: bool = False,
    other_wrist: tuple[float, float] = (0.25, 0.6),
    scale: float = 1.0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Person:
    """A person whose one hand follows a path; the other arm is still.

    Args:
        palm_path: (frames, 2), metres from the middle of the shoulders, x to the right of the picture, y down.
        turn_deg: See `hand_in_space`; one value or one a frame.
        side: Which hand follows the path.
        pinch: Whether thumb and index touch.
        other_wrist: Wrist of the other hand, as in `palm_path`.
        scale: Size of the person in the picture.
        shift: Where the person stands, pixels.
    """
    count = len(palm_path)
    sign = 1.0 if side == "left" else -1.0
    world = np.zeros((count, 33, 3))
    world[:, :11, :2] = (0, -0.2)
    world[:, 11], world[:, 12] = (SHOULDER, 0, 0), (-SHOULDER, 0, 0)
    world[:, 23], world[:, 24] = (HIP, TORSO, 0), (-HIP, TORSO, 0)
    mine, others = (13, 14) if side == "left" else (14, 13)
    turns = np.broadcast_to(np.asarray(turn_deg, float), (count,))
    space = np.stack([hand_in_space(t, side, pinch) for t in turns])
    palm = space[:, [0, 5, 9, 13, 17], :2].mean(1)
    wrist = np.asarray(palm_path, float) - palm
    world[:, mine] = (sign * 0.33, 0.3, 0)
    world[:, mine + 2, :2] = wrist
    world[:, others] = (-sign * 0.22, 0.3, 0)
    world[:, others + 2, :2] = (-sign * other_wrist[0], other_wrist[1])
    for fingers in (4, 6):  # knuckles of the little finger and of the index lie off the wrist
        world[:, mine + fingers, :2] = palm_path
        world[:, others + fingers, :2] = (-sign * other_wrist[0], other_wrist[1] + 0.08)
    origin = CENTRE + np.asarray(shift)
    landmarks = np.ones((count, 33, 4))
    landmarks[:, 25:, 3] = 0.1  # the legs are out of the picture
    landmarks[..., :2] = world[..., :2] * PX * scale + origin
    keypoints = (space[..., :2] + wrist[:, None]) * PX * scale + origin
    return Person(landmarks, world, {side: keypoints}, {side: space})


def tables(people: Person, garment: np.ndarray | None = None) -> dict[str, pa.Table]:
    """Rows of `pose`, `hands` and `agnostic_masks` as the stages write them.

    Args:
        people: The person.
        garment: (HEIGHT, WIDTH) mask for every frame; a rectangle around the torso by default.
    """
    count = len(people)
    frames = pa.array(range(count), pa.int32())
    pose = pa.table(
        {
            "frame": frames,
            "time_s": np.arange(count) / FPS,
            "detected": np.ones(count, bool),
            "landmarks": points_to_arrow(people.landmarks, LANDMARK),
            "world_landmarks": points_to_arrow(people.world, POINT_3D),
            "score": pa.array(np.full(count, 0.9), pa.float32()),
        }
    )
    rows = [(f, side) for f in range(count) for side in sorted(people.keypoints)]
    hands = pa.table(
        {
            "frame": pa.array([f for f, _ in rows], pa.int32()),
            "handedness": [s for _, s in rows],
            "score": pa.array([0.9] * len(rows), pa.float32()),
            "keypoints_2d": points_to_arrow(np.array([people.keypoints[s][f] for f, s in rows]), POINT_2D),
            "keypoints_3d": points_to_arrow(np.array([people.space[s][f] for f, s in rows]), POINT_3D),
        }
    )
    if garment is None:
        garment = np.zeros((HEIGHT, WIDTH), np.uint8)
        x, y = CENTRE.astype(int)
        garment[y - 15 : y + 125, x - 50 : x + 50] = 1
    masks = pa.table(
        {
            "frame": frames,
            "mask": pa.array([encode_mask(garment)] * count, pa.binary()),
            "height": pa.array([HEIGHT] * count, pa.int32()),
            "width": pa.array([WIDTH] * count, pa.int32()),
            "category": ["upper_body"] * count,
        }
    )
    return {"pose": pose, "hands": hands, "agnostic_masks": masks}


def raise_and_rub(rub_s: float = 1.5, rest_s: float = 0.5, lift_s: float = 0.2) -> tuple[np.ndarray, tuple[int, int]]:
    """A path that hangs, rises to the chest, rubs in circles and goes back; and the span of the rubbing."""
    low, chest = np.array([-0.32, 0.62]), np.array([0.0, 0.15])
    rest, lift, rub = (round(s * FPS) for s in (rest_s, lift_s, rub_s))
    t = np.linspace(0, 1, lift, endpoint=False)[:, None]
    angle = np.linspace(0, 4 * np.pi, rub)
    circles = chest + 0.04 * np.stack([np.sin(angle), 1 - np.cos(angle)], -1)
    path = np.concatenate([np.tile(low, (rest, 1)), low + t * (chest - low), circles, chest + t * (low - chest)])
    path = np.concatenate([path, np.tile(low, (rest, 1))])
    return path, (rest + lift, rest + lift + rub)
