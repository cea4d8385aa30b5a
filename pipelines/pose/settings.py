"""Settings of the pose stage; importing this loads no model library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipelines.stage import StageSettings

CODE_VERSION = "2"


class PoseSettings(StageSettings):
    """How the main person is found and followed."""

    estimator: Literal["tracker", "task"] = Field(
        "tracker",
        description="tracker: Google's networks with our own tracking; task: MediaPipe's PoseLandmarker in video mode",
    )
    people: int = Field(2, ge=1, le=8, description="People that the task looks for; the tracker needs no such number")
    min_presence: float = Field(
        0.5, ge=0, le=1, description="Probability below which the network's region holds no person"
    )
    max_speed: float = Field(
        2.0, gt=0, description="Fastest move of the torso in person sizes a second; a faster one is somebody else"
    )
    min_likeness: float = Field(
        0.5, ge=0, le=1, description="Overlap of torso colours from frame to frame below which the person was lost"
    )
    min_likeness_found: float = Field(
        0.7, ge=0, le=1, description="Overlap of torso colours that somebody found after a loss needs to be the same"
    )
    smooth: bool = Field(True, description="Filter the tracker's landmarks with MediaPipe's 1-euro filter")

    def content(self) -> dict[str, object]:
        """See `StageSettings.content`."""
        return self.model_dump(mode="json", exclude={"people" if self.estimator == "tracker" else "smooth"})
