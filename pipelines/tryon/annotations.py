"""The annotation rows that a try-on reads: all of a short video's in memory, or a window's at a time from the lake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.captions.tracks import frame_times
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, HANDS, POSE

_BY_FRAME = (POSE, AGNOSTIC_MASKS, HANDS)


@dataclass(frozen=True)
class Annotations:
    """One video's rows of the annotation tables."""

    pose: pa.Table
    masks: pa.Table
    hands: pa.Table
    captions: pa.Table

    def of_frames(self, start: int, stop: int) -> Annotations:
        """The rows of frames [start, stop), and all captions."""
        pose, masks, hands = (_between(t, start, stop) for t in (self.pose, self.masks, self.hands))
        return Annotations(pose, masks, hands, self.captions)

    def has_mask(self, start: int, stop: int) -> bool:
        """Whether anything of the frames [start, stop) is to be repainted."""
        return _any_area(self.masks.select(["frame", "area_fraction"]), start, stop)


class StoredAnnotations:
    """One video's rows where they are: a window's are read when they are needed, so that memory does not go with the
    video's length.

    Args:
        store: The lake.
        video: Row of `videos`.

    Attributes:
        captions: The video's rows of `captions`, which are few.
    """

    def __init__(self, store: DeltaStore, video: Mapping[str, Any]):
        self._store = store
        self._where = {"batch": video["batch"], "video_id": video["video_id"]}
        # A stage that runs meanwhile must not change the rows between two windows.
        self._versions = {t.name: store.version(t) for t in (*_BY_FRAME, CAPTIONS)}
        self.captions = store.read(CAPTIONS, where=self._where, version=self._versions[CAPTIONS.name])

    def of_frames(self, start: int, stop: int) -> Annotations:
        """The rows of frames [start, stop), and all captions."""
        where = self._where | {"frame": list(range(start, stop))}
        pose, masks, hands = (self._store.read(t, where=where, version=self._versions[t.name]) for t in _BY_FRAME)
        return Annotations(pose, masks, hands, self.captions)

    def times_s(self, num_frames: int, fps: float) -> np.ndarray:
        """Presentation times of the video's frames, (num_frames,), seconds.

        Args:
            num_frames: Frames of the video.
            fps: Its average rate, for frames without a row.
        """
        version = self._versions[POSE.name]
        return frame_times(self._store.read(POSE, ["frame", "time_s"], self._where, version), num_frames, fps)

    def fingerprints(self, stage: str) -> pa.ChunkedArray:
        """What each row of a stage was made of, one value a row."""
        return self._store.read(TABLES[stage], ["fingerprint"], self._where, self._versions[stage])["fingerprint"]

    def has_mask(self, start: int, stop: int) -> bool:
        """Whether anything of the frames [start, stop) is to be repainted."""
        version = self._versions[AGNOSTIC_MASKS.name]
        batches = self._store.batches(AGNOSTIC_MASKS, ["frame", "area_fraction"], self._where, version)
        return any(_any_area(pa.table(b), start, stop) for b in batches)


def _any_area(masks: pa.Table, start: int, stop: int) -> bool:
    return bool(pc.any(pc.greater(_between(masks, start, stop)["area_fraction"], 0)).as_py())


def _between(rows: pa.Table, start: int, stop: int) -> pa.Table:
    frame = rows["frame"]
    return rows.filter(pc.and_(pc.greater_equal(frame, start), pc.less(frame, stop)))
