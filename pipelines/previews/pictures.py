"""Frames of a video with one annotation drawn over them. Only the frames that are shown are decoded."""

from __future__ import annotations

import os
from collections.abc import Iterable

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.previews.canvas import ORANGE, SKY, VERMILION, WHITE
from pipelines.previews.skeleton import draw_skeleton

# MediaPipe's 21 hand keypoints: four joints a finger, from the wrist.
HAND_BONES = (
    *((f + j, f + j + 1) for f in (1, 5, 9, 13, 17) for j in range(3)),
    *((0, k) for k in (1, 5, 17)), (5, 9), (9, 13), (13, 17),
)  # fmt: skip


def read_frames(path: str | os.PathLike[str], frames: Iterable[int], max_side: int) -> dict[int, np.ndarray]:
    """The wanted frames, scaled down to at most `max_side` pixels; frames that do not exist are left out.

    Raises:
        pipelines.video.VideoError: The file cannot be read.
    """
    from pipelines.video import VideoReader

    out: dict[int, np.ndarray] = {}
    with VideoReader(path, max_side=max_side) as reader:
        for index in sorted(set(frames)):
            frame = next(reader.frames(start=index, stop=index + 1), None)
            if frame is not None:
                out[index] = frame.rgb
    return out


def spread(count: int, available: np.ndarray | int) -> list[int]:
    """At most `count` of the available frames (or of frames 0 .. n-1), evenly spread, in order."""
    if isinstance(available, (int, np.integer)):
        available = np.arange(max(0, int(available)))
    if len(available) == 0:
        return []
    picks = ((np.arange(count) + 0.5) * len(available) / count).astype(int)
    return np.unique(np.asarray(available)[picks]).tolist()


def of_frame(rows: pa.Table, frame: int) -> pa.Table:
    """Rows of one frame."""
    return rows.filter(pc.equal(rows["frame"], frame))


def with_pose(rgb: np.ndarray, rows: pa.Table, size: tuple[int, int]) -> np.ndarray:
    """The frame with the outline of the person and the skeleton.

    Args:
        rgb: (height, width, 3) uint8, the frame scaled down.
        rows: One frame's rows of `pose`.
        size: Full frame (height, width).
    """
    out = rgb.copy()
    if rows.num_rows == 0 or not rows["detected"][0].as_py():
        return out
    counts = rows["person_mask"][0].as_py()
    if counts is not None:
        person = resized_mask(decode_mask(counts, *size), rgb.shape[:2])
        contours, _ = cv2.findContours(person, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, contours, -1, WHITE, 1)
    landmarks = points_to_numpy(rows["landmarks"], 33)[0]
    landmarks[:, :2] = (landmarks[:, :2] + 0.5) * (rgb.shape[1] / size[1]) - 0.5
    draw_skeleton(out, landmarks, outline=True)
    return out


def outlined(rgb: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], strength: float = 0.55) -> np.ndarray:
    """The picture with a mask tinted and outlined.

    Args:
        rgb: (height, width, 3) uint8.
        mask: Any size of the same shape; nonzero is tinted.
        colour: RGB.
        strength: 0 leaves the picture, 1 paints it over.
    """
    height, width = rgb.shape[:2]
    small = resized_mask(mask, (height, width)) > 0
    out = rgb.copy()
    out[small] = np.round((1 - strength) * rgb[small] + strength * np.array(colour)).astype(np.uint8)
    contours, _ = cv2.findContours(small.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, WHITE, 1)
    return out


def resized_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size, (height, width) uint8 of 0 and 1."""
    soft = (mask > 0).astype(np.uint8) * np.uint8(255)
    return (cv2.resize(soft, (size[1], size[0]), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)


def mask_of(rows: pa.Table) -> np.ndarray | None:
    """The mask of one frame's row of `agnostic_masks`, (height, width) uint8; None without a row."""
    if rows.num_rows == 0:
        return None
    row = rows.slice(0, 1).to_pylist()[0]
    return decode_mask(row["mask"], row["height"], row["width"])


def with_hands(rgb: np.ndarray, rows: pa.Table, size: tuple[int, int]) -> np.ndarray:
    """The frame with both hands' meshes and keypoints, vermilion where it was interpolated.

    Args:
        rgb: (height, width, 3) uint8, the frame scaled down.
        rows: One frame's rows of `hands`.
        size: Full frame (height, width).
    """
    if rows.num_rows == 0:
        return rgb.copy()
    out = _mesh(rgb, rows, size)
    scale = rgb.shape[1] / size[1]
    points = (points_to_numpy(rows["keypoints_2d"], 21) + 0.5) * scale - 0.5
    for p, side, filled in zip(points, rows["handedness"].to_pylist(), rows["interpolated"].to_pylist()):
        colour = VERMILION if filled else (SKY if side == "left" else ORANGE)
        fixed = np.round(np.clip(p, -8000, 8000) * 16).astype(int)
        for a, b in HAND_BONES:
            cv2.line(out, fixed[a].tolist(), fixed[b].tolist(), colour, 1, cv2.LINE_AA, 4)
    return out


def _mesh(rgb: np.ndarray, rows: pa.Table, size: tuple[int, int]) -> np.ndarray:
    from pipelines.clips.conditions import hands_on_canvas
    from pipelines.clips.letterbox import Letterbox
    from pipelines.hands.render import hand_video

    height, width = rgb.shape[:2]
    box = Letterbox.fit(*size, height, width)
    frame = rows["frame"][0].as_py()
    picture = next(iter(hand_video(hands_on_canvas(rows, box), height, width, frames=np.array([frame]))))
    shown = picture.any(-1)
    out = rgb.copy()
    out[shown] = np.round(0.35 * rgb[shown] + 0.65 * picture[shown]).astype(np.uint8)
    return out
