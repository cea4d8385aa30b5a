"""The bootstrap behind all intervals, against textbook values."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.evaluation.bootstrap import cluster_draws, percentile_interval


def test_draws_are_with_replacement_and_repeatable() -> None:
    (drawn,) = cluster_draws([20], 500)
    assert drawn.shape == (500, 20) and (drawn.sum(1) == 20).all()
    # A cluster is left out of a draw with probability (1 - 1/n)^n, about 0.36.
    assert (drawn == 0).mean() == pytest.approx((1 - 1 / 20) ** 20, abs=0.02)
    assert np.array_equal(drawn, cluster_draws([20], 500)[0])
    assert not np.array_equal(drawn, cluster_draws([20], 500, seed=1)[0])


def test_sets_are_drawn_independently() -> None:
    one, two = cluster_draws([6, 6], 4000)
    assert (one.sum(1) == 6).all() and (two.sum(1) == 6).all()
    assert abs(np.corrcoef(one[:, 0], two[:, 0])[0, 1]) < 0.05
    assert cluster_draws([3, 5], 7)[1].shape == (7, 5)


def test_interval_of_a_mean_agrees_with_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(2.0, 0.5, 400)
    (drawn,) = cluster_draws([400], 4000)
    found = percentile_interval(drawn @ values / 400, 0.95)
    error = 1.96 * values.std() / np.sqrt(400)
    assert found == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)


def test_draws_without_a_value_do_not_count() -> None:
    assert percentile_interval(np.array([np.nan, 1.0, 1.0]), 0.9) == (1, 1)
    assert percentile_interval(np.array([np.nan]), 0.9) is None
