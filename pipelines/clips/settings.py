"""Settings of the stage `clips`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipelines.stage import StageSettings

CODE_VERSION = "3"


def _whole_latents(frames: int) -> int:
    if frames % 4 != 1:
        raise ValueError(f"num_frames must be 4n + 1, not {frames}")
    return frames


def _whole_patches(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    for height, width in sizes:
        if height % 16 or width % 16 or min(height, width) < 16:
            raise ValueError(f"{height}x{width}: height and width must be multiples of 16")
    return sizes


WindowFrames = Annotated[int, AfterValidator(_whole_latents)]
"""Frames of a window: 4n + 1, the VAE's temporal stride."""

WindowSizes = Annotated[list[tuple[int, int]], AfterValidator(_whole_patches)]
"""Heights and widths that the model works at: multiples of the VAE's stride times the transformer's patch."""


class ClipsSettings(StageSettings):
    """How training windows are cut and encoded."""

    num_frames: WindowFrames = Field(
        default=17, ge=5, description="Frames of a window, 4n + 1 (the VAE's temporal stride)"
    )
    frame_stride: int = Field(default=1, ge=1, description="Source frames per window frame")
    step_frames: int = Field(
        default=8,
        ge=1,
        description="Source frames between starts of neighbouring windows, at most a window's length",
    )
    max_windows: int = Field(default=8, ge=1, description="Most windows of one video")
    interaction_share: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="Share of windows with an interaction, where a video has more windows than max_windows",
    )
    sizes: WindowSizes = Field(
        default=[(128, 96), (96, 128)],
        min_length=1,
        description="Height and width of the buckets, pixels; a video goes to the one nearest in aspect ratio",
    )
    vae: str = Field(
        default="nano",
        description="nano (embedded), or the folder of a Wan2.1 checkpoint in diffusers layout",
    )
    text_encoder: str = Field(
        default="minilm",
        description="minilm (embedded), or the folder of a Wan2.1 checkpoint, for its UMT5",
    )
    cache: bool = Field(
        default=True,
        description="Encode clips once and keep the tensors; without, training encodes frames on the fly "
        "(`training.encode: on_the_fly`), every time anew",
    )
    vae_precision: Literal["bf16", "fp32"] = Field(
        default="fp32",
        description="Arithmetic of the VAE; latents are stored in bf16. Choose bf16 on GPUs and on CPUs with AMX: "
        "others emulate it and take ten times as long",
    )
