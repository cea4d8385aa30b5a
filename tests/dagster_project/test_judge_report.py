"""`itryon evaluate judge` and the asset behind it, on a small lake whose figures are known."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from dagster_project.judges import print_judge_report
from pipelines.store import DeltaStore
from pipelines.store.studio_schemas import JUDGE_CASES, JUDGE_REPORTS
from tests.dagster_project.report_runs import evaluated, fails_without_truth, jobs_with, lake_of
from tests.pipelines.annotator_scene import BATCH
from tests.pipelines.judge_scene import fill_cases

PICTURES = ["agreement_picture", "confusion", "scores"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Iterator[DeltaStore]:
    folder = tmp_path_factory.mktemp("judge")
    with lake_of(folder) as store:
        fill_cases(store, folder)
        yield store


def test_the_command_measures_writes_pictures_and_prints(lake, tmp_path):
    # Grey pictures show nothing, so the embedded judge finds no interaction done: right in four of five cases.
    report = evaluated("judge", tmp_path / "out", PICTURES)
    found = {(f["metric"], f["pictures"]): f for f in report["figures"] if f["split"] == "all"}
    for look in ("rendered", "nano"):
        answered = found["answered", look]["value"]
        assert answered == 0 or found["accuracy", look]["value"] == pytest.approx(0.8)
        assert found["kappa_all", look]["num_cases"] == 5
    assert len(report["cases"]) == 10 == lake.read(JUDGE_CASES).num_rows
    assert len(report["figures"]) == lake.read(JUDGE_REPORTS).num_rows
    assert report["figures"][0]["held_back"] is True

    console = Console(width=200, file=io.StringIO(), record=True)
    print_judge_report(lake, BATCH, report["figures"][0]["judge_digest"], console)
    text = console.export_text()
    assert "kappa_all" in text and "operate_zipper" in text and "Confusion by action asked for, nano results" in text


def test_a_batch_without_truth_fails_with_what_to_do(lake):
    fails_without_truth("judge", lake, JUDGE_REPORTS)


def test_the_report_is_part_of_no_other_job():
    assert jobs_with("judge_report") == {"judge": {"judge_report"}}
