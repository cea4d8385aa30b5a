"""Blocks of the iTryOn transformer: self-attention, text, action captions, feed-forward network, VACE hint.

Both kinds read the caption as states or as prepared keys and values (`models.itryon.attention`). With states they
compute what the stock blocks do, to the bit. With keys and values all clips share the timestep, which lets layer norm
and modulation be one operation, and the tokens may be those of one clip while the captions are of several: what is
common to all is then computed once, up to the first caption.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformerBlock
from torch import nn

from models.itryon.a_rope import ActionAttention, ActionContext
from models.itryon.attention import ITryOnAttnProcessor, KeyValue, Text


def modulated(
    norm: nn.LayerNorm, states: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, fused: bool
) -> torch.Tensor:
    """`norm(states) * (1 + scale) + shift` of (B, N, dim), in float32; `norm` has no parameters of its own.

    Args:
        norm: Layer norm.
        states: Tokens.
        scale: (B, 1, dim), or (1, 1, dim) for all clips.
        shift: As `scale`.
        fused: Compute it as one layer norm whose weight and bias these are; needs one scale for all clips.
    """
    if fused:
        weight, bias = (1 + scale.float()).flatten(), shift.float().flatten()
        return nn.functional.layer_norm(states.float(), norm.normalized_shape, weight, bias, norm.eps).type_as(states)
    return (norm(states.float()) * (1 + scale) + shift).type_as(states)


def _gated(states: torch.Tensor, update: torch.Tensor, gate: torch.Tensor, fused: bool) -> torch.Tensor:
    """`states + update * gate`, in float32."""
    if fused:
        return torch.addcmul(states.float(), update.float(), gate).type_as(states)
    return (states.float() + update * gate).type_as(states)


def _for_captions(states: torch.Tensor, text: Text) -> torch.Tensor:
    """Tokens of one clip for each of the captions that are to be read."""
    return states.expand(text.key.shape[0], -1, -1) if isinstance(text, KeyValue) else states


def _read_prepared(block: WanTransformerBlock) -> None:
    for attention in (block.attn1, block.attn2):
        attention.set_processor(ITryOnAttnProcessor())


class ITryOnTransformerBlock(WanTransformerBlock):
    """A Wan block with optional action attention, which adds its VACE hint itself.

    Args:
        with_action: Whether the block has action attention. The others are those of `WanTransformerBlock`.
    """

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        qk_norm: str | None = "rms_norm_across_heads",
        cross_attn_norm: bool = False,
        eps: float = 1e-6,
        added_kv_proj_dim: int | None = None,
        with_action: bool = False,
    ):
        super().__init__(dim, ffn_dim, num_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim)
        _read_prepared(self)
        self.attn_action = ActionAttention(dim, num_heads, eps) if with_action else None
        self.norm_action = FP32LayerNorm(dim, eps, elementwise_affine=True) if with_action else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Text,
        temb: torch.Tensor,
        rotary_emb: torch.Tensor,
        action: ActionContext | None = None,
        control_hint: torch.Tensor | None = None,
        control_scale: torch.Tensor | float = 1.0,
    ) -> torch.Tensor:
        """One block; (B, N, dim) -> (B, N, dim).

        Args:
            hidden_states: Tokens, (B, N, dim).
            encoder_hidden_states: The global caption: states (B, L, dim), or their keys and values.
            temb: Modulation of the timestep, (B, 6, dim); (1, 6, dim) with keys and values.
            rotary_emb: Angles of the stock 3D RoPE as complex numbers, (1, N, 1, head_dim / 2).
            action: Action captions; None skips action attention.
            control_hint: What the VACE branch adds behind this block, (B, N, dim).
            control_scale: Its weight, a scalar.
        """
        fused = isinstance(encoder_hidden_states, KeyValue)
        shift_msa, scale_msa, gate_msa, c_shift_msa, c_scale_msa, c_gate_msa = (
            self.scale_shift_table + temb.float()
        ).chunk(6, dim=1)
        states = modulated(self.norm1, hidden_states, scale_msa, shift_msa, fused)
        hidden_states = _gated(hidden_states, self.attn1(states, None, None, rotary_emb), gate_msa, fused)

        hidden_states = _for_captions(hidden_states, encoder_hidden_states)
        states = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(states, encoder_hidden_states, None, None)

        if action is not None and self.attn_action is not None and self.norm_action is not None:
            states = self.norm_action(hidden_states.float()).type_as(hidden_states)
            hidden_states = hidden_states + self.attn_action(states, action)

        states = modulated(self.norm3, hidden_states, c_scale_msa, c_shift_msa, fused)
        hidden_states = _gated(hidden_states, self.ffn(states).float(), c_gate_msa, fused)

        if control_hint is not None:
            hidden_states = hidden_states + control_hint.to(hidden_states.device) * control_scale
        return hidden_states


class ITryOnVACETransformerBlock(WanVACETransformerBlock):
    """A block of the VACE branch; its arguments and parameters are those of `WanVACETransformerBlock`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        _read_prepared(self)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Text,
        control_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: torch.Tensor,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The hint for a main block, and what the next VACE block reads; (B, N, dim) each.

        Args:
            hidden_states: Tokens of the main branch before its first block, (B, N, dim).
            encoder_hidden_states: The global caption: states (B, L, dim), or their keys and values.
            control_hidden_states: Tokens of the VACE branch, (B, N, dim).
            temb: Modulation of the timestep, (B, 6, dim); (1, 6, dim) with keys and values.
            rotary_emb: Angles of the stock 3D RoPE as complex numbers, (1, N, 1, head_dim / 2).
        """
        fused = isinstance(encoder_hidden_states, KeyValue)
        states = control_hidden_states
        if self.proj_in is not None:
            states = self.proj_in(states) + hidden_states
        shift_msa, scale_msa, gate_msa, c_shift_msa, c_scale_msa, c_gate_msa = (
            self.scale_shift_table.to(temb.device) + temb.float()
        ).chunk(6, dim=1)
        attended = self.attn1(modulated(self.norm1, states, scale_msa, shift_msa, fused), None, None, rotary_emb)
        states = _for_captions(_gated(states, attended, gate_msa, fused), encoder_hidden_states)
        states = states + self.attn2(self.norm2(states.float()).type_as(states), encoder_hidden_states, None, None)
        transformed = self.ffn(modulated(self.norm3, states, c_scale_msa, c_shift_msa, fused))
        states = _gated(states, transformed.float(), c_gate_msa, fused)
        return None if self.proj_out is None else self.proj_out(states), states
