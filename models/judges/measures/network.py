"""The embedded judge's network: from what is seen of one hand to what it does, and whether the result's cloth follows.

A few convolutions tell where the interaction moves cloth: in the source from the source alone, in the result from both.
What is seen where the source's cloth moves, in the span and after it, tells whether the result's follows. What the hand
does is the contact network's reading of the span, corrected by its places, and by how much cloth moves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.contact.network import CLASSES
from models.judges.measures.cells import CHANNELS, COVER, OWN, PAIR, HandCells
from models.judges.measures.windows import BEFORE_S, INSIDE, MOMENTS, NUMBERS, SUMMARY

WEIGHTS = Path(__file__).parents[1] / "weights" / "kinematic.safetensors"
NOTHING = CLASSES.index("rest")
"""What a hand does that does nothing to the garment."""
STEP = 2
"""Cells to each side of a place at which movement is told."""
_ALIKE = slice(CHANNELS.index(PAIR[0]), CHANNELS.index(PAIR[-1]) + 1)
_OF_SOURCE = [k for k, name in enumerate(CHANNELS) if name in COVER or name in {f"source_{n}" for n in OWN}]
_ASKED = CHANNELS.index("result_changed")
_BEFORE = len(BEFORE_S)
LATER = slice(_BEFORE, None)
"""Moments in the span and after it, at which movement since before is told."""
_PHASES = (slice(0, len(INSIDE)), slice(len(INSIDE), None))
"""Of these, those in the span, and those after it."""
_LEAST_READING = 0.03
_READING = [SUMMARY.index(f"own_{c}") for c in CLASSES]
_CHANNELS = len(CHANNELS) + len(PAIR)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of `InteractionNet.forward`."""


class Outputs(NamedTuple):
    """See `InteractionNet.forward`."""

    action: Tensor
    follows: Tensor
    moved: tuple[Tensor, Tensor]


class _Eye(nn.Module):
    """Where the interaction moves cloth in one window: in the source, and in the result."""

    def __init__(self, width: int):
        super().__init__()
        self.source = nn.Conv2d(len(_OF_SOURCE), width, 3, STEP, 1)
        self.result = nn.Conv2d(_CHANNELS, width, 3, STEP, 1)
        self.numbers = nn.Linear(len(NUMBERS) + MOMENTS - _BEFORE, 2 * width)
        self.mixed = nn.Sequential(nn.GELU(), nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2), nn.GELU())
        self.moved = nn.Conv2d(2 * width, 2, 1, groups=2)

    def forward(self, cells: Tensor, numbers: Tensor) -> Tensor:
        """[N, channels, rows, columns] and [N, numbers] to logits [N, (source, result), rows / 2, columns / 2]."""
        x = torch.cat([self.source(cells[:, _OF_SOURCE]), self.result(cells)], 1)
        return self.moved(self.mixed(x + self.numbers(numbers)[:, :, None, None]))


