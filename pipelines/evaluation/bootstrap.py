"""The one bootstrap behind every interval: whole clusters are drawn again, and quantiles of the draws are taken.

A cluster is what is alike within itself, such as the frames of a video, the cases of a clip or the clips of a seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SEED = 20260101
"""Intervals of the same samples are the same in every run."""


def cluster_draws(counts: Sequence[int], resamples: int, seed: int = SEED) -> list[np.ndarray]:
    """How often each cluster is drawn, for sets of clusters that are drawn independently of each other.

    Args:
        counts: Number of clusters of each set.
        resamples: Draws.
        seed: Of the draws.

    Returns:
        For each set (resamples, clusters) int; every row sums to the number of clusters.
    """
    rng = np.random.default_rng(seed)

    def draw(n: int, size: int) -> np.ndarray:
        return rng.multinomial(n, np.full(n, 1 / n), size)

    if len(counts) == 1:  # the same draws as below, a hundred times as fast
        return [draw(counts[0], resamples)]
    rows = [[draw(n, 1) for n in counts] for _ in range(resamples)]
    return [np.concatenate(of_set) for of_set in zip(*rows)]


def percentile_interval(draws: np.ndarray, level: float) -> tuple[float, float] | None:
    """Low and high end that leave out equal shares of the draws; draws that are NaN do not count, None without any."""
    known = draws[np.isfinite(draws)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
