"""Trains the embedded judge's network on what was seen of hands in rendered clips."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional

from models.averaged_training import AveragedTraining
from models.judges.measures.cells import CHANNELS, HandCells
from models.judges.measures.network import LATER, STEP, Inputs, InteractionNet, as_tensors

KINDS = ("done", "undone", "pantomime", "wrong_time", "idle")
"""What a hand is an example of; `idle` is the hand that does nothing while the other one acts, mimes or did."""
_SAVE_EVERY_S = 60
_LOGARITHMS = ("changed", "changed_here", "texture")
# What hardly varies in training must not become huge where it does.
_SMALLEST = 0.02


class JudgeTrainingSettings(BaseModel):
    """How the network is trained."""

    seed: int = Field(0, description="Seed of weights, batches and augmentation")
    steps: int = Field(450, ge=1, description="Steps of the whole training")
    batch_size: int = Field(32, ge=2, description="Hands a step")
    learning_rate: float = Field(5e-3, gt=0, description="Peak learning rate of AdamW")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout")
    ema_decay: float = Field(0.99, ge=0, lt=1, description="Decay of the averaged weights that are kept")
    action_weight: float = Field(0.5, ge=0, description="Weight of naming the action against seeing the cloth follow")
    moved_weight: float = Field(2.0, ge=0, description="Weight of telling where cloth moves, a window")
    shares: dict[str, float] = Field(
        dict(zip(KINDS, (0.34, 0.3, 0.16, 0.1, 0.1))), description="How often each kind of example is drawn"
    )
    noise: float = Field(0.05, ge=0, description="Deviation of noise on all inputs")
    contrast: float = Field(0.25, ge=0, description="Deviation of a video's logarithms of changes and texture")


@dataclass(frozen=True)
class Sample:
    """One hand in one pair of source and result.

    Attributes:
        kind: One of `KINDS`.
        seen: What is seen of it.
        action: What the source shows the hand do, place in `models.contact.network.CLASSES`.
        follows: Whether the result's cloth does it, too; None where that is not this hand's to tell.
        moved: For both windows, where the interaction moves cloth in source and result, 0 to 1 (`MOMENTS`, 2,
            rows, columns); None where that is not known.
    """

    kind: str
    seen: HandCells
    action: int
    follows: bool | None
    moved: tuple[np.ndarray, np.ndarray] | None = None


class Trainer(AveragedTraining):
    """State of one training run; every draw depends on seed and step alone.

    Args:
        settings: How to train.
        samples: What on.

    Raises:
        ValueError: There is no example of a hand whose cloth follows, or none of one whose cloth does not.
    """

    network: InteractionNet

    def __init__(self, settings: JudgeTrainingSettings, samples: Sequence[Sample]):
        for kind in ("done", "undone"):
            if not any(s.kind == kind for s in samples):
                raise ValueError(f"no case {kind} to learn from: render more clips, with --undone")
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.samples = samples
        network = InteractionNet(settings.dropout)
        _standardise(network, samples, settings.seed)
        super().__init__(
            network,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            ema_decay=settings.ema_decay,
            rising=0.1,
        )
        of_kind = {k: sum(s.kind == k for s in samples) for k in KINDS}
        chances = np.array([settings.shares[s.kind] / of_kind[s.kind] for s in samples])
        self._chances = chances / chances.sum()

    def train_step(self) -> float:
        """One step; returns the loss.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step])
        batch = [self.samples[i] for i in rng.choice(len(self.samples), s.batch_size, p=self._chances)]
        torch.manual_seed(s.seed * 1_000_003 + self.step)
        self.network.train()
        seen, moved, known = augmented(batch, rng, s)
        action, follows, where = self.network(*seen)
        asked = torch.tensor([b.follows is not None for b in batch]).float()
        wanted = torch.tensor([bool(b.follows) for b in batch]).float()
        wrong = functional.binary_cross_entropy_with_logits(follows, wanted, reduction="none")
        named = functional.cross_entropy(action, torch.tensor([b.action for b in batch]), label_smoothing=0.05)
        loss = (wrong * asked).sum() / asked.sum().clamp(min=1) + s.action_weight * named
        for found, truth in zip(where, moved):
            there = functional.avg_pool2d(truth.flatten(0, 1), STEP).unflatten(0, truth.shape[:2])[:, LATER]
            apart = functional.binary_cross_entropy_with_logits(found, there, reduction="none").mean((1, 2, 3, 4))
            loss = loss + s.moved_weight * (apart * known).sum() / known.sum().clamp(min=1)
        return self.descend(loss)

    def averaged(self) -> InteractionNet:
        """The network with averaged weights, ready to answer."""
        network = InteractionNet(self.settings.dropout)
        network.load_state_dict(self.ema)
        return network.eval().requires_grad_(False)

    def _identity(self) -> str:
        prints = [(s.kind, s.action, s.follows, float(np.nansum(s.seen.body[::3], dtype=float))) for s in self.samples]
        return hashlib.sha256(json.dumps([self.settings.model_dump(), prints]).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write all that the next step depends on."""
        self.write_state(path, {"identity": self._identity()})

    def load(self, path: Path) -> bool:
        """Go on from a state file; False, and nothing happens, where it is of other settings or samples."""
        state = torch.load(path, weights_only=True)
        if state["identity"] != self._identity():
            return False
        self.restore(state)
        return True


def train(
    settings: JudgeTrainingSettings,
    samples: Sequence[Sample],
    state: Path | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> InteractionNet:
    """A network with averaged weights.

    Args:
        settings: How.
        samples: What on.
        state: File that a run which was stopped goes on from.
        on_step: Called with steps done and a running mean of the loss.
    """
    trainer = Trainer(settings, samples)
    if state is not None and state.exists():
        trainer.load(state)
    saved, recent = time.monotonic(), math.nan
    while trainer.step < settings.steps:
        loss = trainer.train_step()
        recent = loss if math.isnan(recent) else 0.98 * recent + 0.02 * loss
        on_step(trainer.step, recent)
        if state is not None and time.monotonic() - saved > _SAVE_EVERY_S:
            trainer.save(state)
            saved = time.monotonic()
    return trainer.averaged()


def augmented(
    batch: Sequence[Sample], rng: np.random.Generator, settings: JudgeTrainingSettings
) -> tuple[Inputs, list[Tensor], Tensor]:
    """Samples with noise, garments of more or less contrast, and windows that lie a cell off.

    Returns:
        Inputs of the network; where cloth moves in both windows; and 1 where that is known [B].
    """
    cells: list[Tensor] = []
    moved: list[Tensor] = []
    body, sleeve, numbers, summary = as_tensors([s.seen for s in batch])
    gain = torch.zeros(len(batch), len(CHANNELS))
    for who, value in zip(("result", "source"), rng.normal(0, settings.contrast, (2, len(batch)))):
        for name in _LOGARITHMS:
            gain[:, CHANNELS.index(f"{who}_{name}")] = torch.from_numpy(value).float()
    for k, windows in enumerate((body, sleeve)):
        noisy = windows + gain[:, None, :, None, None] + torch.randn(windows.shape) * settings.noise
        truth = torch.zeros(*windows.shape[:2], 2, *windows.shape[3:])
        for i, sample in enumerate(batch):
            if sample.moved is not None:
                truth[i] = torch.from_numpy(sample.moved[k])
        shifts = rng.integers(-1, 2, (len(batch), 2)).tolist()
        for out, x in ((cells, noisy), (moved, truth)):
            out.append(torch.stack([torch.roll(w, (r, c), (2, 3)) for w, (r, c) in zip(x, shifts)]))
    numbers, summary = (x + torch.randn(x.shape) * settings.noise for x in (numbers, summary))
    known = torch.tensor([s.moved is not None for s in batch]).float()
    return (cells[0], cells[1], numbers, summary), moved, known


def _standardise(network: InteractionNet, samples: Sequence[Sample], seed: int) -> None:
    """Set the network's means and scales from some of the samples."""
    picked = np.random.default_rng(seed).choice(len(samples), min(len(samples), 256), replace=False)
    values = np.concatenate([samples[i].seen.body.astype(np.float32) for i in picked])
    network.mean.copy_(torch.from_numpy(np.nanmean(values, (0, 2, 3)))[:, None, None])
    network.scale.copy_(torch.from_numpy(np.maximum(np.nanstd(values, (0, 2, 3)), _SMALLEST))[:, None, None])
