"""Calibrates and measures the contact network on sequences that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from models.contact.data import ContactData, HandSequence
from models.contact.network import CLASSES, REST, ContactNet, as_tensor


@torch.no_grad()
def logits(network: ContactNet, sequence: HandSequence) -> tuple[Tensor, Tensor]:
    """Contact [T] and action [T, classes] of one sequence, not calibrated."""
    cells = as_tensor(sequence.cells)
    seen = ~cells.flatten(1).isnan().any(-1)
    encoded = torch.zeros(len(cells), network.encoding)
    if seen.any():
        encoded[seen] = network.encode_cells(cells[seen])
    contact, action, _ = network(as_tensor(sequence.features)[None], encoded[None])
    return contact[0], action[0]


def calibrate(network: ContactNet, data: ContactData) -> None:
    """Set the temperatures that make the network's probabilities most likely; nothing else changes."""
    found = [logits(network, s) for s in data.sequences]
    contact = torch.cat([c for c, _ in found])
    truth = as_tensor(np.concatenate([s.contact for s in data.sequences]))
    action = torch.cat([a for _, a in found])
    named = torch.from_numpy(np.concatenate([s.action for s in data.sequences]).astype(np.int64))
    touching = named >= 0

    def contact_loss(t: float) -> float:
        return float(functional.binary_cross_entropy_with_logits(contact / np.exp(t), truth))

    def action_loss(t: float) -> float:
        return float(functional.cross_entropy(action[touching] / np.exp(t), named[touching]))

    bounds = (np.log(0.05), np.log(50.0))
    network.log_temperature[0] = float(minimize_scalar(contact_loss, bounds=bounds, method="bounded").x)
    if touching.any():
        network.log_temperature[1] = float(minimize_scalar(action_loss, bounds=bounds, method="bounded").x)


def measure(network: ContactNet, data: ContactData) -> dict[str, Any]:
    """Figures over single samples and over whole clips.

    Returns:
        `contact_f1` at 0.5; `contact_error`, expected calibration error of P(contact) in 10 bins; `action_accuracy`
        among samples with contact; `acting_f1` of doing something to the garment; `found`, performance -> share of
        the acting hands that are said to do something to the garment for a quarter of a second or more.
    """
    probability, truth, right, acting, really = [], [], [], [], []
    said: dict[str, list[bool]] = {}
    for sequence, p, q in _answers(network, data):
        probability.append(p)
        truth.append(sequence.contact)
        touching = sequence.action >= 0
        right.append(q.argmax(-1)[touching] == sequence.action[touching])
        act = p * (1 - q[:, REST])
        acting.append(act >= 0.5)
        really.append(touching & (sequence.action != REST))
        if sequence.acts or sequence.notes["side"] is None:
            said.setdefault(sequence.notes["performance"], []).append(_longest(act >= 0.5) >= 4)
    p, y = np.concatenate(probability), np.concatenate(truth)
    return {
        "contact_f1": _f1(p >= 0.5, y),
        "contact_error": _calibration_error(p, y),
        "action_accuracy": float(np.concatenate(right).mean()) if sum(map(len, right)) else float("nan"),
        "acting_f1": _f1(np.concatenate(acting), np.concatenate(really)),
        "found": {k: float(np.mean(v)) for k, v in sorted(said.items())},
    }


def _answers(network: ContactNet, data: ContactData) -> Iterator[tuple[HandSequence, np.ndarray, np.ndarray]]:
    temperature = network.log_temperature.exp()
    for sequence in data.sequences:
        contact, action = logits(network, sequence)
        yield (
            sequence,
            (contact / temperature[0]).sigmoid().numpy(),
            (action / temperature[1]).softmax(-1).numpy().reshape(-1, len(CLASSES)),
        )


def _longest(values: np.ndarray) -> int:
    longest = run = 0
    for v in values:
        run = run + 1 if v else 0
        longest = max(longest, run)
    return longest


def _f1(found: np.ndarray, truth: np.ndarray) -> float:
    both, either = float((found & truth).sum()), float(found.sum() + truth.sum())
    return 2 * both / either if either else 1.0


def _calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    which = np.minimum((probability * bins).astype(int), bins - 1)
    total = 0.0
    for b in range(bins):
        inside = which == b
        if inside.any():
            total += inside.mean() * abs(probability[inside].mean() - truth[inside].mean())
    return float(total)
