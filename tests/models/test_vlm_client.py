"""The chat client against a real HTTP server that answers as told."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel, Field

from models.vlm.client import AnswerError, ChatClient, EndpointError, extract_json
from models.vlm.settings import ChatSettings
from tests.chat_endpoint import ListedAnswers


class Colour(BaseModel):
    """What the model is asked for."""

    name: str
    share: float = Field(ge=0, le=1)


QUESTION = [{"role": "user", "content": "Which colour?"}]
GOOD = '{"name": "red", "share": 0.5}'


@pytest.fixture
def endpoint() -> Iterator[ListedAnswers]:
    with ListedAnswers(late=GOOD) as server:
        yield server


def client(endpoint: ListedAnswers, cache: Path | None = None, **changes: Any) -> ChatClient:
    settings = {"base_url": endpoint.url, "model": "test-vl", "api_key_env": None, "max_retries": 1} | changes
    return ChatClient(ChatSettings(**settings), cache)


def test_answer_is_validated_and_tokens_are_counted(endpoint: ListedAnswers) -> None:
    endpoint.answers = [GOOD]
    answer, usage = client(endpoint).complete_json(QUESTION, Colour)
    assert answer == Colour(name="red", share=0.5)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.requests) == (100, 7, 1)
    sent = endpoint.requests[0]
    assert sent["model"] == "test-vl"
    assert sent["response_format"]["json_schema"]["schema"] == Colour.model_json_schema()
    assert "Which colour?" in sent["messages"][0]["content"][0]["text"]


def test_pictures_arrive_reduced_and_labelled(endpoint: ListedAnswers) -> None:
    endpoint.answers = [GOOD]
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 100:] = (250, 10, 10)
    client(endpoint, image_max_side=64).complete_json(QUESTION, Colour, images=[picture], labels=["t = 0.50 s"])
    content = endpoint.requests[0]["messages"][0]["content"]
    assert content[1] == {"type": "text", "text": "t = 0.50 s"}
    head, data = content[2]["image_url"]["url"].split(",", 1)
    assert head == "data:image/jpeg;base64"
    received = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert received.shape == (32, 64, 3)
    assert np.abs(received[:, 40:].reshape(-1, 3).mean(0) - (250, 10, 10)).max() < 8


def test_nonsense_is_asked_again_with_the_reason(endpoint: ListedAnswers) -> None:
    endpoint.answers = [
        "I would rather talk.",
        '{"name": "red", "share": 5}',
        f"<think>{{}}</think>```json\n{GOOD}\n```",
    ]
    answer, usage = client(endpoint).complete_json(QUESTION, Colour)
    assert answer.share == 0.5
    assert (usage.requests, usage.prompt_tokens) == (3, 300)
    assert "no JSON object" in endpoint.requests[1]["messages"][-1]["content"]
    assert "less than or equal to 1" in endpoint.requests[2]["messages"][-1]["content"]


def test_lasting_nonsense_is_an_error_with_its_cost_and_is_not_cached(endpoint: ListedAnswers, tmp_path: Path) -> None:
    endpoint.answers = ["no"] * 4
    asked = client(endpoint, tmp_path, answer_attempts=2)
    with pytest.raises(AnswerError, match=r"2 attempts.*no JSON object") as caught:
        asked.complete_json(QUESTION, Colour)
    assert caught.value.usage.prompt_tokens == 200
    with pytest.raises(AnswerError):
        asked.complete_json(QUESTION, Colour)
    assert len(endpoint.requests) == 4


def test_cache_answers_the_same_question_only(endpoint: ListedAnswers, tmp_path: Path) -> None:
    endpoint.answers = [GOOD, '{"name": "blue", "share": 0}', '{"name": "green", "share": 1}']
    asked = client(endpoint, tmp_path)
    asked.complete_json(QUESTION, Colour, seed=0)
    again, usage = asked.complete_json(QUESTION, Colour, seed=0)
    assert again.name == "red"
    assert usage.cached and usage.prompt_tokens == 100
    assert asked.complete_json(QUESTION, Colour, seed=1)[0].name == "blue"
    picture = np.zeros((8, 8, 3), np.uint8)
    assert asked.complete_json(QUESTION, Colour, images=[picture], seed=0)[0].name == "green"
    for entry in tmp_path.rglob("*.json"):
        entry.write_text("{damaged")
    endpoint.answers = ['{"name": "new", "share": 0}']
    assert asked.complete_json(QUESTION, Colour, seed=0)[0].name == "new"


def test_server_errors_are_retried(endpoint: ListedAnswers) -> None:
    endpoint.answers = [503, GOOD]
    assert client(endpoint).complete_json(QUESTION, Colour)[0].name == "red"
    endpoint.answers = [500, 500]
    with pytest.raises(EndpointError, match="500"):
        client(endpoint).complete_json(QUESTION, Colour)


def test_a_refused_request_is_not_repeated(endpoint: ListedAnswers) -> None:
    endpoint.answers = [400]
    with pytest.raises(EndpointError, match=r"400.*told to fail"):
        client(endpoint).complete_json(QUESTION, Colour)
    assert len(endpoint.requests) == 1


def test_timeout_is_an_endpoint_error(endpoint: ListedAnswers) -> None:
    endpoint.answers = [1.0]
    with pytest.raises(EndpointError, match=r"within 0\.2 s"):
        client(endpoint, timeout_s=0.2, max_retries=0).complete_json(QUESTION, Colour)


def test_json_that_is_no_completion_is_an_endpoint_error(endpoint: ListedAnswers) -> None:
    endpoint.answers = [{"status": "fine"}]
    with pytest.raises(EndpointError, match="no chat completion"):
        client(endpoint).complete_json(QUESTION, Colour)


def test_nobody_listening() -> None:
    settings = ChatSettings(base_url="http://127.0.0.1:9/v1", model="m", api_key_env=None, max_retries=0)
    with pytest.raises(EndpointError, match="cannot be reached"):
        ChatClient(settings).complete_json(QUESTION, Colour)


def test_key_comes_from_the_environment_only(endpoint: ListedAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(EndpointError, match="SOME_KEY"):
        client(endpoint, api_key_env="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "not-a-real-key")
    endpoint.answers = [401]
    with pytest.raises(EndpointError, match="refuses the key in SOME_KEY") as caught:
        client(endpoint, api_key_env="SOME_KEY").complete_json(QUESTION, Colour)
    assert endpoint.keys == ["Bearer not-a-real-key"]
    assert "not-a-real-key" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_unconfigured_endpoint_says_so() -> None:
    with pytest.raises(EndpointError, match="base_url"):
        ChatClient(ChatSettings())


def test_malformed_questions_are_refused(endpoint: ListedAnswers) -> None:
    asked = client(endpoint)
    with pytest.raises(ValueError, match="last message"):
        asked.complete_json([{"role": "assistant", "content": "hello"}], Colour)
    with pytest.raises(ValueError, match="uint8"):
        asked.complete_json(QUESTION, Colour, images=[np.zeros((4, 4, 3), np.float32)])
    assert not endpoint.requests


PLAIN = st.text(st.characters(exclude_characters="{}`<"), max_size=30)
VALUES = st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=20), st.lists(st.booleans())))


@given(PLAIN, VALUES, PLAIN, st.booleans())
def test_any_object_is_found_in_any_prose(before: str, value: dict[str, Any], after: str, fence: bool) -> None:
    text = json.dumps(value)
    text = f"```json\n{text}\n```" if fence else text
    if "```" in json.dumps(value):
        return
    assert json.loads(extract_json(f"{before}{text}{after}")) == value
