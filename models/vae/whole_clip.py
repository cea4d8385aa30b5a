"""Encodes and decodes a clip with `AutoencoderKLWan` in one pass instead of chunk by chunk.

The class streams: it feeds one frame, then four at a time, and carries a cache between the calls, so that memory does
not grow with the clip. On short clips that costs more than it saves: every layer is called once a chunk on tiny
tensors (17 x 128 x 96 in float32 on one core: 0.4 s and 0.8 s in one pass, 0.9 s and 2.3 s by chunks, to encode and to
decode), and the first chunk has one frame, the shape for which torch 2.13 corrupts the heap in the bf16 backward
of conv3d. The network is causal, so one pass over all frames gives the same numbers (tests compare both); only the
temporal resampling layers treat the first frame apart, and those are restated here.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanResample,
    WanResidualDownBlock,
    WanResidualUpBlock,
    WanUpBlock,
    patchify,
    unpatchify,
)
from torch import Tensor, nn


def encode_moments(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Mean and log-variance of the latents of a clip.

    Args:
        vae: The autoencoder.
        video: `[B, 3, T, H, W]` in [-1, 1], T = 4n + 1.

    Returns:
        `[B, 2 * z_dim, 1 + (T - 1) / 4, H / 8, W / 8]`, as `vae._encode` gives it.
    """
    if (video.shape[2] - 1) % 4:
        raise ValueError(f"the clip has {video.shape[2]} frames; the autoencoder takes 4n + 1")
    encoder = vae.encoder
    x = video if vae.config.patch_size is None else patchify(video, vae.config.patch_size)
    x = encoder.conv_in(x)
    for layer in encoder.down_blocks:
        x = _down(layer, x)
    x = encoder.mid_block(x)
    x = encoder.conv_out(encoder.nonlinearity(encoder.norm_out(x)))
    return vae.quant_conv(x)


def decode_latents(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Clip from latents, not clamped to [-1, 1], so that a loss on it has a gradient everywhere.

    Args:
        vae: The autoencoder.
        latents: `[B, z_dim, T', H', W']`.

    Returns:
        `[B, 3, 4 (T' - 1) + 1, 8 H', 8 W']`.
    """
    decoder = vae.decoder
    x = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents)))
    for block in decoder.up_blocks:
        x = _up(block, x)
    x = decoder.conv_out(decoder.nonlinearity(decoder.norm_out(x)))
    return x if vae.config.patch_size is None else unpatchify(x, vae.config.patch_size)


def channels_last(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Stores convolution weights with channels last: up to twice as fast on CPU with few channels."""
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return vae


def _down(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, WanResidualDownBlock):
        shortcut = layer.avg_shortcut(x)
        for resnet in layer.resnets:
            x = resnet(x)
        return (x if layer.downsampler is None else _resample(layer.downsampler, x)) + shortcut
    return _resample(layer, x) if isinstance(layer, WanResample) else layer(x)


def _up(block: WanUpBlock | WanResidualUpBlock, x: Tensor) -> Tensor:
    source = x
    for resnet in block.resnets:
        x = resnet(x)
    if isinstance(block, WanResidualUpBlock):
        if block.upsampler is not None:
            x = _resample(block.upsampler, x)
        return x if block.avg_shortcut is None else x + block.avg_shortcut(source, first_chunk=True)
    return x if block.upsamplers is None else _resample(block.upsamplers[0], x)


def _resample(layer: WanResample, x: Tensor) -> Tensor:
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        # The first latent frame stands for one frame and stays as it is; each other one becomes two.
        first, rest = x[:, :, :1], layer.time_conv(x[:, :, 1:])
        b, c, t, h, w = rest.shape
        rest = rest.reshape(b, 2, c // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c // 2, t * 2, h, w)
        x = torch.cat([first, rest], dim=2)
    b, c, t, h, w = x.shape
    x = layer.resample(x.transpose(1, 2).reshape(b * t, c, h, w))
    x = x.view(b, t, *x.shape[1:]).transpose(1, 2)
    if layer.mode == "downsample3d" and t > 1:
        x = torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2)
    return x
