"""The leaderboard says what the other tables say, best first, and only calls comparable what is."""

import json

import pytest
from scipy.stats import norm

from pipelines.checkpoints.current import current_id
from pipelines.checks import check_judge
from pipelines.evaluation.leaderboard import (
    leaderboard_markdown,
    leaderboard_rows,
    read_leaderboard,
    write_leaderboard,
)
from pipelines.evaluation.promotion import promote
from pipelines.store import DeltaStore
from pipelines.store.schemas import CHECKPOINTS, ISR_SCORES, LEADERBOARD, TRYON_VIDEOS, VIDEO_METRICS
from pipelines.store.studio_schemas import JUDGE_REPORTS
from tests.pipelines.scored_checkpoints import add_checkpoint, add_training_set, put


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's interval from its closed form."""
    z = norm.ppf(0.975)
    p = successes / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return middle - half, middle + half


def test_a_row_gathers_what_the_tables_say(lake: DeltaStore):
    add_training_set(lake, batches=("b1", "b2"))
    metrics = {"ssim": (0.9, 0.88, 0.92), "fvd_i3d_paired": (None, None, None)}
    add_checkpoint(lake, "aaa", verdicts=[True, True, True, False, None], metrics=metrics, parent_checkpoint_id="zzz")
    (row,) = write_leaderboard(lake)
    assert row["isr"] == 0.75 and (row["isr_judged"], row["isr_unanswered"]) == (4, 1)
    low, high = wilson(3, 4)
    assert abs(row["isr_low"] - low) < 1e-9 and abs(row["isr_high"] - high) < 1e-9
    assert row["judge_kappa"] == 0.7 and row["batches"] == ["b1", "b2"] and row["parent_checkpoint_id"] == "zzz"
    assert row["tryon_videos"] == 2 and not row["is_current"] and row["promoted_at"] is None
    assert dict(row["table_versions"])["checkpoints"] == lake.version(CHECKPOINTS)
    of = {m["metric"]: m for m in row["metrics"]}
    assert of["ssim"]["value"] == 0.9 and of["ssim"]["mode"] == "corrected"
    assert of["fvd_i3d_paired"]["value"] is None and of["fvd_i3d_paired"]["reason"] == "no network"
    (stored,) = read_leaderboard(lake)
    assert {k: stored[k] for k in ("isr", "isr_low", "metrics", "run_id")} == {
        k: row[k] for k in ("isr", "isr_low", "metrics", "run_id")
    }


def test_best_first_with_the_unknown_last(lake: DeltaStore):
    add_training_set(lake)
    add_checkpoint(lake, "unjudged", metrics={"lpips": (0.01, None, None)}, number=3)
    add_checkpoint(lake, "blurred", verdicts=[True, False], metrics={"lpips": (0.3, None, None)}, number=2)
    add_checkpoint(lake, "sharp", verdicts=[True, False], metrics={"lpips": (0.1, None, None)}, number=1)
    add_checkpoint(lake, "best", verdicts=[True, True], number=0)
    rows = write_leaderboard(lake)
    assert [r["checkpoint_id"] for r in rows] == ["best", "sharp", "blurred", "unjudged"]
    assert [r["checkpoint_id"] for r in read_leaderboard(lake)] == ["best", "sharp", "blurred", "unjudged"]
    lines = leaderboard_markdown(rows).splitlines()
    assert lines[2].startswith("| best") and "never validated" not in lines[2]
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert "ISR" in lines[0] and "lpips" in lines[0] and "1.00" in lines[2]


def test_only_the_same_videos_dressed_the_same_way_compare(lake: DeltaStore):
    add_training_set(lake)
    add_checkpoint(lake, "a")
    add_checkpoint(lake, "same", number=1)
    add_checkpoint(lake, "fewer", videos=["v1"], number=2)
    add_checkpoint(lake, "shorter", steps=2, number=3)
    add_checkpoint(lake, "none", videos=[], number=4)
    digests = {r["checkpoint_id"]: r["evaluation_digest"] for r in write_leaderboard(lake)}
    assert digests["a"] == digests["same"] and digests["none"] is None
    assert len({digests["a"], digests["fewer"], digests["shorter"]}) == 3
    assert "compare only those" in leaderboard_markdown(read_leaderboard(lake))


