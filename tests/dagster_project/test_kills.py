"""A run killed at any moment, run again, ends with the rows of an undisturbed one: nothing lost, doubled or halved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.run_kills import PARTS, cases, session
from tests.faults.suite import Case, Runner

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with session(tmp_path_factory.mktemp("kills"), 0) as runner:
        yield runner


@pytest.mark.parametrize("case", cases(0, None), ids=lambda case: case.values["to"])
def test_a_run_killed_at_any_moment_ends_with_the_rows_of_an_undisturbed_one(run: Runner, case: Case):
    assert case.injections == len(PARTS[case.values["to"]])
    run(case)
