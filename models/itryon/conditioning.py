"""From frames to what the transformer reads: VACE control channels, reference latents, hand latents.

The control channels are those of diffusers' `WanVACEPipeline`: z latents of what stays (video outside the mask; z = 16
for Wan's VAE), z of what is to be repainted (video inside it: grey with the pose drawn on it), and the mask itself as
8x8 pixels unshuffled into 64 channels. Garments are prepended in time as reference frames whose mask is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan

from models.itryon.hand_points import points_per_latent
from models.itryon.losses import any_per_latent, num_latent_frames

SPATIAL_FACTOR = 8
"""Pixels per latent position of Wan's VAE, in each direction."""


def to_model_range(frames: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(F, H, W, 3) uint8 RGB -> (1, 3, F, H, W) in -1 to 1."""
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"Frames must be uint8 of shape (F, H, W, 3), not {frames.dtype} {frames.shape}")
    video = torch.from_numpy(np.ascontiguousarray(frames)).permute(3, 0, 1, 2)[None]
    return (video.to(torch.float32) / 127.5 - 1).to(dtype)


def from_model_range(video: torch.Tensor) -> np.ndarray:
    """(3, F, H, W) in -1 to 1 -> (F, H, W, 3) uint8 RGB; values outside are clipped."""
    frames = ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return frames.permute(1, 2, 3, 0).cpu().numpy()


def mask_to_tensor(mask: np.ndarray, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(F, H, W) of 0 and 1 -> (1, 1, F, H, W)."""
    return torch.from_numpy((np.asarray(mask) > 0).astype(np.float32))[None, None].to(dtype)


def latent_statistics(vae: AutoencoderKLWan, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The VAE's latent mean and standard deviation, each (1, z, 1, 1, 1), float32."""
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean, device=device, dtype=torch.float32).view(shape)
    return mean, torch.tensor(vae.config.latents_std, device=device, dtype=torch.float32).view(shape)


def encode(vae: AutoencoderKLWan, video: torch.Tensor) -> torch.Tensor:
    """Normalised latents (the mode, not a sample) of a video.

    Args:
        vae: The frozen VAE.
        video: (B, 3, F, H, W) in -1 to 1; F = 4n + 1, H and W multiples of 8.

    Returns:
        (B, z, n + 1, H / 8, W / 8), about unit variance, in the VAE's dtype.
    """
    num_latent_frames(video.shape[2])
    if video.shape[3] % SPATIAL_FACTOR or video.shape[4] % SPATIAL_FACTOR:
        raise ValueError(f"Height and width must be multiples of {SPATIAL_FACTOR}, not {tuple(video.shape[3:])}")
    mean, std = latent_statistics(vae, video.device)
    latents = vae.encode(video.to(vae.dtype)).latent_dist.mode()
    # Multiplied by the reciprocal, not divided: the last bit then agrees with diffusers' own pipeline.
    return ((latents.float() - mean) * (1.0 / std)).to(vae.dtype)


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """Video (B, 3, F, H, W), about -1 to 1, of normalised latents."""
    mean, std = latent_statistics(vae, latents.device)
    return vae.decode((latents.float() * std + mean).to(vae.dtype), return_dict=False)[0]


def reference_image(
    image: np.ndarray,
    height: int,
    width: int,
    mask: np.ndarray | None = None,
    antialias: bool = True,
) -> torch.Tensor:
    """A garment photo as the model sees it: cut out, cropped to the garment, letterboxed on white.

    Args:
        image: (h, w, 3) uint8 RGB.
        height: Rows of the model's frames.
        width: Columns of the model's frames.
        mask: (h, w), nonzero on the garment: the rest becomes white and empty margins are cut off. None: as it is.
        antialias: Average when shrinking. diffusers does not, which turns stripes and prints into moire; with False,
            and a photo whose sides are multiples of 8 (diffusers first distorts others), the result is that of
            `WanVACEPipeline`.

    Returns:
        (3, height, width) in -1 to 1.

    Raises:
        ValueError: The mask is empty or of another size.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"A garment photo must be uint8 of shape (h, w, 3), not {image.dtype} {image.shape}")
    if mask is not None:
        inside = np.asarray(mask) > 0
        if inside.shape != image.shape[:2]:
            raise ValueError(f"The garment mask is {inside.shape}, the photo {image.shape[:2]}")
        if not inside.any():
            raise ValueError("The garment mask is empty: no garment was found in the photo")
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        image = np.where(inside[..., None], image, np.uint8(255))[window]
    picture = to_model_range(image[None])[:, :, 0]
    scale = min(height / picture.shape[2], width / picture.shape[3])
    inner = max(1, int(picture.shape[2] * scale)), max(1, int(picture.shape[3] * scale))
    resized = F.interpolate(picture, size=inner, mode="bilinear", align_corners=False, antialias=antialias)[0]
    canvas = torch.ones(3, height, width)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    canvas[:, top : top + inner[0], left : left + inner[1]] = resized
    return canvas


def encode_references(vae: AutoencoderKLWan, references: Sequence[torch.Tensor]) -> torch.Tensor:
    """Latents of R reference images (each (3, H, W)), (1, z, R, H / 8, W / 8), in the order of time.

    Each image is encoded as a video of one frame. As in `WanVACEPipeline` every image is put in front of those before
    it, so the last image comes first in time.
    """
    latents = [encode(vae, image[None, :, None]) for image in references]
    return torch.cat(latents[::-1], dim=2)


def mask_channels(mask: torch.Tensor, num_references: int = 0) -> torch.Tensor:
    """The 64 mask channels: 8x8 pixels to channels, nearest in time, zeros for reference frames.

    Args:
        mask: (B, 1, F, H, W) of 0 and 1, 1 = repaint.
        num_references: Reference latent frames in front.

    Returns:
        (B, 64, num_references + T, H / 8, W / 8).
    """
    batch, _, frames, height, width = mask.shape
    rows, columns = height // SPATIAL_FACTOR, width // SPATIAL_FACTOR
    pixels = mask[:, 0].view(batch, frames, rows, SPATIAL_FACTOR, columns, SPATIAL_FACTOR)
    channels = pixels.permute(0, 3, 5, 1, 2, 4).flatten(1, 2)
    latent_frames = num_latent_frames(frames)
    channels = F.interpolate(channels, size=(latent_frames, rows, columns), mode="nearest-exact")
    return torch.cat([channels.new_zeros(batch, channels.shape[1], num_references, rows, columns), channels], dim=2)


def control_latents(
    vae: AutoencoderKLWan,
    agnostic: torch.Tensor,
    mask: torch.Tensor,
    reference_latents: torch.Tensor | None = None,
) -> torch.Tensor:
    """VACE's control channels, as `WanVACEPipeline` builds them.

    Args:
        vae: The frozen VAE.
        agnostic: Source outside the mask, grey with the pose inside, (B, 3, F, H, W) in -1 to 1.
        mask: (B, 1, F, H, W), 1 = repaint.
        reference_latents: From `encode_references`, (B, z, R, h, w).

    Returns:
        (B, 2 z + 64, R + T, h, w): inactive, reactive, mask.
    """
    mask = (mask > 0.5).to(agnostic.dtype)
    inactive, reactive = encode(vae, agnostic * (1 - mask)), encode(vae, agnostic * mask)
    latents = torch.cat([inactive, reactive], dim=1)
    references = 0
    if reference_latents is not None:
        references = reference_latents.shape[2]
        padded = torch.cat([reference_latents, torch.zeros_like(reference_latents)], dim=1).to(latents)
        latents = torch.cat([padded.expand(latents.shape[0], -1, -1, -1, -1), latents], dim=2)
    return torch.cat([latents, mask_channels(mask, references).to(latents)], dim=1)


def hand_latents(
    vae: AutoencoderKLWan, hands: torch.Tensor, hand_present: np.ndarray, num_references: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hand latents and their frame mask for the guider, zero on reference frames.

    Args:
        vae: The frozen VAE.
        hands: Rendered hand video, (1, 3, F, H, W) in -1 to 1 (black where there is no hand).
        hand_present: (F,), whether a hand is in the frame; a latent frame has a hand where any of its frames has.
        num_references: Reference latent frames in front.

    Returns:
        Latents (1, z, R + T, h, w) and mask (1, R + T).
    """
    return _behind_references(encode(vae, hands), hand_present, num_references)


def hand_point_latents(
    points: np.ndarray, hand_present: np.ndarray, num_references: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Point features of the hands and their frame mask for the guider, zero on reference frames.

    Args:
        points: Features of each frame, (F, 16, h, w), from `hand_points.frame_points`.
        hand_present: (F,), whether a hand is in the frame; a latent frame has a hand where any of its frames has.
        num_references: Reference latent frames in front.

    Returns:
        Features (1, 64, R + T, h, w) and mask (1, R + T), float32 on the CPU.
    """
    return _behind_references(torch.from_numpy(points_per_latent(points))[None], hand_present, num_references)


def _behind_references(
    latents: torch.Tensor, hand_present: np.ndarray, num_references: int
) -> tuple[torch.Tensor, torch.Tensor]:
    present = torch.from_numpy(any_per_latent(hand_present)).to(latents)[None]
    zeros = latents.new_zeros(*latents.shape[:2], num_references, *latents.shape[3:])
    return torch.cat([zeros, latents], dim=2), F.pad(present, (num_references, 0))
