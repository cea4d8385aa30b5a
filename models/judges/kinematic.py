"""The embedded judge: is the captioned action done in the source at that time, and does the result's cloth follow?

The hands of a result are the source's own, so hand motion proves nothing. Two small logistic models answer two
questions. `asked`: does the source show this action in this span? It reads the contact network's opinion and whether
the source's cloth changes. `follows`: does the result's cloth do what the source's does? It reads how much, when and
where the cloth next to the hand changes in both videos. The score is the product of both chances.

Limits: both were fitted on rendered clips; where the source's cloth hardly changes (a hand that rubs a plain shirt)
little can be told; and a change that the new garment cannot have (a zip on a pullover) counts as a failure.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from models.contact.network import weights_digest
from models.judges.base import Judge, JudgeRequest, Sampling, Verdict, judge_digest, sample_frames
from models.judges.measures.features import measure
from models.judges.measures.logistic import read_models
from models.judges.settings import KinematicJudgeSettings

VERSION = "2"
WEIGHTS = Path(__file__).parent / "measures" / "kinematic.json"
"""The fitted models, see `pipelines.evaluation.judges.fit`."""


def make(settings: KinematicJudgeSettings | dict[str, Any], cache_dir: Path | None) -> Judge:
    """The judge with its fitted models.

    Raises:
        FileNotFoundError: The models are missing.
    """
    return KinematicJudge(KinematicJudgeSettings.model_validate(settings))


class ClothSampling(Sampling):
    """Frames evenly spread over span and context, and the contact network's reading.

    Args:
        settings: How many frames, and how large.
    """

    needs_contact = True

    def __init__(self, settings: KinematicJudgeSettings):
        self.settings, self.picture_height = settings, settings.work_height

    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        """See `Sampling.frames`."""
        context = round(self.settings.context_s * fps)
        length = min(num_frames, end + context) - max(0, start - context)
        wanted = max(8, round(length / fps * self.settings.samples_per_second))
        return sample_frames(start, end, num_frames, context, min(self.settings.max_pictures, wanted))


class KinematicJudge(ClothSampling, Judge):
    """See the module.

    Args:
        settings: What is measured, and the score that counts as done.
        weights: File with the fitted models.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, settings: KinematicJudgeSettings | None = None, weights: Path = WEIGHTS):
        super().__init__(settings or KinematicJudgeSettings())
        models, notes = read_models(weights)
        self._asked, self._follows = models["asked"], models["follows"]
        self.name = f"kinematic {VERSION}"
        fitted = hashlib.sha256(weights.read_bytes()).hexdigest()
        self.digest = judge_digest(self.name, self.settings.model_dump(), fitted, weights_digest())
        self.fitted_on = frozenset(notes["clips"])

    def judge(self, request: JudgeRequest) -> Verdict:
        """The verdict, with the numbers it rests on in the rationale."""
        if not any(request.hands):
            return Verdict(None, None, "the hand is known in none of the pictures: no verdict")
        found = measure(request, self.settings)
        if np.isnan(found["result_change"]):
            return Verdict(None, None, "too little cloth is visible next to the hand: no verdict")
        asked, follows = self._asked.probability(found), self._follows.probability(found)
        score = asked * follows
        success = bool(score >= self.settings.min_score)
        words = (
            f"the source shows {request.action} in this span: {asked:.2f}; the result's cloth follows: {follows:.2f} "
            f"(change next to the hand, {_change(found['result_change'])} against {_change(found['source_change'])} in "
            f"the source; alike in time {found['in_time']:.2f} and place {found['in_place']:.2f})"
        )
        return Verdict(success, score, words, [success])


def _change(log: float) -> str:
    return f"{float(np.exp(log)):.3f}"
