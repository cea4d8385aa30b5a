"""What is measured of try-on videos, and who judges their interactions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

from models.judges import JUDGES
from models.judges.settings import KinematicJudgeSettings, LocalVlmJudgeSettings, VlmJudgeSettings

METRICS_VERSION = "4"
ISR_VERSION = "3"
LEADERBOARD_VERSION = "2"
PROMOTION_VERSION = "2"

Mode = Literal["corrected", "legacy"]


class EvaluationSettings(BaseModel):
    """Quality metrics of try-on videos."""

    mode: Mode = Field(
        "corrected",
        description="corrected, or legacy: as the field's published script (first 10 frames, BGR, squeeze LPIPS)",
    )
    lpips_network: Literal["alex", "vgg"] = Field(
        "alex", description="Feature network of LPIPS in mode corrected; the published script always takes squeeze"
    )
    networks: str | None = Field(
        None, description="Folder with published network files; by default `metrics` in the weights cache"
    )
    height: int | None = Field(None, ge=32, description="Compare at this height, px; by default at the videos' own")
    width: int | None = Field(None, ge=32, description="Compare at this width, px; by default at the videos' own")
    resamples: int = Field(500, ge=0, description="Bootstrap draws of videos behind the intervals; 0 leaves them out")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the intervals")
    cache: bool = Field(True, description="Keep features and distances of videos, by content, for the next run")
    batch_frames: int = Field(8, ge=1, description="Frames compared at once: bounds memory, does not change results")
    batch_clips: int = Field(2, ge=1, description="Clips a network sees at once: bounds memory")
    device: str = Field("cpu", description="Torch device")


class LeaderboardSettings(BaseModel):
    """What stands on the leaderboard beside checkpoints."""

    ablation_results: list[str] = Field(
        default_factory=list,
        description="Result files of `make ablation`, or folders of them, taken into table `ablations` in place of the "
        "rows there of the same settings of the ablation; those of others stay",
    )


class IsrSettings(BaseModel):
    """Interaction success rate."""

    judge: str = Field(
        "kinematic",
        description="kinematic (embedded), vlm (a vision-language endpoint), local_vlm (such a model in a local "
        "folder), or the name of any other module in models/judges",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of the interval around the rate")
    kinematic: KinematicJudgeSettings = Field(default_factory=KinematicJudgeSettings, description="The embedded judge")
    vlm: VlmJudgeSettings = Field(default_factory=VlmJudgeSettings, description="The vision-language judge")
    local_vlm: LocalVlmJudgeSettings = Field(
        default_factory=LocalVlmJudgeSettings, description="The vision-language judge in this process"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of a judge that has no field of its own here"
    )

    @field_validator("judge")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in JUDGES:
            raise ValueError(f"there is no judge {value!r}; there are {', '.join(JUDGES)}")
        return value
