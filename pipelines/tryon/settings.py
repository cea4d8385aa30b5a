"""Settings of `tryon_videos`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from models.itryon.tiling import Tiling
from pipelines.clips.settings import WindowFrames, WindowSizes

CODE_VERSION = "3"

NEEDED = ("pose", "hands", "agnostic_masks", "captions")
"""Stages between a video and its try-on, in the order in which they run."""

WITHOUT_EFFECT = frozenset({"checkpoint", "batches", "max_videos", "pairs", "device", "offload"})
"""Settings that say which videos are made, by which weights and where, and not how: one video is the same with all."""


class TryOnSettings(BaseModel):
    """How try-on videos are made."""

    checkpoint: str = Field(
        "latest", description="checkpoint_id, `latest` for the newest one, or `current` for the promoted one"
    )
    batches: list[str] | None = Field(
        None,
        min_length=1,
        description="Batches whose videos are dressed; all but those of `itryon tryon --video` by default. A fixed set "
        "keeps results comparable",
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
    flow_shift: float | None = Field(
        None, gt=0, description="Shift of the noise schedule; null is the checkpoint's own, that of its training"
    )
    seed: int = Field(0, ge=0, description="Seed of the noise; the same for every video")
    num_frames: WindowFrames | None = Field(
        None,
        ge=5,
        description="Frames of one window, 4n + 1; null is the checkpoint's own: 17 of nano, 81 of 1.3b and 14b",
    )
    overlap_frames: int = Field(5, ge=0, description="Frames that neighbouring windows share at least")
    max_frames: int | None = Field(
        None, ge=1, description="Longest part of a video to make, around its first interaction; null makes all of it"
    )
    sizes: WindowSizes | None = Field(
        None,
        min_length=1,
        description="Height and width that the model works at, pixels; the nearest in aspect ratio is taken. Null is "
        "the checkpoint's own: 128x96 and 96x128 of nano, 832x480 and 480x832 of 1.3b and 14b",
    )
    cache: Literal["none", "first_block"] = Field(
        "none",
        description="first_block: skip the other blocks in steps in which the first one gives nearly what it gave "
        "before; faster and not quite the same result, see docs/architecture.md",
    )
    cache_threshold: float = Field(
        0.05, ge=0, description="Relative change of the first block up to which `first_block` skips; 0 skips nothing"
    )
    blend_edge: float = Field(
        0.01, ge=0, le=0.2, description="Soft edge inside the mask, as a share of the frame's shorter side"
    )
    side_by_side_height: int = Field(360, ge=64, le=1080, description="Rows of the side-by-side video, pixels")
    device: str = Field("auto", description="auto takes CUDA when there is one; or cpu, cuda, cuda:1, mps")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="Arithmetic of transformer and text encoder. auto: as they are saved, but fp32 on CPUs, most of "
        "which emulate the others",
    )
    vae_precision: Literal["bf16", "fp32"] = Field(
        "fp32", description="Arithmetic of the autoencoder; bf16 is slow on CPUs that emulate it"
    )
    vae_tiling: Tiling = Field(
        "auto",
        description="Encode and decode frames in overlapping tiles, which takes less memory and changes the result a "
        "little: auto does so above 832x480 pixels. The embedded autoencoder has no tiling and refuses on",
    )
    offload: Literal["none", "model", "sequential"] = Field(
        "none",
        description="What waits in the CPU's memory instead of the accelerator's: model keeps one of text encoder, "
        "transformer and autoencoder there at a time, sequential one layer, which is slow",
    )
