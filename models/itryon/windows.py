"""Long videos in overlapping windows of the model's length, joined by a linear crossfade. Streams: flat in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

TEMPORAL_FACTOR = 4
"""Frames of a latent frame; the first one of a window stands alone."""


def plan_windows(num_frames: int, window: int, overlap: int) -> list[tuple[int, int]]:
    """Windows [start, stop) that cover `num_frames` frames, each `window` long and overlapping by at least `overlap`.

    The last window ends with the last frame, so its overlap may be larger. A video shorter than a window gets one
    window that is longer than the video: the caller repeats the last frame.

    Raises:
        ValueError: No frames, or an overlap that leaves no progress.
    """
    if num_frames < 1 or not 0 <= overlap < window:
        raise ValueError(f"No windows of {window} frames with overlap {overlap} over {num_frames} frames")
    if num_frames <= window:
        return [(0, window)]
    starts = [*range(0, num_frames - window, window - overlap), num_frames - window]
    return [(s, s + window) for s in starts]


class Crossfade:
    """Joins windows into one stream of frames.

    Where two windows overlap, the weight of the later one rises linearly from the frame after the overlap's begin.
    """

    def __init__(self) -> None:
        self._start = 0
        self._held: np.ndarray | None = None

    def add(self, start: int, frames: np.ndarray) -> Iterator[np.ndarray]:
        """Take a window (F, H, W, C) uint8 that starts at frame `start`; yields the frames that are now final.

        Raises:
            ValueError: The window leaves a gap or does not lie behind the one before.
        """
        if self._held is None:
            self._start, self._held = start, frames
            return
        end = self._start + len(self._held)
        if not self._start < start <= end or start + len(frames) < end:
            raise ValueError(f"Window {start}..{start + len(frames)} does not continue {self._start}..{end}")
        shared = end - start
        weight = (np.arange(1, shared + 1, dtype=np.float32) / (shared + 1)).reshape(-1, 1, 1, 1)
        head, tail = self._held[: start - self._start], self._held[start - self._start :]
        mixed = np.rint(tail * (1 - weight) + frames[:shared] * weight).astype(frames.dtype)
        self._start, self._held = start, np.concatenate([mixed, frames[shared:]])
        yield from head

    def finish(self) -> Iterator[np.ndarray]:
        """The frames still held."""
        if self._held is not None:
            yield from self._held
        self._held = None


def seam_ratio(frames: np.ndarray, masks: np.ndarray, windows: Sequence[tuple[int, int]]) -> float:
    """How much more neighbouring frames differ where windows meet than elsewhere, inside the mask; 1 is no seam.

    The autoencoder makes four frames of a latent one, and neighbours from different latent frames differ more wherever
    they are. Each change is therefore compared with those of its kind: across latent frames, or within one.

    Args:
        frames: Joined result, (F, H, W, 3) uint8.
        masks: Where it is generated, (F, H, W), nonzero inside.
        windows: What `plan_windows` gave.

    Returns:
        Mean absolute difference of neighbouring frames in and at the ends of overlaps, over what changes of the same
        kinds come to elsewhere.

    Raises:
        ValueError: There is a single window, or nothing but overlaps.
    """
    inside = (np.asarray(masks)[1:] > 0) & (np.asarray(masks)[:-1] > 0)
    difference = np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(-1)
    change = (difference * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
    meets = np.zeros(len(change), bool)
    for (_, end), (start, _) in pairwise(windows):
        meets[max(0, start - 1) : end] = True
    if not meets.any() or meets.all():
        raise ValueError("A seam is measured against frames between seams: use more frames than one window has")
    across = np.zeros(len(change), bool)
    for start, end in windows:
        across[start : end - 1 : TEMPORAL_FACTOR] = True
    expected = np.full(len(change), change[~meets].mean())
    for kind in (across, ~across):
        if (kind & ~meets).any():
            expected[kind] = change[kind & ~meets].mean()
    return float(change[meets].mean() / expected[meets].mean())
