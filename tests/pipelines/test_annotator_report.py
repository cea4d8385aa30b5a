"""The report of annotators of a rendered batch: what it reads, counts and refuses."""

from __future__ import annotations

import json

import pytest

from pipelines.evaluation.annotators.goals import GOALS, Goal
from pipelines.evaluation.annotators.read import BatchReader, NothingToMeasure
from pipelines.evaluation.annotators.report import as_table, evaluate_batch, goals_markdown, measure
from pipelines.evaluation.annotators.statistics import (
    estimate,
)
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, HANDS, POSE, VIDEOS
from pipelines.store.studio_schemas import ANNOTATOR_REPORTS
from tests.pipelines.annotator_scene import (
    BATCH,
    HEIGHT,
    WIDTH,
    caption,
    fill,
    pose_row,
    standing,
    video,
    whole_scene,
)

SIZE = (HEIGHT, WIDTH)
LABELLED = json.dumps({"video": "acts.mp4", "actions": []})
COCO_PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def values(figures) -> dict[str, float | None]:
    return {f.metric: estimate(f.statistic, resamples=0).value for f in figures}


# --- the report ---


def test_goals_know_their_side():
    assert Goal("m", 0.9, "higher", "").met(0.9) and not Goal("m", 0.9, "higher", "").met(0.89)
    assert Goal("m", 15, "lower", "").met(15) and not Goal("m", 15, "lower", "").met(15.1)


def test_the_report_of_a_batch(lake):
    fill(lake, whole_scene())
    seen = []
    report = evaluate_batch(lake, BATCH, on_video=lambda *a: seen.append(a))
    assert seen == [("acts.mp4", 1, 3), ("mimes.mp4", 2, 3), ("walks.mp4", 3, 3)]
    assert [r.metric for r in report.goals] == [g.metric for g in GOALS]
    got = {r.metric: (r.estimate.value, r.met) for r in report.goals}
    assert got["pose.pck_0.1"] == (1, True) and got["hands.found"] == (1, True) and got["masks.excess"] == (0, True)
    assert got["captions.span_f1"] == (pytest.approx(2 / 3), False)
    assert got["captions.told_from_pantomime"] == (0.5, False)
    assert report.of("captions.false_spans", "performance=pantomime").estimate.value == 1
    assert report.of("captions.false_spans", "performance=walk").estimate.value == 0
    assert report.of("captions.span_f1", "action=operate_zipper").estimate.num_videos == 2
    assert report.of("captions.span_f1", "performance=interaction").estimate.value == 1
    assert report.of("captions.span_f1", "performance=walk").estimate.value is None
    with pytest.raises(KeyError):
        report.of("captions.span_f1", "performance=hover")
    rows = lake.read(ANNOTATOR_REPORTS, where={"batch": BATCH})
    assert rows.num_rows == len(report.rows) and rows.schema.equals(ANNOTATOR_REPORTS.schema)
    stored = {(r["metric"], r["split"]): r for r in rows.to_pylist()}
    assert stored["hands.mpjpe", "all"]["goal"] == 15 and stored["hands.mpjpe", "all"]["met"] is True
    assert stored["hands.mpjpe", "performance=walk"]["goal"] is None, "goals are about all videos"
    assert stored["captions.span_f1", "all"]["annotator"] == "kinematic"
    assert "| action spans, F1 at IoU 0.5 | kinematic | ≥ 80.0 % | 66.7 % |" in goals_markdown(report)
    evaluate_batch(lake, BATCH)
    assert lake.read(ANNOTATOR_REPORTS).num_rows == len(report.rows), "a second run replaces the first"


def test_a_batch_on_which_nothing_was_found(lake):
    rows = whole_scene()
    for spec in (POSE, HANDS, AGNOSTIC_MASKS, CAPTIONS):
        rows[spec] = []
    fill(lake, rows)
    report = evaluate_batch(lake, BATCH)
    assert {r.metric: r.estimate.value for r in report.goals} == {
        "pose.pck_0.1": 0, "pose.person_iou": 0, "hands.found": 0, "hands.mpjpe": None, "masks.left_visible": 1,
        "masks.excess": 0, "captions.span_f1": 0, "captions.told_from_pantomime": 0.5,
    }  # fmt: skip
    assert report.of("hands.found").annotator.backend == "none"


def test_both_hand_backends_are_reported(lake):
    rows = whole_scene()
    fill(lake, rows)
    other = {
        VIDEOS: rows[VIDEOS],
        HANDS: [{**r, "source": "hamer"} for r in rows[HANDS] if r["handedness"] == "left"],
    }
    fill(lake, other, batch="again", done=())
    report = measure(BatchReader(lake, BATCH))
    assert report.of("hands.found", backend="mediapipe").estimate.value == 1
    assert report.of("hands.found", backend="hamer").estimate.value == 0.5
    assert [r.annotator.backend for r in report.goals if r.metric == "hands.found"] == ["mediapipe", "hamer"]
    table_ = as_table(report, "run")
    assert set(table_["run_id"].to_pylist()) == {"run"}


def test_videos_that_a_stage_failed_on_count_as_not_found(lake):
    rows = whole_scene()
    rows[POSE] = [r for r in rows[POSE] if r["video_id"] != "walks"]
    fill(lake, rows)
    report = measure(BatchReader(lake, BATCH))
    assert report.of("pose.pck_0.1", "performance=walk").estimate.value == 0
    assert report.of("pose.pck_0.1").estimate.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.update({VIDEOS: [video("acts", json.dumps({"video": "acts.mp4", "actions": []}))]}),
            "no-labels",
        ),
        (lambda rows: [rows.pop(k) for k in list(rows) if k.name == "studio_clips"], "has no truth"),
    ],
)
def test_batches_that_cannot_be_measured_are_refused(lake, change, message):
    rows = whole_scene()
    change(rows)
    fill(lake, rows)
    with pytest.raises(NothingToMeasure, match=message):
        evaluate_batch(lake, BATCH)


def test_a_batch_that_is_not_annotated_is_refused(lake):
    fill(lake, whole_scene(), done=("pose", "hands"))
    with pytest.raises(NothingToMeasure, match="no agnostic_masks, captions yet: run `itryon materialize"):
        evaluate_batch(lake, BATCH)


def test_figures_do_not_depend_on_what_else_is_in_the_lake(lake):
    rows = whole_scene()
    fill(lake, rows)
    before = [(r.metric, r.split, r.estimate) for r in measure(BatchReader(lake, BATCH)).rows]
    fill(lake, {CAPTIONS: [caption("acts", "other", 0, 3)], POSE: [pose_row("acts", 0, standing() + 40)]}, "c", ())
    assert [(r.metric, r.split, r.estimate) for r in measure(BatchReader(lake, BATCH)).rows] == before
