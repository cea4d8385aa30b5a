"""Frames of one window as the model sees them: for training and for try-on alike.

Training and inference must not differ by a pixel in how conditions are made, so this module is the only maker. All
pictures are drawn at the model's size, never drawn large and shrunk: a skeleton two pixels wide on a 1080p frame
would be gone at 96 columns.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.arrays import decode_mask, points_to_arrow, points_to_numpy, structs_to_arrow, structs_to_numpy
from pipelines.clips.letterbox import Letterbox
from pipelines.store.schemas import CAMERA, POINT_2D
from pipelines.video import VideoReader

if TYPE_CHECKING:
    from models.itryon.hand_points import ProjectedHand
    from pipelines.hands.render import PosedHand

# Hands are small on the canvas: rendered at four times its size and averaged, their shading survives.
HAND_SUPERSAMPLING = 4


@dataclass(frozen=True)
class WindowFrames:
    """One window at the model's size; F frames of H x W pixels.

    Attributes:
        target: Source frames, (F, H, W, 3) uint8 RGB.
        agnostic: Source frames with the garment region painted over and the pose drawn inside it, (F, H, W, 3) uint8.
        mask: Garment-agnostic region, (F, H, W) uint8, 1 = the model repaints.
        hands: Rendered hand meshes on black, (F, H, W, 3) uint8.
        hand_points: Point features of the same meshes, (F, 16, H / 8, W / 8) float32; `models.itryon.hand_points`.
        hand_present: (F,) bool, whether the frame has a hand.
        letterbox: Placement of the source frame on the canvas.
        frames: (F,) int64, source frame numbers; the last one repeats where a short video was padded.
    """

    target: np.ndarray
    agnostic: np.ndarray
    mask: np.ndarray
    hands: np.ndarray
    hand_points: np.ndarray
    hand_present: np.ndarray
    letterbox: Letterbox
    frames: np.ndarray


def window_frames(
    video_path: str | os.PathLike[str],
    start: int,
    num_frames: int,
    height: int,
    width: int,
    *,
    pose: pa.Table,
    masks: pa.Table,
    hands: pa.Table,
    stride: int = 1,
    pad: bool = False,
) -> WindowFrames:
    """Make the conditions of source frames start, start + stride, ... at the model's size.

    Args:
        video_path: Local video file.
        start: First source frame.
        num_frames: Frames of the window; the VAE wants 4n + 1.
        height: Rows of the model's canvas.
        width: Columns of the model's canvas.
        pose: Rows of `pose` of this video (at least of these frames).
        masks: Rows of `agnostic_masks` of this video. A frame without a row is not repainted.
        hands: Rows of `hands` of this video. A frame without a row is black.
        stride: Source frames per window frame.
        pad: Repeat the last frame when the video ends inside the window; otherwise that is an error.

    Raises:
        ValueError: The window starts after or, without `pad`, ends after the video's last frame.
        pipelines.video.VideoError: The file cannot be read.
    """
    if start < 0 or num_frames < 1 or stride < 1:
        raise ValueError(f"No window: start {start}, {num_frames} frames, stride {stride}")
    wanted = start + stride * np.arange(num_frames)
    with VideoReader(video_path) as reader:
        box = Letterbox.fit(reader.info.height, reader.info.width, height, width)
        pictures = {
            f.index: box.frame(f.rgb)
            for f in reader.frames(start=start, stop=int(wanted[-1]) + 1)
            if (f.index - start) % stride == 0
        }
    if not pictures:
        raise ValueError(f"The video has no frame {start}")
    if len(pictures) < num_frames and not pad:
        raise ValueError(
            f"The window needs frames {start} to {wanted[-1]}, the video ends at frame {max(pictures)}: "
            "use fewer frames or a smaller stride"
        )
    frames = np.minimum(wanted, max(pictures))
    target = np.stack([pictures[i] for i in frames.tolist()])
    mask = _masks(masks, frames, box)
    agnostic = _agnostic(target, mask, pose, frames, box)
    rendered, points, present = _hands(hands, frames, mask, box)
    return WindowFrames(target, agnostic, mask, rendered, points, present, box, frames)


def _of_frames(rows: pa.Table, frames: np.ndarray) -> pa.Table:
    return rows.filter(pc.is_in(rows["frame"], pa.array(np.unique(frames), rows.schema.field("frame").type)))


def _masks(rows: pa.Table, frames: np.ndarray, box: Letterbox) -> np.ndarray:
    rows = _of_frames(rows, frames).select(["frame", "mask", "height", "width"])
    found = {r["frame"]: box.mask(decode_mask(r["mask"], r["height"], r["width"])) for r in rows.to_pylist()}
    empty = np.zeros((box.height, box.width), np.uint8)
    return np.stack([found.get(i, empty) for i in frames.tolist()])


def _agnostic(target: np.ndarray, mask: np.ndarray, pose: pa.Table, frames: np.ndarray, box: Letterbox) -> np.ndarray:
    from pipelines.masks.agnostic import agnostic_with_pose

    rows = _of_frames(pose, frames)
    landmarks = points_to_numpy(rows["landmarks"], 33)
    landmarks[..., :2] = box.points(landmarks[..., :2])
    landmarks[..., 2] *= box.scale_x
    found = {f: p for f, p in zip(rows["frame"].to_pylist(), landmarks) if np.isfinite(p[:, :2]).all()}
    return np.stack([agnostic_with_pose(t, m, found.get(i)) for t, m, i in zip(target, mask, frames.tolist())])


def _hands(
    rows: pa.Table, frames: np.ndarray, masks: np.ndarray, box: Letterbox
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rendered hands, their point features, and whether there are any; one entry a window frame."""
    from models.itryon.hand_points import FRAME_CHANNELS, frame_points
    from pipelines.hands.render import posed_hands, render_posed

    large = box.scaled(HAND_SUPERSAMPLING)
    posed = posed_hands(hands_on_canvas(_of_frames(rows, frames), large))
    pictures = np.zeros((len(frames), box.height, box.width, 3), np.uint8)
    points = np.zeros((len(frames), FRAME_CHANNELS, box.height // 8, box.width // 8), np.float32)
    present = np.zeros(len(frames), bool)
    for i, frame in enumerate(frames.tolist()):
        if i and frame == frames[i - 1]:  # a short video was padded
            pictures[i], points[i], present[i] = pictures[i - 1], points[i - 1], present[i - 1]
        elif hands := posed.get(frame):
            drawn = render_posed(hands, large.height, large.width)
            pictures[i] = cv2.resize(drawn, (box.width, box.height), interpolation=cv2.INTER_AREA)
            points[i] = frame_points([_projected(h) for h in hands], masks[i])
            present[i] = True
    return pictures, points, present


def _projected(hand: PosedHand) -> ProjectedHand:
    """The hand in pixels of the canvas; its camera is that of the supersampled one."""
    from models.itryon.hand_points import ProjectedHand
    from models.perception.mesh_render import vertex_normals

    pixels = (hand.camera.project(hand.vertices) + 0.5) / HAND_SUPERSAMPLING - 0.5
    return ProjectedHand(pixels, hand.vertices, vertex_normals(hand.vertices, hand.faces), hand.side)


def hands_on_canvas(rows: pa.Table, box: Letterbox) -> pa.Table:
    """Rows of `hands` with camera and 2D keypoints in canvas pixels in place of source pixels."""
    camera = structs_to_numpy(rows["camera"]).astype(np.float64)
    centre = box.points(camera[:, 2:])
    camera = np.concatenate([camera[:, :2] * [box.scale_x, box.scale_y], centre], -1)
    points = box.points(points_to_numpy(rows["keypoints_2d"], 21))
    rows = rows.set_column(rows.schema.get_field_index("camera"), "camera", structs_to_arrow(camera, CAMERA))
    return rows.set_column(
        rows.schema.get_field_index("keypoints_2d"), "keypoints_2d", points_to_arrow(points, POINT_2D)
    )
