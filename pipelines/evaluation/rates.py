"""Success rates of interactions with their intervals. No heavy imports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

OVERALL = "overall"


@dataclass(frozen=True)
class Rate:
    """Success rate of one action, one clip, or overall.

    Attributes:
        action: Interaction category, `overall`, or the name of a clip.
        successes: Interactions judged done.
        judged: Interactions with a verdict.
        unanswered: Interactions without one; they are not in the rate.
        rate: Successes over judged; None where nothing was judged.
        low: Lower end of the Wilson interval; None where there is none.
        high: Upper end.
    """

    action: str
    successes: int
    judged: int
    unanswered: int
    rate: float | None
    low: float | None
    high: float | None


def rates(verdicts: Iterable[tuple[str, bool | None]], confidence: float = 0.95) -> list[Rate]:
    """Success rates with Wilson score intervals, overall and by action.

    Interactions are taken as independent; several of one video are not quite, so the interval is a little narrow.

    Args:
        verdicts: Action and verdict of every interaction.
        confidence: Level of the intervals.
    """
    groups: dict[str, list[bool | None]] = {OVERALL: []}
    for action, success in verdicts:
        groups[OVERALL].append(success)
        groups.setdefault(action, []).append(success)
    return [_rate(a, groups[a], confidence) for a in [OVERALL, *sorted(set(groups) - {OVERALL})]]


def clip_rates(verdicts: Iterable[tuple[str, bool | None]], confidence: float = 0.95) -> dict[str, Rate]:
    """Success rate of every clip: the share of its interactions that were done.

    One verdict says nothing of how others would fall, so a clip with a single one has no interval.

    Args:
        verdicts: Clip and verdict of every interaction.
        confidence: Level of the intervals.
    """
    groups: dict[str, list[bool | None]] = {}
    for clip, success in verdicts:
        groups.setdefault(clip, []).append(success)
    return {clip: _rate(clip, found, confidence, least=2) for clip, found in groups.items()}


def votes_rate(votes: Sequence[bool], confidence: float = 0.95) -> Rate | None:
    """Share of a judge's votes that say done, of one interaction; None where it voted once or not at all.

    The interval is of what the judge would say if it were asked on, not of whether it is right: that is its kappa.
    """
    return _rate("votes", votes, confidence) if len(votes) > 1 else None


def _rate(name: str, verdicts: Sequence[bool | None], confidence: float, least: int = 1) -> Rate:
    """With an interval from `least` verdicts on."""
    answered = [v for v in verdicts if v is not None]
    k, n, unanswered = sum(answered), len(answered), len(verdicts) - len(answered)
    if not n:
        return Rate(name, 0, 0, unanswered, None, None, None)
    if n < least:
        return Rate(name, k, n, unanswered, k / n, None, None)
    interval = binomtest(k, n).proportion_ci(confidence, method="wilson")
    return Rate(name, k, n, unanswered, k / n, float(interval.low), float(interval.high))
