"""Figures over videos and their bootstrap intervals.

Frames of one video are alike, so intervals come from drawing whole videos again (a cluster bootstrap). Every statistic
is a function of how often each video was drawn: the whole set is a row of ones, a split is a row of ones and zeros.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pipelines.evaluation.bootstrap import cluster_draws, percentile_interval

RESAMPLES = 1000
LEVEL = 0.95


class Statistic(ABC):
    """A number that a set of videos has.

    Attributes:
        samples: (V,) int, samples that each video brings; the number that says how much a value is worth.
    """

    samples: np.ndarray

    @abstractmethod
    def at(self, weights: np.ndarray) -> np.ndarray:
        """Values (B,) where video v counts `weights[b, v]` times, weights (B, V); NaN without samples."""


class Ratio(Statistic):
    """Sum of numerators over sum of denominators: means, shares, precision, recall, and F1 as 2 TP / (P + L).

    Args:
        numerator: (V,) sum in each video.
        denominator: (V,).
        samples: (V,) int; the denominators by default.
    """

    def __init__(self, numerator: ArrayLike, denominator: ArrayLike, samples: ArrayLike | None = None):
        self.numerator = np.asarray(numerator, np.float64)
        self.denominator = np.asarray(denominator, np.float64)
        self.samples = np.asarray(self.denominator if samples is None else samples).astype(int)

    @classmethod
    def mean(cls, values: Sequence[np.ndarray]) -> Ratio:
        """Mean over all samples; each video brings an array of them, in which NaN is no sample."""
        flat = [np.asarray(v, np.float64).ravel() for v in values]
        known = [np.isfinite(v) for v in flat]
        return cls([v[k].sum() for v, k in zip(flat, known)], [k.sum() for k in known])

    def at(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic.at`."""
        return _divided(weights @ self.numerator, weights @ self.denominator)


class Median(Statistic):
    """Median over all samples (the lower one of two in the middle).

    Args:
        values: An array of samples for each video; NaN is no sample.
    """

    def __init__(self, values: Sequence[np.ndarray]):
        flat = [np.asarray(v, np.float64).ravel() for v in values]
        flat = [v[np.isfinite(v)] for v in flat]
        self.samples = np.array([len(v) for v in flat], int)
        joined = np.concatenate([*flat, np.zeros(0)])
        order = np.argsort(joined, kind="stable")
        self._sorted = joined[order]
        self._video = np.repeat(np.arange(len(flat)), self.samples)[order]

    def at(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic.at`."""
        out = np.full(len(weights), np.nan)
        for b, row in enumerate(weights):  # a row at a time: samples times resamples would not fit
            below = np.cumsum(row[self._video])
            if len(below) and below[-1] > 0:
                out[b] = self._sorted[np.searchsorted(below, below[-1] / 2)]
        return out


class BalancedAccuracy(Statistic):
    """Mean of the accuracies of two classes, whatever their sizes; NaN where one has no samples.

    Args:
        right: (V, 2) samples of each class that are told right.
        total: (V, 2) samples of each class.
    """

    def __init__(self, right: np.ndarray, total: np.ndarray):
        self.right, self.total = (np.asarray(a, np.float64).reshape(-1, 2) for a in (right, total))
        self.samples = self.total.sum(1).astype(int)

    def at(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic.at`."""
        return _divided(weights @ self.right, weights @ self.total).mean(1)


class CalibrationError(Statistic):
    """Expected calibration error (ECE): |confidence - accuracy| of each bin, weighted by its samples.

    Args:
        confidence: Confidences of each video's predictions, 0 to 1.
        correct: Whether they are right.
        bins: Bins of equal width.
    """

    def __init__(self, confidence: Sequence[np.ndarray], correct: Sequence[np.ndarray], bins: int = 10):
        self._gap = np.zeros((len(confidence), bins))
        self.samples = np.array([len(c) for c in confidence], int)
        for v, (c, right) in enumerate(zip(confidence, correct)):
            np.add.at(self._gap[v], bin_of(np.asarray(c), bins), np.asarray(c, np.float64) - np.asarray(right, float))

    def at(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic.at`."""
        return _divided(np.abs(weights @ self._gap).sum(1), weights @ self.samples)


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Which of `bins` equal bins of [0, 1] a confidence lies in; 1 belongs to the last."""
    return np.clip((np.asarray(confidence, np.float64) * bins).astype(int), 0, bins - 1)


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


@dataclass(frozen=True)
class Figure:
    """One named statistic of an annotator.

    Attributes:
        metric: Name, `family.what`, or `family.what/of_what`.
        statistic: Its samples.
        unit: share, px, mm, deg, torso, ratio or spans.
        better: Which direction is better; empty where neither is.
        split: Whether it is worth splitting by what the videos show.
    """

    metric: str
    statistic: Statistic
    unit: str = "share"
    better: Literal["higher", "lower", ""] = "higher"
    split: bool = True


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None where there is nothing to tell.

    Attributes:
        value: The value; None without samples.
        low: Lower end of the interval; None with fewer than two videos.
        high: Upper end.
        num_samples: Samples behind it.
        num_videos: Videos with samples.
    """

    value: float | None
    low: float | None
    high: float | None
    num_samples: int
    num_videos: int


def estimate(
    statistic: Statistic, members: np.ndarray | None = None, resamples: int = RESAMPLES, level: float = LEVEL
) -> Estimate:
    """Value of a statistic over some videos, with the percentile interval of a bootstrap over these videos.

    Args:
        statistic: What to compute.
        members: (V,) bool, the videos that count; all by default.
        resamples: Draws; 0 leaves the interval out.
        level: Level of the interval.
    """
    count = len(statistic.samples)
    chosen = np.ones(count, bool) if members is None else np.asarray(members, bool)
    value = float(statistic.at(chosen[None].astype(np.float64))[0]) if count else np.nan
    samples = int(statistic.samples[chosen].sum())
    with_samples = np.flatnonzero(chosen & (statistic.samples > 0))
    n = len(with_samples)
    if not np.isfinite(value):
        return Estimate(None, None, None, samples, n)
    if n < 2 or resamples < 1:
        return Estimate(value, None, None, samples, n)
    weights = np.zeros((resamples, count))
    weights[:, with_samples] = cluster_draws([n], resamples)[0]
    low, high = percentile_interval(statistic.at(weights), level) or (None, None)
    return Estimate(value, low, high, samples, n)
