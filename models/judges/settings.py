"""Thresholds of the embedded judge, and how the vision-language judge is asked."""

from __future__ import annotations

from pydantic import BaseModel, Field


class KinematicJudgeSettings(BaseModel):
    """The embedded judge: did the cloth next to the hand change while the hand was there?"""

    work_height: int = Field(288, ge=64, description="Pictures are reduced to this height before measuring, px")
    samples_per_second: float = Field(10, gt=0, description="Pictures compared a second")
    max_pictures: int = Field(40, ge=8, description="Most pictures of one span that are looked at, context included")
    context_s: float = Field(0.5, ge=0, description="Time before and after the span that is compared with it, seconds")
    near_hand: float = Field(
        0.6, gt=0, description="Cloth within this many hand lengths of the hand's path belongs to the interaction"
    )
    min_cloth_px: int = Field(60, ge=1, description="Fewer visible cloth pixels next to the hand than this: no verdict")
    min_hand_coverage: float = Field(
        0.3, ge=0, le=1, description="Pictures of the span in which the hand must be known, as a share"
    )
    change: float = Field(
        0.03,
        gt=0,
        description="Change of cloth colour next to the hand, beyond that of the cloth elsewhere, at which the score "
        "of having been done is one half; 1 is from black to white",
    )
    agreement: float = Field(
        0.35, gt=0, le=1, description="Agreement with the source's cloth, in time and place, at which its score is half"
    )


class VlmJudgeSettings(BaseModel):
    """The vision-language judge."""

    pictures: int = Field(8, ge=2, description="Pictures of the span that are shown")
    picture_height: int = Field(512, ge=64, description="Pictures are reduced to this height, px")
    context_s: float = Field(0.3, ge=0, description="Time before and after the span that is shown too, seconds")
    votes: int = Field(3, ge=1, description="Independent answers; the majority decides, a tie is no verdict")
