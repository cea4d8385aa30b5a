"""From evidence a frame to spans of frames: morphological smoothing in seconds, then runs.

Only time series of booleans belong here; what counts as evidence is the backends' business. The paper cleans
frame-level interaction labels this way before they become time-stamped segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

Span = tuple[int, int]
"""Half-open: first frame, frame after the last."""


def runs(evidence: np.ndarray) -> list[Span]:
    """Maximal runs of True in a 1-D boolean array, as half-open spans in order."""
    padded = np.concatenate([[False], np.asarray(evidence, bool), [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def fill(spans: Iterable[Span], num_frames: int) -> np.ndarray:
    """Boolean array of `num_frames` frames, True inside any of the spans. Inverse of `runs`."""
    out = np.zeros(num_frames, bool)
    for start, end in spans:
        out[start:end] = True
    return out


def frames_of(seconds: float, fps: float) -> int:
    """Length of a structuring element: whole frames, at least one (which changes nothing)."""
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"frames a second must be positive, not {fps}")
    return max(1, round(seconds * fps))


def close_gaps(evidence: np.ndarray, length: int) -> np.ndarray:
    """Morphological closing with a flat element of `length` frames: gaps shorter than it are filled.

    A gap at either end of the video has evidence on one side only and stays.
    """
    found = runs(evidence)
    joined: list[Span] = []
    for start, end in found:
        if joined and start - joined[-1][1] < length:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return fill(joined, len(evidence))


def drop_short(evidence: np.ndarray, length: int) -> np.ndarray:
    """Morphological opening with a flat element of `length` frames: runs shorter than it are dropped."""
    return fill([(a, b) for a, b in runs(evidence) if b - a >= length], len(evidence))


def smooth(evidence: np.ndarray, fps: float, closing_s: float, opening_s: float) -> np.ndarray:
    """Closing, then opening: first join what a few missed frames tore apart, then drop what is still short.

    Args:
        evidence: Shape (frames,), bool.
        fps: Frames a second.
        closing_s: Gaps shorter than this many seconds are filled.
        opening_s: Runs shorter than this many seconds are dropped.

    Returns:
        Shape (frames,), bool. Smoothing it again changes nothing.
    """
    return drop_short(close_gaps(evidence, frames_of(closing_s, fps)), frames_of(opening_s, fps))


def smoothed_runs(
    evidence: np.ndarray, fps: float, closing_s: float, opening_s: float, cuts: Iterable[int] = ()
) -> list[Span]:
    """Runs of the smoothed evidence, each shot for itself: no span reaches across a cut.

    Args:
        evidence, fps, closing_s, opening_s: See `smooth`.
        cuts: First frame of every shot but the first.
    """
    borders = [0, *sorted(c for c in set(cuts) if 0 < c < len(evidence)), len(evidence)]
    return [
        (first + a, first + b)
        for first, last in pairwise(borders)
        for a, b in runs(smooth(evidence[first:last], fps, closing_s, opening_s))
    ]


def temporal_iou(a: Span, b: Span) -> float:
    """Intersection over union of two half-open spans, 0 to 1."""
    intersection = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - intersection
    return intersection / union if union > 0 else 0.0


def match_spans(predicted: Sequence[Span], truth: Sequence[Span], least: float = 0.5) -> np.ndarray:
    """Shape (predicted,), index of the true span that each prediction finds, one to one; -1 where it finds none.

    Pairs below the temporal IoU `least` do not count; among the rest the assignment of the largest sum is taken.

    Raises:
        ValueError: `least` lies outside (0, 1].
    """
    if not 0 < least <= 1:
        raise ValueError(f"the least IoU must lie in (0, 1], not {least}")
    out = np.full(len(predicted), -1)
    if len(predicted) and len(truth):
        iou = np.array([[temporal_iou(p, t) for t in truth] for p in predicted])
        iou[iou < least] = 0
        rows, columns = linear_sum_assignment(iou, maximize=True)
        counts = iou[rows, columns] > 0
        out[rows[counts]] = columns[counts]
    return out
