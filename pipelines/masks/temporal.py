"""Steadies a region's outline in time, streaming, with memory for one window of frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

import cv2
import numpy as np

T = TypeVar("T")


class RunningVote(Generic[T]):
    """Spatial blur, centred running mean over time, threshold one half.

    The recipe of CatVTON's video masks. At both ends the window is cut short, so a still video gives one still mask.

    Args:
        window: Frames of the running mean, odd.
        blur_px: Side of the box blur, odd.
    """

    def __init__(self, window: int, blur_px: int):
        self.half = window // 2
        self.blur_px = blur_px
        self._held: deque[tuple[np.ndarray, T]] = deque()
        self._sum: np.ndarray | None = None
        self._next = 0  # index into `_held` of the next frame to give back

    def push(self, region: np.ndarray, item: T) -> Iterator[tuple[np.ndarray, T]]:
        """Add a frame; yields (steadied region, item) of frames whose window is now complete.

        Args:
            region: (height, width) uint8 of 0 and 1; always the same size.
            item: Handed back with the frame.
        """
        soft = region * np.uint8(255)
        if self.half and self.blur_px > 1:
            soft = np.asarray(cv2.blur(soft, (self.blur_px, self.blur_px)), np.uint8)
        self._held.append((soft, item))
        if self._sum is None:
            self._sum = np.zeros(region.shape, np.uint16)
        cv2.add(self._sum, soft, self._sum, dtype=cv2.CV_16U)
        if len(self._held) - self._next > self.half:
            yield self._vote()

    def finish(self) -> Iterator[tuple[np.ndarray, T]]:
        """Yields the frames that still wait for their window."""
        while self._next < len(self._held):
            yield self._vote()

    def _vote(self) -> tuple[np.ndarray, T]:
        assert self._sum is not None
        item = self._held[self._next][1]
        out = (self._sum > 127 * len(self._held)).astype(np.uint8)
        self._next += 1
        if self._next > self.half:
            oldest, _ = self._held.popleft()
            cv2.subtract(self._sum, oldest, self._sum, dtype=cv2.CV_16U)
            self._next -= 1
        return out, item
