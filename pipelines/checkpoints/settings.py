"""What is trained. The recipe's other fields are those of `models.training.config.TrainConfig`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

CODE_VERSION = "2"


class TrainingSettings(BaseModel):
    """Training of one checkpoint."""

    recipe: str = Field("nano", description="File in models/training/configs, or a path to one")
    parent: str = Field(
        "",
        description="checkpoint_id to start from, `current` for the promoted one (the recipe's start where none was "
        "promoted yet), `latest` for the newest one, empty to start from the recipe",
    )
    steps: int | None = Field(None, gt=0, description="Optimiser steps; the recipe's if null")
    batch_size: int | None = Field(None, gt=0, description="Clips a step; the recipe's if null")
    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate; the recipe's if null")
    seed: int | None = Field(None, ge=0, description="Seed; the recipe's if null")
    lora_rank: int | None = Field(None, gt=0, description="Rank of low-rank adapters; the recipe's if null")
    validate_every: int | None = Field(
        None, gt=0, description="Steps between try-on videos from the weights just trained; the recipe's if null"
    )
    wandb_project: str | None = Field(None, description="Weights & Biases project; the recipe's if null")
    allow_oversize: bool = Field(False, description="Train although the memory estimate exceeds the device")
    encode: Literal["cached", "on_the_fly"] = Field(
        "cached",
        description="Read the tensors of clips from the cache, or encode frames while training: the same samples, "
        "without latents in the lake, but many times slower to load",
    )
    launcher: list[str] = Field(
        default_factory=list,
        description="What starts the trainer instead of this Python, such as [accelerate, launch]",
    )
