"""The vision-language judge: shows pictures of the span to a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.judges.base import Judge, judge_digest
from models.judges.settings import VlmJudgeSettings
from models.judges.voting import PROMPT_VERSION, VerdictAnswer, VotingJudge
from models.vlm.client import ChatClient, Message, Usage
from models.vlm.settings import ELSEWHERE


def make(settings: VlmJudgeSettings | dict[str, Any], cache_dir: Path | None) -> Judge:
    """The judge, its endpoint configured.

    Raises:
        models.vlm.client.EndpointError: If the endpoint's URL, model or key is missing.
    """
    settings = VlmJudgeSettings.model_validate(settings)
    return VlmJudge(ChatClient(settings.endpoint, cache_dir), settings)


class VlmJudge(VotingJudge):
    """See the module.

    Args:
        client: Endpoint; it retries what failed, checks answers against the schema and keeps good ones.
        settings: Pictures, votes and prices.
    """

    def __init__(self, client: ChatClient, settings: VlmJudgeSettings | None = None):
        settings = settings or VlmJudgeSettings()
        super().__init__(settings)
        self.settings = settings
        self._client = client
        self.name = f"vlm {client.name} prompt {PROMPT_VERSION}"
        asked = settings.model_dump(exclude={"endpoint", "prompt_price", "completion_price"})
        self.digest = judge_digest(self.name, asked, client.settings.model_dump(exclude=ELSEWHERE))

    def ask(
        self, messages: Sequence[Message], pictures: Sequence[np.ndarray], labels: Sequence[str], vote: int
    ) -> tuple[VerdictAnswer, Usage]:
        """See `VotingJudge.ask`."""
        return self._client.complete_json(messages, VerdictAnswer, pictures, labels, seed=vote)

    def price(self, usage: Usage) -> float | None:
        """By the prices in the settings; None without."""
        s = self.settings
        if s.prompt_price is None or s.completion_price is None:
            return None
        return (usage.prompt_tokens * s.prompt_price + usage.completion_tokens * s.completion_price) / 1e6
