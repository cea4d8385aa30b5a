"""Where a vision-language model answers, and how it is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ChatSettings(BaseModel):
    """An OpenAI-compatible chat endpoint."""

    base_url: str | None = Field(
        None,
        description="URL of the API up to and with /v1, e.g. http://localhost:8000/v1 for a local vLLM; no default. It "
        "is kept in tables and messages, so it must not hold a password",
        pattern=r"^https?://[^/@]+(/.*)?$",
    )
    model: str | None = Field(None, description="Model name that the endpoint knows, e.g. Qwen/Qwen2.5-VL-7B-Instruct")
    api_key_env: str | None = Field(
        "ITRYON_VLM_API_KEY",
        description="Environment variable with the key; null for endpoints that need none. The key is never stored",
    )
    timeout_s: float = Field(120, gt=0, description="Longest wait for one answer, seconds")
    max_retries: int = Field(
        4, ge=0, description="Repeats after a timeout, a lost connection, 408, 409, 429 or 5xx; waits grow between them"
    )
    answer_attempts: int = Field(3, ge=1, description="How often a question is put when answers do not fit the schema")
    temperature: float = Field(0.2, ge=0, le=2, description="Sampling temperature")
    max_tokens: int = Field(1024, ge=1, description="Longest answer, tokens")
    response_format: Literal["json_schema", "json_object", "none"] = Field(
        "json_schema", description="Constraint the server is asked for; lower it for servers that refuse json_schema"
    )
    image_max_side: int = Field(768, ge=32, description="Pictures are reduced to this longer side, px")
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of the pictures sent")


ELSEWHERE = {"base_url", "api_key_env", "timeout_s", "max_retries"}
"""Settings that do not change what is answered."""
