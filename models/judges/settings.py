"""Thresholds of the embedded judge, and how the vision-language judge is asked."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from models.vlm.settings import ChatSettings


class KinematicJudgeSettings(BaseModel):
    """The embedded judge: what is done in the source, and does the result's cloth follow."""

    work_height: int = Field(384, ge=64, description="Pictures are reduced to this height before looking at them, px")
    min_score: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Score from which an interaction counts as done: the product of the chances that the source shows "
        "it and that the result follows. By default the one that was fitted with the network",
    )


class VlmJudgeSettings(BaseModel):
    """The vision-language judge behind an OpenAI-compatible endpoint."""

    endpoint: ChatSettings = Field(default_factory=ChatSettings, description="Where the model answers")
    prompt_price: float | None = Field(
        None,
        ge=0,
        description="Price of a million tokens sent, in any currency; costs are counted where both are known",
    )
    completion_price: float | None = Field(None, ge=0, description="Price of a million tokens received")
    pictures: int = Field(8, ge=2, description="Pictures of the span that are shown")
    picture_height: int = Field(512, ge=64, description="Pictures are reduced to this height, px")
    context_s: float = Field(0.3, ge=0, description="Time before and after the span that is shown too, seconds")
    votes: int = Field(3, ge=1, description="Independent answers; the majority decides, a tie is no verdict")


class LocalVlmJudgeSettings(BaseModel):
    """The vision-language judge in this process: a transformers model in a local folder."""

    model: str | None = Field(
        None,
        description="Folder of an image-text-to-text model as transformers saves it, with its processor, such as a "
        "download of Qwen/Qwen2.5-VL-7B-Instruct; nothing is downloaded",
    )
    device: str = Field("auto", description="Torch device; auto takes a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the weights; auto is float32 on CPUs and what the model was saved in on GPUs"
    )
    pictures: int = Field(8, ge=2, description="Pictures of the span that are shown")
    picture_height: int = Field(384, ge=64, description="Pictures are reduced to this height, px")
    context_s: float = Field(0.3, ge=0, description="Time before and after the span that is shown too, seconds")
    votes: int = Field(1, ge=1, description="Independent answers; the majority decides, a tie is no verdict")
    answer_attempts: int = Field(
        2, ge=1, description="How often a vote is asked for when answers do not fit the schema"
    )
    temperature: float = Field(0.2, ge=0, le=2, description="Sampling temperature; 0 gives every vote the same answer")
    max_tokens: int = Field(256, ge=16, description="Longest answer, tokens")
