"""Interaction Guider: what the 3D hands add to the patch tokens.

Paper (section on spatial guidance): a light network of convolution and self-attention over the hand prior, fused by
addition with the DiT tokens. Widths, depth and place are not published. Here the hands come in on the latent grid: as
latents of the rendered hand-mesh video from the frozen VAE, or as point features of the mesh (`hand_points`).
A patch convolution and a residual 3x3x3 convolution see neighbouring positions and frames, self-attention relates the
tokens of one latent frame (the two hands), and a projection that starts at zero adds the result once, to the patch
tokens, before the VACE branch reads them. Adding at the input keeps step caches exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn

GuiderInput = Literal["render", "vertices"]
"""What the guider reads: latents of the rendered hand video, or point features of the hand mesh's vertices."""


class InteractionGuider(nn.Module):
    """Convolution and self-attention over hands on the latent grid.

    Args:
        in_channels: Channels of the hands: of the VAE's latents, or `hand_points.POINT_CHANNELS`.
        dim: Channels of a DiT token.
        hidden_dim: Channels inside the guider.
        heads: Heads of its self-attention.
        patch_size: Patch of the transformer, (1, h, w); its temporal size must be 1, because presence is per frame.
    """

    def __init__(self, in_channels: int, dim: int, hidden_dim: int, heads: int, patch_size: Sequence[int]):
        super().__init__()
        if patch_size[0] != 1:
            raise ValueError(f"The guider needs a temporal patch size of 1, got {patch_size[0]}")
        if hidden_dim % heads:
            raise ValueError(f"hidden_dim {hidden_dim} is not a multiple of {heads} heads")
        self.heads = heads
        patch = (1, patch_size[1], patch_size[2])
        self.patch_embedding = nn.Conv3d(in_channels, hidden_dim, patch, patch)
        # Depthwise in space and time, then across channels: plain 3x3x3 convolutions are slow on CPUs.
        self.conv_depthwise = nn.Conv3d(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim)
        self.conv_pointwise = nn.Linear(hidden_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.to_qkv = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.to_out = nn.Linear(hidden_dim, hidden_dim)
        self.norm_out = nn.LayerNorm(hidden_dim)
        self.proj_out = nn.Linear(hidden_dim, dim)
        self.act = nn.SiLU()
        self.reset_output()

    def reset_output(self) -> None:
        """Zero the output projection: the guider then adds nothing."""
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, latents: torch.Tensor, frame_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens to add.

        Args:
            latents: Normalised VAE latents of the hand video, or point features; (B, in_channels, T, H, W).
            frame_mask: (B, T), 1 where a hand is present; frames with 0 neither receive nor give anything. None: all.

        Returns:
            (B, T * (H / p_h) * (W / p_w), dim), exactly zero in frames without a hand.
        """
        if frame_mask is None:
            frame_mask = latents.new_ones(latents.shape[0], latents.shape[2])
        keep = frame_mask.to(latents.device).bool().to(latents.dtype)
        x = self.patch_embedding(latents)
        batch, channels, frames, height, width = x.shape
        x = x * keep[:, None, :, None, None]
        local = self.conv_depthwise(self.act(x)).permute(0, 2, 3, 4, 1)
        x = x.permute(0, 2, 3, 4, 1) + self.conv_pointwise(self.act(local))
        x = x.reshape(batch * frames, height * width, channels)
        qkv = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        attended = dispatch_attention_fn(*qkv.unbind(2))
        x = x + self.to_out(attended.flatten(2))
        x = self.proj_out(self.norm_out(x)).reshape(batch, frames, height * width, -1)
        return (x * keep[:, :, None, None]).flatten(1, 2)
