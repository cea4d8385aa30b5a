"""How well a model knows its clips: the video in one step from pure noise.

The training loss does not tell. It is taken at a noise level and a noise that are drawn anew each step, and mixes what
the model knows with what it sees of the clip in its noisy input. At noise level 1 the input holds nothing of the video:
what comes out, the model knew from the conditions.
"""

from __future__ import annotations

import torch

from models.training.config import TrainConfig
from models.training.data import Batch
from models.training.objective import predict, prepare_conditions

_ALL_CONDITIONS = {"caption_dropout": 0.0, "action_dropout": 0.0, "hand_dropout": 0.0, "reference_dropout": 0.0}


@torch.no_grad()
def reconstruct(model: torch.nn.Module, batch: Batch, config: TrainConfig, generator: torch.Generator) -> torch.Tensor:
    """Clean latents that the model makes of pure noise in one step, with all conditions.

    Args:
        model: The transformer.
        batch: Clips, on the model's device.
        config: The run.
        generator: CPU generator of the noise.

    Returns:
        (B, z, T, h, w), without reference frames.
    """
    conditions = prepare_conditions(batch, config.model_copy(update=_ALL_CONDITIONS), generator)
    target = conditions.target
    noise = torch.randn(target.shape, generator=generator).to(target.device)
    velocity = predict(model, noise, noise.new_ones(len(target)), conditions)
    return (noise - velocity)[:, :, batch.reference.shape[2] :]


def repainted(batch: Batch) -> torch.Tensor:
    """(B, 1, T, h, w) bool: latent positions with a pixel that the model repaints. The rest is among its inputs."""
    return batch.mask.any(1, keepdim=True)


def reconstruction_error(latents: torch.Tensor, batch: Batch) -> float:
    """Mean squared error of `reconstruct`'s latents where the model repaints; latents have about unit variance."""
    squared = (latents - batch.target) ** 2
    return float(squared[repainted(batch).expand_as(squared)].mean())
