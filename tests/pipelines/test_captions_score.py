"""Scores of action spans."""

import json
from itertools import permutations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captions.score import main, read_truth, score_batch, score_spans
from pipelines.captions.spans import match_spans, temporal_iou
from pipelines.store import TABLES, Commit

span = st.tuples(st.integers(0, 40), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1]))


@given(st.lists(span, max_size=4), st.lists(span, max_size=4), st.sampled_from([0.2, 0.5, 0.9]))
def test_the_assignment_is_the_best_of_all(predicted, truth, least):
    def worth(p, t):
        iou = temporal_iou(p, t) if p else 0.0
        return iou if iou >= least else 0.0

    padded = [*predicted, *[None] * len(truth)]
    best = max(sum(worth(p, t) for t, p in zip(truth, order)) for order in permutations(padded, len(truth)))
    match = match_spans(predicted, truth, least)
    found = [(p, m) for p, m in zip(predicted, match) if m >= 0]
    assert len({m for _, m in found}) == len(found)
    assert all(temporal_iou(p, truth[m]) >= least for p, m in found)
    assert sum(temporal_iou(p, truth[m]) for p, m in found) == pytest.approx(best)


def test_counts():
    truth = {"a": [(10, 20)], "b": [], "c": [(0, 10), (50, 60)], "d": []}
    predicted = {"a": [(12, 20)], "b": [(0, 5), (7, 9)], "c": [(0, 4), (50, 60)], "unlabelled": [(0, 1)]}
    score = score_spans(predicted, truth, iou=0.5)
    assert (score.matched, score.predicted, score.labelled, score.false_in_negatives) == (2, 5, 3, 2)
    assert score.precision == pytest.approx(2 / 5)
    assert score.recall == pytest.approx(2 / 3)
    assert score.f1 == pytest.approx(0.5)
    assert score.videos["a"].ious == (pytest.approx(0.8),)
    assert score.videos["c"].ious == (pytest.approx(0.4), 1.0)


def test_one_prediction_matches_one_label_only():
    score = score_spans({"a": [(0, 20)]}, {"a": [(0, 11), (9, 20)]}, iou=0.5)
    assert score.matched == 1


def test_nothing_said_about_nothing_is_right():
    score = score_spans({}, {"a": []})
    assert (score.precision, score.recall, score.f1) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("iou", [0.0, -0.5, 1.5])
def test_a_threshold_outside_of_its_range_is_refused(iou):
    with pytest.raises(ValueError, match="iou"):
        score_spans({}, {}, iou)


def _batch(lake):
    videos = [
        {"video_id": "v1", "source_path": "folder/one.mp4", "fps": 10.0, "num_frames": 50},
        {"video_id": "v2", "source_path": "two.mp4", "fps": 10.0, "num_frames": 50},
    ]
    captions = [
        {"video_id": "v1", "kind": "global", "start_frame": 0, "end_frame": 50},
        {"video_id": "v1", "kind": "action", "action": "other", "start_frame": 11, "end_frame": 20},
        {"video_id": "v2", "kind": "action", "action": "other", "start_frame": 0, "end_frame": 9},
    ]
    common = {"batch": "b", "fingerprint": "f"}
    for name, rows, defaults in (
        ("videos", videos, {"status": "ok"}),
        ("captions", captions, {"text": "t", "confidence": 0.5, "source": "kinematic"}),
    ):
        spec = TABLES[name]
        table = pa.Table.from_pylist([{**common, **defaults, **r} for r in rows], schema=spec.schema)
        lake.replace(spec, table, {"batch": "b"}, Commit())


def _truth(tmp_path, lines):
    path = tmp_path / "truth.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def test_a_batch_of_the_lake_is_scored_by_file_name(lake, tmp_path, monkeypatch, capsys):
    _batch(lake)
    labels = [
        {"video": "one.mp4", "actions": [{"action": "other", "start_s": 1.0, "end_s": 2.0}]},
        {"video": "two.mp4", "actions": []},
        {"video": "elsewhere.mp4", "actions": [{"action": "other", "start_s": 0, "end_s": 1}]},
    ]
    path = _truth(tmp_path, labels)
    score = score_batch(lake, "b", read_truth(path))
    assert (score.matched, score.labelled, score.predicted, score.false_in_negatives) == (1, 1, 2, 1)
    assert score.videos["one.mp4"].truth == ((10, 20),)
    monkeypatch.setenv("ITRYON_LAKE", lake.root)
    main(["--truth", str(path), "--batch", "b"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 of 1 labelled spans found, precision 0.50, recall 1.00" in printed
    assert "1 false spans" in printed and "11 to 19" in printed


def test_times_are_those_of_the_frames_and_videos_of_one_name_stay_apart(lake):
    videos = [(v, f"{v}/one.mp4", frames) for v, frames in (("v1", 30), ("v2", 20))]
    common = {"batch": "b", "fingerprint": "f"}
    # Of a variable rate: the second half of each video runs at half the speed.
    times = {v: [i / 10 if i < n // 2 else (2 * i - n // 2) / 10 for i in range(n)] for v, _, n in videos}
    rows = {
        "videos": [
            {"video_id": v, "source_path": p, "fps": 7.0, "num_frames": n, "status": "ok"} for v, p, n in videos
        ],
        "pose": [
            {"video_id": v, "frame": i, "time_s": t, "detected": False} for v in times for i, t in enumerate(times[v])
        ],
        "captions": [
            {"video_id": v, "kind": "action", "action": "other", "start_frame": n // 2, "end_frame": n // 2 + 5}
            | {"text": "t", "confidence": 0.5, "source": "kinematic"}
            for v, _, n in videos
        ],
    }
    for name, values in rows.items():
        spec = TABLES[name]
        table = pa.Table.from_pylist([{**common, **r} for r in values], schema=spec.schema)
        lake.replace(spec, table, {"batch": "b"}, Commit())
    score = score_batch(lake, "b", {"v1/one.mp4": [(1.5, 2.5)], "clips/v2/one.mp4": [(1.0, 2.0)]})
    assert {n: v.truth for n, v in score.videos.items()} == {"v1/one.mp4": ((15, 20),), "clips/v2/one.mp4": ((10, 15),)}
    assert (score.matched, score.predicted) == (2, 2)
    with pytest.raises(ValueError, match=r"'one\.mp4' may mean v1/one\.mp4, v2/one\.mp4"):
        score_batch(lake, "b", {"one.mp4": []})


def test_a_batch_without_the_labelled_videos_is_an_error(lake, tmp_path):
    _batch(lake)
    with pytest.raises(LookupError, match=r"none of the labelled videos: other\.mp4"):
        score_batch(lake, "b", {"other.mp4": []})


@pytest.mark.parametrize("line", ['{"actions": []}', "[1]", "{", '{"video": "a", "actions": [{"start_s": 1}]}'])
def test_a_bad_line_of_labels_is_named(tmp_path, line):
    path = tmp_path / "truth.jsonl"
    path.write_text('{"video": "a.mp4"}\n' + line)
    with pytest.raises(ValueError, match=r"truth\.jsonl, line 2"):
        read_truth(path)
