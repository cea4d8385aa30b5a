"""What a judge is shown of one interaction: sampled pictures of both videos, region, hands, pose, contact.

Everything but the pictures of the result comes from the source's annotations: a try-on keeps its pose and hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.judges.base import HandContact, JudgeRequest, Sampling
from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.captions.contact import ContactReader
from pipelines.captions.spans import frames_of
from pipelines.captions.tracks import (
    HAND_COLUMNS,
    MASK_COLUMNS,
    MASK_HOLD_S,
    POSE_COLUMNS,
    GarmentRegion,
    build_tracks,
)
from pipelines.stage import VideoTask
from pipelines.store import TABLES, DeltaStore
from pipelines.video import VideoReader


class AnnotatedSource:
    """One source video with its annotations, read once for all that is judged of it.

    Args:
        store: The lake.
        row: Its row of `videos`.
        reader: The contact network, for judges that need its reading; None for others.
    """

    def __init__(self, store: DeltaStore, row: dict[str, Any], reader: ContactReader | None = None):
        self._store, self.row, self._reader = store, row, reader
        self.path = store.blobs.local_path(row["uri"])

    def request(
        self,
        sampling: Sampling,
        result: Path,
        action: str,
        text: str,
        span: tuple[int, int],
        *,
        offset: int = 0,
        count: int | None = None,
    ) -> JudgeRequest:
        """One interaction, all pictures and points at one size.

        Args:
            sampling: Which frames it wants, how large, and whether it needs contact.
            result: The try-on video.
            action: Interaction category.
            text: Caption.
            span: Half-open, frames of the source.
            offset: Frame of the source at which the result begins.
            count: Frames of the result; by default all from the offset to the source's end.

        Raises:
            ValueError: The span lies outside of the result, or frames are missing in a video.
        """
        count = self.row["num_frames"] - offset if count is None else count
        start, end = max(0, span[0] - offset), min(count, span[1] - offset)
        with VideoReader(self.path) as reader:
            info = reader.info
        frames = sampling.frames(start, end, count, info.fps)
        height = min(sampling.picture_height, info.height)
        width = max(1, round(info.width * height / info.height))
        scale = height / info.height
        wanted = [int(f) + offset for f in frames]
        return JudgeRequest(
            action=action,
            caption=text,
            fps=info.fps,
            start=start,
            end=end,
            frames=frames,
            result=read_pictures(result, [int(f) for f in frames], width, height),
            source=read_pictures(self.path, wanted, width, height),
            region=self._regions(wanted, width, height),
            hands=self._hands_at(wanted, scale),
            landmarks=self._landmarks(range(offset, offset + count), scale),
            contact=self.contact(offset, count) if sampling.needs_contact else None,
        )

    def contact(self, offset: int, count: int) -> dict[str, HandContact]:
        """Side -> the contact network's reading of the source, over the frames of the result.

        Raises:
            ValueError: The object was made without the network.
        """
        part = slice(offset, offset + count)
        return {side: HandContact(h.touching[part], h.doing[part]) for side, h in self._contact.items()}

    # --- annotations ---

    @cached_property
    def _pose(self) -> pa.Table:
        return self._rows("pose", POSE_COLUMNS)

    @cached_property
    def _hands(self) -> pa.Table:
        return self._rows("hands", HAND_COLUMNS)

    @cached_property
    def _masks(self) -> pa.Table:
        return self._rows("agnostic_masks", MASK_COLUMNS)

    def _rows(self, table: str, columns: list[str]) -> pa.Table:
        where = {"batch": self.row["batch"], "video_id": self.row["video_id"]}
        return self._store.read(TABLES[table], columns, where).combine_chunks()

    @cached_property
    def _contact(self) -> dict[str, HandContact]:
        if self._reader is None:
            raise ValueError("the judge needs the contact network's reading, and the network was not loaded")
        row = self.row
        size = (row["height"], row["width"])
        tracks = build_tracks(self._pose, self._hands, row["num_frames"], row["fps"], size)
        region = GarmentRegion(self._masks, frames_of(MASK_HOLD_S, tracks.fps))
        task = VideoTask(self._store, row, 1, lambda frames: None)
        return {s: HandContact(c.touching, c.doing) for s, c in self._reader.read(task, tracks, region).items()}

    def _regions(self, frames: Sequence[int], width: int, height: int) -> np.ndarray:
        out = np.zeros((len(frames), height, width), bool)
        for i, row in _at(self._masks, frames):
            mask = decode_mask(row["mask"], row["height"], row["width"])
            out[i] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0
        return out

    def _hands_at(self, frames: Sequence[int], scale: float) -> list[dict[str, np.ndarray]]:
        out: list[dict[str, np.ndarray]] = [{} for _ in frames]
        for i, row in _at(self._hands, frames):
            points = np.array([[p["x_px"], p["y_px"]] for p in row["keypoints_2d"]], np.float32)
            out[i][row["handedness"]] = points * scale
        return out

    def _landmarks(self, frames: Sequence[int], scale: float) -> np.ndarray:
        out = np.full((len(frames), 33, 2), np.nan, np.float32)
        at = self._pose["frame"].to_numpy() - frames[0]
        inside = (at >= 0) & (at < len(frames))
        out[at[inside]] = points_to_numpy(self._pose["landmarks"], 33)[inside, :, :2] * scale
        return out


def _at(table: pa.Table, frames: Sequence[int]) -> list[tuple[int, dict[str, Any]]]:
    """Position in `frames`, and row, of all rows of these frames."""
    place = {f: i for i, f in enumerate(frames)}
    rows = table.filter(pc.is_in(table["frame"], pa.array(sorted(place), pa.int32()))).to_pylist()
    return [(place[r["frame"]], r) for r in rows]


def read_pictures(path: Path, frames: Sequence[int], width: int, height: int) -> np.ndarray:
    """Frames of a video at one size, (len(frames), height, width, 3) uint8 RGB.

    Raises:
        ValueError: Frames are missing in the video.
    """
    out = []
    wanted = set(frames)
    with VideoReader(path) as reader:
        for frame in reader.frames(start=frames[0], stop=frames[-1] + 1):
            if frame.index in wanted:
                out.append(cv2.resize(frame.rgb, (width, height), interpolation=cv2.INTER_AREA))
    if len(out) != len(frames):
        raise ValueError(f"{len(frames) - len(out)} of the frames to judge are missing in {path.name}")
    return np.stack(out)
