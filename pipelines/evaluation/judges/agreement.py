"""Agreement of a judge with known truth: figures over cases with bootstrap intervals over clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.annotators.statistics import RESAMPLES, Estimate, Ratio, Statistic, estimate


@dataclass(frozen=True)
class Answer:
    """One verdict next to the truth.

    Attributes:
        clip: Number of the clip, from 0: cases of one clip are alike, so intervals come from drawing whole clips.
        kind: Kind of the case.
        action: Action asked for.
        expected: The truth.
        success: The verdict; None where there is none.
    """

    clip: int
    kind: str
    action: str
    expected: bool
    success: bool | None


class Kappa(Statistic):
    """Cohen's kappa of two raters with two answers; NaN where both always say the same one.

    Args:
        cells: (V, 4) cases of each clip that are said and true, said and false, not said and true, not said and false.
    """

    def __init__(self, cells: np.ndarray):
        self.cells = np.asarray(cells, np.float64).reshape(-1, 4)
        self.samples = self.cells.sum(1).astype(int)

    def at(self, weights: np.ndarray) -> np.ndarray:
        """See `Statistic.at`."""
        tp, fp, fn, tn = (weights @ self.cells).T
        n = tp + fp + fn + tn
        by_chance = (tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)
        observed, room = n * (tp + tn), n * n - by_chance
        return np.divide(observed - by_chance, room, out=np.full(len(n), np.nan), where=room > 0)


def cells(answers: Sequence[Answer], clips: int, unanswered_wrong: bool = False) -> np.ndarray:
    """(V, 4) counts for `Kappa`.

    Args:
        answers: Cases.
        clips: Number of clips V.
        unanswered_wrong: Count no answer as the wrong one, instead of leaving it out.
    """
    out = np.zeros((clips, 4), int)
    for a in answers:
        said = a.success
        if said is None:
            if not unanswered_wrong:
                continue
            said = not a.expected
        out[a.clip, (0 if a.expected else 1) if said else (2 if a.expected else 3)] += 1
    return out


def figures(answers: Sequence[Answer], clips: int, resamples: int = RESAMPLES) -> dict[str, Estimate]:
    """kappa, kappa_all, accuracy, sensitivity, specificity, answered; 0 resamples leave intervals out."""
    answered, whole = cells(answers, clips), cells(answers, clips, unanswered_wrong=True)
    tp, fp, fn, tn = answered.T
    of_all = np.bincount([a.clip for a in answers], minlength=clips)
    statistics: dict[str, Statistic] = {
        "kappa": Kappa(answered),
        "kappa_all": Kappa(whole),
        "accuracy": Ratio(tp + tn, tp + fp + fn + tn),
        "sensitivity": Ratio(tp, tp + fn),
        "specificity": Ratio(tn, tn + fp),
        "answered": Ratio(answered.sum(1), of_all),
    }
    return {name: estimate(s, resamples=resamples) for name, s in statistics.items()}
