"""What is measured of try-on videos, and who judges their interactions."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from models.judges.settings import KinematicJudgeSettings, VlmJudgeSettings
from models.vlm.settings import ChatSettings

CODE_VERSION = "1"


class EvaluationSettings(BaseModel):
    """Quality metrics of try-on videos."""

    lpips_network: Literal["alex", "vgg"] = Field("alex", description="Feature network of LPIPS")
    height: int | None = Field(None, ge=32, description="Compare at this height, px; by default at the result's")
    width: int | None = Field(None, ge=32, description="Compare at this width, px; by default at the result's")
    batch_frames: int = Field(8, ge=1, description="Frames compared at once: bounds memory, does not change results")
    device: str = Field("cpu", description="Torch device")


class IsrSettings(BaseModel):
    """Interaction success rate."""

    judge: Literal["kinematic", "vlm"] = Field(
        "kinematic", description="kinematic (embedded, by optical flow) or vlm (a vision-language endpoint)"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the interval around the rate")
    kinematic: KinematicJudgeSettings = Field(default_factory=KinematicJudgeSettings, description="The embedded judge")
    vlm: VlmJudgeSettings = Field(default_factory=VlmJudgeSettings, description="The vision-language judge")
    endpoint: ChatSettings = Field(default_factory=ChatSettings, description="Where the vision-language model answers")
