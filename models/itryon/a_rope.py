"""Action captions, read by the latent frames of their own segment: temporal cross-attention with A-RoPE.

Paper (section 3.5): with segment i counted from 1 and separation scale k = 4,

    Q_i <- RoPE_1D(Q_i, i * k)    for every segment i
    K_i <- RoPE_1D(K_i, i * k)    only for interactive segments; empty captions keep unrotated keys

so that a query of segment i and the key of segment i differ by rotation 0. The paper leaves open what a segment is,
whether counting starts at 0, and whether the layer shares weights with the text cross-attention. Here: a segment is a
maximal run of latent frames with one label, counting starts at 1 (a segment 0 would rotate by nothing, as empty
captions do), and the layer is its own, because the stock one has to stay loadable from public checkpoints.

RoPE weighs, it does not mask: at head size 128 the mean gain between neighbouring segments is still 0.76. `hard_mask`
lets a query see its own segment's caption only.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

from models.itryon.attention import KeyValue, Text, project, turn


class ActionContext(NamedTuple):
    """What every action layer of one forward pass shares.

    Attributes:
        states: Embedded caption tokens of all segments in time order, (B, S * L, dim); or, prepared, their turned keys
            and values.
        query_rotary: exp(i angle) for queries, (B, N, 1, head_dim / 2), complex64; N patch tokens.
        key_rotary: The same for keys, (B, S * L, 1, head_dim / 2).
        mask: Which token sees which caption token, (B, 1, 1 or N, S * L) bool; None where all see all.
        gate: 1 for tokens that take part, 0 for those of reference frames or without any visible caption, (B, N, 1).
    """

    states: Text
    query_rotary: torch.Tensor
    key_rotary: torch.Tensor
    mask: torch.Tensor | None
    gate: torch.Tensor


def rotary_angles(positions: torch.Tensor, head_dim: int, theta: float) -> torch.Tensor:
    """exp(i angle) of 1D RoPE; positions (B, N) -> (B, N, 1, head_dim / 2), complex64.

    Pair j of the head's channels turns by `position * theta ** (-2 j / head_dim)`.
    """
    rates = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device="cpu") / head_dim)
    angles = positions.to(torch.float32)[..., None, None] * rates.to(positions.device, torch.float32)
    return torch.complex(angles.cos(), angles.sin())


def action_context(
    states: torch.Tensor,
    attention_mask: torch.Tensor | None,
    segment_index: torch.Tensor,
    segment_interactive: torch.Tensor,
    *,
    tokens_per_frame: int,
    head_dim: int,
    separation: float,
    theta: float,
    hard_mask: bool,
) -> ActionContext:
    """Rotations and visibility of one batch.

    Args:
        states: Embedded captions, (B, S, L, dim).
        attention_mask: (B, S, L), 1 where there is a caption token; None where all are. A padding segment is all 0.
        segment_index: (B, T) integers, segment 1..S of each latent frame, 0 for reference frames.
        segment_interactive: (B, S) bool.
        tokens_per_frame: Patch tokens of one latent frame.
        head_dim: Channels of a head, even.
        separation: k of the paper.
        theta: RoPE base.
        hard_mask: Queries see their own segment only.
    """
    batch, segments, length, _ = states.shape
    device = states.device
    positions = torch.arange(1, segments + 1, device=device).expand(batch, -1)
    key_positions = torch.where(segment_interactive.to(device, torch.bool), positions * separation, 0.0)
    token_segment = segment_index.to(device).repeat_interleave(tokens_per_frame, dim=1)
    query_positions = token_segment * separation
    visible = (
        torch.ones(batch, segments, length, dtype=torch.bool, device=device)
        if attention_mask is None
        else attention_mask.to(device, torch.bool)
    ).flatten(1)[:, None, None]
    if hard_mask:
        key_segment = positions.repeat_interleave(length, dim=1)
        visible = visible & (token_segment[:, None, :, None] == key_segment[:, None, None])
    takes_part = visible.any(-1, keepdim=True)[:, 0] & (token_segment > 0)[..., None]
    # A query that sees nothing would be 0 / 0; it is let see everything and gated away.
    mask = None if attention_mask is None and not hard_mask else visible | ~visible.any(-1, keepdim=True)
    return ActionContext(
        states.flatten(1, 2),
        rotary_angles(query_positions, head_dim, theta),
        rotary_angles(key_positions.repeat_interleave(length, dim=1), head_dim, theta),
        mask,
        takes_part.to(states.dtype),
    )


def visible_only(context: ActionContext) -> ActionContext:
    """The context without caption tokens that no token of any clip sees: captions are padded to a fixed length."""
    states = context.states
    assert isinstance(states, torch.Tensor)
    if context.mask is None:
        return context
    seen = context.mask.any(2).flatten(0, 1).any(0)
    return context._replace(
        states=states[:, seen], key_rotary=context.key_rotary[:, seen], mask=context.mask[..., seen]
    )


class ActionRopeAttnProcessor:
    """Attention processor that turns queries and keys by different positions; obeys attention backends."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: ActionContext,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: None = None,
    ) -> torch.Tensor:
        """Tokens (B, N, dim) attend to the captions of an `ActionContext`."""
        context = encoder_hidden_states
        query = attn.norm_q(attn.to_q(hidden_states)).unflatten(2, (attn.heads, -1))
        query = turn(query, context.query_rotary)
        if isinstance(context.states, KeyValue):
            key, value = context.states.key, context.states.value
        else:
            key, value = project(attn, context.states)
            key = turn(key, context.key_rotary)
        states = dispatch_attention_fn(query, key, value, attn_mask=context.mask, backend=self._attention_backend)
        states = states.flatten(2, 3).type_as(query)
        return attn.to_out[1](attn.to_out[0](states))


class ActionAttention(WanAttention):
    """Cross-attention over action captions, with an output that starts at zero.

    The projections carry the names of the stock attention, so LoRA targets and fusing reach them too.

    Args:
        dim: Channels of a token.
        heads: Attention heads.
        eps: Of the query and key norms.
    """

    _default_processor_cls: ClassVar[type] = ActionRopeAttnProcessor
    _available_processors: ClassVar[list[type]] = [ActionRopeAttnProcessor]

    def __init__(self, dim: int, heads: int, eps: float = 1e-6):
        super().__init__(dim, heads, dim // heads, eps, is_cross_attention=True, processor=ActionRopeAttnProcessor())
        self.reset_output()

    def reset_output(self) -> None:
        """Zero the output projection: the layer then adds nothing."""
        nn.init.zeros_(self.to_out[0].weight)
        nn.init.zeros_(self.to_out[0].bias)

    def forward(self, hidden_states: torch.Tensor, action: ActionContext) -> torch.Tensor:
        """What action captions add to tokens (B, N, dim); zero for reference frames."""
        return self.processor(self, hidden_states, action) * action.gate

    def prepare(self, action: ActionContext) -> ActionContext:
        """The context with this layer's keys, turned, and values."""
        assert isinstance(action.states, torch.Tensor)
        key, value = project(self, action.states)
        return action._replace(states=KeyValue(turn(key, action.key_rotary), value, None))
