"""Settings of `tryon_videos`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from pipelines.clips.settings import WindowFrames, WindowSizes

CODE_VERSION = "3"

NEEDED = ("pose", "hands", "agnostic_masks", "captions")
"""Stages between a video and its try-on, in the order in which they run."""


class TryOnSettings(BaseModel):
    """How try-on videos are made."""

    checkpoint: str = Field(
        "latest", description="checkpoint_id, `latest` for the newest one, or `current` for the promoted one"
    )
    batches: list[str] | None = Field(
        None,
        min_length=1,
        description="Batches whose videos are dressed; all by default. A fixed set keeps results comparable",
    )
    max_videos: int = Field(8, ge=1, description="Most videos to dress, test split first, then val, then train")
    pairs: Literal["unpaired", "paired", "both"] = Field(
        "both", description="paired: the garment the person wears anyway; unpaired: another one of the same category"
    )
    steps: int = Field(20, ge=1, le=1000, description="Denoising steps of a window")
    guidance_scale: float = Field(
        2.0, ge=1, description="Classifier-free guidance on captions; 1 switches it off and halves the time"
    )
    negative_action: str | None = Field(
        None,
        min_length=1,
        description="Action caption that videos without interactions are led away from, such as `the right hand zips "
        "the jacket down`, where hands near the cloth move it too easily; needs guidance above 1",
    )
    conditioning_scale: float = Field(1.0, ge=0, description="Weight of the VACE hints")
    flow_shift: float = Field(3.0, gt=0, description="Shift of the noise schedule; that of the training")
    seed: int = Field(0, ge=0, description="Seed of the noise; the same for every video")
    num_frames: WindowFrames = Field(17, ge=5, description="Frames of one window, 4n + 1; that of the training")
    overlap_frames: int = Field(5, ge=0, description="Frames that neighbouring windows share at least")
    max_frames: int | None = Field(
        None, ge=1, description="Longest part of a video to make, around its first interaction; null makes all of it"
    )
    sizes: WindowSizes = Field(
        [(128, 96), (96, 128)],
        min_length=1,
        description="Height and width that the model works at, pixels; the nearest in aspect ratio is taken",
    )
    blend_edge: float = Field(
        0.01, ge=0, le=0.2, description="Soft edge inside the mask, as a share of the frame's shorter side"
    )
    side_by_side_height: int = Field(360, ge=64, le=1080, description="Rows of the side-by-side video, pixels")
    vae_precision: Literal["bf16", "fp32"] = Field(
        "fp32", description="Arithmetic of the embedded VAE; bf16 is slow on CPUs that emulate it"
    )
    device: str = Field("auto", description="auto takes CUDA when there is one; or cpu, cuda, cuda:1, mps")
