"""The network: a small temporal convolution over what geometry and picture say of one hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

CLASSES = (
    "adjust_collar",
    "adjust_hem",
    "operate_zipper",
    "stretch_fabric",
    "roll_sleeve",
    "other",
    "rest",
)
"""What a hand that touches the garment does; `rest` is nothing."""
REST = CLASSES.index("rest")
WEIGHTS = Path(__file__).parent / "weights" / "contact.safetensors"


@dataclass(frozen=True)
class ContactShape:
    """What goes in and how large the network is.

    Attributes:
        features: Names of the geometry features, in order.
        channels: Names of the channels of a cell, in order.
        cells: Cells in a row and in a column.
        width: Channels of the temporal layers.
        dilations: One residual layer of kernel 3 for each.
    """

    features: tuple[str, ...]
    channels: tuple[str, ...]
    cells: int = 9
    width: int = 80
    dilations: tuple[int, ...] = (1, 2, 4, 4)

    @property
    def reach(self) -> int:
        """Samples to either side that an answer depends on."""
        return sum(self.dilations)


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, W] to the same."""
        y = self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.dropout(self.out(nn.functional.gelu(y)))


class ContactNet(nn.Module):
    """See the module. Unknown inputs are NaN; they count as the mean of the training data.

    Args:
        shape: Inputs and size.
        dropout: While training.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    cell_mean: Tensor
    cell_scale: Tensor
    log_temperature: Tensor

    def __init__(self, shape: ContactShape, dropout: float = 0.2):
        super().__init__()
        self.shape = shape
        features, channels = len(shape.features), len(shape.channels)
        for name, size in (("feature", (features,)), ("cell", (channels, 1, 1))):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.register_buffer("log_temperature", torch.zeros(2))
        self.features_in = nn.Sequential(nn.Linear(features, 64), nn.GELU(), nn.Dropout(dropout), nn.Linear(64, 64))
        last = (((shape.cells + 1) // 2) + 1) // 2
        self.encoding = 48
        self.cells_in = nn.Sequential(
            nn.Conv2d(channels, 24, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(24, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(32 * last * last, self.encoding),
        )
        self.join = nn.Linear(64 + self.encoding, shape.width)
        self.layers = nn.ModuleList(_Residual(shape.width, d, dropout) for d in shape.dilations)
        self.norm = nn.LayerNorm(shape.width)
        self.contact = nn.Linear(shape.width, 1)
        self.action = nn.Linear(shape.width, len(CLASSES))
        # How far off the cloth the hand is, in log metres: only training asks, it teaches depth.
        self.distance = nn.Linear(shape.width, 1)

    def encode_cells(self, cells: Tensor) -> Tensor:
        """[N, channels, cells, cells] to [N, 48]; a picture at a time, so none has to be kept."""
        return self.cells_in(((cells - self.cell_mean) / self.cell_scale).clamp(-8, 8))

    def forward(self, features: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of hands over time.

        Args:
            features: [B, T, features], NaN where not known.
            encoded: [B, T, 48], of `encode_cells`; zeros where there was no picture.

        Returns:
            Contact [B, T], actions given contact [B, T, len(`CLASSES`)], log distance in metres [B, T]. Not calibrated.
        """
        known = ((features - self.feature_mean) / self.feature_scale).clamp(-5, 5).nan_to_num(0.0)
        x = self.join(torch.cat([self.features_in(known), encoded], -1))
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.contact(x)[..., 0], self.action(x), self.distance(x)[..., 0]

    @torch.no_grad()
    def probabilities(self, features: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Calibrated: P(contact) [B, T] and P(class | contact) [B, T, len(`CLASSES`)]; see `forward`."""
        contact, action, _ = self(features, encoded)
        temperature = self.log_temperature.exp()
        return (contact / temperature[0]).sigmoid(), (action / temperature[1]).softmax(-1)


def save(network: ContactNet, path: Path, notes: dict[str, Any]) -> None:
    """Write the weights as float16, with what is needed to build the network again.

    Args:
        network: Trained and calibrated.
        path: File to replace.
        notes: What made them, for readers of the file.
    """
    tensors = {k: v.detach().half().contiguous() for k, v in network.state_dict().items()}
    partial = path.with_suffix(".partial")
    # One text, since several come in any order: the same weights are the same bytes.
    text = json.dumps({"shape": asdict(network.shape), "notes": notes}, sort_keys=True)
    save_file(dict(sorted(tensors.items())), partial, metadata={"contact": text})
    partial.replace(path)


def load(
    path: Path = WEIGHTS, features: Sequence[str] | None = None, channels: Sequence[str] | None = None
) -> ContactNet:
    """The network with its weights, ready to answer.

    Args:
        path: File of `save`.
        features: What the caller measures; checked where given.
        channels: What the caller's cells say; checked where given.

    Raises:
        FileNotFoundError: There are no weights; says how to make them.
        ValueError: They were trained on other inputs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it, or train it with `python -m models.contact.train`")
    with safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()["contact"])["shape"]
        tensors = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 - not a mapping
    lists: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    shape = ContactShape(**lists)
    for what, own, asked in (("features", shape.features, features), ("channels", shape.channels, channels)):
        if asked is not None and tuple(asked) != own:
            odd = sorted(set(own) ^ set(asked)) or ["the order"]
            raise ValueError(
                f"{path.name} was trained on other {what} ({', '.join(odd)}): train it again with "
                "`python -m models.contact.train`"
            )
    network = ContactNet(shape)
    network.load_state_dict(tensors)
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=1)
def weights_digest(path: Path = WEIGHTS) -> str:
    """SHA-256 of the weights' file, 64 hex digits.

    Raises:
        FileNotFoundError: There is none.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_tensor(values: np.ndarray) -> Tensor:
    """A float32 tensor of an array of any float type."""
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
