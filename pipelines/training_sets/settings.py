"""Settings of a training set."""

from __future__ import annotations

from pydantic import BaseModel, Field

CODE_VERSION = "1"


class TrainingSetSettings(BaseModel):
    """Which clips belong to a training set."""

    batches: list[str] | None = Field(default=None, description="Batches to take clips from; all by default")
    splits: list[str] = Field(default=["train"], min_length=1, description="Splits of the clips: train, val, test")
    interaction: bool | None = Field(
        default=None, description="True takes clips with an interaction only, False those without; both by default"
    )
    actions: list[str] | None = Field(default=None, description="Clips with one of these interaction categories")
    buckets: list[str] | None = Field(default=None, description="Buckets, <frames>x<height>x<width>; all by default")
    exclude_videos: list[str] = Field(default_factory=list, description="video_id of videos to leave out")
    encoder_digest: str | None = Field(
        default=None, description="Clips of this encoder only; needed while old and new encodings lie side by side"
    )
