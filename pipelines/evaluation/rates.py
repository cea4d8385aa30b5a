"""Success rates of interactions with their intervals. No heavy imports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import binomtest

OVERALL = "overall"


@dataclass(frozen=True)
class Rate:
    """Success rate of one action, or overall.

    Attributes:
        action: Interaction category, or `overall`.
        successes: Interactions judged done.
        judged: Interactions with a verdict.
        unanswered: Interactions without one; they are not in the rate.
        rate: Successes over judged; None where nothing was judged.
        low: Lower end of the Wilson interval.
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
    out = []
    for action in [OVERALL, *sorted(set(groups) - {OVERALL})]:
        answered = [v for v in groups[action] if v is not None]
        unanswered = len(groups[action]) - len(answered)
        if not answered:
            out.append(Rate(action, 0, 0, unanswered, None, None, None))
            continue
        k, n = sum(answered), len(answered)
        interval = binomtest(k, n).proportion_ci(confidence, method="wilson")
        out.append(Rate(action, k, n, unanswered, k / n, float(interval.low), float(interval.high)))
    return out