class InteractionNet(nn.Module):
    """See the module. Cells that are not known count as the mean of the training data.

    Args:
        dropout: While training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dropout: float = 0.3):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(CHANNELS), 1, 1))
        self.register_buffer("scale", torch.ones(len(CHANNELS), 1, 1))
        self.body, self.sleeve = _Eye(20), _Eye(20)
        # Of each window and phase: means of channels and of both movements where the source moves, and its movement.
        pooled = 2 * len(_PHASES) * (_CHANNELS + 3)
        self.follows = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(pooled + len(SUMMARY), 48), nn.GELU(), nn.Dropout(dropout), nn.Linear(48, 1)
        )
        self.action = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * len(_PHASES) + len(_PHASES) * len(NUMBERS) + len(SUMMARY), 32),
            nn.GELU(),
            nn.Linear(32, len(CLASSES)),
        )
        # At first the contact network is believed; what is learned corrects it.
        for values in self.action[-1].parameters():
            nn.init.zeros_(values)
        self.reading = nn.Parameter(torch.full((len(CLASSES),), 2.0))

    def forward(self, body: Tensor, sleeve: Tensor, numbers: Tensor, summary: Tensor) -> Outputs:
        """Logits of hands.

        Args:
            body: [B, `MOMENTS`, len(`CHANNELS`), rows, columns], NaN where not known.
            sleeve: The same of the other window.
            numbers: [B, `MOMENTS`, len(`NUMBERS`)].
            summary: [B, len(`SUMMARY`)].

        Returns:
            What the source shows the hand do [B, len(`CLASSES`)]; whether the result's cloth does it, too [B]; where it
            moves cloth in both windows, at the moments of `LATER` [B, 8, (source, result), rows / 2, columns / 2].
        """
        numbers = numbers[:, LATER]
        count = numbers.shape[:2]
        when = torch.eye(count[1]).expand(count[0], -1, -1)
        told = torch.cat([numbers, when], -1).flatten(0, 1)
        moved: list[Tensor] = []
        pooled: list[Tensor] = []
        masses: list[Tensor] = []
        for eye, cells in ((self.body, body), (self.sleeve, sleeve)):
            known = self._known(cells)
            logits = eye(known.flatten(0, 1), told).unflatten(0, count)
            moved.append(logits)
            there = logits.sigmoid().repeat_interleave(STEP, -2).repeat_interleave(STEP, -1)
            # Squared, so that many places where it hardly moves do not outweigh few where it does.
            weight = there[:, :, 0].square() * cells[:, LATER, _ASKED].isfinite()
            for phase in _PHASES:
                w, seen = weight[:, phase], torch.cat([known, there], 2)[:, phase]
                mass = w.sum((1, 2, 3))
                pooled.append(torch.einsum("btyx,btcyx->bc", w, seen) / (mass + 1)[:, None])
                masses.append((mass + 1).log())
        mass = torch.stack(masses, 1)
        follows = self.follows(torch.cat([*pooled, mass, summary], 1))[:, 0]
        phases = [numbers[:, phase].mean(1) for phase in _PHASES]
        reading = (summary[:, _READING].clamp(min=0) + _LEAST_READING).log()
        action = self.action(torch.cat([mass, *phases, summary], 1)) + self.reading * reading
        return Outputs(action, follows, (moved[0], moved[1]))

    def _known(self, cells: Tensor) -> Tensor:
        """Later cells in units of their deviation, and by how much source and result are more alike than before."""
        known = ((cells - self.mean) / self.scale).clamp(-5, 5).nan_to_num(0.0)
        before = known[:, :_BEFORE, _ALIKE].mean(1, keepdim=True)
        return torch.cat([known[:, LATER], known[:, LATER, _ALIKE] - before], 2)


class Committee(nn.Module):
    """Networks that were trained on different clips, and answer together.

    Args:
        members: `InteractionNet`s.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def probabilities(self, hands: Sequence[HandCells]) -> tuple[np.ndarray, np.ndarray]:
        """What hands do in the source (N, len(`CLASSES`)), and whether the result's cloth does it (N,): means."""
        seen = as_tensors(hands)
        said = [member(*seen) for member in self.members]
        return (
            torch.stack([s.action.softmax(-1) for s in said]).mean(0).numpy(),
            torch.stack([s.follows.sigmoid() for s in said]).mean(0).numpy(),
        )


def as_tensors(hands: Sequence[HandCells]) -> Inputs:
    """Inputs of `InteractionNet.forward`."""
    parts = ([getattr(h, name) for h in hands] for name in ("body", "sleeve", "numbers", "summary"))
    body, sleeve, numbers, summary = (torch.from_numpy(np.stack(p)).float() for p in parts)
    return body, sleeve, numbers, summary


def save(networks: Committee, path: Path, notes: Mapping[str, Any]) -> None:
    """Replace a file by the weights as float16, with notes on what made them."""
    tensors = {k: v.detach().half().contiguous() for k, v in sorted(networks.state_dict().items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    # One text, since several come in any order: the same weights are the same bytes.
    save_file(tensors, partial, metadata={"notes": json.dumps(dict(notes), sort_keys=True)})
    partial.replace(path)


def load(path: Path = WEIGHTS) -> tuple[Committee, dict[str, Any]]:
    """The networks, ready to answer, and the notes of their file.

    Raises:
        FileNotFoundError: There is no such file; says how to make it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it, or make it as {WEIGHTS.parent / 'README.md'} says")
    with safe_open(path, "pt") as file:
        notes = json.loads(file.metadata()["notes"])
        tensors = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 - not a mapping
    networks = Committee([InteractionNet() for _ in {k.split(".")[1] for k in tensors}])
    networks.load_state_dict(tensors)
    return networks, notes


@lru_cache(maxsize=4)
def weights_digest(path: Path = WEIGHTS) -> str:
    """SHA-256 of a file of weights, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
