"""One block of the iTryOn transformer: self-attention, text, action captions, feed-forward network, VACE hint."""

from __future__ import annotations

import torch
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from models.itryon.a_rope import ActionAttention, ActionContext


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
        self.attn_action = ActionAttention(dim, num_heads, eps) if with_action else None
        self.norm_action = FP32LayerNorm(dim, eps, elementwise_affine=True) if with_action else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        temb: torch.Tensor,
        rotary_emb: tuple[torch.Tensor, torch.Tensor],
        action: ActionContext | None = None,
        control_hint: torch.Tensor | None = None,
        control_scale: torch.Tensor | float = 1.0,
    ) -> torch.Tensor:
        """One block; (B, N, dim) -> (B, N, dim).

        Args:
            hidden_states: Tokens, (B, N, dim).
            encoder_hidden_states: Embedded global caption, (B, L, dim).
            temb: Modulation of the timestep, (B, 6, dim).
            rotary_emb: cos and sin of the stock 3D RoPE.
            action: Action captions; None skips action attention.
            control_hint: What the VACE branch adds behind this block, (B, N, dim).
            control_scale: Its weight, a scalar.
        """
        shift_msa, scale_msa, gate_msa, c_shift_msa, c_scale_msa, c_gate_msa = (
            self.scale_shift_table + temb.float()
        ).chunk(6, dim=1)
        states = (self.norm1(hidden_states.float()) * (1 + scale_msa) + shift_msa).type_as(hidden_states)
        attended = self.attn1(states, None, None, rotary_emb)
        hidden_states = (hidden_states.float() + attended * gate_msa).type_as(hidden_states)

        states = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(states, encoder_hidden_states, None, None)

        if action is not None and self.attn_action is not None and self.norm_action is not None:
            states = self.norm_action(hidden_states.float()).type_as(hidden_states)
            hidden_states = hidden_states + self.attn_action(states, action)

        states = (self.norm3(hidden_states.float()) * (1 + c_scale_msa) + c_shift_msa).type_as(hidden_states)
        hidden_states = (hidden_states.float() + self.ffn(states).float() * c_gate_msa).type_as(hidden_states)

        if control_hint is not None:
            hidden_states = hidden_states + control_hint.to(hidden_states.device) * control_scale
        return hidden_states
