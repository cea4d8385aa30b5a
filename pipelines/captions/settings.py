"""Settings of the captions stage. No heavy imports: the orchestration reads this module at start-up."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.vlm.settings import ELSEWHERE, ChatSettings
from pipelines.stage import StageSettings

CODE_VERSION = "3"


class SmoothingSettings(BaseModel):
    """Morphological smoothing of per-frame evidence."""

    model_config = ConfigDict(extra="forbid")

    closing_s: float = Field(
        0.3, ge=0, le=10, description="Gaps in the evidence shorter than this, in seconds, are filled"
    )
    opening_s: float = Field(
        0.4, ge=0, le=10, description="Runs of evidence shorter than this, in seconds, are dropped"
    )


class KinematicSettings(BaseModel):
    """Captions by a small network over pose, hands and the picture around them."""

    model_config = ConfigDict(extra="forbid")

    min_probability: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="How likely a hand has to do something to the garment for a frame to count. Lower it to miss less "
        "and be wrong more often",
    )


class VlmSettings(BaseModel):
    """Captions by a vision-language model behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(extra="forbid")

    endpoint: ChatSettings = Field(
        default_factory=ChatSettings, description="Where the model answers, and how it is asked"
    )
    sample_fps: float = Field(
        4.0, gt=0, le=60, description="Frames a second that the model sees for interaction labels"
    )
    frames_per_call: int = Field(
        8, ge=2, le=64, description="Frames in one request: labels come from a window, never from a single frame"
    )
    overlap: int = Field(
        4, ge=0, description="Frames that consecutive requests share; each gets that many more opinions"
    )
    global_frames: int = Field(8, ge=1, le=64, description="Frames, spread over the video, for the global caption")

    @model_validator(mode="after")
    def _windows_advance(self) -> VlmSettings:
        if self.overlap >= self.frames_per_call:
            raise ValueError(f"overlap ({self.overlap}) must be smaller than frames_per_call ({self.frames_per_call})")
        return self


class CaptionSettings(StageSettings):
    """How captions are made. Human labels in a video's manifest entry win over any backend."""

    model_config = ConfigDict(extra="forbid")

    backend: Literal["kinematic", "vlm"] = Field(
        "kinematic",
        description="kinematic: a small network over pose, hands and the picture around them. vlm: a vision-language "
        "model",
    )
    smoothing: SmoothingSettings = Field(default_factory=SmoothingSettings, description="From frame labels to spans")
    kinematic: KinematicSettings = Field(default_factory=KinematicSettings, description="The embedded backend")
    vlm: VlmSettings = Field(default_factory=VlmSettings, description="The vision-language backend")

    def content(self) -> dict[str, object]:
        """See `StageSettings.content`."""
        if self.backend == "kinematic":
            return self.model_dump(mode="json", exclude={"vlm"})
        return self.model_dump(mode="json", exclude={"kinematic": True, "vlm": {"endpoint": ELSEWHERE}})
