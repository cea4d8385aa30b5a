"""The annotation rows that a try-on reads: all of a short video's in memory, or a window's at a time from the lake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
        """Whether any of the frames [start, stop) has an agnostic mask."""
        return _between(self.masks.select(["frame"]), start, stop).num_rows > 0


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

    def fingerprints(self, stage: str) -> pa.ChunkedArray:
        """What each row of a stage was made of, one value a row."""
        return self._store.read(TABLES[stage], ["fingerprint"], self._where, self._versions[stage])["fingerprint"]

    def has_mask(self, start: int, stop: int) -> bool:
        """Whether any of the frames [start, stop) has an agnostic mask."""
        version = self._versions[AGNOSTIC_MASKS.name]
        batches = self._store.batches(AGNOSTIC_MASKS, ["frame"], self._where, version)
        return any(_between(pa.table(b), start, stop).num_rows for b in batches)


def _between(rows: pa.Table, start: int, stop: int) -> pa.Table:
    frame = rows["frame"]
    return rows.filter(pc.and_(pc.greater_equal(frame, start), pc.less(frame, stop)))
