"""Settings of the agnostic mask stage. No heavy imports: the orchestration reads this module at start-up."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.stage import StageSettings

CODE_VERSION = "2"
"""Raise it when the same input gives other masks."""


class HandSettings(BaseModel):
    """What stays visible around a hand; lengths are fractions of the hand's own length (wrist to fingertip)."""

    model_config = ConfigDict(extra="forbid")

    silhouette_margin: float = Field(
        default=-0.015,
        ge=-0.05,
        le=0.15,
        description="Grow (> 0) or shrink (< 0) the visible hand, fraction of hand length. Cloth shows where it grows",
    )
    ring: float = Field(
        default=0.30,
        ge=0.0,
        le=1.0,
        description="Width of the ring around a hand that is repainted where garment is just as near, fraction of "
        "hand length. This is where cloth between and around the fingers lies",
    )
    reach: float = Field(
        default=1.0,
        ge=0.0,
        le=3.0,
        description="How far from the garment cloth that a hand pulls off is still recognised, fraction of hand length",
    )
    tolerance: float = Field(
        default=0.15,
        ge=0.0,
        le=0.5,
        description="How far hand pixels may lie outside the keypoint silhouette, fraction of hand length; person "
        "pixels beyond it are held cloth",
    )


class ParsingSettings(BaseModel):
    """The human parsing network."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(
        default="fashn-ai/fashn-human-parser",
        description="Hugging Face id or local folder of a SegFormer with the 18 classes of fashn-human-parser",
    )
    revision: str | None = Field(default=None, description="Commit of the model repository; pin it for repeatable rows")
    batch_size: int = Field(default=4, ge=1, description="Frames in one forward pass")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU when there is one")


class MasksSettings(StageSettings):
    """How the garment-agnostic region is made. Body lengths are fractions of the torso size (shoulders to hips)."""

    model_config = ConfigDict(extra="forbid")

    backend: Literal["geometric", "parsing"] = Field(
        default="geometric",
        description="geometric: person mask, pose and hands, no further network. parsing: SegFormer human parsing, "
        "downloads about 250 MB at first use",
    )
    dilation: float = Field(
        default=0.05,
        ge=0.0,
        le=0.5,
        description="How far the mask goes beyond the body's outline, fraction of torso size; loose cloth lies there",
    )
    hem: float = Field(
        default=0.20,
        ge=0.0,
        le=1.0,
        description="How far an upper garment may reach below the hips, and a lower one above, fraction of torso size",
    )
    temporal_window: int = Field(
        default=7, ge=1, le=61, description="Frames of the running mean that steadies the outline; odd; 1 turns it off"
    )
    carry_s: float = Field(
        default=0.5,
        ge=0.0,
        le=5.0,
        description="Longest time in seconds over which a frame without pose takes its neighbours' pose; beyond it "
        "the whole person is repainted, by the person mask of the nearest frame of the shot with a pose, grown",
    )
    min_visibility: float = Field(
        default=0.5,
        ge=0.0,
        le=1.0,
        description="Pose landmarks of arms and hands less visible than this are not trusted",
    )
    working_side_px: int = Field(
        default=320,
        ge=64,
        le=2048,
        description="Longer side at which regions are computed; hands are cut out at full size",
    )
    hands: HandSettings = Field(default_factory=HandSettings, description="Hand policy")
    parsing: ParsingSettings = Field(default_factory=ParsingSettings, description="Human parsing backend")

    def content(self) -> dict[str, object]:
        """See `StageSettings.content`."""
        unused = True if self.backend == "geometric" else {"batch_size", "device"}
        return self.model_dump(mode="json", exclude={"parsing": unused})
