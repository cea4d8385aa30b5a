"""Settings of the hand stage. No heavy imports: the orchestration reads this module at start-up."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.stage import StageSettings

CODE_VERSION = "2"
"""Raise it when the same input gives other rows."""


class HamerSettings(BaseModel):
    """The official HaMeR package and its files, which users get themselves."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = Field(
        None,
        description="HaMeR's _DATA folder with its checkpoint and MANO, for finding hands; the environment's "
        "ITRYON_HAMER, or ./_DATA, by default. Clips and previews draw MANO again: they look there alone",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU when there is one")
    box_scale: float = Field(
        2.0, gt=0, description="Side of the crop in sides of the box around the keypoints; HaMeR's demo takes 2"
    )


class HandsSettings(StageSettings):
    """How hands are found, fitted and followed."""

    model_config = ConfigDict(extra="forbid")

    backend: Literal["mediapipe", "hamer"] = Field(
        "mediapipe",
        description="mediapipe: landmarks fitted onto a CC0 mesh; hamer: MANO meshes from the official HaMeR package",
    )
    min_presence: float = Field(
        0.5, ge=0, le=1, description="Probability below which the landmark network's region holds no hand"
    )
    min_visibility: float = Field(
        0.3, ge=0, le=1, description="Visibility of the body pose's wrist below which a hand is not searched for"
    )
    retry_frames: int = Field(
        3, ge=1, description="A hand that stays missing is searched with everything only every so many frames"
    )
    field_of_view_deg: float = Field(
        55.0, gt=10, lt=140, description="Angle that the longer side of the frame spans; hamer brings its own camera"
    )
    max_gap_frames: int = Field(
        10, ge=0, description="Longest run of frames without a hand that is filled between its neighbours and flagged"
    )
    smoothing_s: float = Field(
        0.17, ge=0, description="Window of the zero-phase filter over rotations and positions, seconds; 0 turns it off"
    )
    depth_smoothing_s: float = Field(
        0.5, ge=0, description="Window of the same filter over the distance from the camera, the noisiest number"
    )
    hamer: HamerSettings = Field(default_factory=HamerSettings, description="Files of the hamer backend")

    def content(self) -> dict[str, object]:
        """See `StageSettings.content`."""
        if self.backend == "mediapipe":
            return self.model_dump(mode="json", exclude={"hamer"})
        return self.model_dump(mode="json", exclude={"field_of_view_deg": True, "hamer": {"data", "device"}})
