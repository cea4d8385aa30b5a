"""Trains the contact network: `python -m models.contact.train --data FOLDER [FOLDER ...]`.

The folders hold what `python -m pipelines.captions.contact_data` wrote. Every draw depends on seed and step alone; a
run that was stopped goes on from the state in `--work`. At the end the averaged weights are calibrated on clips that
were not trained on, measured on clips that were not used at all, and written.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional

from models.arguments import add_settings, read_settings
from models.averaged_training import AveragedTraining
from models.contact.augment import AugmentSettings, augment, read_at, warp_positions
from models.contact.data import ContactData, HandSequence, load_data
from models.contact.measure import calibrate, measure
from models.contact.network import CLASSES, REST, WEIGHTS, ContactNet, ContactShape, as_tensor, save

_SPEEDS = ("speed", "flow")
_RUB = CLASSES.index("other")
_SAVE_EVERY_S = 60
# What hardly varies in training must not become huge where it does.
_SMALLEST = 0.02


class ContactTrainingSettings(BaseModel):
    """How the network is trained."""

    seed: int = Field(0, description="Seed of weights, batches and augmentation")
    steps: int = Field(2500, ge=1, description="Steps of the whole training; the learning rate ends at zero there")
    batch: int = Field(32, ge=1, description="Sequences a step")
    length: int = Field(32, ge=8, description="Samples of a sequence")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate of AdamW")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="Decay of the averaged weights that are kept")
    action_weight: float = Field(1.0, ge=0, description="Weight of naming the action against finding contact")
    distance_weight: float = Field(0.2, ge=0, description="Weight of estimating the distance from the cloth")
    idle_share: float = Field(0.25, gt=0, le=1, description="How often a hand that nothing is about is drawn")
    mimed_weight: float = Field(2.0, gt=0, description="How often hands that mime or gesture are drawn")
    passing_weight: float = Field(
        0.2, ge=0, le=1, description="Weight of naming a touch just before or after an action, on the way there or back"
    )
    augment: AugmentSettings = Field(default_factory=AugmentSettings, description="Changes to the batches")


class Trainer(AveragedTraining):
    """State of one training run.

    Args:
        settings: How to train.
        data: Clips to train on.
    """

    network: ContactNet

    def __init__(self, settings: ContactTrainingSettings, data: ContactData):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.data = data
        self.names = (data.features, data.channels)
        network = ContactNet(ContactShape(data.features, data.channels), settings.dropout)
        _standardise(network, data)
        super().__init__(
            network,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            ema_decay=settings.ema_decay,
            rising=0.05,
        )
        busy = np.array([s.acts or bool(s.contact.any()) for s in data.sequences])
        mimed = np.array([s.acts and s.notes["performance"] in ("pantomime", "hover") for s in data.sequences])
        weight = np.where(mimed, settings.mimed_weight, np.where(busy, 1.0, settings.idle_share))
        self._chances = weight / weight.sum()
        count = np.bincount(
            np.concatenate([s.action[s.action >= 0] for s in data.sequences]).astype(int), minlength=len(CLASSES)
        )
        # Rare actions count more, though not as much more as they are rarer.
        self._class_weight = as_tensor(np.sqrt(count.mean() / np.maximum(count, 1)).clip(0.3, 3))

    def train_step(self) -> float:
        """One step; returns the loss.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        s = self.settings
        features, cells, contact, action, distance, weight, naming = self._batch()
        self.network.train()
        torch.manual_seed(s.seed * 1_000_003 + self.step)
        found, doing, far = self.network(features, encode(self.network, cells))
        loss = _mean(functional.binary_cross_entropy_with_logits(found, contact, reduction="none"), weight)
        named = functional.cross_entropy(
            doing.flatten(0, 1), action.flatten(), self._class_weight, reduction="none", ignore_index=-1
        )
        loss = loss + s.action_weight * _mean(named, (naming * (action >= 0)).flatten())
        there = distance.isfinite()
        wrong = functional.smooth_l1_loss(far, distance.nan_to_num(0.0), reduction="none")
        loss = loss + s.distance_weight * _mean(wrong, weight * there)
        return self.descend(loss)

    def _batch(self) -> tuple[Tensor, ...]:
        """Features, cells, contact, action, log distance, and each sample's weight for contact and for its action."""
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step])
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)
        picked = rng.choice(len(self.data.sequences), s.batch, p=self._chances)
        parts = [self._window(self.data.sequences[i], rng) for i in picked]
        features, cells, *truth = (torch.stack(p) for p in zip(*parts))
        rubs, touches, scale = truth[1] == _RUB, truth[0] > 0, self.network.feature_scale
        features, cells = augment(features, cells, rubs, touches, self.names, scale, s.augment, generator)
        return features, cells, *truth

    def _window(self, sequence: HandSequence, rng: np.random.Generator) -> tuple[Tensor, ...]:
        s = self.settings
        speed = float(np.exp(rng.uniform(-1, 1) * np.log1p(s.augment.warp)))
        at, speed = warp_positions(s.length, len(sequence.contact), speed, float(rng.random()))
        features = read_at(as_tensor(sequence.features), at, smooth=True)
        moving = torch.tensor([n.split("_")[0] in _SPEEDS for n in self.data.features])
        features = torch.where(moving, features * speed, features)
        cells = read_at(as_tensor(sequence.cells), at, smooth=False)
        moving = torch.tensor([n.split("_")[0] in _SPEEDS for n in self.data.channels])
        cells = torch.where(moving[:, None, None], cells * speed, cells)
        contact = read_at(as_tensor(sequence.contact), at, smooth=False)
        action = read_at(torch.from_numpy(sequence.action.astype(np.int64)), at, smooth=False)
        distance = read_at(as_tensor(log_distance(sequence.distance)), at, smooth=False)
        # Just where a touch begins or ends is a matter of millimetres.
        edge = torch.zeros(len(contact), dtype=torch.bool)
        change = contact[1:] != contact[:-1]
        edge[1:] |= change
        edge[:-1] |= change
        weight = torch.where(edge, 0.4, 1.0)
        # A hand that acts is truly on the cloth a little before and after. That moving touch must not be what
        # laid hands are known by.
        passing = (action == REST) & bool(((sequence.action >= 0) & (sequence.action != REST)).any())
        return features, cells, contact, action, distance, weight, weight * torch.where(passing, s.passing_weight, 1.0)

    def averaged(self) -> ContactNet:
        """The network with averaged weights, ready to answer."""
        network = ContactNet(self.network.shape)
        network.load_state_dict(self.ema)
        return network.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """Write all that the next step depends on."""
        self.write_state(path, {"settings": self.settings.model_dump_json(), "data": data_digest(self.data)})

    def load(self, path: Path) -> None:
        """Go on from a state file.

        Raises:
            ValueError: It was made with other settings or data.
        """
        state = torch.load(path, weights_only=True)
        if state["settings"] != self.settings.model_dump_json() or state["data"] != data_digest(self.data):
            raise ValueError(f"{path} is of a run with other settings or clips: name another --work folder")
        self.restore(state)


