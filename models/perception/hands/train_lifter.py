"""Trains the hand lifter: `python -m models.perception.hands.train_lifter --data FOLDER [FOLDER ...]`.

The folders hold what `python -m pipelines.hands.lifter_data` wrote. Every draw depends on the seed alone; a run takes a
few minutes on one core. Clips whose seed falls into the test share are never trained on: the figures printed at the end
and the limits of trust come from them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from models.arguments import add_settings, read_settings
from models.perception.hands.lifter import (
    CLIP,
    FEATURES,
    HAND_FEATURES,
    OUTPUTS,
    VERSION,
    WEIGHTS,
    HandLifter,
    disagreement,
)
from models.perception.hands.lifter_samples import (
    LifterData,
    hand_scale,
    held_back,
    joined,
    load_data,
    random_data,
)

# What hardly varies in training must not become huge where it does.
_SMALLEST = 0.05
_RANDOM_HANDS = 20000
_RIDGE = 0.1  # variance in every direction that is usual though no clip shows it
_COUNTED = 0.5  # share of the hand in sight from which it counts in the figures


class LifterTrainingSettings(BaseModel):
    """How the network is trained."""

    seed: int = Field(0, description="Seed of weights, batches and augmentation")
    steps: int = Field(4000, ge=1, description="Steps; the learning rate ends at zero after them")
    batch: int = Field(256, ge=1, description="Hands a step")
    width: int = Field(192, ge=8, description="Width of the hidden layers")
    blocks: int = Field(2, ge=1, description="Residual blocks")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="Decay of the averaged weights that are kept")
    noise: float = Field(0.05, ge=0, description="Noise on every input, in its standard deviations")
    shaking: float = Field(0.03, ge=0, description="Noise on the whole arm against the hand, in hand sizes")
    without_arm: float = Field(0.15, ge=0, lt=1, description="How often a hand is shown without its arm")
    random_share: float = Field(0.25, ge=0, lt=1, description="Share of hands in random poses among those of clips")
    min_visible: float = Field(0.3, ge=0, le=1, description="Hands of which less is in sight are not trained on")
    test_share: float = Field(0.1, ge=0, lt=1, description="Share of clips that is held back")


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm, self.hidden, self.out = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.dropout(functional.gelu(self.hidden(self.norm(x)))))


class LifterNet(nn.Module):
    """The network of `lifter.HandLifter` for training; the names of its tensors are those that are stored."""

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: LifterTrainingSettings):
        super().__init__()
        width = settings.width
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.first = nn.Linear(FEATURES, width)
        self.blocks = nn.ModuleList(_Block(width, settings.dropout) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, OUTPUTS)
        # Untrained, it leaves what MediaPipe saw as it was.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def standardise(self, features: Tensor) -> Tensor:
        """Features [N, FEATURES], NaN where not known, as the layers take them."""
        return ((features - self.mean) / self.scale).clamp(-CLIP, CLIP).nan_to_num(0.0)

    def forward(self, standard: Tensor) -> Tensor:
        """Standardised features [N, FEATURES] to [N, OUTPUTS]."""
        x = functional.gelu(self.first(standard))
        for block in self.blocks:
            x = x + block(x)
        return self.last(self.norm(x))


def train(
    settings: LifterTrainingSettings, data: LifterData, advance: Callable[[], None] = lambda: None
) -> tuple[dict[str, Tensor], float]:
    """Train on all hands given.

    Args:
        settings: How.
        data: Hands; those that are hardly in sight are left out.
        advance: Called after each step.

    Returns:
        Averaged weights, and the logarithm of metres a hand size that they are corrections of.

    Raises:
        ValueError: No hand is in sight.
        FloatingPointError: The loss is not finite.
    """
    s = settings
    data = data.rows(data.visible >= s.min_visible)
    if not len(data.visible):
        raise ValueError(f"no hand is in sight by {s.min_visible:.0%}")
    torch.manual_seed(s.seed)
    rng = np.random.default_rng(s.seed)
    network = LifterNet(s)
    mean, scale = standard(data.seen.features)
    network.mean.copy_(_tensor(mean))
    network.scale.copy_(_tensor(scale))
    log_metres = float(data.log_metres.mean())
    clips = len(data.visible)
    if s.random_share:
        data = joined(data, random_data(_RANDOM_HANDS, data, rng))
    features = network.standardise(_tensor(data.seen.features))
    arm_step = _arm_steps(network.scale)
    rough, points = _tensor(data.seen.rough(log_metres)), _tensor(data.seen.points)
    true_world, true_points, true_scale = map(_tensor, (data.true_world, data.true_points, data.log_metres))
    optimizer = torch.optim.AdamW(network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    unseen = round(s.random_share * s.batch)
    for step in range(s.steps):
        rate = s.learning_rate * min(1.0, (step + 1) / (0.05 * s.steps)) * (1 + math.cos(math.pi * step / s.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        drawn = rng.integers(0, clips, s.batch - unseen), clips + rng.integers(0, _RANDOM_HANDS, unseen)
        picked = torch.from_numpy(np.concatenate(drawn))
        x = features[picked] + s.noise * torch.randn(s.batch, FEATURES)
        x = x + s.shaking * torch.einsum("nk,kf->nf", torch.randn(s.batch, 2), arm_step)
        # Noise on what is not known would tell it apart from what is.
        x = torch.where(features[picked] == 0, torch.zeros(()), x)
        x[torch.rand(s.batch) < s.without_arm, HAND_FEATURES:] = 0.0
        out = network(x)
        metres = (out[:, -1] + log_metres).exp()[:, None, None]
        world = (rough[picked] + out[:, :63].unflatten(1, (21, 3))) * metres
        wrong = world - true_world[picked]
        # Centimetres, both about the centre, which is what is fitted, and about the wrist, which is what is measured.
        loss = 100 * (wrong.norm(dim=-1).mean() + 0.5 * (wrong - wrong[:, :1]).norm(dim=-1).mean())
        flat = points[picked] + out[:, 63:105].unflatten(1, (21, 2)) - true_points[picked]
        loss = loss + 10 * flat.norm(dim=-1).mean()
        loss = loss + 3 * (out[:, -1] + log_metres - true_scale[picked]).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"the gradient of step {step} is not finite; lower --learning-rate")
        optimizer.step()
        decay = min(s.ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        advance()
    return average, log_metres


def standard(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and scales of features (N, F), NaN where not known; 0 and 1 for those that never are."""
    known = np.isfinite(features)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, features, 0.0).sum(0) / count
    scale = np.sqrt(np.where(known, (features - mean) ** 2, 0.0).sum(0) / count)
    return mean, np.where(known.any(0), np.maximum(scale, _SMALLEST), 1.0)


