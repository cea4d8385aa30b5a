"""A run killed at any moment, run again, ends with the rows of an undisturbed one: nothing lost, doubled or halved."""

from __future__ import annotations

import pytest

from tests.faults.run_kills import MOMENTS, cases, session

pytestmark = pytest.mark.slow


def test_a_run_killed_at_any_moment_ends_with_the_rows_of_an_undisturbed_one(tmp_path):
    (case,) = cases(0, None)
    assert case.injections == len(MOMENTS)
    with session(tmp_path, 0) as run:
        run(case)