def encode(network: ContactNet, cells: Tensor) -> Tensor:
    """[B, T, channels, cells, cells], NaN without a picture, to [B, T, 48], zeros there."""
    seen = ~cells.flatten(2).isnan().any(-1)
    encoded = torch.zeros(*seen.shape, network.encoding)
    encoded[seen] = network.encode_cells(cells[seen])
    return encoded


def log_distance(metres: np.ndarray) -> np.ndarray:
    """What the network estimates: log of the distance, with a centimetre added so that touch is a number."""
    return np.log(np.asarray(metres, np.float32) + 0.01)


def data_digest(data: ContactData) -> str:
    """Names the clips and the version of each."""
    import hashlib

    prints = sorted({(s.clip, s.notes.get("fingerprint", "")) for s in data.sequences})
    return hashlib.sha256(json.dumps([prints, data.features, data.channels]).encode()).hexdigest()


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def _standardise(network: ContactNet, data: ContactData) -> None:
    """Set the network's means and scales from the training data."""
    features = np.concatenate([s.features for s in data.sequences]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean, scale = np.nanmean(features, 0), np.nanstd(features, 0)
    cells = np.concatenate([s.cells for s in data.sequences]).astype(np.float32)
    cells = cells[~np.isnan(cells[:, 0, 0, 0])]
    network.feature_mean.copy_(as_tensor(np.nan_to_num(mean)))
    network.feature_scale.copy_(as_tensor(np.maximum(np.nan_to_num(scale, nan=1.0), _SMALLEST)))
    network.cell_mean.copy_(as_tensor(cells.mean((0, 2, 3)))[:, None, None])
    network.cell_scale.copy_(as_tensor(np.maximum(cells.std((0, 2, 3)), _SMALLEST))[:, None, None])


def train(settings: ContactTrainingSettings, folders: Sequence[Path], work: Path, out: Path) -> dict[str, Any]:
    """Train, calibrate, measure and write.

    Args:
        settings: How.
        folders: Training data.
        work: Folder for the state of the run.
        out: File of weights to write.

    Returns:
        Figures of the splits val and test; see `measure`.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    data = {split: load_data(folders, split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    for split, part in data.items():
        if not part.sequences:
            raise ValueError(f"no clip falls into the split {split}: render more clips")
    trainer = Trainer(settings, data["train"])
    work.mkdir(parents=True, exist_ok=True)
    state = work / "state.pt"
    if state.exists():
        trainer.load(state)
    saved, recent = time.monotonic(), math.nan
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn()) as progress:
        bar = progress.add_task("training", total=settings.steps, completed=trainer.step)
        while trainer.step < settings.steps:
            loss = trainer.train_step()
            recent = loss if math.isnan(recent) else 0.98 * recent + 0.02 * loss
            progress.update(bar, completed=trainer.step, description=f"loss {recent:.3f}")
            if time.monotonic() - saved > _SAVE_EVERY_S:
                trainer.save(state)
                saved = time.monotonic()
    trainer.save(state)
    network = trainer.averaged()
    calibrate(network, data["val"])
    figures = {split: measure(network, data[split]) for split in ("val", "test")}
    clips = {split: len({s.clip for s in part.sequences}) for split, part in data.items()}
    notes = {"settings": settings.model_dump(), "clips": clips, "data": data_digest(data["train"]), "figures": figures}
    out.parent.mkdir(parents=True, exist_ok=True)
    save(network, out, notes)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m models.contact.train", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training data")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file of weights to write")
    work = user_cache_path("itryon") / "contact-training"
    parser.add_argument("--work", type=Path, default=work, help="folder for the state of the run")
    parser.add_argument("--threads", type=int, default=1, help="threads of the network")
    add_settings(parser, ContactTrainingSettings)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        settings = read_settings(arguments, ContactTrainingSettings)
        figures = train(settings, arguments.data, arguments.work, arguments.out)
    except ValueError as e:
        print(e, file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=1))
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
