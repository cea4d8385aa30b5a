"""What is compared: rows of the table, and the size of everything. Plain settings; nothing heavy is imported."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

INTERACTIVE, ORDINARY = "ablation-pairs", "ablation-ordinary"
"""Batches: people who zip jackets, and again with the jacket left alone; people who do not touch their clothes."""


class AblationSettings(BaseModel):
    """Size of the ablation. All of it names the results: figures of another size are not mixed in."""

    model_config = ConfigDict(extra="forbid")

    design: int = Field(2, description="Raised when clips or rows change otherwise than by these settings")
    measure: int = Field(2, description="Raised when results are measured otherwise")
    interactive_clips: int = Field(
        250, ge=1, description="Rendered training scenes with interactions; each done and left undone"
    )
    ordinary_clips: int = Field(60, ge=1, description="Rendered training scenes without; each in two garments")
    test_clips: int = Field(60, ge=1, description="Held-back clips; those with an interaction are dressed")
    test_seed: int = Field(
        701,
        description="Of the held-back clips. What is settled by looking at some is measured on others: 601 is used",
    )
    frames: int = Field(17, ge=17, description="Frames of a clip")
    fps: float = Field(8.0, gt=1, description="Frame rate: a window of 17 frames must hold the whole interaction")
    width: int = Field(288, description="Pixels of a rendered frame")
    height: int = Field(384, description="Pixels of a rendered frame")
    model_height: int = Field(64, multiple_of=16, description="Pixels the network works at")
    model_width: int = Field(48, multiple_of=16, description="Pixels the network works at")
    base_steps: int = Field(
        2400, ge=1, description="Optimiser steps on ordinary clips, without any module, that all rows start from"
    )
    steps: int = Field(3000, ge=1, description="Optimiser steps of every row after those")
    batch_size: int = Field(8, ge=1, description="Clips of a step")
    learning_rate: float = Field(1e-3, gt=0, description="Peak, cosine schedule")
    model: dict[str, Any] = Field(
        {
            "num_attention_heads": 4,
            "num_layers": 4,
            "ffn_dim": 384,
            "vace_layers": [0, 2],
            "guider_dim": 64,
            "guider_heads": 2,
            "action_layers": [0, 1, 2, 3],
        },
        description="The nano preset made smaller, so that a row takes minutes",
    )
    denoising_steps: int = Field(8, ge=1, description="Steps of a try-on")
    guidance_scale: float = Field(3.0, ge=1, description="Guidance on captions")

    @property
    def digest(self) -> str:
        """Names the settings."""
        return _digest(self.model_dump())

    @property
    def training_digest(self) -> str:
        """Names what trained checkpoints depend on: with other held-back clips they are measured anew, not trained."""
        measured = {"measure", "test_clips", "test_seed", "denoising_steps", "guidance_scale"}
        return _digest(self.model_dump(exclude=measured))

    @property
    def test_batch(self) -> str:
        """Batch of held-back people who zip jackets, and again with the jacket left alone."""
        return f"ablation-test-{self.test_seed}"


def _digest(of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: Short name, part of file names.
        title: What it is.
        batches: What it is trained on.
        training: Fields of the training configuration that differ from the common ones.
        model: Fields of the network that differ.
        main: Whether it is one of the paper's five, which get more seeds.
    """

    name: str
    title: str
    batches: tuple[str, ...] = (INTERACTIVE,)
    training: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    main: bool = False


_OFF: dict[str, Any] = {"use_hands": False, "use_action_captions": False, "lambda_action": 0.0}
_HANDS = _OFF | {"use_hands": True}
# No action captions means that nothing is done. Dropped from clips in which something is, they would teach the
# opposite; what guidance compares with is learned from the clips in which nothing is done.
_CAPTIONS = _HANDS | {"use_action_captions": True, "action_dropout": 0.0}
_FULL = _CAPTIONS | {"lambda_action": 0.5}

BASE = Row("base", "stage 1: ordinary clips only", (ORDINARY,), _OFF, model={"guider_dim": None})
"""What every row starts from, as the paper's second stage starts from its first. No guider yet, so that rows can take
either."""

ROWS: tuple[Row, ...] = (
    Row("a", "(a) baseline: ordinary clips only", (ORDINARY,), _OFF, main=True),
    Row("b", "(b) + interactive data", training=_OFF, main=True),
    Row("c", "(c) + spatial guidance", training=_HANDS, main=True),
    Row("d", "(d) + semantic guidance", training=_CAPTIONS, main=True),
    Row("e", "(e) + AC loss (k = 4, lambda = 0.5)", training=_FULL, main=True),
    Row("k0", "(e) with k = 0", training=_FULL, model={"action_separation": 0.0}),
    Row("k1", "(e) with k = 1", training=_FULL, model={"action_separation": 1.0}),
    Row("k16", "(e) with k = 16", training=_FULL, model={"action_separation": 16.0}),
    Row("hard-mask", "(e) with the hard segment mask", training=_FULL, model={"action_hard_mask": True}),
    Row("lambda0.25", "(e) with lambda = 0.25", training=_FULL | {"lambda_action": 0.25}),
    Row("lambda1", "(e) with lambda = 1", training=_FULL | {"lambda_action": 1.0}),
    Row("lambda2", "(e) with lambda = 2", training=_FULL | {"lambda_action": 2.0}),
    Row("vertices", "(e) with the guider on mesh vertices", training=_FULL, model={"guider_input": "vertices"}),
    Row(
        "mean-loss",
        "(e) with the loss as mean over the mask",
        training=_FULL | {"action_loss_reduction": "mean_over_mask"},
    ),
)
"""In the order in which they run. lambda = 0 is row (d), k = 4 row (e)."""


@dataclass(frozen=True)
class Job:
    """One row with one seed."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.row.name}-{self.seed}"


def jobs(seeds: int, only: tuple[str, ...] = ()) -> list[Job]:
    """What to run: the five rows with the first seed, then the variants, then the five rows with the other seeds.

    Args:
        seeds: Seeds of the five rows.
        only: Names of rows; all by default.

    Raises:
        ValueError: There is no such row.
    """
    if unknown := set(only) - {r.name for r in ROWS}:
        raise ValueError(f"no row {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in ROWS)}")
    wanted = [r for r in ROWS if not only or r.name in only]
    first = [Job(r, 0) for r in wanted if r.main] + [Job(r, 0) for r in wanted if not r.main]
    return first + [Job(r, seed) for seed in range(1, seeds) for r in wanted if r.main]
