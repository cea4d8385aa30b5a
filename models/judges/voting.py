"""Judges that ask a vision-language model: the question, its answer, and how several answers become a verdict."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, Field

from models.judges.base import Judge, JudgeRequest, Verdict, sample_frames
from models.judges.settings import LocalVlmJudgeSettings, VlmJudgeSettings
from models.vlm.client import AnswerError, EndpointError, Message, Usage

PROMPT_VERSION = "1"

QUESTIONS: dict[str, str] = {
    "adjust_collar": "Does the collar or neckline move, fold or change shape where the hand holds it?",
    "adjust_hem": "Is the hem of the garment lifted, pulled or straightened by the hand?",
    "operate_zipper": "Does the zip visibly open or close, following the hand that moves along it?",
    "stretch_fabric": "Is the fabric visibly pulled away or stretched where the hand holds it?",
    "roll_sleeve": "Is the sleeve visibly rolled, pushed or pulled along the arm by the hand?",
    "other": "Does the garment visibly react to the hand as described?",
}
"""What must be seen, by interaction category."""

_SYSTEM = (
    "You judge videos in which a person's garment was replaced by a generative model. You see frames of one short part "
    "in order of time. Decide whether the person really does to the garment what the description says. The hands come "
    "from the original video, so moving hands prove nothing: hands that move over or in front of cloth that stays "
    "unchanged are a failure. So is cloth that changes at another time or place than the hand touches it, or that "
    "melts into the hand. Rely on what the frames show, not on what is plausible."
)


class VerdictAnswer(BaseModel):
    """What the model has to answer; the reason comes first, so that the verdict follows from it."""

    rationale: str = Field(min_length=1, description="What the frames show of hand and cloth, one or two sentences")
    success: bool = Field(description="Whether the garment does what the description says")
    confidence: float = Field(ge=0, le=1, description="Confidence in this verdict")


class VotingJudge(Judge):
    """Asks several times and takes the majority. A subclass knows whom to ask.

    Args:
        settings: Pictures and votes.
    """

    def __init__(self, settings: VlmJudgeSettings | LocalVlmJudgeSettings):
        self._asked = settings
        self.picture_height = settings.picture_height

    @abstractmethod
    def ask(
        self, messages: Sequence[Message], pictures: Sequence[np.ndarray], labels: Sequence[str], vote: int
    ) -> tuple[VerdictAnswer, Usage]:
        """One answer, and what it cost.

        Raises:
            models.vlm.client.AnswerError: No attempt gave an answer that fits.
            models.vlm.client.EndpointError: There is no use in asking again.
        """

    def price(self, usage: Usage) -> float | None:
        """What an answer cost; None where that is not known."""
        return None

    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        """Evenly spread over span and context."""
        return sample_frames(start, end, num_frames, round(self._asked.context_s * fps), self._asked.pictures)

    def judge(self, request: JudgeRequest) -> Verdict:
        """Majority of the votes; no verdict where half of the votes or more fail, or on a tie."""
        asked = QUESTIONS.get(request.action, QUESTIONS["other"])
        text = (
            f"Description: {request.caption}\nIt should happen from t = {request.start / request.fps:.2f} s to "
            f"t = {request.end / request.fps:.2f} s.\nQuestion: {asked}"
        )
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]
        labels = [f"t = {frame / request.fps:.2f} s" for frame in request.frames]
        answers: list[VerdictAnswer] = []
        failures: list[str] = []
        usage = Usage()
        for vote in range(self._asked.votes):
            try:
                answer, cost = self.ask(messages, list(request.result), labels, vote)
            except AnswerError as error:
                failures.append(str(error))
                usage += error.usage
            except EndpointError as error:
                # It was tried again already; a dead endpoint would cost the same wait for every further vote.
                failures.append(str(error))
                break
            else:
                answers.append(answer)
                usage += cost
        return self._verdict(answers, failures, usage)

    def _verdict(self, answers: list[VerdictAnswer], failures: list[str], usage: Usage) -> Verdict:
        votes = [a.success for a in answers]
        yes = sum(votes)
        success: bool | None = None
        score: float | None = None
        if 2 * len(answers) <= self._asked.votes:
            reason = failures[-1] if failures else "no answers"
            said = f"no verdict, {len(answers)} of {self._asked.votes} votes: {reason}"
        elif 2 * yes == len(votes):
            said = f"no verdict, {yes} of {len(votes)} votes for success"
        else:
            success = 2 * yes > len(votes)
            score = float(np.mean([a.confidence if a.success else 1 - a.confidence for a in answers]))
            reason = next(a.rationale for a in answers if a.success == success)
            said = f"{yes} of {len(votes)} votes for success: {reason}"
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        return Verdict(success, score, said, votes, *tokens, self.price(usage))
