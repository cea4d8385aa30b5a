"""From the rows of `pose`, `hands` and `agnostic_masks` to arrays over all frames of a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.captions.features import Body, Hand, measure_body, measure_hand, surroundings
from pipelines.captions.spans import frames_of
from pipelines.stage import VideoTask

POSE_COLUMNS = ["frame", "time_s", "detected", "landmarks", "world_landmarks", "score"]
HAND_COLUMNS = ["frame", "handedness", "score", "keypoints_2d", "keypoints_3d"]
MASK_COLUMNS = ["frame", "mask", "height", "width", "category"]
MASK_HOLD_S = 0.1
"""Hands are followed in every frame; the garment's outline hardly changes within this time, and decoding a mask costs
about a millisecond."""


@dataclass(frozen=True)
class Tracks:
    """Body and hands over the frames of one video.

    Attributes:
        times_s: Shape (frames,), presentation times in seconds.
        fps: Average frames a second.
        size: (height, width) of the picture.
        detected: Shape (frames,), whether the person was found.
        pose_score: Shape (frames,), NaN where not detected.
        body: The torso.
        hands: Side -> hand; both sides are always there.
    """

    times_s: np.ndarray
    fps: float
    size: tuple[int, int]
    detected: np.ndarray
    pose_score: np.ndarray
    body: Body
    hands: dict[str, Hand]


def frame_times(pose: pa.Table, num_frames: int, fps: float) -> np.ndarray:
    """Shape (frames,), seconds: the presentation times in `pose`, and the regular grid for frames it lacks."""
    times = np.arange(num_frames) / fps
    frames = pose["frame"].to_numpy()
    inside = frames < num_frames
    times[frames[inside]] = pose["time_s"].to_numpy()[inside]
    return times


def build_tracks(pose: pa.Table, hands: pa.Table, num_frames: int, fps: float, size: tuple[int, int]) -> Tracks:
    """Arrays over all frames from the rows of one video.

    Args:
        pose: Columns `POSE_COLUMNS`.
        hands: Columns `HAND_COLUMNS`.
        num_frames: Frames of the video.
        fps: Average frames a second.
        size: (height, width) of the picture.
    """
    frames = pose["frame"].to_numpy()
    landmarks = np.full((num_frames, 33, 4), np.nan, np.float32)
    world = np.full((num_frames, 33, 3), np.nan, np.float32)
    score = np.full(num_frames, np.nan)
    landmarks[frames] = points_to_numpy(pose["landmarks"], 33)
    world[frames] = points_to_numpy(pose["world_landmarks"], 33)
    detected = np.zeros(num_frames, bool)
    detected[frames] = pose["detected"].to_numpy(zero_copy_only=False)
    score[frames] = pose["score"].to_numpy()
    body = measure_body(landmarks, world, fps)

    sides = np.asarray(hands["handedness"].to_pylist())
    keypoints, space = points_to_numpy(hands["keypoints_2d"], 21), points_to_numpy(hands["keypoints_3d"], 21)
    hand_frames, hand_score = hands["frame"].to_numpy(), hands["score"].to_numpy()
    measured = {}
    for side in ("left", "right"):
        rows = np.flatnonzero(sides == side) if len(sides) else np.zeros(0, int)
        at = hand_frames[rows]
        flat = np.full((num_frames, 21, 2), np.nan, np.float32)
        deep = np.full((num_frames, 21, 3), np.nan, np.float32)
        sure = np.zeros(num_frames)
        flat[at], deep[at], sure[at] = keypoints[rows], space[rows], hand_score[rows]
        measured[side] = measure_hand(side, flat, deep, sure, body, fps)
    return Tracks(frame_times(pose, num_frames, fps), fps, size, detected, score, body, measured)


def read_tracks(task: VideoTask) -> Tracks:
    """Body and hands of a video from its rows of `pose` and `hands`."""
    row = task.row
    pose, hands = task.rows("pose", POSE_COLUMNS), task.rows("hands", HAND_COLUMNS)
    return build_tracks(pose, hands, row["num_frames"], row["fps"], (row["height"], row["width"]))


class GarmentRegion:
    """The masks of one video, decoded where they are asked for.

    Args:
        masks: Columns `MASK_COLUMNS`.
        hold: For how many frames a decoded mask is good enough, see `MASK_HOLD_S`.
    """

    def __init__(self, masks: pa.Table, hold: int = 1):
        self._hold = hold
        self._decoded: tuple[int, np.ndarray] | None = None
        self._row = {frame: i for i, frame in enumerate(masks["frame"].to_pylist())}
        self._masks = masks
        self.category = masks["category"][0].as_py() if masks.num_rows else "upper_body"

    def shares_around(self, hands: dict[str, Hand], wanted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Share of the points around each hand that are garment.

        Args:
            hands: Side -> hand.
            wanted: Side -> shape (frames,), bool: where to look.

        Returns:
            Side -> shape (frames,), 0 to 1; NaN elsewhere, and where hand or mask are not known.
        """
        out = {side: np.full(len(w), np.nan) for side, w in wanted.items()}
        for frame in np.flatnonzero(np.any(list(wanted.values()), axis=0)):
            asked = [s for s, w in wanted.items() if w[frame] and np.isfinite(hands[s].keypoints[frame]).all()]
            mask = self.at(int(frame)) if asked else None
            if mask is None:
                continue
            height, width = mask.shape
            for side in asked:
                x, y = np.round(surroundings(hands[side].keypoints[frame])).astype(int).T
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                out[side][frame] = mask[y[inside], x[inside]].sum() / len(x)
        return out

    def at(self, frame: int) -> np.ndarray | None:
        """Shape (height, width), uint8: the mask at a frame, or held from one shortly before; None if there is none."""
        if self._decoded is None or not 0 <= frame - self._decoded[0] < self._hold:
            row = self._row.get(frame)
            if row is None:
                return None
            height, width = self._masks["height"][row].as_py(), self._masks["width"][row].as_py()
            self._decoded = (frame, decode_mask(self._masks["mask"][row].as_py(), height, width))
        return self._decoded[1]


def read_region(task: VideoTask) -> GarmentRegion:
    """The garment's region from a video's rows of `agnostic_masks`."""
    return GarmentRegion(task.rows("agnostic_masks", MASK_COLUMNS), frames_of(MASK_HOLD_S, task.row["fps"]))
