"""The vision-language judge: shows pictures of the span to a model and asks whether the garment did as captioned."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field

from models.judges.base import Judge, JudgeRequest, Verdict, sample_frames
from models.judges.settings import VlmJudgeSettings
from models.vlm.client import AnswerError, ChatClient, EndpointError, Usage

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


class VlmJudge(Judge):
    """See the module.

    Args:
        client: Endpoint.
        settings: Pictures and votes.
    """

    def __init__(self, client: ChatClient, settings: VlmJudgeSettings | None = None):
        self.settings = settings or VlmJudgeSettings()
        self._client = client
        self.name = f"vlm {client.name} prompt {PROMPT_VERSION}"
        self.picture_height = self.settings.picture_height

    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        """Evenly spread over span and context."""
        return sample_frames(start, end, num_frames, round(self.settings.context_s * fps), self.settings.pictures)

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
        for vote in range(self.settings.votes):
            try:
                answer, cost = self._client.complete_json(
                    messages, VerdictAnswer, list(request.result), labels, seed=vote
                )
            except AnswerError as error:
                failures.append(str(error))
                usage += error.usage
            except EndpointError as error:
                # The client has retried; a dead endpoint would cost the same wait for every further vote.
                failures.append(str(error))
                break
            else:
                answers.append(answer)
                usage += cost
        votes = [a.success for a in answers]
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        if 2 * len(answers) <= self.settings.votes:
            reason = failures[-1] if failures else "no answers"
            return Verdict(
                None, None, f"no verdict, {len(answers)} of {self.settings.votes} votes: {reason}", votes, *tokens
            )
        yes = sum(votes)
        if 2 * yes == len(votes):
            return Verdict(None, None, f"no verdict, {yes} of {len(votes)} votes for success", votes, *tokens)
        success = 2 * yes > len(votes)
        score = float(np.mean([a.confidence if a.success else 1 - a.confidence for a in answers]))
        said = next(a.rationale for a in answers if a.success == success)
        return Verdict(success, score, f"{yes} of {len(votes)} votes for success: {said}", votes, *tokens)
