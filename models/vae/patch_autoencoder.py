"""A linear video autoencoder with the interface of diffusers' `AutoencoderKLWan`: the VAE of the nano preset.

A group of four frames is cut into 8 x 8 pixel blocks; each block of 4 x 8 x 8 x 3 values becomes its coordinates along
the first `z_dim` principal components of such blocks, scaled. A block is decoded from its own latent position and the
eight around it, by the linear map of least error, which takes most of the block borders away. As in Wan's VAE the
first latent frame stands for one frame, taken as four that are alike, and no latent frame sees a later one.

Why linear: on two CPU cores it is by far the best that can be had. See `models/vae/nano/README.md`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional

GROUP = 4
"""Frames of a latent frame."""
BLOCK = 8
"""Rows and columns of a latent position, pixels."""
VALUES = GROUP * BLOCK * BLOCK * 3
"""Numbers in one block."""
_CERTAIN = -30.0


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Blocks of 4 frames x 8 x 8 pixels to `z_dim` numbers and back.

    Args:
        z_dim: Latent channels.
        latents_mean: Mean of each channel, as pipelines subtract it.
        latents_std: What pipelines divide each channel by. Not the standard deviation: fine components are left
            smaller, so that a diffusion model does not spend itself on them.
        scale_factor_spatial: Pixels of a latent position; 8.
        scale_factor_temporal: Frames of a latent frame; 4.
        temperal_downsample: As diffusers' pipelines read the compression from it (in their spelling).
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 32,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scale_factor_spatial: int = BLOCK,
        scale_factor_temporal: int = GROUP,
        temperal_downsample: tuple[bool, ...] = (False, True, True),
    ) -> None:
        super().__init__()
        self.temperal_downsample = list(temperal_downsample)
        self.z_dim = z_dim
        self.mean = nn.Parameter(torch.zeros(VALUES), requires_grad=False)
        self.basis = nn.Parameter(torch.zeros(z_dim, VALUES), requires_grad=False)
        self.decoder = nn.Parameter(torch.zeros(VALUES, z_dim, 3, 3), requires_grad=False)

    # The hooks that offloading hangs on `forward`, which this model does not have.
    @apply_forward_hook
    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Latents of a video.

        Args:
            x: (B, 3, F, H, W) in -1 to 1; F = 4n + 1, H and W multiples of 8.
            return_dict: Whether to return an `AutoencoderKLOutput` rather than a tuple.

        Returns:
            A distribution over (B, z_dim, n + 1, H / 8, W / 8) without spread.

        Raises:
            ValueError: The video has another number of frames, or a side that is no multiple of 8.
        """
        latents = (blocks_of(x) - self.mean) @ self.basis.T
        mean = latents.permute(0, 4, 1, 2, 3)
        moments = torch.cat([mean, torch.full_like(mean, _CERTAIN)], dim=1)
        distribution = DiagonalGaussianDistribution(moments)
        return AutoencoderKLOutput(latent_dist=distribution) if return_dict else (distribution,)

    @apply_forward_hook
    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Video (B, 3, 4n + 1, 8h, 8w), clamped to -1 to 1, of latents (B, z_dim, n + 1, h, w)."""
        batch, _, frames, rows, columns = z.shape
        flat = z.transpose(1, 2).flatten(0, 1)
        values = functional.conv2d(flat, self.decoder, padding=1).permute(0, 2, 3, 1) + self.mean
        video = video_of(values.reshape(batch, frames, rows, columns, VALUES)).clamp(-1, 1)
        return DecoderOutput(sample=video) if return_dict else (video,)


def blocks_of(video: Tensor) -> Tensor:
    """(B, 3, 4n + 1, 8h, 8w) -> (B, n + 1, h, w, VALUES), the first frame repeated four times.

    Raises:
        ValueError: Another number of frames, or a side that is no multiple of 8.
    """
    batch, _, frames, height, width = video.shape
    if frames % GROUP != 1:
        raise ValueError(f"The autoencoder takes 4n + 1 frames, not {frames}")
    if height % BLOCK or width % BLOCK:
        raise ValueError(f"Height and width must be multiples of {BLOCK}, not {height} x {width}")
    video = torch.cat([video[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), video], dim=2)
    shape = (batch, 3, -1, GROUP, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return video.reshape(shape).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def video_of(blocks: Tensor) -> Tensor:
    """(B, n + 1, h, w, VALUES) -> (B, 3, 4n + 1, 8h, 8w): the first group's mean is the first frame."""
    batch, groups, rows, columns, _ = blocks.shape
    values = blocks.reshape(batch, groups, rows, columns, 3, GROUP, BLOCK, BLOCK).permute(0, 4, 1, 5, 2, 6, 3, 7)
    video = values.reshape(batch, 3, groups * GROUP, rows * BLOCK, columns * BLOCK)
    return torch.cat([video[:, :, :GROUP].mean(2, keepdim=True), video[:, :, GROUP:]], dim=2)
