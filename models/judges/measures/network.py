"""The embedded judge's network: from what is seen of one hand to what it does, and whether the result's cloth follows.

The cells of each moment go through a few convolutions. What comes out is joined with the numbers of the moment, mixed
over time, and read by two heads.
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
from torch.nn import functional

from models.contact.network import CLASSES
from models.judges.measures.cells import CHANNELS, PAIR, HandCells
from models.judges.measures.windows import BEFORE_S, MOMENTS, NUMBERS, SUMMARY

WEIGHTS = Path(__file__).parents[1] / "weights" / "kinematic.safetensors"
NOTHING = CLASSES.index("rest")
"""What a hand does that does nothing to the garment."""
MOVED = ("source", "result")
"""Videos whose cloth is looked at for where the interaction moves it."""
_PAIR = slice(CHANNELS.index(PAIR[0]), CHANNELS.index(PAIR[-1]) + 1)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Of `InteractionNet.forward`."""


class Outputs(NamedTuple):
    """See `InteractionNet.forward`."""

    action: Tensor
    follows: Tensor
    moved: tuple[Tensor, Tensor]


class _Eye(nn.Module):
    """Cells to vectors, and to where the interaction moves cloth.

    The vector tells of features of all cells (mean, maximum) and of those where cloth moves in the source or the result.
    """

    def __init__(self, widths: Sequence[int], out: int, dropout: float):
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((len(CHANNELS) + len(PAIR), *widths), widths):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.GroupNorm(4, width), nn.GELU()]
        self.layers = nn.Sequential(*layers)
        self.moved = nn.Conv2d(widths[-1], len(MOVED), 1)
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(4 * widths[-1] + 2 * len(MOVED) + 1, out), nn.GELU())

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """[N, channels, rows, columns] to [N, out], and logits of movement [N, len(`MOVED`), rows, columns]."""
        x = self.layers(cells)
        logits = self.moved(x)
        moved = logits.sigmoid()
        where = torch.einsum("nkyx,ncyx->nkc", moved, x) / (moved.sum((2, 3)) + 1)[..., None]
        both = moved.prod(1).mean((1, 2))[:, None]
        pooled = [x.mean((2, 3)), x.amax((2, 3)), where.flatten(1), moved.mean((2, 3)), moved.amax((2, 3)), both]
        return self.out(torch.cat(pooled, 1)), logits


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
        self.body = _Eye((24, 32), 48, dropout)
        self.sleeve = _Eye((16, 24), 24, dropout)
        self.numbers = nn.Sequential(nn.Linear(len(NUMBERS), 24), nn.GELU())
        self.join = nn.Sequential(nn.Linear(96, 64), nn.GELU())
        self.moment = nn.Parameter(torch.zeros(MOMENTS, 64))
        self.mix = nn.ModuleList(nn.Conv1d(64, 64, 3, padding=1) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.action, self.follows = (
            nn.Sequential(nn.Linear(128 + len(SUMMARY), 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, n))
            for n in (len(CLASSES), 1)
        )

    def forward(self, body: Tensor, sleeve: Tensor, numbers: Tensor, summary: Tensor) -> Outputs:
        """Logits of hands.

        Args:
            body: [B, `MOMENTS`, len(`CHANNELS`), rows, columns], NaN where not known.
            sleeve: The same of the other window.
            numbers: [B, `MOMENTS`, len(`NUMBERS`)].
            summary: [B, len(`SUMMARY`)].

        Returns:
            What the source shows the hand do [B, len(`CLASSES`)], whether the result's cloth does it, too [B], and where
            it moves cloth in both windows [B, `MOMENTS`, len(`MOVED`), rows, columns].
        """
        count = body.shape[:2]
        body_seen, body_moved = self.body(self._known(body).flatten(0, 1))
        sleeve_seen, sleeve_moved = self.sleeve(self._known(sleeve).flatten(0, 1))
        seen = [x.unflatten(0, count) for x in (body_seen, sleeve_seen)]
        x = (self.join(torch.cat([*seen, self.numbers(numbers)], -1)) + self.moment).transpose(1, 2)
        for layer in self.mix:
            x = x + self.dropout(functional.gelu(layer(x)))
        x = torch.cat([x.mean(2), x.amax(2), summary], 1)
        moved = body_moved.unflatten(0, count), sleeve_moved.unflatten(0, count)
        return Outputs(self.action(x), self.follows(x)[:, 0], moved)

    def _known(self, cells: Tensor) -> Tensor:
        """Cells in units of their deviation, and by how much source and result are more or less alike than before."""
        known = ((cells - self.mean) / self.scale).clamp(-5, 5).nan_to_num(0.0)
        alike = known[:, :, _PAIR]
        return torch.cat([known, alike - alike[:, : len(BEFORE_S)].mean(1, keepdim=True)], 2)

    @torch.no_grad()
    def probabilities(self, hands: Sequence[HandCells]) -> tuple[np.ndarray, np.ndarray]:
        """What hands do in the source (N, len(`CLASSES`)), and whether the result's cloth does it (N,)."""
        action, follows, _ = self(*as_tensors(hands))
        return action.softmax(-1).numpy(), follows.sigmoid().numpy()


def as_tensors(hands: Sequence[HandCells]) -> Inputs:
    """Inputs of `InteractionNet.forward`."""
    parts = ([getattr(h, name) for h in hands] for name in ("body", "sleeve", "numbers", "summary"))
    body, sleeve, numbers, summary = (torch.from_numpy(np.stack(p)).float() for p in parts)
    return body, sleeve, numbers, summary


def save(network: InteractionNet, path: Path, notes: Mapping[str, Any]) -> None:
    """Replace a file by the weights as float16, with notes on what made them."""
    tensors = {k: v.detach().half().contiguous() for k, v in sorted(network.state_dict().items())}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    # One text, since several come in any order: the same weights are the same bytes.
    save_file(tensors, partial, metadata={"notes": json.dumps(dict(notes), sort_keys=True)})
    partial.replace(path)


def load(path: Path = WEIGHTS) -> tuple[InteractionNet, dict[str, Any]]:
    """The network, ready to answer, and the notes of its file.

    Raises:
        FileNotFoundError: There is no such file; says how to make it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it, or make it as {WEIGHTS.parent / 'README.md'} says")
    with safe_open(path, "pt") as file:
        notes = json.loads(file.metadata()["notes"])
        tensors = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 - not a mapping
    network = InteractionNet()
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False), notes


@lru_cache(maxsize=4)
def weights_digest(path: Path = WEIGHTS) -> str:
    """SHA-256 of a file of weights, 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