def _arm_steps(scale: Tensor) -> Tensor:
    """[2, FEATURES]: how a shift of all pose landmarks across or along the hand by its size changes the features."""
    steps = torch.zeros(2, FEATURES)
    for axis in range(2):
        steps[axis, HAND_FEATURES + axis : HAND_FEATURES + 27 : 3] = 1.0
    return steps / scale


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def lifted(lifter: HandLifter, data: LifterData) -> tuple[np.ndarray, np.ndarray]:
    """Canonical keypoints along the viewing ray, metres (N, 21, 3), and how far they are from the picture (N,)."""
    flat, metres, _ = lifter.answer(data.seen)
    return flat * metres[:, None, None], disagreement(flat[..., :2], data.seen.points)


def root_aligned_mm(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(N,) mean distance of keypoints (N, 21, 3) after the wrists are laid together, millimetres."""
    wrong = (found - found[:, :1]) - (truth - truth[:, :1])
    return 1e3 * np.linalg.norm(wrong, axis=-1).mean(1)


def measure(lifter: HandLifter, data: LifterData) -> dict[str, dict[str, float]]:
    """Root-aligned errors in millimetres, mean and median, of all hands and by performance.

    `before` is MediaPipe's, `after` the lifter's, `sized` that of the lifter when it is told the size of the hand.
    """
    data = data.rows(data.visible >= _COUNTED)
    truth = data.true_world * data.hand_scale[:, None, None]
    found = lifter.blended(data.seen)[0]
    after, before = root_aligned_mm(found, truth), root_aligned_mm(data.seen.world, truth)
    # What is left when the size of the person's hand is known.
    sized = root_aligned_mm(found * (data.hand_scale / hand_scale(found))[:, None, None], truth)
    parts = {"all": np.ones(len(after), bool), **{p: data.performance == p for p in np.unique(data.performance)}}
    return {
        name: {
            "hands": int(mask.sum()),
            "before_mean": float(before[mask].mean()),
            "before_median": float(np.median(before[mask])),
            "after_mean": float(after[mask].mean()),
            "after_median": float(np.median(after[mask])),
            "sized_mean": float(sized[mask].mean()),
            "sized_median": float(np.median(sized[mask])),
        }
        for name, mask in parts.items()
        if mask.any()
    }


def whitening(features: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(`HAND_FEATURES`, `HAND_FEATURES`) matrix that makes the hands' standardised features uncorrelated.

    Args:
        features: (N, `FEATURES`).
        mean: (`FEATURES`,) means of the network.
        scale: (`FEATURES`,) its scales.
    """
    x = ((features - mean) / scale)[:, :HAND_FEATURES]
    covariance = np.cov(x.T) + _RIDGE * np.eye(HAND_FEATURES)
    return np.linalg.inv(np.linalg.cholesky(covariance))


def _typical(data: LifterData) -> float:
    """Geometric mean over clips of how large hands are."""
    _, first = np.unique(data.clip, return_index=True)
    return float(np.exp(np.log(data.hand_scale[first]).mean()))


def write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write weights as float16, with what is needed to use them; the same weights are the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    halves = {k: v.detach().half().contiguous() for k, v in sorted(tensors.items())}
    save_file(halves, partial, metadata={"hand_lifter": json.dumps(dict(notes), sort_keys=True)})
    partial.replace(path)


def run(
    settings: LifterTrainingSettings, data: LifterData, out: Path, advance: Callable[[], None] = lambda: None
) -> dict[str, dict[str, float]]:
    """Train, set the limits of trust, measure on the clips held back, and write; returns what `measure` does.

    Raises:
        ValueError: All clips or none fall into the test share.
    """
    test = held_back(data.seed, settings.test_share)
    if test.all() or not test.any():
        raise ValueError("no clip to train on or none to test on: render more clips or change --test-share")
    tensors, log_metres = train(settings, data.rows(~test), advance)
    known = data.rows(~test & (data.visible >= settings.min_visible)).seen.features
    mean, scale = (tensors[k].double().numpy() for k in ("mean", "scale"))
    tensors["whiten"] = _tensor(whitening(known, mean, scale))
    notes = {
        "version": VERSION,
        "features": FEATURES,
        "outputs": OUTPUTS,
        "blocks": settings.blocks,
        "log_metres": log_metres,
        "hand_scale": _typical(data.rows(~test)),
        "residual_limits": [1.0, 2.0],
        "strangeness_limits": [1.0, 2.0],
        "settings": settings.model_dump(),
        "clips": len(np.unique(data.clip[~test])),
    }
    write(out, tensors, notes)
    lifter, shown = HandLifter(out), data.rows(test & (data.visible >= _COUNTED))
    # Beyond these, errors on held-back clips are twice the usual ones and more.
    usual = float(np.quantile(lifted(lifter, shown)[1], 0.95))
    strange = float(np.quantile(lifter.strangeness(shown.seen), 0.9))
    limits = {"residual_limits": [usual, 1.7 * usual], "strangeness_limits": [strange, 1.7 * strange]}
    write(out, tensors, notes | limits)
    return measure(HandLifter(out), data.rows(test))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m models.perception.hands.train_lifter", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of lifter_data")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file of weights to write")
    add_settings(parser, LifterTrainingSettings)
    options = parser.parse_args(arguments)
    # Sums in another order would be other weights.
    torch.set_num_threads(1)
    settings = read_settings(options, LifterTrainingSettings)
    console = Console()
    try:
        data = load_data(options.data)
        with Progress(console=console) as progress:
            bar = progress.add_task("training", total=settings.steps)
            figures = run(settings, data, options.out, lambda: progress.advance(bar))
    except (ValueError, FloatingPointError) as error:
        console.print(f"error: {error}", style="red", highlight=False)
        return 1
    names = ("before", "after", "sized")
    table = Table("clips held back", "hands", *(f"{n}, mm" for name in names for n in (name, "median")))
    for name, f in figures.items():
        values = (f[f"{name}_{kind}"] for name in names for kind in ("mean", "median"))
        table.add_row(name, str(int(f["hands"])), *(f"{v:.1f}" for v in values))
    console.print(table)
    console.print(f"wrote {options.out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
