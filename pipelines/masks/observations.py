"""Rows of `pose` and `hands` as observations a frame: gaps bridged, hands completed from the pose.

Only reading and bridging belongs here.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pyarrow as pa

from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.masks.base import Observation, working_size
from pipelines.masks.body import Body, HandOutline, hand_from_pose, hand_length
from pipelines.masks.settings import MasksSettings

POSE_COLUMNS = ["frame", "time_s", "detected", "landmarks", "person_mask"]
HAND_COLUMNS = ["frame", "handedness", "keypoints_2d", "interpolated"]


def observations(
    pose: pa.Table, hands: pa.Table, size: tuple[int, int], settings: MasksSettings
) -> Iterator[Observation]:
    """One observation for each row of `pose`, in frame order.

    A frame without a pose takes the pose interpolated between its neighbours within `settings.carry_s`, and the
    person mask of the nearer one where it has none itself.

    Args:
        pose: Rows of one video, columns `POSE_COLUMNS`.
        hands: Rows of the same video, columns `HAND_COLUMNS`.
        size: Frame (height, width).
        settings: Settings of the stage.

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
    masks = pose["person_mask"]
    by_frame = _hands_by_frame(hands)
    scale = min(1.0, settings.working_side_px / max(size))
    nearest: tuple[int, np.ndarray | None] = (-1, None)
    for row, frame in enumerate(frames.tolist()):
        points, source = _bridge(row, times, found, landmarks, settings.carry_s)
        counts = masks[row].as_py()
        if counts is None and source is not None and source != row:
            counts = masks[source].as_py()
            if nearest[0] != source:
                nearest = (source, _person(counts, size, scale))
            person = nearest[1]
        else:
            person = _person(counts, size, scale)
        yield Observation(frame, points, person, size, scale, _complete(by_frame.get(frame, []), points, settings))


def _bridge(
    row: int, times: np.ndarray, found: np.ndarray, landmarks: np.ndarray, limit_s: float
) -> tuple[np.ndarray | None, int | None]:
    """Landmarks of a row, and the row whose person mask stands in."""
    if found[row]:
        return landmarks[row], row
    before = row - 1
    while before >= 0 and not found[before] and times[row] - times[before] <= limit_s:
        before -= 1
    after = row + 1
    while after < len(times) and not found[after] and times[after] - times[row] <= limit_s:
        after += 1
    near_before = before >= 0 and found[before] and times[row] - times[before] <= limit_s
    near_after = after < len(times) and found[after] and times[after] - times[row] <= limit_s
    if near_before and near_after:
        w = (times[row] - times[before]) / max(times[after] - times[before], 1e-9)
        return (1 - w) * landmarks[before] + w * landmarks[after], before if w <= 0.5 else after
    if near_before or near_after:
        source = before if near_before else after
        return landmarks[source], source
    return None, None


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
