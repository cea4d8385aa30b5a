"""The rule of promotion, and the decisions that come of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.checkpoints.current import current_id, decisions
from pipelines.checkpoints.train import CheckpointMissing, named_checkpoint
from pipelines.evaluation import promotion
from pipelines.evaluation.leaderboard import read_leaderboard, write_leaderboard
from pipelines.evaluation.promotion import Measure, PromotionError, decide_promotion, promote, rollback
from pipelines.store import DeltaStore
from pipelines.store.schemas import VIDEO_METRICS
from tests.pipelines.scored_checkpoints import add_checkpoint, add_training_set, put

# Never fails for being slow: that says something about the machine alone.
FREELY = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
NAMES = ("ISR", "ssim", "lpips")
HIGHER = {"ISR": True, "ssim": True, "lpips": False}


@st.composite
def measure(draw, name: str, known: bool | None = None) -> Measure:
    if known is None:
        known = draw(st.booleans())
    if not known:
        value = draw(st.one_of(st.none(), st.floats(0, 1)))
        return Measure(value, None, None, HIGHER[name], "same")
    low, value, high = sorted(draw(st.tuples(*[st.floats(0, 1)] * 3)))
    return Measure(value, low, high, HIGHER[name], "same")


@st.composite
def scored(draw, known: bool | None = None) -> dict[str, Measure]:
    return {n: draw(measure(n, known)) for n in NAMES}


def nulls() -> dict[str, Measure]:
    return {n: Measure(None, None, None, HIGHER[n], "same") for n in NAMES}


@FREELY
@given(scored(known=True), scored(known=True))
def test_of_two_that_differ_clearly_exactly_one_replaces_the_other(a, b):
    forth, back = decide_promotion(a, b), decide_promotion(b, a)
    mirrored = {"better": "worse", "worse": "better", "level": "level"}
    assert back.compared == {n: mirrored[how] for n, how in forth.compared.items()}
    how = set(forth.compared.values())
    if how & {"better", "worse"} and not {"better", "worse"} <= how:
        assert forth.promote != back.promote
    assert forth.promote == ("worse" not in how) and back.promote == ("better" not in how)


@FREELY
@given(scored())
def test_nulls_alone_never_promote(current):
    assert not decide_promotion(nulls(), None).promote
    assert not decide_promotion(nulls(), current).promote
    assert not decide_promotion({}, current).promote


@FREELY
@given(scored())
def test_the_first_checkpoint_is_promoted_as_soon_as_one_thing_is_known(candidate):
    decision = decide_promotion(candidate, None)
    assert decision.promote == any(m.value is not None for m in candidate.values())
    assert decision.reason


@FREELY
@given(scored(known=True))
def test_a_checkpoint_as_good_as_the_current_one_is_promoted(row):
    assert decide_promotion(row, row).promote


@FREELY
@given(scored(), scored())
def test_a_value_without_an_interval_never_decides(candidate, current):
    decision = decide_promotion(candidate, current)
    known = {n for n, m in current.items() if m.known}
    assert set(decision.compared) | set(decision.missing) == known
    if decision.promote:
        assert decision.compared and not decision.missing and known == set(decision.compared)


@FREELY
@given(scored(known=True), st.sampled_from(NAMES))
def test_one_clear_regression_refuses_whatever_else_is_better(current, name):
    candidate = {n: Measure(2.0 if HIGHER[n] else -2.0, *((1.9, 2.1) if HIGHER[n] else (-2.1, -1.9)), HIGHER[n], "same")
                 for n in NAMES}  # fmt: skip
    assert decide_promotion(candidate, current).promote
    bad = Measure(-2.0, -2.1, -1.9, True, "same") if HIGHER[name] else Measure(2.0, 1.9, 2.1, False, "same")
    decision = decide_promotion(candidate | {name: bad}, current)
    assert not decision.promote and decision.compared[name] == "worse" and name in decision.reason


@FREELY
@given(scored(known=True), st.sampled_from(NAMES))
def test_another_basis_is_not_compared(row, name):
    other = {n: Measure(m.value, m.low, m.high, m.higher_is_better, "other" if n == name else "same")
             for n, m in row.items()}  # fmt: skip
    decision = decide_promotion(other, row)
    assert not decision.promote and set(decision.missing) == {name}


# Decisions in the lake

GOOD, BAD = [True] * 30, [True] * 3 + [False] * 27


@pytest.fixture
def board(lake: DeltaStore) -> DeltaStore:
    add_training_set(lake)
    add_checkpoint(lake, "a1", verdicts=GOOD[:20], metrics={"ssim": (0.90, 0.88, 0.92)})
    add_checkpoint(lake, "b2", verdicts=GOOD, metrics={"ssim": (0.91, 0.89, 0.93)}, number=1)
    add_checkpoint(lake, "bad", verdicts=BAD, metrics={"ssim": (0.95, 0.94, 0.96)}, number=2)
    add_checkpoint(lake, "other", verdicts=GOOD, judge="vlm 2", metrics={"ssim": (0.9, 0.8, 1.0)}, number=3)
    add_checkpoint(lake, "none", number=4)
    write_leaderboard(lake)
    return lake


def test_decisions_are_added_and_the_last_one_counts(board: DeltaStore):
    assert current_id(board) is None
    assert promote(board, "none")[1]["kind"] == "kept" and current_id(board) is None
    assert promote(board, "a1")[1]["kind"] == "promoted" and current_id(board) == "a1"
    decision, row = promote(board, "bad")
    assert not decision.promote and row["kind"] == "kept" and "ISR 0.100" in row["reason"]
    assert json.loads(row["comparison"])["compared"] == {"ISR": "worse", "ssim (corrected)": "better"}
    # The same question again is the same decision, not another row.
    assert promote(board, "bad")[1]["decision_id"] == row["decision_id"] and len(decisions(board)) == 3
    decision, _ = promote(board, "other")
    assert not decision.promote and set(decision.missing) == {"ISR"} and "checkpoint: current" in decision.reason
    assert promote(board, "b2")[1]["previous_checkpoint_id"] == "a1"
    decision, row = promote(board, "b2")
    assert decision.promote and row == {}
    decision, _ = promote(board, "a1")
    assert not decision.promote and "rollback --to a1" in decision.reason
    assert [d["sequence"] for d in decisions(board)] == [1, 2, 3, 4, 5, 6]
    assert named_checkpoint(board, "current")["checkpoint_id"] == "b2"
    assert named_checkpoint(board, "latest")["checkpoint_id"] == "none"


def test_metrics_of_mode_legacy_decide_nothing(board: DeltaStore):
    """They were asked for once, of the current checkpoint alone, to be set beside published figures."""
    rows = board.read(VIDEO_METRICS, where={"checkpoint_id": "a1"}).to_pylist()
    put(board, VIDEO_METRICS, [*rows, *(r | {"mode": "legacy"} for r in rows)])
    write_leaderboard(board)
    assert promote(board, "a1")[1]["kind"] == "promoted"
    decision, row = promote(board, "b2")
    assert decision.promote and set(decision.compared) == {"ISR", "ssim (corrected)"}
    assert "legacy" not in row["comparison"]


def test_who_decides_on_what_was_overtaken_decides_anew(board: DeltaStore, monkeypatch):
    """A rollback comes between the look at the decisions and the commit of a promotion, and the other way round."""
    promote(board, "a1")
    promote(board, "b2")
    real = promotion._record

    def overtaken(decide):
        def record(*arguments):
            monkeypatch.setattr(promotion, "_record", real)
            decide()
            return real(*arguments)

        monkeypatch.setattr(promotion, "_record", record)

    overtaken(lambda: rollback(board))
    decision, row = promote(board, "bad")
    assert row["sequence"] == 4 and row["previous_checkpoint_id"] == "a1", "it is compared with what is current now"
    assert set(decision.compared) == {"ISR", "ssim (corrected)"}
    overtaken(lambda: rollback(board, "b2"))
    assert rollback(board, "none")["previous_checkpoint_id"] == "b2"
    assert [d["sequence"] for d in decisions(board)] == [1, 2, 3, 4, 5, 6]
    assert [r["checkpoint_id"] for r in read_leaderboard(board) if r["is_current"]] == ["none"]


def test_a_rollback_goes_down_the_stack_and_stays(board: DeltaStore):
    with pytest.raises(PromotionError, match="no checkpoint was promoted yet"):
        rollback(board)
    promote(board, "a1")
    with pytest.raises(PromotionError, match="only a1 was promoted"):
        rollback(board)
    promote(board, "b2")
    assert rollback(board)["checkpoint_id"] == "a1" and current_id(board) == "a1"
    decision, _ = promote(board, "b2")
    assert not decision.promote and "rollback --to b2" in decision.reason and current_id(board) == "a1"
    assert rollback(board, "b2")["previous_checkpoint_id"] == "a1" and current_id(board) == "b2"
    assert rollback(board)["checkpoint_id"] == "a1"
    # Any checkpoint can be chosen by hand, and taken back again.
    row = rollback(board, "ba")
    assert (row["checkpoint_id"], row["kind"], row["reason"]) == ("bad", "promoted", "chosen by hand")
    assert rollback(board)["checkpoint_id"] == "a1"
    assert not promote(board, "bad")[0].promote
    rollback(board, "bad")
    with pytest.raises(PromotionError, match="is the current checkpoint already"):
        rollback(board, "bad")
    with pytest.raises(PromotionError, match="No checkpoint starts with 'zz'"):
        rollback(board, "zz")


def test_nothing_is_rolled_back_to_files_that_are_gone(board: DeltaStore):
    promote(board, "a1")
    promote(board, "b2")
    (Path(board.root) / "checkpoints" / "a1").rmdir()
    with pytest.raises(CheckpointMissing, match="files of checkpoint a1 are gone"):
        rollback(board)
    assert current_id(board) == "b2"


def test_names_of_checkpoints_that_are_not_there_say_what_to_do(lake: DeltaStore):
    with pytest.raises(CheckpointMissing, match="itryon promote"):
        named_checkpoint(lake, "current")
    with pytest.raises(CheckpointMissing, match="was trained yet"):
        named_checkpoint(lake, "latest")
    with pytest.raises(CheckpointMissing, match="'nope'"):
        named_checkpoint(lake, "nope")
    with pytest.raises(PromotionError, match="not on the leaderboard"):
        promote(lake, "nope")


def test_presets_are_not_mixed(board: DeltaStore):
    promote(board, "a1")
    add_checkpoint(board, "large", preset="1.3b", verdicts=GOOD, metrics={"ssim": (0.99, 0.98, 1.0)}, number=9)
    write_leaderboard(board)
    decision, _ = promote(board, "large")
    assert not decision.promote and "preset 1.3b" in decision.reason
