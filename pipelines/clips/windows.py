"""Which windows of a video become training clips. Pure functions over frame numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Window:
    """Frames start, start + stride, ... of a video.

    Attributes:
        start: First source frame.
        num_frames: Frames of the window.
        stride: Source frames per window frame.
    """

    start: int
    num_frames: int
    stride: int = 1

    @property
    def last(self) -> int:
        """Last source frame of the window."""
        return self.start + (self.num_frames - 1) * self.stride

    def local_span(self, start: int, end: int) -> tuple[int, int] | None:
        """The window frames [first, stop) whose source frames lie in [start, end); None where there are none."""
        first = max(0, math.ceil((start - self.start) / self.stride))
        stop = min(self.num_frames, math.ceil((end - self.start) / self.stride))
        return (first, stop) if first < stop else None


def cut_windows(video_frames: int, cut_frames: Sequence[int], num_frames: int, stride: int, step: int) -> list[Window]:
    """All windows of a video, in order.

    Each shot is cut every `step` frames; where its end leaves a remainder, one more window is shifted back to end with
    the shot, so no frame of a shot that is long enough is lost. No window crosses a cut.

    Args:
        video_frames: Frames of the video.
        cut_frames: First frame of every shot but the first.
        num_frames: Frames of a window.
        stride: Source frames per window frame.
        step: Source frames between starts of neighbouring windows.
    """
    length = (num_frames - 1) * stride + 1
    edges = [0, *sorted({c for c in cut_frames if 0 < c < video_frames}), video_frames]
    windows = []
    for begin, end in pairwise(edges):
        if end - begin < length:
            continue
        starts = list(range(begin, end - length + 1, min(step, length)))
        if starts[-1] + length < end:
            starts.append(end - length)
        windows += [Window(s, num_frames, stride) for s in starts]
    return windows


def choose_windows(
    windows: Sequence[Window], spans: Sequence[tuple[int, int]], limit: int, interaction_share: float
) -> list[Window]:
    """At most `limit` windows, spread over the video, with and without interaction.

    Args:
        windows: Candidates in order.
        spans: Interaction spans [start, end) in source frames.
        limit: Most windows to keep.
        interaction_share: Share of windows that touch a span, as far as there are enough of both kinds.
    """
    if len(windows) <= limit:
        return list(windows)
    touching = [w for w in windows if any(w.local_span(*s) for s in spans)]
    plain = [w for w in windows if w not in set(touching)]
    wanted = round(limit * interaction_share)
    if spans and touching and plain and limit > 1:
        # A share that rounds to nothing must not lose one kind altogether.
        wanted = min(max(wanted, 1), limit - 1)
    count = min(len(touching), max(wanted, limit - len(plain)))
    return sorted(_spread(touching, count) + _spread(plain, limit - count), key=lambda w: w.start)


def _spread(items: Sequence[Window], count: int) -> list[Window]:
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def nearest_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) of `sizes` whose aspect ratio is nearest to the video's; the first of equals."""
    return min(sizes, key=lambda s: abs(math.log((s[0] * width) / (s[1] * height))))


def far_frame(frames: Sequence[int], areas: Sequence[float], window: Window) -> int | None:
    """A frame to cut the worn garment from: large in the picture, and far from the window so it gives no pose away.

    Among the quarter of the frames with the largest garment that lie outside the window (or of all, where the window
    covers them all), the one farthest from the window's centre.

    Args:
        frames: Frame numbers with a garment region.
        areas: Area fraction of the region in each.
        window: The training window.
    """
    candidates = [(f, a) for f, a in zip(frames, areas) if a > 0]
    if not candidates:
        return None
    outside = [c for c in candidates if not window.start <= c[0] <= window.last] or candidates
    outside.sort(key=lambda c: (-c[1], c[0]))
    centre = (window.start + window.last) / 2
    return max(outside[: math.ceil(len(outside) / 4)], key=lambda c: (abs(c[0] - centre), -c[0]))[0]
