"""What one batch costs: flow matching on noisy latents, with the conditions as the model takes them.

Rectified flow as Wan uses it: x_sigma = (1 - sigma) x_0 + sigma eps, and the network predicts v = eps - x_0. Reference
latents are prepended in time to latents and conditions, and the target includes them, as VACE fine-tuning does; they
belong to no segment, have no hands, and do not count in the action term.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

from models.itryon.losses import Loss, add_noise, flow_matching_target, itryon_loss
from models.training.config import TrainConfig
from models.training.data import Batch
from models.vae import nano_pixel_energy

_TIMESTEPS = 1000


@dataclass
class Conditions:
    """The model's inputs for a batch; Tr latent frames = reference views + T.

    Attributes:
        target: Clean latents, (B, z, Tr, h, w).
        action_mask: (B, Tr) M_action, 0 on reference frames.
        repainted: (B, 1, Tr, h, w) bool, latent positions with a pixel to repaint; none in reference frames.
        kwargs: Keyword arguments of the transformer besides noisy latents and timestep.
    """

    target: torch.Tensor
    action_mask: torch.Tensor
    repainted: torch.Tensor
    kwargs: dict[str, torch.Tensor | None]


def step_generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of one batch of a run: the same on any device, and after a resume.

    Args:
        seed: Seed of the run.
        number: Number of the batch over all processes.
    """
    # Neighbouring seeds of a Mersenne twister are not independent; a large odd stride keeps runs apart.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + number) % 2**63)


def sample_sigmas(config: TrainConfig, count: int, generator: torch.Generator) -> torch.Tensor:
    """Noise levels in [0, 1], shape (count,): the chosen density, shifted as the scheduler's `shift` does."""
    u = compute_density_for_timestep_sampling(
        config.timestep_sampling, count, logit_mean=0.0, logit_std=1.0, generator=generator
    )
    return config.flow_shift * u / (1 + (config.flow_shift - 1) * u)


def prepare_conditions(batch: Batch, config: TrainConfig, generator: torch.Generator) -> Conditions:
    """Assemble the model's inputs, with condition dropout.

    Args:
        batch: Clips.
        config: Which guidance is used, and how often each condition is dropped.
        generator: For the dropout.
    """
    count, device = len(batch.target), batch.target.device
    drop = (
        torch.rand(3, count, generator=generator)
        < torch.tensor([[config.caption_dropout], [config.action_dropout], [config.hand_dropout]])
    ).to(device)
    # One draw for the whole batch: without a reference the sequence is shorter.
    without_reference = bool(torch.rand((), generator=generator) < config.reference_dropout)
    reference = batch.reference[:, :, :0] if without_reference else batch.reference
    views = reference.shape[2]

    control = torch.cat([batch.inactive, batch.reactive, batch.mask], 1)
    nothing = reference.new_zeros(count, control.shape[1] - reference.shape[1], *reference.shape[2:])
    control = torch.cat([torch.cat([reference, nothing], 1), control], 2)
    caption = torch.where(drop[0, :, None, None], batch.empty_caption, batch.caption)
    without_actions = drop[1] if config.use_action_captions else torch.ones_like(drop[1])
    interactive = batch.segment_interactive & ~without_actions[:, None]
    # A segment that pads the batch keeps its all-zero mask; real ones fall back to the empty caption.
    real = batch.actions_mask.any(-1)
    length = batch.actions.shape[2]
    empty, empty_mask = batch.empty_caption[:, None, :length], batch.empty_mask[:, None, :length] & real[..., None]
    actions = torch.where(without_actions[:, None, None, None], empty, batch.actions)
    actions_mask = torch.where(without_actions[:, None, None], empty_mask, batch.actions_mask)
    hands = {}
    if config.use_hands:
        seen = batch.hands if config.guider_input == "render" else batch.hand_points
        nothing = seen.new_zeros(*seen.shape[:2], *reference.shape[2:])
        hands = {
            "hand_hidden_states": torch.cat([nothing, seen], 2),
            "hand_frame_mask": _behind(views, batch.hand_present & ~drop[2][:, None]),
        }
    return Conditions(
        target=torch.cat([reference, batch.target], 2),
        action_mask=_behind(views, batch.action_mask),
        repainted=torch.nn.functional.pad((batch.mask > 0).any(1, keepdim=True), (0, 0, 0, 0, views, 0)),
        kwargs={
            "encoder_hidden_states": caption,
            "control_hidden_states": control,
            "action_hidden_states": actions,
            "action_attention_mask": actions_mask,
            "segment_index": _behind(views, batch.segment_index),
            "segment_interactive": interactive,
            **hands,
        },
    )


def predict(model: torch.nn.Module, noisy: torch.Tensor, sigmas: torch.Tensor, conditions: Conditions) -> torch.Tensor:
    """The velocity that the model sees in noisy latents (B, z, Tr, h, w) at noise levels (B,) from 0 to 1."""
    (prediction,) = model(hidden_states=noisy, timestep=sigmas * _TIMESTEPS, return_dict=False, **conditions.kwargs)
    return prediction


def training_losses(model: torch.nn.Module, batch: Batch, config: TrainConfig, generator: torch.Generator) -> Loss:
    """The losses of one batch (paper: L = L_std + lambda E[||M_action * (v_hat - v)||^2]).

    Args:
        model: The transformer, possibly wrapped.
        batch: Clips, on the model's device.
        config: The run.
        generator: CPU generator of this batch; see `step_generator`.
    """
    conditions = prepare_conditions(batch, config, generator)
    target = conditions.target
    sigmas = sample_sigmas(config, len(target), generator).to(target.device)
    noise = torch.randn(target.shape, generator=generator).to(target.device)
    noisy = add_noise(target, noise, sigmas)
    return itryon_loss(
        predict(model, noisy, sigmas, conditions),
        flow_matching_target(target, noise),
        conditions.action_mask,
        weight=config.lambda_action,
        reduction=config.action_loss_reduction,
        element_weight=element_weight(conditions, config),
    )


def element_weight(conditions: Conditions, config: TrainConfig) -> torch.Tensor | None:
    """How much each element of the error counts, (B, C or 1, Tr, h, w); None where all count alike, as in the paper."""
    weight = None
    if config.unmasked_weight < 1:
        weight = conditions.repainted.float().clamp(min=config.unmasked_weight)
    if config.loss_space == "pixel":
        energy = torch.tensor(nano_pixel_energy(), device=conditions.target.device).view(1, -1, 1, 1, 1)
        weight = energy if weight is None else weight * energy
    return weight


def _behind(views: int, values: torch.Tensor) -> torch.Tensor:
    """Prepend zeros for the reference frames to (B, T)."""
    return torch.nn.functional.pad(values, (views, 0))
