"""The layout of the ViViD data set, and the way its users' loaders read it.

A video is four mp4 files of its whole length (source, agnostic, mask, pose) and the garment's picture. A loader decodes
each file from its first frame to its last, picks the window, brings it to the model's size and scales it to -1 to 1.
What it yields is pixels: the VAE is still to come.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.clips.garments import worn_garment
from pipelines.masks.agnostic import agnostic_frame
from pipelines.previews.skeleton import draw_skeleton
from pipelines.store import DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, POSE
from pipelines.video import VideoReader, VideoWriter

STREAMS = ("videos", "agnostic", "agnostic_mask", "densepose")


def write_vivid(store: DeltaStore, video: dict[str, Any], folder: Path) -> None:
    """Write one annotated video of the lake in ViViD's layout, at its own size."""
    where = {"batch": video["batch"], "video_id": video["video_id"]}
    masks = {r["frame"]: r for r in store.read(AGNOSTIC_MASKS, where=where).to_pylist()}
    pose = store.read(POSE, where=where)
    points = dict(zip(pose["frame"].to_pylist(), points_to_numpy(pose["landmarks"], 33)))
    height, width = (video[k] // 2 * 2 for k in ("height", "width"))
    paths = [folder / s / f"{video['video_id']}.mp4" for s in STREAMS]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    writers = [VideoWriter(p, fps=video["fps"], width=width, height=height) for p in paths]
    try:
        with VideoReader(store.blobs.local_path(video["uri"])) as reader:
            for frame in reader.frames():
                row = masks.get(frame.index)
                shape = frame.rgb.shape[:2]
                mask = decode_mask(row["mask"], row["height"], row["width"]) if row else np.zeros(shape, np.uint8)
                skeleton = np.zeros_like(frame.rgb)
                if (landmarks := points.get(frame.index)) is not None and np.isfinite(landmarks[:, :2]).all():
                    draw_skeleton(skeleton, landmarks)
                white = np.repeat(mask[..., None] * np.uint8(255), 3, 2)
                for writer, picture in zip(writers, (frame.rgb, agnostic_frame(frame.rgb, mask), white, skeleton)):
                    writer.write(np.ascontiguousarray(picture[:height, :width]))
    finally:
        for writer in writers:
            writer.close()
    largest = max(masks.values(), key=lambda r: r["area_fraction"])
    garment, _ = worn_garment(store, video, largest["frame"])
    (folder / "images").mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / f"{video['video_id']}.png"), garment[..., ::-1])


def read_vivid(folder: Path, row: dict[str, Any]) -> dict[str, torch.Tensor]:
    """One sample: four videos (3, F, H, W) and the garment (3, H, W), -1 to 1, at the size of the clip's bucket."""
    count, height, width = (int(n) for n in row["bucket"].split("x"))
    sample = {}
    for stream in STREAMS:
        with VideoReader(folder / stream / f"{row['video_id']}.mp4") as reader:
            whole = np.stack([f.rgb for f in reader.frames()])
        sample[stream] = _scaled(whole[row["start_frame"] : row["start_frame"] + count], height, width)
    garment = cv2.imread(str(folder / "images" / f"{row['video_id']}.png"))[None, ..., ::-1]
    sample["garment"] = _scaled(garment, height, width)[:, 0]
    return sample


def _scaled(frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    small = np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames])
    return torch.from_numpy(small).permute(3, 0, 1, 2).float() / 127.5 - 1
