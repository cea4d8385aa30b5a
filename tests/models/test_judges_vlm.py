"""Judges that ask vision-language models: against a stand-in endpoint, and with a tiny model in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.judges.base import JudgeError, JudgeRequest, Verdict
from models.judges.local_vlm import LocalVlmJudge, make
from models.judges.settings import LocalVlmJudgeSettings, VlmJudgeSettings
from models.judges.vlm import VlmJudge
from models.judges.voting import QUESTIONS
from models.vlm.client import ChatClient
from models.vlm.settings import ChatSettings
from pipelines.store.schemas import ACTIONS
from tests.chat_endpoint import ListedAnswers
from tests.models.tiny_llava import save_tiny_llava


def request(action: str = "operate_zipper") -> JudgeRequest:
    """Four grey pictures from 0.8 to 2 s at 15 frames a second."""
    frames = np.array([12, 18, 24, 29])
    pictures = np.stack([np.full((48, 36, 3), 60 * k, np.uint8) for k in range(4)])
    region, landmarks = np.zeros((4, 48, 36), bool), np.zeros((30, 33, 2), np.float32)
    text = "The person opens the zip with the right hand."
    return JudgeRequest(action, text, 15, 12, 30, frames, pictures, pictures, region, [{}] * 4, landmarks)


@pytest.fixture
def endpoint() -> Iterator[ListedAnswers]:
    with ListedAnswers() as server:
        yield server


def judge_of(endpoint: ListedAnswers, cache: Path | None = None, **changed: Any) -> VlmJudge:
    values = {"max_retries": 0, "answer_attempts": 1, "timeout_s": 5} | changed
    settings = ChatSettings(base_url=endpoint.url, model="test-vl", api_key_env=None, **values)
    return VlmJudge(ChatClient(settings, cache))


def ask(endpoint: ListedAnswers, answers: list[Any], **changed: Any) -> Verdict:
    endpoint.answers = answers
    return judge_of(endpoint, **changed).judge(request())


def vote(success: bool, confidence: float = 0.9) -> str:
    return f'{{"rationale": "Seen {success}.", "success": {str(success).lower()}, "confidence": {confidence}}}'


def test_majority_of_votes_decides(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, [vote(True), vote(False, 0.6), vote(True)])
    assert verdict.success is True
    assert verdict.votes == [True, False, True]
    assert verdict.score == pytest.approx((0.9 + 0.4 + 0.9) / 3)
    assert "2 of 3" in verdict.rationale and "Seen True." in verdict.rationale
    assert (verdict.prompt_tokens, verdict.completion_tokens) == (300, 21)
    assert [r["seed"] for r in endpoint.requests] == [0, 1, 2]
    content = endpoint.requests[0]["messages"][-1]["content"]
    assert "opens the zip" in content[0]["text"] and "t = 0.80 s to t = 2.00 s" in content[0]["text"]


def test_nonsense_and_a_tie_are_no_verdict(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, [vote(True), "perhaps", vote(False)])
    assert verdict.success is None and verdict.score is None
    assert "1 of 2 votes" in verdict.rationale
    assert verdict.prompt_tokens == 300
    verdict = ask(endpoint, ["perhaps", vote(True), "perhaps"])
    assert verdict.success is None
    assert "no JSON object" in verdict.rationale


def test_dead_endpoint_is_no_verdict_and_asked_once(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, [500])
    assert verdict.success is None
    assert "500" in verdict.rationale
    assert len(endpoint.requests) == 1


def test_every_action_has_its_question(endpoint: ListedAnswers) -> None:
    assert set(QUESTIONS) == set(ACTIONS)
    for action in ACTIONS:
        endpoint.answers = [vote(True)] * 3
        judge_of(endpoint).judge(request(action))
        content = endpoint.requests[-1]["messages"][-1]["content"]
        assert QUESTIONS[action] in content[0]["text"]
        assert [c["text"] for c in content[1:] if c["type"] == "text"] == [
            f"t = {f / 15:.2f} s" for f in (12, 18, 24, 29)
        ]
        assert sum(c["type"] == "image_url" for c in content) == 4


def test_nonsense_is_asked_again_and_its_tokens_count(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, ["perhaps", vote(True), vote(True), vote(True)], answer_attempts=2)
    assert verdict.success is True and verdict.votes == [True] * 3
    assert verdict.prompt_tokens == 400 and len(endpoint.requests) == 4
    assert "does not fit" in endpoint.requests[1]["messages"][-1]["content"]


def test_timeouts_are_tried_again_then_no_verdict(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, [0.6, 0.6], timeout_s=0.2, max_retries=1)
    assert (
        verdict.success is None and verdict.votes == [] and "did not answer within 0.2 s, 2 times" in verdict.rationale
    )


def test_votes_are_cached_with_what_they_cost(endpoint: ListedAnswers, tmp_path: Path) -> None:
    endpoint.answers = [vote(True), vote(False), vote(True)]
    first = judge_of(endpoint, tmp_path).judge(request())
    again = judge_of(endpoint, tmp_path).judge(request())
    assert again == first and len(endpoint.requests) == 3


def test_costs_follow_from_prices(endpoint: ListedAnswers) -> None:
    settings = ChatSettings(base_url=endpoint.url, model="test-vl", api_key_env=None)
    endpoint.answers = [vote(True)] * 3
    judge = VlmJudge(ChatClient(settings), VlmJudgeSettings(prompt_price=2.0, completion_price=10.0))
    assert judge.judge(request()).cost == pytest.approx((300 * 2 + 21 * 10) / 1e6)
    endpoint.answers = [vote(True)] * 3
    assert VlmJudge(ChatClient(settings)).judge(request()).cost is None


def test_digest_covers_what_changes_answers_only(endpoint: ListedAnswers) -> None:
    base = judge_of(endpoint)
    assert base.digest == judge_of(endpoint, timeout_s=9, max_retries=3).digest
    assert base.digest != judge_of(endpoint, temperature=1.0).digest
    other = VlmJudge(ChatClient(ChatSettings(base_url="http://127.0.0.1:1/v1", model="test-vl", api_key_env=None)))
    same = ChatSettings(base_url=endpoint.url, model="test-vl", api_key_env=None)
    assert other.digest == VlmJudge(ChatClient(same)).digest
    assert other.digest != VlmJudge(ChatClient(same), VlmJudgeSettings(votes=5)).digest


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_missing_model_says_what_to_do(folder: str | None, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"isr\.local_vlm\.model"):
        make({"model": None if folder is None else str(tmp_path / folder)}, None)


def test_local_model_answers_and_its_tokens_count(tmp_path: Path) -> None:
    folder = save_tiny_llava(tmp_path / "tiny", vote(False, 0.8))
    judge = LocalVlmJudge(LocalVlmJudgeSettings(model=str(folder), votes=3, max_tokens=16, device="cpu"))
    verdict = judge.judge(request())
    assert verdict.success is False and verdict.votes == [False] * 3, verdict.rationale
    assert verdict.score == pytest.approx(0.2) and "Seen False." in verdict.rationale
    # Each of four pictures is four patches of text; more pictures are more tokens.
    assert verdict.prompt_tokens is not None and verdict.prompt_tokens % 3 == 0
    fewer = JudgeRequest(
        **{f.name: getattr(request(), f.name) for f in dataclasses.fields(JudgeRequest)}
        | {k: getattr(request(), k)[:2] for k in ("frames", "result", "source", "region", "hands")}
    )
    less = judge.judge(fewer)
    assert (verdict.prompt_tokens - (less.prompt_tokens or 0)) / 3 >= 2 * 4
    assert verdict.completion_tokens == 3 * 16


def test_local_nonsense_is_no_verdict(tmp_path: Path) -> None:
    folder = save_tiny_llava(tmp_path / "tiny")
    settings = LocalVlmJudgeSettings(model=str(folder), max_tokens=16, answer_attempts=2, device="cpu")
    verdict = LocalVlmJudge(settings).judge(request())
    assert verdict.success is None and verdict.score is None and verdict.votes == []
    assert "no answer that fits in 2 attempts" in verdict.rationale and "no JSON object" in verdict.rationale
    once = LocalVlmJudge(settings.model_copy(update={"answer_attempts": 1})).judge(request())
    assert verdict.prompt_tokens == 2 * (once.prompt_tokens or 0) > 0


def test_a_folder_that_is_no_such_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    judge = LocalVlmJudge(LocalVlmJudgeSettings(model=str(tmp_path)))
    with pytest.raises(JudgeError, match="cannot be read as an image-text-to-text model"):
        judge.judge(request())
