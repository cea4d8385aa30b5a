"""Attention of Wan's blocks over what is prepared once: keys and values of captions, and angles as complex numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor


class KeyValue(NamedTuple):
    """Keys and values of one cross-attention.

    Attributes:
        key: Normalised, (B, M, heads, head_dim).
        value: (B, M, heads, head_dim).
        bias: Added to the scores, (B, 1, 1, M); None where all tokens count alike.
    """

    key: torch.Tensor
    value: torch.Tensor
    bias: torch.Tensor | None


Text = torch.Tensor | KeyValue
"""What a block reads of the global caption: its states (B, L, dim), or their keys and values."""


def fold_padding(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Text whose last tokens are all alike, with one token in their place that weighs as much as they did.

    Text encoders pad to a fixed length and Wan's attention has no mask: the padding is read. Equal tokens have equal
    scores, so n of them are one whose score is log n higher.

    Args:
        states: (B, L, C).

    Returns:
        (B, M, C) with M <= L, and the scores' bias (B, 1, 1, M), float32; None where nothing was folded.
    """
    length = states.shape[1]
    alike = (states == states[:, -1:]).all(-1).flip(1).long().cumprod(1).sum(1)
    # As many tokens for every clip as the fullest one needs: the others keep some of their padding.
    folded = int(alike.min()) if length else 0
    if folded < 2:
        return states, None
    kept = length - folded + 1
    bias = torch.zeros(states.shape[0], 1, 1, kept, device=states.device)
    bias[..., -1] = math.log(folded)
    return states[:, :kept], bias


def project(attn: WanAttention, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised keys and values of tokens (B, M, dim), each (B, M, heads, head_dim)."""
    if attn.fused_projections:
        key, value = attn.to_kv(states).chunk(2, dim=-1)
    else:
        key, value = attn.to_k(states), attn.to_v(states)
    return attn.norm_k(key).unflatten(2, (attn.heads, -1)), value.unflatten(2, (attn.heads, -1))


def reads_bias(attn: WanAttention) -> bool:
    """Whether the attention backend in use takes a bias of scores."""
    backend = attn.processor._attention_backend
    return backend is None or AttentionBackendName(backend) == AttentionBackendName.NATIVE


def complex_rotary(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The stock model's cos and sin, (1, N, 1, head_dim) with each angle twice, as complex numbers of half the size."""
    return torch.complex(cos[..., 0::2].float(), sin[..., 1::2].float())


def turn(states: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Turn channel pairs (0, 1), (2, 3), ... of (B, N, heads, head_dim) by angles, in float32.

    Seven times as fast, with its gradient, as the stock model's formula, which writes every second channel at a time.
    Equal to it to the last bit at nano's size on CPUs; where a compiler fuses products and sums, nearly so.

    Args:
        states: What to turn.
        rotary: exp(i angle), (B or 1, N, 1, head_dim / 2), complex64.
    """
    pairs = torch.view_as_complex(states.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotary).flatten(-2).type_as(states)


class ITryOnAttnProcessor(WanAttnProcessor):
    """Wan's attention, which also reads prepared keys and values, and takes angles as complex numbers."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: Text | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Tokens (B, N, dim) attend to themselves, or to a caption."""
        if isinstance(encoder_hidden_states, KeyValue):
            query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
            key, value, attention_mask = encoder_hidden_states
        elif rotary_emb is not None:
            if attn.fused_projections:
                query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
            else:
                query, key, value = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
            query, key, value = (
                x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(query), attn.norm_k(key), value)
            )
            query, key = turn(query, rotary_emb), turn(key, rotary_emb)
        else:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        states = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, backend=self._attention_backend)
        return attn.to_out[1](attn.to_out[0](states.flatten(2, 3).type_as(query)))
