"""Short runs of the trainer on generated clips, and comparisons of what they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from models.training.config import TrainConfig
from models.training.loop import train
from tests.models.training_clips import TINY

ENDLESS = 100_000
"""Steps of a run that somebody stops."""


def settings(root: Path, out: Path, **values: Any) -> dict[str, Any]:
    """Fields of a small training run."""
    return {
        "manifest": str(root / "manifest.parquet"),
        "blob_root": str(root),
        "output_dir": str(out),
        "model": TINY,
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "device": "cpu",
        "threads": 1,
        "checkpoint_every": 2,
        "log_every": 1,
    } | values


def config(root: Path, out: Path, **values: Any) -> TrainConfig:
    return TrainConfig(**settings(root, out, **values))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def curve(out: Path) -> list[tuple]:
    return [
        tuple(r[k] for k in ("step", "loss", "loss_std", "loss_action", "lr"))
        for r in pq.read_table(out / "metrics.parquet").to_pylist()
    ]


def run_to(cfg: TrainConfig, goal: int) -> None:
    """Run in this process until a checkpoint of step `goal` is written."""
    from models.training import loop

    class Enough(Exception):
        pass

    class Watch(loop.Reporter):
        def step(self, record: dict[str, float], log_now: bool) -> None:
            if record["step"] > goal:
                raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(loop, "Reporter", Watch)
        train(cfg.model_copy(update={"checkpoint_every": goal}))


def write_config(cfg: TrainConfig, folder: Path) -> Path:
    """The configuration as a file that the trainer's command line reads."""
    path = folder / "config.json"
    path.write_text(cfg.model_dump_json())
    return path
