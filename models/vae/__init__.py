"""The video autoencoder of the nano preset: committed weights, and how they were fitted."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from models.vae.patch_autoencoder import PatchAutoencoder

NANO_VAE_DIR = Path(__file__).parent / "nano"
"""Diffusers folder with the nano autoencoder."""


@lru_cache(maxsize=1)
def nano_vae_digest() -> str:
    """SHA-256 over configuration and weights of the nano autoencoder, 64 hex digits: part of every latent's key."""
    digest = hashlib.sha256()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        digest.update((NANO_VAE_DIR / name).read_bytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def nano_pixel_energy() -> tuple[float, ...]:
    """What a unit of each of the 32 standardised latent channels is in pixels, squared.

    The channels are coordinates along orthonormal components, divided by `latents_std`: squared errors weighted by
    these add up to those of pixels, within what the components can hold.
    """
    deviations = json.loads((NANO_VAE_DIR / "config.json").read_text())["latents_std"]
    return tuple(d * d for d in deviations)


def load_nano_vae(device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> PatchAutoencoder:
    """The nano autoencoder, frozen and in evaluation mode.

    Takes and gives `[B, 3, 4n + 1, 8h, 8w]` in [-1, 1]; latents are `[B, 32, n + 1, h, w]`, to be standardised with
    `config.latents_mean` and `config.latents_std` as diffusers' Wan pipelines do.

    Args:
        device: Where it should be.
        dtype: Weight type; float32 by default. They are stored as float16.
    """
    import torch

    from models.vae.patch_autoencoder import PatchAutoencoder

    vae = PatchAutoencoder.from_pretrained(
        NANO_VAE_DIR, torch_dtype=dtype or torch.float32, local_files_only=True, use_safetensors=True
    )
    return vae.to(device).eval().requires_grad_(False)