def test_annotations_make_another_evaluation_set_and_the_place_of_the_work_does_not(lake: DeltaStore):
    add_training_set(lake)
    here, there = {"steps": 8, "offload": "none", "device": "cpu"}, {"steps": 8, "offload": "model", "device": "cuda"}
    for name, settings, captions in (("a", here, "1"), ("elsewhere", there, "1"), ("captioned", here, "2")):
        record = {"settings": settings, "fingerprints": {"captions": captions}}
        add_checkpoint(lake, name)
        tryons = lake.read(TRYON_VIDEOS, where={"checkpoint_id": name}).to_pylist()
        put(lake, TRYON_VIDEOS, [t | {"record": json.dumps(record)} for t in tryons])
    digests = {r["checkpoint_id"]: r["evaluation_digest"] for r in leaderboard_rows(lake)}
    assert digests["a"] == digests["elsewhere"] != digests["captioned"]


@pytest.mark.parametrize(
    ("videos", "metrics", "isr"),
    [
        (["t-a-v1", "t-a-v2"], ["ssim"], 0.5),
        (["other-v1", "other-v2"], [], None),
        (["t-a-v1"], [], None),
        (["t-a-v1", "t-a-v2", "silent"], [], 0.5),
        (["t-a-v1", "t-a-v2", "zips"], [], None),
    ],
)
def test_what_was_measured_on_other_videos_is_not_shown(
    lake: DeltaStore, videos: list[str], metrics: list[str], isr: float | None
):
    """A checkpoint dresses again, others than before: its figures are of videos that are no longer there."""
    add_training_set(lake)
    add_checkpoint(lake, "a", verdicts=[True, False], metrics={"ssim": (0.9, 0.8, 0.95)})
    first = lake.read(TRYON_VIDEOS, where={"checkpoint_id": "a"}).to_pylist()[0]
    outside = {"spans": [{"start": 20, "end": 30, "text": "x"}]}
    spans = {"zips": {"spans": [{"start": 3, "end": 9, "text": "x"}]}, "silent": outside}
    put(lake, TRYON_VIDEOS, [first | {"tryon_id": v, "record": json.dumps(spans.get(v, {}))} for v in videos])
    (row,) = leaderboard_rows(lake)
    assert [m["metric"] for m in row["metrics"]] == metrics and row["isr"] == isr
    assert (row["judge"] is None) == (isr is None) and row["tryon_videos"] == len(videos)


def test_the_kappa_is_that_of_the_newest_report_and_else_the_one_that_came_with_the_verdicts(lake: DeltaStore):
    add_training_set(lake)
    add_checkpoint(lake, "a", verdicts=[True], kappa=0.7)
    add_checkpoint(lake, "unknown", verdicts=[True], judge="vlm 2", kappa=None)
    assert {r["checkpoint_id"]: r["judge_kappa"] for r in leaderboard_rows(lake)} == {"a": 0.7, "unknown": None}
    report = {"batch": "held", "judge_digest": "kinematic 1", "judge": "kinematic 1", "pictures": "rendered"}
    report |= {"metric": "kappa", "split": "all", "value": 0.3, "low": 0.2, "high": 0.4, "held_back": True}
    put(lake, JUDGE_REPORTS, [report | {"num_cases": 90, "num_clips": 30}])
    assert {r["checkpoint_id"]: r["judge_kappa"] for r in leaderboard_rows(lake)} == {"a": 0.3, "unknown": None}
    outcome = check_judge(lake, "a")
    assert not outcome.passed and "kappa 0.30 only" in outcome.description


