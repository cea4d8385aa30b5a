"""What does not depend on the denoising step: made once for a window, read by every step.

Projected captions (keys and values of every cross-attention, in both branches), embedded control channels, what the
guider adds, and rotary angles follow from the conditions alone. VACE's hints do not: its blocks read the noisy tokens.

`StepInvariants` holds either form: as a training step makes it, with the caption's states for all blocks alike, or
prepared (`ITryOnTransformer3DModel.prepare_conditions`), with keys and values for each block. Blocks and attention
take both, so there is one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.itryon.a_rope import ActionContext, action_context, visible_only
from models.itryon.attention import KeyValue, Text, complex_rotary, project


@dataclass(frozen=True)
class StepInvariants:
    """Conditions of one forward pass, or of all steps of a window.

    Attributes:
        rotary: 3D RoPE as complex numbers, (1, N, 1, head_dim / 2).
        control: Embedded control channels, (B or 1, N, dim).
        hands: What the guider adds to the tokens, (B or 1, N, dim); None without hands.
        text: What each main block reads of the global caption.
        vace_text: The same for each VACE block.
        action: What each main block reads of the action captions; None for blocks without action attention.
        prepared: Whether keys and values are there. Then all clips of a batch must share the timestep.
    """

    rotary: torch.Tensor
    control: torch.Tensor
    hands: torch.Tensor | None
    text: Sequence[Text]
    vace_text: Sequence[Text]
    action: Sequence[ActionContext | None]
    prepared: bool = False


def check_conditions(
    model: Any,
    latents: torch.Tensor,
    batch: int,
    hands: torch.Tensor | None,
    hand_mask: torch.Tensor | None,
    actions: torch.Tensor | None,
    index: torch.Tensor | None,
    interactive: torch.Tensor | None,
) -> None:
    """Refuse conditions that do not fit the latents or the model.

    Args:
        model: An `ITryOnTransformer3DModel`.
        latents: Something of the latents' size, (b, *, T, H, W).
        batch: Number of captions.
        hands: `hand_hidden_states` of the model's forward pass.
        hand_mask: `hand_frame_mask`.
        actions: `action_hidden_states`.
        index: `segment_index`.
        interactive: `segment_interactive`.

    Raises:
        ValueError: They do not fit; the message says what.
    """
    frames = latents.shape[2]
    if hands is not None:
        if model.guider is None:
            raise ValueError("Hand latents for a model without guider: it was built with guider_dim=None")
        if hands.shape[0] != latents.shape[0] or hands.shape[2:] != latents.shape[2:]:
            raise ValueError(f"Hand latents {tuple(hands.shape)} do not fit latents {tuple(latents.shape)}")
        if hands.shape[1] != (wanted := model.hand_channels):
            raise ValueError(
                f"Hands of {hands.shape[1]} channels, the guider reads {wanted} (input: {model.config.guider_input})"
            )
        if hand_mask is not None and hand_mask.shape != (len(hands), frames):
            raise ValueError(f"hand_frame_mask is {tuple(hand_mask.shape)}, not {(len(hands), frames)}")
    if actions is not None:
        if not model.config.action_layers:
            raise ValueError("Action captions for a model without action layers")
        if index is None or interactive is None:
            raise ValueError("Action captions need segment_index and segment_interactive")
        if index.shape != (batch, frames) or interactive.shape != actions.shape[:2] or len(actions) != batch:
            raise ValueError(
                f"Captions {tuple(actions.shape)}, segment_index {tuple(index.shape)} and segment_interactive "
                f"{tuple(interactive.shape)} do not fit {batch} clips of {frames} latent frames"
            )


def plain_conditions(
    model: Any,
    latents: torch.Tensor,
    captions: torch.Tensor | None,
    image: torch.Tensor | None,
    control: torch.Tensor | None,
    hand_hidden_states: torch.Tensor | None = None,
    hand_frame_mask: torch.Tensor | None = None,
    action_hidden_states: torch.Tensor | None = None,
    action_attention_mask: torch.Tensor | None = None,
    segment_index: torch.Tensor | None = None,
    segment_interactive: torch.Tensor | None = None,
) -> StepInvariants:
    """What blocks read besides noisy tokens and timestep, in the form that a training step needs."""
    if captions is None or control is None:
        raise ValueError(
            "`encoder_hidden_states` or `control_hidden_states` is missing: models.itryon.conditioning builds them"
        )
    check_conditions(
        model,
        latents,
        len(captions),
        hand_hidden_states,
        hand_frame_mask,
        action_hidden_states,
        segment_index,
        segment_interactive,
    )
    embedder = model.condition_embedder
    text = embedder.text_embedder(captions)
    if image is not None:
        text = torch.concat([embedder.image_embedder(image), text], dim=1)
    action = None
    if action_hidden_states is not None and segment_index is not None and segment_interactive is not None:
        _, patch_h, patch_w = model.config.patch_size
        action = action_context(
            embedder.text_embedder(action_hidden_states),
            action_attention_mask,
            segment_index,
            segment_interactive,
            tokens_per_frame=(latents.shape[3] // patch_h) * (latents.shape[4] // patch_w),
            head_dim=model.config.attention_head_dim,
            separation=model.config.action_separation,
            theta=model.config.action_theta,
            hard_mask=model.config.action_hard_mask,
        )
    return StepInvariants(
        complex_rotary(*model.rope(latents)),
        model.vace_patch_embedding(control).flatten(2).transpose(1, 2),
        model.guider(hand_hidden_states, hand_frame_mask)
        if hand_hidden_states is not None and model.guider is not None
        else None,
        [text] * len(model.blocks),
        [text] * len(model.vace_blocks),
        [action if block.attn_action is not None else None for block in model.blocks],
    )


def projected(model: Any, plain: StepInvariants, bias: torch.Tensor | None) -> StepInvariants:
    """Plain conditions with the keys and values of every block; `bias` (B, 1, 1, L) is that of the caption's tokens."""

    def memory(block: nn.Module, states: Text) -> KeyValue:
        assert isinstance(states, torch.Tensor)
        key, value = project(block.attn2, states)
        return KeyValue(key, value, None if bias is None else bias.to(key.dtype))

    return StepInvariants(
        plain.rotary,
        plain.control,
        plain.hands,
        [memory(block, states) for block, states in zip(model.blocks, plain.text)],
        [memory(block, states) for block, states in zip(model.vace_blocks, plain.vace_text)],
        [a and block.attn_action.prepare(visible_only(a)) for block, a in zip(model.blocks, plain.action)],
        prepared=True,
    )
