"""What the trainers of small networks share: AdamW by a schedule, an average of the weights, and a state to go on from.

Draws of batches, losses and what tells one run's state from another's belong to the trainers. The diffusion model is
trained by `models.training`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class AveragedTraining:
    """A network, its optimiser, and the average of its weights.

    Args:
        network: To train, with the weights it starts from.
        steps: Of the whole training; the learning rate ends at zero after them.
        learning_rate: Peak.
        weight_decay: Of AdamW.
        ema_decay: Of the average, which starts with a shorter memory.
        rising: Share of the steps over which the learning rate rises.

    Attributes:
        network: What is trained.
        step: Steps done.
        ema: Averaged weights by name.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float,
        ema_decay: float,
        rising: float,
    ):
        self.network = network
        self._steps, self._peak, self._ema_decay, self._rising = steps, learning_rate, ema_decay, rising
        self.ema = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
        self.step = 0

    def rate(self) -> float:
        """Learning rate of the current step: a short rise, then half a cosine."""
        warm = min(1.0, (self.step + 1) / max(1.0, self._rising * self._steps))
        return self._peak * warm * 0.5 * (1 + math.cos(math.pi * self.step / self._steps))

    def descend(self, loss: Tensor) -> float:
        """One step down the gradient of a loss, clipped to norm 1; the loss as a number.

        Raises:
            FloatingPointError: The gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"the gradient of step {self.step} is not finite; lower --learning-rate")
        self.optimizer.step()
        self.step += 1
        decay = min(self._ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self.ema[name].lerp_(value, 1 - decay)
        return float(loss.detach())

    def write_state(self, path: Path, identity: dict[str, Any]) -> None:
        """Replace a file by all that the next step depends on, and by what tells this run from others."""
        state = {
            **identity,
            "step": self.step,
            "network": self.network.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `write_state` wrote."""
        self.network.load_state_dict(state["network"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
