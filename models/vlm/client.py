"""The client of an OpenAI-compatible chat endpoint: answers that fit a schema, or an error that says why not."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import openai
from PIL import Image
from pydantic import BaseModel, ValidationError

from models.vlm.settings import ChatSettings

Answer = TypeVar("Answer", bound=BaseModel)
Message = Mapping[str, Any]

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


class VlmError(Exception):
    """No usable answer."""


class EndpointError(VlmError):
    """The endpoint is not configured, cannot be reached, or refuses."""


class AnswerError(VlmError):
    """The endpoint answered, but never what was asked for.

    Attributes:
        usage: Tokens that the attempts cost.
    """

    def __init__(self, message: str, usage: Usage):
        super().__init__(message)
        self.usage = usage


@dataclass(frozen=True)
class Usage:
    """Tokens that an answer cost when it was first given.

    Attributes:
        prompt_tokens: Tokens sent, over all attempts.
        completion_tokens: Tokens received, over all attempts.
        requests: Requests made for it just now; 0 where the answer came from the cache.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0

    @property
    def cached(self) -> bool:
        """Whether the answer came from the cache."""
        return self.requests == 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.requests + other.requests,
        )


class ChatClient:
    """Asks questions with pictures and gives back validated answers.

    Only answers that fit the schema are cached; the key covers everything sent, so another prompt, picture, model,
    temperature or seed is another question.

    Args:
        settings: Endpoint.
        cache_dir: Folder for answers; None keeps none.

    Raises:
        EndpointError: If the URL, the model or the key is missing.
    """

    def __init__(self, settings: ChatSettings, cache_dir: Path | None = None):
        if not settings.base_url or not settings.model:
            raise EndpointError("no vision-language endpoint is configured: set its base_url and model")
        key = "none"
        if settings.api_key_env is not None:
            key = os.environ.get(settings.api_key_env, "")
            if not key:
                raise EndpointError(
                    f"the environment variable {settings.api_key_env} with the key of {settings.base_url} is not set; "
                    "set it, or set api_key_env to null if the endpoint needs no key"
                )
        self.settings = settings
        self._cache_dir = cache_dir
        self._secret = key if settings.api_key_env is not None else None
        self._client = openai.OpenAI(
            base_url=settings.base_url, api_key=key, timeout=settings.timeout_s, max_retries=settings.max_retries
        )

    @property
    def name(self) -> str:
        """Model name, for records."""
        return str(self.settings.model)

    def complete_json(
        self,
        messages: Sequence[Message],
        schema: type[Answer],
        images: Sequence[np.ndarray] = (),
        labels: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> tuple[Answer, Usage]:
        """Puts a question and returns the answer as an instance of `schema`.

        An answer that is no JSON or does not fit is shown to the model together with what is wrong, and asked again.

        Args:
            messages: Chat messages with string contents; the last one is the user's.
            schema: What the answer must be.
            images: Pictures `[H, W, 3]` uint8 RGB, appended to the last message.
            labels: A line of text before each picture, such as its time.
            seed: Sampling seed; different seeds are separate votes.

        Returns:
            The answer, and what it cost.

        Raises:
            EndpointError: If the endpoint cannot be reached or refuses, after its retries.
            AnswerError: If no attempt gave an answer that fits.
            ValueError: If the messages or pictures are malformed.
        """
        request = self._request(messages, schema, images, labels, seed)
        cached = self._cached(request, schema)
        if cached is not None:
            return cached
        conversation = list(request["messages"])
        usage = Usage()
        problem = ""
        for _ in range(self.settings.answer_attempts):
            text, finish, cost = self._ask({**request, "messages": conversation})
            usage += cost
            try:
                answer = schema.model_validate_json(extract_json(text))
            except (ValidationError, ValueError) as error:
                problem = _explain(error)
                if finish == "length":
                    problem += f"; the answer was cut off at max_tokens = {self.settings.max_tokens}"
                conversation = [
                    *request["messages"],
                    {"role": "assistant", "content": text or "(empty)"},
                    {"role": "user", "content": f"That does not fit: {problem}. Answer again, with the JSON only."},
                ]
                continue
            self._remember(request, answer, usage)
            return answer, usage
        raise AnswerError(
            f"{self.name} gave no answer that fits {schema.__name__} in {self.settings.answer_attempts} attempts; "
            f"the last one: {problem}",
            usage,
        )

    def _request(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel],
        images: Sequence[np.ndarray],
        labels: Sequence[str] | None,
        seed: int | None,
    ) -> dict[str, Any]:
        if not messages or messages[-1].get("role") != "user":
            raise ValueError("the last message must be the user's")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"{len(labels)} labels for {len(images)} pictures")
        wanted = json.dumps(schema.model_json_schema(), sort_keys=True)
        text = f"{messages[-1]['content']}\n\nAnswer with one JSON object that fits this JSON schema:\n{wanted}"
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        for index, image in enumerate(images):
            if labels is not None:
                content.append({"type": "text", "text": labels[index]})
            content.append({"type": "image_url", "image_url": {"url": self._data_url(image)}})
        request: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [*messages[:-1], {"role": "user", "content": content}],
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
        }
        if seed is not None:
            request["seed"] = seed
        if self.settings.response_format == "json_schema":
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": schema.__name__, "schema": schema.model_json_schema()},
            }
        elif self.settings.response_format == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    def _data_url(self, image: np.ndarray) -> str:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"pictures are [H, W, 3] uint8, not {image.shape} {image.dtype}")
        picture = Image.fromarray(image)
        side = self.settings.image_max_side
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=self.settings.jpeg_quality)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

    def _ask(self, request: dict[str, Any]) -> tuple[str, str, Usage]:
        url = self.settings.base_url
        # Nothing is chained: some proxies send the request back, and with it the key; runs keep what is chained.
        try:
            reply = self._client.chat.completions.create(**request)
        except openai.APITimeoutError:
            attempts = self.settings.max_retries + 1
            raise EndpointError(
                f"{url} did not answer within {self.settings.timeout_s:g} s, {attempts} times in a row"
            ) from None
        except openai.APIConnectionError as error:
            raise EndpointError(f"{url} cannot be reached: {error.__cause__ or error}") from None
        except openai.AuthenticationError:
            raise EndpointError(f"{url} refuses the key in {self.settings.api_key_env}") from None
        except openai.APIStatusError as error:
            raise EndpointError(self._without_key(f"{url} answered {error.status_code}: {error.message}")) from None
        except (openai.OpenAIError, ValueError) as error:
            raise EndpointError(
                self._without_key(f"{url} sent something that is no chat completion: {error}")
            ) from None
        # Servers that are no chat endpoint at all may still send JSON with status 200.
        choices = getattr(reply, "choices", None)
        if not choices or choices[0].message is None:
            raise EndpointError(f"{url} sent something that is no chat completion; is base_url right?")
        spent = reply.usage
        usage = Usage(
            prompt_tokens=(spent.prompt_tokens or 0) if spent else 0,
            completion_tokens=(spent.completion_tokens or 0) if spent else 0,
            requests=1,
        )
        return self._without_key(choices[0].message.content or ""), choices[0].finish_reason or "", usage

    def _without_key(self, text: str) -> str:
        return text.replace(self._secret, "[key]") if self._secret else text

    def _entry(self, request: dict[str, Any]) -> Path | None:
        if self._cache_dir is None:
            return None
        # The URL is left out: the same model behind another address is the same model.
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        return self._cache_dir / key[:2] / f"{key}.json"

    def _cached(self, request: dict[str, Any], schema: type[Answer]) -> tuple[Answer, Usage] | None:
        entry = self._entry(request)
        if entry is None or not entry.exists():
            return None
        try:
            stored = json.loads(entry.read_text("utf-8"))
            answer = schema.model_validate(stored["answer"])
            return answer, Usage(int(stored["prompt_tokens"]), int(stored["completion_tokens"]))
        except (ValueError, KeyError, TypeError):
            # A damaged entry costs one more request, not the run.
            return None

    def _remember(self, request: dict[str, Any], answer: BaseModel, usage: Usage) -> None:
        entry = self._entry(request)
        if entry is None:
            return
        entry.parent.mkdir(parents=True, exist_ok=True)
        stored = {
            "answer": answer.model_dump(mode="json"),
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        partial = entry.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(stored), "utf-8")
        partial.replace(entry)


def extract_json(text: str) -> str:
    """The JSON object in a model's answer, which may think aloud before it or fence it.

    Raises:
        ValueError: If there is none.
    """
    text = _THOUGHT.sub("", text)
    fenced = _FENCE.search(text)
    candidates = [fenced.group(1), text] if fenced else [text]
    decoder = json.JSONDecoder()
    for candidate in candidates:
        for start in (m.start() for m in re.finditer(r"\{", candidate)):
            try:
                _, end = decoder.raw_decode(candidate, start)
            except json.JSONDecodeError:
                continue
            return candidate[start:end]
    raise ValueError("there is no JSON object in it")


def _explain(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:5])
    return str(error)
