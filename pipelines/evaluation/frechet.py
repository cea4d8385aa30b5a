"""Fréchet distance of two sets of features, and what a bootstrap over videos says about it.

`d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. The trace of the root is the sum of the singular values of
`A B^T`, where the rows of A and B are the centred features over `sqrt(n - 1)`: no root of a singular matrix is taken,
so the value is exact in float64 also where there are fewer clips than dimensions. The package cd-fvd divides by n in
place of n - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.bootstrap import cluster_draws, percentile_interval


@dataclass(frozen=True)
class FeatureSet:
    """Features of the clips of a set of videos.

    Attributes:
        values: (N, D) features, one row a clip.
        video: (N,) int, the video that a clip is of.
        counts: (N,) how often a clip counts; once each by default.
    """

    values: np.ndarray
    video: np.ndarray
    counts: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray:
        """(N,) float64, how often each clip counts."""
        return np.ones(len(self.values)) if self.counts is None else np.asarray(self.counts, np.float64)

    @property
    def num_clips(self) -> int:
        """Clips, each as often as it counts."""
        return int(self.weights.sum())

    @property
    def num_distinct(self) -> int:
        """Different clips."""
        return int((self.weights > 0).sum())

    @property
    def num_videos(self) -> int:
        """Videos with clips that count."""
        return len(np.unique(self.video[self.weights > 0]))


def frechet_distance(
    first: np.ndarray,
    second: np.ndarray,
    first_counts: np.ndarray | None = None,
    second_counts: np.ndarray | None = None,
    lost: int = 1,
) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features.

    Args:
        first: (N, D) features.
        second: (M, D).
        first_counts: (N,) how often each row counts; once by default.
        second_counts: (M,).
        lost: Degrees of freedom that covariances lose to the mean: 1, or 0 to divide by the number of rows.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: A set has fewer than two rows, so no covariance; or the dimensions differ.
    """
    mean_a, a = _centred(first, first_counts, lost)
    mean_b, b = _centred(second, second_counts, lost)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"Features have {a.shape[1]} and {b.shape[1]} dimensions")
    spread = float((a * a).sum() + (b * b).sum())
    shared = np.linalg.svd(_reduced(a) @ _reduced(b).T, compute_uv=False).sum()
    return max(0.0, float(((mean_a - mean_b) ** 2).sum()) + spread - 2 * float(shared))


def _centred(features: np.ndarray, counts: np.ndarray | None, lost: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,), and A (N, D) with `A^T A` the covariance."""
    x = np.asarray(features, np.float64)
    c = np.ones(len(x)) if counts is None else np.asarray(counts, np.float64)
    n = c.sum()
    if n < 2:
        raise ValueError(f"A covariance needs at least two clips, not {n:g}")
    x, c = x[c > 0], c[c > 0]
    mean = c @ x / n
    return mean, (x - mean) * np.sqrt(c / (n - lost))[:, None]


def _reduced(a: np.ndarray) -> np.ndarray:
    """A square matrix with the same `A^T A` where there are more rows than columns."""
    return np.asarray(np.linalg.qr(a, mode="r")) if len(a) > a.shape[1] else a


def bootstrap_interval(
    first: FeatureSet, second: FeatureSet, paired: bool, resamples: int, confidence: float, lost: int = 1
) -> tuple[float, float] | None:
    """Interval of the distance from drawing whole videos again.

    Sets that are drawn again have fewer distinct videos, and a Fréchet distance grows with fewer samples: the draws lie
    above the value. So their quantiles are taken about their mean and moved to the value. The interval tells how much
    the value would vary with other videos in the same number; it does not remove what few samples add to it.

    Args:
        first: One set.
        second: The other.
        paired: Video i of one set belongs to video i of the other: both are drawn together.
        resamples: Draws.
        confidence: Level.
        lost: See `frechet_distance`.

    Returns:
        Low and high; None with fewer than three videos in a set or no draws.
    """
    if min(first.num_videos, second.num_videos) < 3 or resamples < 1:
        return None
    value = frechet_distance(first.values, second.values, first.weights, second.weights, lost)
    # A rotation into the span of all features keeps distances and shortens what is computed a thousand times.
    a, b = _in_their_span(first.values, second.values)
    own, other = np.unique(first.video[first.weights > 0]), np.unique(second.video[second.weights > 0])
    if paired:
        own = other = np.union1d(own, other)
        drawn = cluster_draws([len(own)], resamples) * 2
    else:
        drawn = cluster_draws([len(own), len(other)], resamples)
    distances = []
    for one, two in zip(*drawn):
        counts = [_counts(first, own, one), _counts(second, other, two)]
        if min(c.sum() for c in counts) >= 2:
            distances.append(frechet_distance(a, b, counts[0], counts[1], lost))
    draws = np.array(distances)
    interval = percentile_interval(draws, confidence)
    if interval is None:
        return None
    shift = value - float(np.mean(draws))
    return max(0.0, interval[0] + shift), interval[1] + shift


def _counts(features: FeatureSet, videos: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(N,) how often each clip counts where videos are drawn so often."""
    times = dict(zip(videos, drawn))
    return features.weights * np.array([times.get(v, 0) for v in features.video])


def _in_their_span(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.concatenate([first, second]).astype(np.float64)
    centred = both - both.mean(0)
    if len(both) < both.shape[1]:
        centred = centred @ np.linalg.qr(centred.T)[0]
    return centred[: len(first)], centred[len(first) :]
