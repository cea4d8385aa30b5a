"""The embedded judge: is the captioned action done in the source at that time, and does the result's cloth follow?

The hands of a result are the source's own, so hand motion proves nothing. Small networks read how the cloth around
each hand changes in both videos, before, in and after the span, and answer two questions: what the source shows the
hand do to the garment, and whether the result's cloth does it, too. The score is the product of both chances, for the
hand where it is highest.

Limits: the network learned from rendered clips; where cloth hardly changes (a hand that rubs a plain shirt) little can
be told; and a change that the new garment cannot have (a zip on a pullover) counts as a failure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from models.contact.network import CLASSES
from models.contact.network import weights_digest as contact_digest
from models.judges.base import Judge, JudgeRequest, Verdict, judge_digest
from models.judges.measures.cells import hand_cells
from models.judges.measures.network import WEIGHTS, load, weights_digest
from models.judges.measures.windows import MomentSampling
from models.judges.settings import KinematicJudgeSettings

VERSION = "3"


def make(settings: KinematicJudgeSettings | dict[str, Any], cache_dir: Path | None) -> Judge:
    """The judge with its fitted network.

    Raises:
        FileNotFoundError: The weights are missing.
    """
    return KinematicJudge(KinematicJudgeSettings.model_validate(settings))


class KinematicJudge(MomentSampling, Judge):
    """See the module.

    Args:
        settings: How large pictures are, and the score that counts as done.
        weights: File of the network.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, settings: KinematicJudgeSettings | None = None, weights: Path = WEIGHTS):
        self.settings = settings or KinematicJudgeSettings()
        super().__init__(self.settings.work_height)
        self._networks, notes = load(weights)
        self.min_score = notes["min_score"] if self.settings.min_score is None else self.settings.min_score
        self.name = f"kinematic {VERSION}"
        self.digest = judge_digest(self.name, self.settings.model_dump(), weights_digest(weights), contact_digest())
        self.fitted_on = frozenset(notes["clips"])

    def judge(self, request: JudgeRequest) -> Verdict:
        """The verdict, with the chances it rests on in the rationale."""
        if request.action not in CLASSES:
            return Verdict(None, None, f"{request.action} is no action that the judge knows: no verdict")
        hands = hand_cells(request)
        if not hands:
            return Verdict(None, None, "no person is known in the source: no verdict")
        action, follows = self._networks.probabilities(list(hands.values()))
        asked = action[:, CLASSES.index(request.action)]
        scores = asked * follows
        k = int(np.argmax(scores))
        score, side = float(scores[k]), list(hands)[k]
        words = (
            f"{side} hand: the source shows {request.action} in this span: {asked[k]:.2f} (most likely "
            f"{CLASSES[int(action[k].argmax())]}); the result's cloth follows: {follows[k]:.2f}; both {score:.2f}, "
            f"enough from {self.min_score:.2f}"
        )
        success = bool(score >= self.min_score)
        return Verdict(success, score, words, [success])
