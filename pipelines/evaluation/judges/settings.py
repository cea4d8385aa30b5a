"""What the orchestration has to know of the judge report. No heavy imports."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CODE_VERSION = "1"
"""Raise it when the same cases give other figures."""

Pictures = Literal["rendered", "nano"]
"""Results as rendered, or as the nano autoencoder gives them back: small, blurred and scaled up."""


class JudgeReportSettings(BaseModel):
    """What a judge is measured on."""

    model_config = ConfigDict(extra="forbid")

    pictures: Literal["both", "rendered", "nano"] = Field(
        "both",
        description="rendered: results as sharp as they were rendered. nano: after the nano autoencoder at its size "
        "and back, as the embedded checkpoint's results look at best",
    )
    most_clips: int | None = Field(
        None, ge=1, description="Use that many clips of the batch only: each costs about four questions, twice"
    )

    @property
    def looks(self) -> tuple[Pictures, ...]:
        """What results are to look like, in order."""
        return ("rendered", "nano") if self.pictures == "both" else (self.pictures,)
