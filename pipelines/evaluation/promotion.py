"""Promotion: whether a candidate becomes the current checkpoint, and the way back.

`decide_promotion` is the rule, free of tables. `promote` applies it to rows of the leaderboard and records what was
decided in `promotions`; `rollback` records what a person decided.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipelines.checkpoints.current import KEPT, PROMOTED, ROLLED_BACK, decisions, standing
from pipelines.checkpoints.train import checkpoint_folder, find_checkpoint, starting_with
from pipelines.evaluation.leaderboard import higher_is_better, read_leaderboard, write_leaderboard
from pipelines.evaluation.settings import PROMOTION_VERSION
from pipelines.evaluation.shown import shown
from pipelines.stage import digest
from pipelines.store import Commit, DeltaStore, Overtaken
from pipelines.store.schemas import PROMOTIONS


class PromotionError(LookupError):
    """A decision that cannot be made; the message says what to do."""


@dataclass(frozen=True)
class Measure:
    """One measure of one checkpoint.

    Attributes:
        value: None where it could not be measured.
        low: Lower end of its confidence interval; None where it has none.
        high: Upper end.
        higher_is_better: Direction.
        basis: What two values must share to be compared: evaluation set, mode, network, judge.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    basis: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a value with an interval."""
        return None not in (self.value, self.low, self.high)


@dataclass(frozen=True)
class Decision:
    """What the rule says.

    Attributes:
        promote: Whether the candidate becomes the current checkpoint.
        reason: Why, for people.
        compared: Measure -> better, worse, or level (the intervals overlap).
        missing: Measure of the current checkpoint that the candidate cannot be compared in -> why.
    """

    promote: bool
    reason: str
    compared: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def decide_promotion(candidate: dict[str, Measure], current: dict[str, Measure] | None) -> Decision:
    """Whether a candidate becomes the current checkpoint.

    The rule:

    1. Where there is no current checkpoint, the candidate is promoted if at least one measure of it has a value.
    2. Otherwise every measure of the current checkpoint that has a confidence interval counts, and no other: a value
       without one cannot tell a regression from chance.
    3. The candidate must have each of these measures with an interval, on the same basis (evaluation set, mode,
       network, judge). If one is missing, nothing says that it did not regress, and the candidate is refused.
    4. In one measure the candidate is worse if its whole interval lies on the worse side of the current one's, better
       if it lies on the better side, level if the intervals overlap or touch. Intervals that overlap a little may
       differ significantly, so the rule lets small regressions pass rather than refuse on chance.
    5. The candidate is promoted if at least one measure was compared and it is worse in none. Level in all is enough:
       it has seen more data.

    So of two checkpoints that differ clearly in one direction, exactly one replaces the other, and nulls alone never
    promote.

    Args:
        candidate: Measure by name.
        current: Those of the current checkpoint; None where there is none.
    """
    if current is None:
        measured = sorted(n for n, m in candidate.items() if m.value is not None)
        if not measured:
            return Decision(False, "nothing was measured of the candidate: run `itryon evaluate`")
        return Decision(True, f"the first checkpoint, measured by {', '.join(measured)}")
    compared: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, ours in sorted(current.items()):
        if not ours.known:
            continue
        theirs = candidate.get(name)
        if theirs is None or not theirs.known:
            missing[name] = "the candidate has no value with an interval"
        elif theirs.basis != ours.basis:
            missing[name] = "measured on other videos or annotations, or by another network or judge"
        else:
            compared[name] = _compare(theirs, ours)
    if missing:
        text = "; ".join(f"{n}: {why}" for n, why in missing.items())
        return Decision(
            False,
            f"cannot be compared with the current checkpoint in {text}. Evaluate both in the same way "
            "(tryon: {checkpoint: current} dresses the same videos by the current one)",
            compared,
            missing,
        )
    if not compared:
        reason = (
            "no measure of the current checkpoint has a confidence interval: evaluate it on more videos, or choose the "
            "candidate by `itryon rollback --to`"
        )
        return Decision(False, reason)
    worse = [n for n, how in compared.items() if how == "worse"]
    if worse:
        texts = [f"{n} {_shown(candidate[n])} against {_shown(current[n])}" for n in worse]
        return Decision(False, f"worse beyond the confidence intervals in {', '.join(texts)}", compared)
    better = [n for n, how in compared.items() if how == "better"]
    level = [n for n, how in compared.items() if how == "level"]
    parts = [f"better in {', '.join(better)}"] if better else []
    parts += [f"level in {', '.join(level)}"] if level else []
    return Decision(True, " and ".join(parts), compared)


def _compare(candidate: Measure, current: Measure) -> str:
    assert candidate.low is not None and candidate.high is not None
    assert current.low is not None and current.high is not None
    above, below = candidate.low > current.high, candidate.high < current.low
    if not (above or below):
        return "level"
    return "better" if above == current.higher_is_better else "worse"


def _shown(measure: Measure) -> str:
    return shown(measure.value, measure.low, measure.high, digits=3)


def measures(row: dict[str, Any]) -> dict[str, Measure]:
    """The measures of a row of the leaderboard: metrics of the set, and the success rate.

    Metrics of mode legacy are none: they are for comparison with published figures.
    """
    shared = row["evaluation_digest"] or ""
    out = {
        f"{m['metric']} ({m['mode']})": Measure(
            m["value"],
            m["low"],
            m["high"],
            higher_is_better(m["metric"]),
            digest(shared, m["mode"], m["network"] or "")[:16],
        )
        for m in row["metrics"]
        if m["mode"] != "legacy"
    }
    out["ISR"] = Measure(
        row["isr"], row["isr_low"], row["isr_high"], True, digest(shared, row["judge_digest"] or row["judge"])[:16]
    )
    return out


def judge_candidate(store: DeltaStore, candidate_id: str) -> Decision:
    """What the rule says of a checkpoint as the leaderboard has it; writes nothing.

    Raises:
        PromotionError: It is not on the leaderboard.
    """
    now = standing(decisions(store))
    rows = {r["checkpoint_id"]: r for r in read_leaderboard(store)}
    if candidate_id not in rows:
        raise PromotionError(f"Checkpoint {candidate_id} is not on the leaderboard: materialise leaderboard first")
    if candidate_id == now.current:
        return Decision(True, "it is the current checkpoint already")
    if candidate_id in now.stack:
        reason = f"it was current before and another took its place; `itryon rollback --to {candidate_id}` goes back"
        return Decision(False, reason)
    if candidate_id in now.withdrawn:
        reason = f"it was rolled back; `itryon rollback --to {candidate_id}` brings it back"
        return Decision(False, reason)
    if now.current is None:
        return decide_promotion(measures(rows[candidate_id]), None)
    if now.current not in rows:
        raise PromotionError(
            f"The current checkpoint {now.current} is not on the leaderboard: its row of `checkpoints` is gone; choose "
            "another by `itryon rollback --to`"
        )
    if rows[candidate_id]["preset"] != rows[now.current]["preset"]:
        reason = (
            f"it is of preset {rows[candidate_id]['preset']}, the current one of {rows[now.current]['preset']}: change "
            f"over by `itryon rollback --to {candidate_id}`"
        )
        return Decision(False, reason)
    return decide_promotion(measures(rows[candidate_id]), measures(rows[now.current]))


# Two that decide at once, a run that promotes and a person who rolls back, would both decide on what was before and
# take the same place in the sequence. The one that comes second decides anew, on what the first one made of it.
_in_turn = retry(
    retry=retry_if_exception_type(Overtaken),
    stop=stop_after_attempt(10),
    wait=wait_random_exponential(multiplier=0.1, max=2),
    reraise=True,
)


@_in_turn
def promote(store: DeltaStore, candidate_id: str, commit: Commit | None = None) -> tuple[Decision, dict[str, Any]]:
    """Decide on a candidate and record it, unless exactly this was decided last.

    Args:
        store: The lake, with the leaderboard written.
        candidate_id: Checkpoint.
        commit: Provenance.

    Returns:
        The decision, and the row of `promotions` it is in; an empty row where the candidate is the current checkpoint
        already and nothing had to be recorded.

    Raises:
        PromotionError: The candidate is not on the leaderboard.
    """
    version = store.version(PROMOTIONS)
    decision = judge_candidate(store, candidate_id)
    past = decisions(store)
    current = standing(past).current
    if candidate_id == current:
        return decision, {}
    rows = {r["checkpoint_id"]: r for r in read_leaderboard(store)}
    sides = {"candidate": rows.get(candidate_id), "current": rows.get(current) if current else None}
    shown = {k: {n: asdict(m) for n, m in measures(r).items()} for k, r in sides.items() if r}
    row = {
        "kind": PROMOTED if decision.promote else KEPT,
        "checkpoint_id": candidate_id,
        "current_checkpoint_id": candidate_id if decision.promote else current,
        "previous_checkpoint_id": current,
        "reason": decision.reason,
        "comparison": json.dumps({**shown, "compared": decision.compared, "missing": decision.missing}, sort_keys=True),
    }
    if past and all(past[-1][k] == v for k, v in row.items()):
        return decision, past[-1]
    return decision, _record(store, version, past, row, commit)


def comparison_markdown(row: dict[str, Any]) -> str:
    """What a decision compared as a Markdown table: measure, candidate, the current one then, and how they compare.

    Args:
        row: A row of `promotions`; an empty one where nothing had to be decided.
    """
    found = json.loads(row.get("comparison") or "{}")
    candidate, current = ({n: Measure(**m) for n, m in found.get(k, {}).items()} for k in ("candidate", "current"))
    if not candidate:
        return "nothing was compared"
    lines = ["| measure | candidate | current then | candidate is |", "|---|---|---|---|"]
    for name in sorted(candidate | current):
        sides = [_shown(side[name]) if name in side else "–" for side in (candidate, current)]
        how = found["compared"].get(name) or found["missing"].get(name) or "–"
        lines.append(f"| {name} | {' | '.join(sides)} | {how} |")
    return "\n".join(lines)


@_in_turn
def rollback(store: DeltaStore, to: str | None = None, commit: Commit | None = None) -> dict[str, Any]:
    """Make an earlier checkpoint, or any other one, the current one by hand; returns the new row of `promotions`.

    Those promoted after an earlier one are withdrawn: they are not promoted again by themselves. One that is not among
    the promoted ones is put on top of them, as a promotion would.

    Args:
        store: The lake.
        to: Checkpoint, or the first digits of its identity; the one promoted before the current one by default.
        commit: Provenance.

    Raises:
        PromotionError: There is nothing to go back to, or `to` fits no or several checkpoints, or is current already.
        pipelines.checkpoints.train.CheckpointMissing: The files of the checkpoint are gone.
    """
    version = store.version(PROMOTIONS)
    past = decisions(store)
    now = standing(past)
    if to is None:
        if len(now.stack) < 2:
            state = f"only {now.current} was promoted" if now.current else "no checkpoint was promoted yet"
            raise PromotionError(f"There is nothing to go back to: {state}. Name a checkpoint with --to")
        to = now.stack[-2]
    target = _find(store, to)
    name = target["checkpoint_id"]
    if name == now.current:
        raise PromotionError(f"{name} is the current checkpoint already")
    checkpoint_folder(store, target)
    row = {
        "kind": ROLLED_BACK if name in now.stack else PROMOTED,
        "checkpoint_id": name,
        "current_checkpoint_id": name,
        "previous_checkpoint_id": now.current,
        "reason": "chosen by hand",
        "comparison": "{}",
    }
    return _record(store, version, past, row, commit)


def _find(store: DeltaStore, prefix: str) -> dict[str, Any]:
    exact = find_checkpoint(store, prefix)
    if exact is not None:
        return exact
    found = starting_with(store, prefix)
    if len(found) != 1:
        what = "Several checkpoints start" if found else "No checkpoint starts"
        raise PromotionError(f"{what} with {prefix!r}: see `itryon leaderboard`")
    return found[0]


def _record(
    store: DeltaStore, version: int, past: list[dict[str, Any]], row: dict[str, Any], commit: Commit | None
) -> dict[str, Any]:
    """Add a decision, and bring the marks of the leaderboard in line with it.

    Raises:
        Overtaken: Another decision was recorded after this version of `promotions`, which `past` is from.
    """
    commit = Commit((commit or Commit()).run_id, PROMOTION_VERSION)
    sequence = past[-1]["sequence"] + 1 if past else 1
    row = {
        **row,
        # The partition: two that take the same place meet there, and Delta lets one of them through.
        "decision_id": digest("decision", sequence)[:16],
        "sequence": sequence,
        "created_at": datetime.now(UTC),
        "run_id": commit.run_id,
    }
    where = {"decision_id": row["decision_id"]}
    written = store.replace(PROMOTIONS, pa.Table.from_pylist([row], PROMOTIONS.schema), where, commit, since=version)
    write_leaderboard(store, commit)
    while (newest := store.version(PROMOTIONS)) != written:
        # Its marks may have come before ours, from a decision that came after.
        write_leaderboard(store, commit)
        written = newest
    return row
