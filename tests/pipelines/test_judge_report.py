"""Cases with known truth, agreement against independent formulas, and the report of judges whose mistakes are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import BinaryCohenKappa

from pipelines.evaluation.isr import make_judge
from pipelines.evaluation.judges.agreement import Answer, Kappa, cells, figures
from pipelines.evaluation.judges.cases import NothingToJudge, free_span, read_cases
from pipelines.evaluation.judges.report import evaluate_judge
from pipelines.evaluation.judges.settings import JudgeReportSettings
from pipelines.evaluation.judges.validation import NEVER, newest_validation
from pipelines.evaluation.settings import IsrSettings
from pipelines.store import DeltaStore
from pipelines.store.studio_schemas import JUDGE_CASES, JUDGE_REPORTS, STUDIO_CLIPS
from tests.pipelines.annotator_scene import BATCH, fill, whole_scene
from tests.pipelines.judge_scene import SPAN, Oracle, fill_cases

RENDERED = JudgeReportSettings(pictures="rendered")


@pytest.fixture
def lake(tmp_path: Path) -> DeltaStore:
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables()
    fill_cases(store, tmp_path)
    return store


def test_cases_say_what_is_true(lake: DeltaStore) -> None:
    found = [c for _, cases in read_cases(lake, BATCH) for c in cases]
    assert [c.kind for c in found] == ["done", "undone", "wrong_action", "wrong_time", "pantomime"]
    done, undone, action, time, mimed = found
    assert done.expected and not any(c.expected for c in found[1:])
    assert done.span == undone.span == action.span == SPAN
    assert done.result_uri == action.result_uri == time.result_uri != undone.result_uri
    assert "zips the jacket" in done.text and done.text == undone.text == time.text
    assert action.action in ("adjust_collar", "other") and action.done_action == "operate_zipper"
    assert "zip" not in action.text
    # Nothing happens in the 17 frames after the zip; of them 0.3 s, the least there must be, far from it.
    assert time.span == (16, 24)
    # Mimed while the script's hand is at its place: 0.08 to 0.28 s.
    assert mimed.span == SPAN and mimed.video_id == "mimes" and mimed.done_action is None


def test_what_cannot_be_judged_says_what_to_do(lake: DeltaStore, tmp_path: Path) -> None:
    with pytest.raises(NothingToJudge, match="--undone"):
        read_cases(lake, "other")
    bare = DeltaStore(tmp_path / "bare")
    fill(bare, whole_scene())
    with pytest.raises(NothingToJudge, match="left undone"):
        read_cases(bare, BATCH)
    plain = DeltaStore(tmp_path / "plain")
    (tmp_path / "again").mkdir()
    fill_cases(plain, tmp_path / "again")
    rows = plain.read(STUDIO_CLIPS).drop_columns(["batch"])
    fill(plain, {STUDIO_CLIPS: rows.to_pylist()}, "unannotated", done=())
    with pytest.raises(NothingToJudge, match="not annotated"):
        read_cases(plain, "unannotated")


@given(st.integers(0, 20), st.integers(1, 20), st.integers(0, 20))
def test_free_span_lies_outside_and_is_as_long_as_can_be(before: int, length: int, after: int) -> None:
    count = before + length + after
    free = free_span([(before, before + length)], count, length)
    if not before and not after:
        assert free is None
        return
    assert free is not None
    start, end = free
    assert 0 <= start < end <= count and (end <= before or start >= before + length)
    assert end - start == min(length, max(before, after))


ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40)


@given(ANSWERS)
def test_kappa_equals_torchmetrics(pairs: list[tuple[bool, bool]]) -> None:
    answers = [Answer(k % 3, "done", "other", expected, said) for k, (expected, said) in enumerate(pairs)]
    ours = Kappa(cells(answers, 3)).at(np.ones((1, 3)))[0]
    theirs = BinaryCohenKappa()(torch.tensor([s for _, s in pairs]).int(), torch.tensor([e for e, _ in pairs]).int())
    if np.isnan(ours):
        assert len({e for e, _ in pairs} | {s for _, s in pairs}) == 1
    else:
        assert ours == pytest.approx(float(theirs), abs=1e-5)


def test_no_answer_is_left_out_of_kappa_and_counts_against_kappa_all() -> None:
    pairs = [(True, True), (False, False), (True, None), (False, None)]
    found = figures([Answer(k, "done", "other", e, s) for k, (e, s) in enumerate(pairs)], 4)
    assert found["kappa"].value == 1 and found["kappa"].num_samples == 2
    # Two right, two wrong, evenly: no better than chance.
    assert found["kappa_all"].value == 0 and found["kappa_all"].num_samples == 4
    assert found["answered"].value == 0.5 and found["accuracy"].value == 1


def test_interval_comes_from_drawing_clips_not_cases() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(60) < 0.5
    said = np.where(rng.random(60) < 0.85, truth, ~truth)
    apart = figures([Answer(k, "done", "other", bool(e), bool(s)) for k, (e, s) in enumerate(zip(truth, said))], 60)
    # The same 60 cases four times over, from the same clips: no more is known.
    again = [Answer(k, "done", "other", bool(e), bool(s)) for k, (e, s) in enumerate(zip(truth, said))] * 4
    together = figures(again, 60)
    assert together["kappa"].value == pytest.approx(apart["kappa"].value)
    assert together["kappa"].low == pytest.approx(apart["kappa"].low)
    assert apart["kappa"].low < apart["kappa"].value < apart["kappa"].high


@pytest.mark.parametrize(
    ("blind_to", "wrong"),
    [("", set()), ("pictures", {"undone", "pantomime"}), ("action", {"wrong_action"}), ("time", {"wrong_time"})],
)
def test_report_finds_what_a_judge_is_blind_to(lake: DeltaStore, blind_to: str, wrong: set[str]) -> None:
    report = evaluate_judge(lake, BATCH, settings=RENDERED, judge=Oracle(blind_to))
    cases = lake.read(JUDGE_CASES).to_pylist()
    assert {c["kind"] for c in cases if c["success"] != c["expected"]} == wrong
    n, errors = 5, len(wrong)
    assert report.of("accuracy", "rendered")["value"] == pytest.approx((n - errors) / n)
    for kind in {c["kind"] for c in cases}:
        assert report.of("accuracy", "rendered", f"case={kind}")["value"] == float(kind not in wrong)
    # One of five is done and all done are found: agreement by chance follows from how many are said to be done.
    said = 1 + errors
    chance = (said * 1 + (n - said) * (n - 1)) / n**2
    kappa = ((n - errors) / n - chance) / (1 - chance)
    assert report.of("kappa", "rendered")["value"] == pytest.approx(kappa)
    rows = lake.read(JUDGE_REPORTS)
    assert rows.num_rows == len(report.rows) and report.held_back
    assert cases[0]["frames"] == list(range(*SPAN)) and cases[0]["prompt_tokens"] == 5


def test_silent_and_broken_judges_answer_nothing(lake: DeltaStore) -> None:
    for judge, reason in ((Oracle("silent"), "nothing to say"), (Oracle("broken"), "RuntimeError: broken")):
        report = evaluate_judge(lake, BATCH, settings=RENDERED, judge=judge)
        assert report.of("answered", "rendered")["value"] == 0
        assert report.of("kappa", "rendered")["value"] is None
        assert all(c["success"] is None and reason in c["rationale"] for c in report.cases)


def test_degraded_results_are_what_the_autoencoder_leaves(lake: DeltaStore) -> None:
    judge = Oracle()
    report = evaluate_judge(lake, BATCH, settings=JudgeReportSettings(pictures="nano"), judge=judge)
    assert report.pictures == ["nano"] and report.of("kappa", "nano")["value"] == 1
    # Five frames of the interaction, eight of the span in which nothing happens.
    assert {r.result.shape for r in judge.requests} == {(n, 64, 48, 3) for n in (SPAN[1] - SPAN[0], 8)}
    done = next(r for r, c in zip(judge.requests, report.cases) if c["kind"] == "done")
    assert np.abs(done.result.astype(int) - 200).max() < 12 and np.abs(done.source.astype(int) - 128).max() < 4


def test_validation_names_the_newest_report_of_exactly_this_judge(lake: DeltaStore) -> None:
    judge = Oracle()
    assert newest_validation(lake, judge.digest).text == NEVER
    assert newest_validation(lake, None).kappa is None
    evaluate_judge(lake, BATCH, settings=RENDERED, judge=judge)
    found = newest_validation(lake, judge.digest)
    assert found.kappa == 1 and found.batch == BATCH and "1.00" in found.text and "5 rendered" in found.text
    assert newest_validation(lake, "other").text == NEVER
    judge.fitted_on = frozenset({"0"})
    evaluate_judge(lake, BATCH, settings=RENDERED, judge=judge)
    assert "looks better than it is" in newest_validation(lake, judge.digest).text
    assert lake.read(JUDGE_CASES).num_rows == 5


def test_most_clips_limits_what_is_asked(lake: DeltaStore) -> None:
    judge = Oracle()
    evaluate_judge(lake, BATCH, settings=JudgeReportSettings(pictures="rendered", most_clips=1), judge=judge)
    assert len(judge.requests) == 4


def test_embedded_judge_goes_through_all_cases(lake: DeltaStore) -> None:
    report = evaluate_judge(lake, BATCH, settings=RENDERED)
    assert report.judge == make_judge(IsrSettings(), lake).name
    # Grey pictures show nothing, but nothing goes wrong either.
    assert not any("Error" in c["rationale"] for c in report.cases)
    assert not any(c["success"] for c in report.cases)
