"""Pictures of garments for the model: a product photo of the lake, or what a person wears, cut out of a video."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from typing import Any

import cv2
import numpy as np
from PIL import Image

from pipelines.arrays import decode_mask
from pipelines.ingest.garments import read_photo
from pipelines.ingest.segmentation import garment_from_worn
from pipelines.store import DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, GARMENTS, POSE
from pipelines.video import VideoReader

WORN = "worn-"
"""Prefix of the garment_id of a garment that was cut out of a video: `worn-<video_id>`."""


def preferred(garments: Iterable[dict[str, Any]], batch: str) -> dict[str, dict[str, Any]]:
    """garment_id -> the row whose photo and mask stand for it, of usable rows of `garments`.

    The batch's own first: the same photo may have been ingested with other masks elsewhere.

    Args:
        garments: Rows of `garments` of any batches.
        batch: Batch of the video that the garment is for.
    """
    usable = [g for g in garments if g["status"] == "ok" and g["uri"]]
    last_first = sorted(usable, key=lambda g: (g["batch"] != batch, g["batch"]), reverse=True)
    return {g["garment_id"]: g for g in last_first}


def garment_rows(store: DeltaStore, garment_ids: Collection[str], batch: str) -> dict[str, dict[str, Any]]:
    """As `preferred`, read from the lake: other batches are looked through only for what the own one lacks."""
    found: list[dict[str, Any]] = []
    for more in ({"batch": batch}, {}):
        missing = sorted(set(garment_ids) - {g["garment_id"] for g in found})
        if missing:
            rows = store.read(GARMENTS, where={"garment_id": missing, "status": "ok"} | more).to_pylist()
            found += [g for g in rows if g["uri"]]
    return preferred(found, batch)


def garment_photo(store: DeltaStore, garment: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Photo (h, w, 3) uint8 and mask (h, w) bool of a row of `garments`, upright.

    Raises:
        ValueError: The photo cannot be read any more.
    """
    try:
        # The reader of the ingestion, which turns photos upright as their mask is.
        image, _ = read_photo(str(store.blobs.local_path(garment["uri"])))
    except OSError as e:
        raise ValueError(f"The picture of garment {garment['garment_id']} cannot be read: ingest it again") from e
    if not garment["mask_uri"]:
        return image, None
    return image, np.asarray(Image.open(io.BytesIO(store.blobs.read_bytes(garment["mask_uri"]))).convert("L")) > 127


def worn_garment(store: DeltaStore, video: dict[str, Any], frame: int) -> tuple[np.ndarray, np.ndarray]:
    """What the person wears in one frame, on white, and its mask.

    The agnostic mask covers a margin around the garment on purpose; only its part on the person is cut out, without
    the outermost pixels, which are half background.

    Args:
        store: The lake.
        video: Row of `videos`.
        frame: A frame with a garment region.

    Raises:
        ValueError: The frame has no garment region.
    """
    where = {"batch": video["batch"], "video_id": video["video_id"], "frame": [frame]}
    masks = store.read(AGNOSTIC_MASKS, ["frame", "mask", "height", "width"], where).to_pylist()
    if not masks:
        raise ValueError(f"Frame {frame} of video {video['video_id']} has no garment region to cut out")
    row = masks[0]
    region = decode_mask(row["mask"], row["height"], row["width"])
    pose = store.read(POSE, ["frame", "person_mask"], where).to_pylist()
    if pose and pose[0]["person_mask"]:
        person = decode_mask(pose[0]["person_mask"], row["height"], row["width"])
        size = 1 + 2 * max(1, round(min(region.shape) / 320))
        inside = region & cv2.erode(person, np.ones((size, size), np.uint8))
        region = inside if inside.any() else region
    with VideoReader(store.blobs.local_path(video["uri"])) as reader:
        rgb = next(iter(reader.frames(start=frame, stop=frame + 1))).rgb
    return garment_from_worn(rgb, region)
