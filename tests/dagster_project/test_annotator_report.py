"""`itryon evaluate annotators` and the asset behind it, on a small lake whose figures are known."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from dagster_project.annotators import print_report
from dagster_project.cli import app
from pipelines.evaluation.annotators.goals import GOALS
from pipelines.evaluation.shown import interval_shown, shown
from pipelines.store import DeltaStore
from pipelines.store.schemas import CAPTIONS, HANDS, POSE
from pipelines.store.studio_schemas import ANNOTATOR_REPORTS
from pipelines.video import VideoWriter
from tests.dagster_project.report_runs import evaluated, fails_without_truth, jobs_with, lake_of
from tests.pipelines.annotator_scene import BATCH, HEIGHT, WIDTH, caption, fill, standing, whole_scene
from tests.pipelines.annotator_scene import landmarks as as_cell

FRAMES = 10
PICTURES = [
    "actions",
    "confidence",
    "goals_picture",
    "hand_errors",
    "landmarks",
    "splits",
    "worst_body",
    "worst_captions",
    "worst_hands",
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Iterator[DeltaStore]:
    """The scene with real videos, a hand missed, a skeleton off, and a span too much."""
    folder = tmp_path_factory.mktemp("annotators")
    with lake_of(folder) as store:
        with VideoWriter(folder / "v.mp4", fps=25, width=WIDTH, height=HEIGHT) as writer:
            for _ in range(FRAMES):
                writer.write(np.full((HEIGHT, WIDTH, 3), 128, np.uint8))
        rows = whole_scene(store.blobs.put_file(folder / "v.mp4"), FRAMES)
        rows[HANDS] = [r for r in rows[HANDS] if (r["video_id"], r["frame"], r["handedness"]) != ("walks", 3, "left")]
        rows[POSE][4]["landmarks"] = as_cell(standing() + 8)
        rows[CAPTIONS].append(caption("walks", "other", 1, 4, 0.3))
        fill(store, rows)
        yield store


def test_the_command_measures_writes_pictures_and_prints(lake, tmp_path):
    report = evaluated("annotators", tmp_path / "out", PICTURES)
    assert {g["metric"] for g in report["goals"]} == {g.metric for g in GOALS}
    found = next(g for g in report["goals"] if g["metric"] == "hands.found")
    assert found["value"] == pytest.approx(59 / 60) and found["met"] is True
    assert len(report["figures"]) == lake.read(ANNOTATOR_REPORTS).num_rows

    console = Console(width=200, file=io.StringIO(), record=True)
    print_report(lake, BATCH, console)
    lines = console.export_text().splitlines()
    line = next(x for x in lines if GOALS[-2].title in x)
    assert [c.strip() for c in line.split("│")[2:5]] == ["kinematic", "≥ 80.0 %", "50.0 %"] and "missed" in line
    assert next(x for x in lines if GOALS[2].title in x).split("│")[-2].strip() == "met"


def test_a_batch_without_truth_fails_with_what_to_do(lake):
    fails_without_truth("annotators", lake, ANNOTATOR_REPORTS)


def test_the_old_use_of_evaluate_is_unchanged(tmp_path):
    done = CliRunner().invoke(app, ["evaluate", "--pred", str(tmp_path)])
    assert done.exit_code == 1 and "name both folders" in done.output
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    done = CliRunner().invoke(app, ["evaluate", "--pred", str(tmp_path / "a"), "--gt", str(tmp_path / "b")])
    assert done.exit_code == 1 and "holds no videos" in " ".join(done.output.split())


def test_the_report_is_part_of_no_other_job():
    assert jobs_with("annotator_report") == {"studio_report": {"annotator_report"}}


def test_figures_as_people_read_them():
    values = [(0.9512, "share"), (14.96, "mm"), (1.234, "ratio"), (None, "mm")]
    assert [shown(v, unit=unit) for v, unit in values] == ["95.1 %", "15.0 mm", "1.23", "–"]
    assert shown(0.5, 0.25, 0.75, digits=3) == "0.500 (0.250 to 0.750)" and shown(0.5, 0.25, None) == "0.50"
    assert interval_shown(0.9, 0.95, unit="share") == "90.0 to 95.0 %" and interval_shown(None, None) == "–"
