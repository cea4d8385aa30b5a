"""Thresholds of the embedded judge, and how the vision-language judge is asked."""

from __future__ import annotations

from pydantic import BaseModel, Field


class KinematicJudgeSettings(BaseModel):
    """The embedded judge: did the cloth next to the hand change while the hand was there?"""

    work_height: int = Field(288, ge=64, description="Pictures are reduced to this height before measuring, px")
    samples_per_second: float = Field(10, gt=0, description="Pictures compared a second")
    max_pictures: int = Field(48, ge=8, description="Most pictures of one span that are looked at")
    near_hand: float = Field(
        0.75, gt=0, description="Cloth within this many hand lengths of the hand's outline belongs to the interaction"
    )
    min_cloth_px: int = Field(60, ge=1, description="Fewer visible cloth pixels next to the hand than this: no verdict")
    min_hand_coverage: float = Field(
        0.3, ge=0, le=1, description="Pictures of the span in which the hand must be known, as a share"
    )
    change_threshold: float = Field(
        0.05, gt=0, description="Mean change of cloth brightness or colour that counts as a change, 0 to 1"
    )
    motion_threshold: float = Field(
        0.05, gt=0, description="Speed of cloth next to the hand that counts as motion, hand lengths a picture"
    )
    contrast: float = Field(
        1.5, ge=1, description="Cloth next to the hand must move or change this many times as much as cloth far from it"
    )


class VlmJudgeSettings(BaseModel):
    """The vision-language judge."""

    pictures: int = Field(8, ge=2, description="Pictures of the span that are shown")
    margin_s: float = Field(0.3, ge=0, description="Time before and after the span that is shown too, seconds")
    votes: int = Field(3, ge=1, description="Independent answers; the majority decides, a tie is no verdict")
    show_source: bool = Field(False, description="Also show the source video, for judges that compare")
