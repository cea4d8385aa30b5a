"""Settings of a training set."""

from __future__ import annotations

from pydantic import BaseModel, Field, model_validator

CODE_VERSION = "2"


class TrainingSetSettings(BaseModel):
    """Which clips belong to a training set."""

    batches: list[str] | None = Field(
        default=None, description="Batches to take clips from; all but those of `itryon tryon --video` by default"
    )
    new_batches: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Retraining: batches whose clips all take part; of the other batches replay_share decides",
    )
    replay_share: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Share of the set that are clips of other batches than new_batches; 0 takes none, null takes all",
    )
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

    @model_validator(mode="after")
    def _replay_needs_new(self) -> TrainingSetSettings:
        if self.replay_share is not None and self.new_batches is None:
            raise ValueError("replay_share is the share of older clips beside new_batches: name new_batches too")
        if (
            self.batches is not None
            and self.new_batches is not None
            and (missing := sorted(set(self.new_batches) - set(self.batches)))
        ):
            raise ValueError(f"new_batches {', '.join(missing)} are not among batches")
        return self


class RetrainingSettings(BaseModel):
    """When the lake retrains by itself. The sensor and the schedule `retraining` read this; both are off by default."""

    evaluation_batches: list[str] = Field(
        default_factory=list,
        description="Batches that are never trained on: every checkpoint dresses their videos, so that all compare. "
        "Needed",
    )
    min_new_clips: int = Field(
        50, ge=1, description="Clips in no training set yet that start a retraining; the schedule starts it with any"
    )
    replay_share: float | None = Field(
        0.3, ge=0, lt=1, description="Share of the training set that are clips seen before; null takes all of them"
    )
    cron: str = Field("0 3 * * *", description="When the schedule looks for new clips, in UTC")