def test_the_marks_follow_promotions_and_old_presets_leave(lake: DeltaStore):
    add_training_set(lake)
    add_checkpoint(lake, "a", verdicts=[True])
    add_checkpoint(lake, "big", preset="1.3b", number=1)
    write_leaderboard(lake)
    promote(lake, "a")
    assert current_id(lake) == "a"
    marks = {r["checkpoint_id"]: (r["is_current"], r["promoted_at"] is not None) for r in read_leaderboard(lake)}
    assert marks == {"a": (True, True), "big": (False, False)}
    lake.replace(CHECKPOINTS, CHECKPOINTS.schema.empty_table(), {"checkpoint_id": "big"}, _commit())
    write_leaderboard(lake)
    assert lake.read(LEADERBOARD)["checkpoint_id"].to_pylist() == ["a"]
    assert "(current)" in leaderboard_markdown(read_leaderboard(lake))


def _commit():
    from pipelines.store import Commit

    return Commit()


def test_texts_that_are_not_shown_are_not_read(lake: DeltaStore, monkeypatch):
    """Configurations, captions and rationales grow with every video; the board must not pull them through."""
    add_training_set(lake)
    long = "x" * 100_000
    add_checkpoint(lake, "a", verdicts=[True, False], metrics={"ssim": (0.9, 0.8, 0.95)}, config=long)
    add_checkpoint(lake, "b", verdicts=[True], videos=["v1"], number=1)
    verdicts = lake.read(ISR_SCORES, where={"checkpoint_id": "a"}).to_pylist()
    put(lake, ISR_SCORES, [v | {"rationale": long, "text": long} for v in verdicts])
    failed = lake.read(TRYON_VIDEOS, where={"checkpoint_id": "a"}).to_pylist()[1]
    failed |= {"tryon_id": "broken", "status": "error", "reason": long, "record": "{}"}
    put(lake, TRYON_VIDEOS, [*lake.read(TRYON_VIDEOS, where={"checkpoint_id": "a"}).to_pylist(), failed])
    of_video = {"checkpoint_id": "a", "tryon_id": "t-a-v1", "video_id": "v1", "metric": "ssim", "mode": "corrected"}
    of_video |= {"value": 0.5, "network": "", "num_samples": 17}
    metrics = lake.read(VIDEO_METRICS, where={"checkpoint_id": "a"}).to_pylist()
    put(lake, VIDEO_METRICS, [*metrics, of_video, of_video | {"tryon_id": "broken", "value": None}])
    whole, read = leaderboard_rows(lake), []
    plain = DeltaStore.read
    monkeypatch.setattr(DeltaStore, "read", lambda *a, **k: read.append(plain(*a, **k)) or read[-1])
    rows = leaderboard_rows(lake)
    assert sum(t.nbytes for t in read) < 10_000
    assert rows == whole and [r["checkpoint_id"] for r in rows] == ["b", "a"]
    a = rows[1]
    assert (a["tryon_videos"], a["tryon_failures"], a["isr"], len(a["metrics"])) == (2, 1, 0.5, 1)
    read.clear()
    assert leaderboard_rows(lake, ["a"]) == [a] and leaderboard_rows(lake, []) == []
    assert not {"b"} & {c for t in read if "checkpoint_id" in t.schema.names for c in t["checkpoint_id"].to_pylist()}


def test_values_of_the_two_modes_do_not_mix(lake: DeltaStore):
    add_training_set(lake)
    for name, corrected, legacy in (("good", 0.1, 0.9), ("bad", 0.3, 0.2)):
        add_checkpoint(lake, name, metrics={"lpips": (corrected, None, None)})
        rows = lake.read(VIDEO_METRICS, where={"checkpoint_id": name}).to_pylist()
        others = [r | {"mode": "legacy", "value": None if r["tryon_id"] else legacy} for r in rows]
        put(lake, VIDEO_METRICS, [*rows, *others])
    rows = leaderboard_rows(lake)
    assert [r["checkpoint_id"] for r in rows] == ["good", "bad"]
    head, _, first, second, *_ = leaderboard_markdown(rows).splitlines()
    assert "| lpips | lpips (legacy) |" in head
    assert "| 0.100 | 0.900 |" in first and "| 0.300 | 0.200 |" in second
