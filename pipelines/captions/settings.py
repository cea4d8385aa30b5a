"""Settings of the captions stage. No heavy imports: the orchestration reads this module at start-up."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.vlm.settings import ChatSettings

CODE_VERSION = "1"


class SmoothingSettings(BaseModel):
    """Morphological smoothing of per-frame evidence."""

    model_config = ConfigDict(extra="forbid")

    closing_s: float = Field(
        0.3, ge=0, le=10, description="Gaps in the evidence shorter than this, in seconds, are filled"
    )
    opening_s: float = Field(
        0.4, ge=0, le=10, description="Runs of evidence shorter than this, in seconds, are dropped"
    )


class SoftThreshold(BaseModel):
    """A logistic step: 0.5 at `centre`, 0.73 one `width` further."""

    model_config = ConfigDict(extra="forbid")

    centre: float = Field(description="Value at which the step is 0.5")
    width: float = Field(gt=0, description="Distance over which it rises from 0.5 to 0.73")


def _step(centre: float, width: float, description: str) -> SoftThreshold:
    return Field(default_factory=lambda: SoftThreshold(centre=centre, width=width), description=description)


class KinematicSettings(BaseModel):
    """Contact from geometry and motion. Lengths are in body units: one body unit is the width of the shoulders."""

    model_config = ConfigDict(extra="forbid")

    over_garment: SoftThreshold = _step(
        0.6, 0.08, "Share of the hand's surroundings and of the hand that is garment region"
    )
    palm_facing: SoftThreshold = _step(
        0.71,
        0.05,
        "Cosine between the palm's normal and the way into the torso, near 1 for a hand laid on it; 0.71 is 45 degrees",
    )
    speed: SoftThreshold = _step(2.2, 0.3, "Body units a second; a hand that is faster only passes")
    hands_apart: SoftThreshold = _step(
        0.5,
        0.08,
        "Distance of the two hands in body units; hands that hold each other are nearer than a hand's length",
    )
    cloth_drag: SoftThreshold = _step(
        0.3, 0.05, "Share of tracked points of the cloth next to the hand that move along with it"
    )
    facing_window_s: float = Field(
        0.3, gt=0, le=5, description="Length of the running median over the palm's direction, seconds"
    )
    cloth_motion: bool = Field(True, description="Track the cloth next to moving hands in the picture; needs decoding")
    cloth_step_s: float = Field(0.1, gt=0, le=1, description="Time between the two pictures that are compared, seconds")
    cloth_unit_px: int = Field(
        96, ge=32, le=512, description="Pixels of one body unit in the pictures that are compared"
    )
    reliability: float = Field(
        0.8,
        ge=0.5,
        le=1,
        description="Share of the spans that the evidence is right about, so the highest confidence. A hand held flat "
        "just before the body looks as one laid on it. 0.8 is (n + 1) / (n + 2) for the n = 3 contacts of the labelled "
        "clips, all found; too few to know better",
    )
    min_confidence: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Spans that are less sure are not written. Lower it to see every stay of a hand over the garment",
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


class CaptionSettings(BaseModel):
    """How captions are made. Human labels in a video's manifest entry win over any backend."""

    model_config = ConfigDict(extra="forbid")

    backend: Literal["kinematic", "vlm"] = Field(
        "kinematic",
        description="kinematic: from pose, hands and cloth motion, no further network. vlm: a vision-language model",
    )
    smoothing: SmoothingSettings = Field(default_factory=SmoothingSettings, description="From frame labels to spans")
    kinematic: KinematicSettings = Field(default_factory=KinematicSettings, description="The embedded backend")
    vlm: VlmSettings = Field(default_factory=VlmSettings, description="The vision-language backend")
