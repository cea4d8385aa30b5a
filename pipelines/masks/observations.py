"""Rows of `pose` and `hands` as observations a frame: gaps bridged, hands completed from the pose.

Only reading and bridging belongs here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import cv2
import numpy as np
import pyarrow as pa

from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.masks.base import Observation, working_size
from pipelines.masks.body import Body, HandOutline, hand_from_pose, hand_length
from pipelines.masks.geometric import within
from pipelines.masks.settings import MasksSettings

POSE_COLUMNS = ["frame", "time_s", "detected", "landmarks", "person_mask"]
HAND_COLUMNS = ["frame", "handedness", "keypoints_2d", "interpolated"]
_HELD = 0.25  # of the torso size: how far a person may have moved out of the mask of another frame


def observations(
    pose: pa.Table, hands: pa.Table, size: tuple[int, int], settings: MasksSettings, cuts: Collection[int] = ()
) -> Iterator[Observation]:
    """One observation for each row of `pose`, in frame order.

    A frame without a pose takes the pose interpolated between its neighbours within `settings.carry_s`, and the
    person mask of the nearer one where it has none itself. Farther from any pose it has none, and holds the person
    mask of the nearest frame with one, grown: rather too much is repainted than the old garment left. Nothing is
    taken from another shot.

    Args:
        pose: Rows of one video, columns `POSE_COLUMNS`.
        hands: Rows of the same video, columns `HAND_COLUMNS`.
        size: Frame (height, width).
        settings: Settings of the stage.
        cuts: Frames that begin a new shot.

    Raises:
        ValueError: There are no rows, or no person was found in any frame.
    """
    if pose.num_rows == 0:
        raise ValueError("pose has no rows for this video: materialise `pose` again")
    pose = pose.sort_by("frame")
    landmarks = points_to_numpy(pose["landmarks"], 33)
    found = np.asarray(pose["detected"].to_numpy(zero_copy_only=False), bool)
    found &= np.isfinite(landmarks[:, :, :2]).all((1, 2))
    if not found.any():
        raise ValueError("No person was found in any frame: there is nothing to mask. Reject the video, or check pose")
    times = np.asarray(pose["time_s"].to_numpy(zero_copy_only=False), np.float64)
    frames = pose["frame"].to_numpy()
    shots = np.searchsorted(sorted(set(cuts)), frames, side="right")
    known = np.flatnonzero(found)
    masks = pose["person_mask"]
    by_frame = _hands_by_frame(hands)
    scale = min(1.0, settings.working_side_px / max(size))
    borrowed: tuple[tuple[int, bool] | None, np.ndarray | None] = (None, None)
    for row, frame in enumerate(frames.tolist()):
        around = [int(k) for k in _beside(row, known) if shots[k] == shots[row]]
        points, source = _bridge(row, times, landmarks, around, settings.carry_s)
        if masks[row].is_valid or source is None:
            person = _person(masks[row].as_py(), size, scale)
        else:
            if borrowed[0] != (source, points is None):
                person = _person(masks[source].as_py(), size, scale)
                if points is None and person is not None:
                    torso = Body.of(landmarks[source], scale, settings.min_visibility).size
                    person = within(person, _HELD * torso)
                borrowed = ((source, points is None), person)
            person = borrowed[1]
        seen = _complete(by_frame.get(frame, []), points, settings)
        yield Observation(frame, points, person, size, scale, seen, int(shots[row]))


def _beside(row: int, known: np.ndarray) -> np.ndarray:
    """The row itself if it is among the known ones, else those before and after it; at most two."""
    after = int(np.searchsorted(known, row))
    if after < len(known) and known[after] == row:
        return known[after : after + 1]
    return known[max(0, after - 1) : after + 1]


def _bridge(
    row: int, times: np.ndarray, landmarks: np.ndarray, around: list[int], limit_s: float
) -> tuple[np.ndarray | None, int | None]:
    """Landmarks of a row, None too far from any, and the row whose person mask stands in."""
    if not around:
        return None, None
    source = min(around, key=lambda k: abs(times[k] - times[row]))
    near = [k for k in around if abs(times[k] - times[row]) <= limit_s]
    if len(near) == 2:
        before, after = near
        w = (times[row] - times[before]) / max(times[after] - times[before], 1e-9)
        return (1 - w) * landmarks[before] + w * landmarks[after], source
    return landmarks[source] if near else None, source


def _person(counts: bytes | None, size: tuple[int, int], scale: float) -> np.ndarray | None:
    if counts is None:
        return None
    height, width = working_size(size, scale)
    # Decoded masks are column-major: their transpose is what OpenCV can read without a copy.
    mask = decode_mask(counts, *size).T
    if mask.shape != (width, height):
        mask = (cv2.resize(mask * np.uint8(255), (height, width), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
    return np.ascontiguousarray(mask.T)


def _hands_by_frame(hands: pa.Table) -> dict[int, list[HandOutline]]:
    points = points_to_numpy(hands["keypoints_2d"], 21)
    columns = (hands[c].to_pylist() for c in ("frame", "handedness", "interpolated"))
    out: dict[int, list[HandOutline]] = {}
    for frame, side, filled, keypoints in zip(*columns, points):
        if np.isfinite(keypoints).all():
            out.setdefault(frame, []).append(HandOutline(side, keypoints, hand_length(keypoints), precise=not filled))
    return out


def _complete(found: list[HandOutline], landmarks: np.ndarray | None, settings: MasksSettings) -> tuple:
    """Hands of a frame; one that the pose shows and `hands` does not have is guessed from the pose."""
    if landmarks is None:
        return tuple(found)
    body = Body.of(landmarks, 1.0, settings.min_visibility)
    missing = {"left", "right"} - {h.side for h in found}
    guessed = [h for side in sorted(missing) if (h := hand_from_pose(body, side, 1.0))]
    return (*found, *guessed)
