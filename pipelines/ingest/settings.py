"""Settings of ingestion; imported by the orchestration at start-up, so nothing heavy belongs here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

CODE_VERSION = "2"
"""Raise it when the same file gives another row."""


class IngestSettings(BaseModel):
    """What makes a video usable, and how it is measured."""

    min_frames: int = Field(9, ge=1, description="Videos with fewer frames are rejected")
    min_side: int = Field(64, ge=16, description="Videos whose shorter side has fewer pixels are rejected")
    max_side: int = Field(8192, ge=64, description="Videos whose longer side has more pixels are rejected")
    default_category: Literal["upper_body", "lower_body", "dresses"] = Field(
        "upper_body", description="Garment category where neither the manifest nor a folder's name says one"
    )
    score_only: bool = Field(
        True, description="Record the quality scores without rejecting a video for them; else the thresholds below hold"
    )
    min_sharpness: float = Field(
        15.0, ge=0, description="Least median variance of the Laplacian of the luma (0-255) at 360 px height"
    )
    min_brightness: float = Field(0.08, ge=0, le=1, description="Least mean luma, 0 to 1")
    max_brightness: float = Field(0.95, ge=0, le=1, description="Greatest mean luma, 0 to 1")
    min_motion: float = Field(0.0005, ge=0, le=1, description="Least mean luma change between samples: less is a still")
    min_bitrate_kbps: float = Field(0.0, ge=0, description="Least file size over duration, kbit/s")
    max_cuts: int = Field(0, ge=0, description="Most shot cuts; a cut breaks the tracking of person and hands")
    sample_fps: float = Field(5.0, gt=0, description="Frames a second that sharpness, brightness and motion look at")
    cut_threshold: float = Field(
        0.12, gt=0, le=1, description="Least colour-histogram distance of a cut (total variation, 0 to 1)"
    )
    cut_ratio: float = Field(
        3.0, ge=1, description="How many times larger than around it the change of the picture must be at a cut"
    )
    max_photo_side: int = Field(20_000, ge=256, description="Garment photos with a longer side (pixels) are refused")
    timeout_s: float = Field(1800, gt=0, description="Longest time for one file, seconds; past it the file is an error")
    memory_gb: float | None = Field(
        8.0, gt=0, description="Most memory that reading one file may take, GiB; a file that wants more is an error"
    )
    workers: int | None = Field(None, ge=1, description="Worker processes; the number of cores by default")

    def content(self) -> dict[str, object]:
        """The settings that rows depend on, for fingerprints."""
        return self.model_dump(mode="json", exclude={"timeout_s", "memory_gb", "workers"})
