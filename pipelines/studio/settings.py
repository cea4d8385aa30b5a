"""Settings of the capture studio. No heavy imports: the orchestration reads this module at start-up."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipelines.store.schemas import ACTIONS

CODE_VERSION = "1"
"""Part of what makes frames: raise it with every change that shows in a picture or in the truth."""

INTERACTING = 0.5
"""Share of the frames of a clip with an interaction in which it happens, on average: the rest is the way there and
back. Measured over 1,000 plans of 2.6 seconds (`tests/pipelines/test_studio_motion.py` holds it to that)."""


class StudioSettings(BaseModel):
    """What the studio renders."""

    model_config = ConfigDict(extra="forbid")

    clips: int = Field(16, ge=1, le=1_000_000, description="Clips to render")
    seed: int = Field(0, ge=0, description="Same seed and version: the same frames, hash for hash")
    width: int = Field(480, ge=64, le=3840, multiple_of=2, description="Pixels")
    height: int = Field(640, ge=64, le=3840, multiple_of=2, description="Pixels")
    frames: int = Field(65, ge=9, le=100_000, description="Frames of a clip")
    fps: float = Field(25.0, gt=1, le=240, description="Frames a second")
    interaction_share: float = Field(
        0.08,
        ge=0,
        le=0.5,
        description="Share of all frames in which an interaction happens; the paper reports 5 to 10 %",
    )
    actions: list[str] = Field(list(ACTIONS), min_length=1, description="Interactions to render")
    val_share: float = Field(0.1, ge=0, le=1, description="Share of clips marked val in the manifest")
    test_share: float = Field(0.1, ge=0, le=1, description="Share of clips marked test in the manifest")
    labels: bool = Field(
        True,
        description="Write the interactions into the manifest. Without them the annotators have to find them, which is "
        "what a batch to measure annotators on is for",
    )
    counterfactual: bool = Field(True, description="Also render every clip in another garment of the same kind")
    undone: bool = Field(
        False,
        description="Also render every clip with an interaction in the other garment as it must not become: hands move "
        "alike, the garment stays as it was. That is what judges of interactions are measured on",
    )
    twins: bool = Field(
        False,
        description="List the counterfactual, and what is rendered undone, as clips of their own: the same motion in "
        "two garments, done and not done. A model can only tell them apart by what it is asked. Truth is written for "
        "the first of them",
    )
    neutral: bool = Field(
        False,
        description="Global captions that do not say what the hands do: that is left to the action captions",
    )
    pantomime_share: float = Field(
        0.26, ge=0, le=1, description="Share of the clips without an interaction in which one is mimed"
    )
    fabrics: str | None = Field(None, description="Folder of photos to take fabrics from; procedural ones by default")
    plain: bool = Field(
        False,
        description="Only clothes of one colour without prints: what a small model can learn from a few thousand clips",
    )
    white_beneath: bool = Field(
        False,
        description="White cloth beneath clothes that open. Any other colour cannot be known from a garment's photo, "
        "and a result can then not be compared with the truth where a zip opens",
    )
    workers: int | None = Field(None, ge=1, description="Processes; one a core by default")

    @field_validator("actions")
    @classmethod
    def _known(cls, values: list[str]) -> list[str]:
        if unknown := sorted(set(values) - set(ACTIONS)):
            raise ValueError(f"unknown actions {', '.join(unknown)}; there are {', '.join(ACTIONS)}")
        return values

    @model_validator(mode="after")
    def _sensible(self) -> StudioSettings:
        if self.val_share + self.test_share > 1:
            raise ValueError(
                f"val_share {self.val_share:g} and test_share {self.test_share:g} leave nothing to train on"
            )
        if self.undone and not self.counterfactual:
            raise ValueError("undone shows the other garment: it needs counterfactual")
        if self.twins and not self.counterfactual:
            raise ValueError("twins are clips and their counterfactuals: they need counterfactual")
        if self.plain and self.fabrics is not None:
            raise ValueError("plain and fabrics: take fabrics either of one colour or from photos")
        if self.frames / self.fps < 1.5:
            raise ValueError(
                f"{self.frames} frames at {self.fps:g} a second last {self.frames / self.fps:.2f} s; a hand needs "
                "1.5 s to get there, act and get back"
            )
        if self.fabrics is not None and not Path(self.fabrics).is_dir():
            raise ValueError(f"fabrics: there is no folder {self.fabrics}")
        return self
