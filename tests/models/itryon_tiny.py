"""Tiny random models of the real classes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan

from models.itryon.presets import of_stock, preset
from models.itryon.transformer import ITryOnTransformer3DModel

# Of 16 channels a head, as of real ones, turning by complex angles rounds as the stock formula does.
TINY = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 20,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 4,
    "vace_layers": [0, 2],
    "vace_in_channels": 96,
    "guider_dim": 8,
    "guider_heads": 2,
    "action_layers": [1, 2],
}


TINY_STOCK = of_stock(TINY)


def tiny_model(seed: int = 0, **overrides) -> ITryOnTransformer3DModel:
    torch.manual_seed(seed)
    return ITryOnTransformer3DModel(**{**TINY, **overrides})


def trained(model: ITryOnTransformer3DModel, seed: int = 1) -> ITryOnTransformer3DModel:
    """The model with outputs of the added modules that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "guider.proj_out" in name or "attn_action.to_out" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.5)
    return model


def tiny_vae(seed: int = 0, z_dim: int = 16) -> AutoencoderKLWan:
    torch.manual_seed(seed)
    statistics = {"latents_mean": [0.0] * z_dim, "latents_std": [1.0] * z_dim} if z_dim != 16 else {}
    vae = AutoencoderKLWan(base_dim=4, z_dim=z_dim, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **statistics)
    return vae.eval().requires_grad_(False)


def tiny_inputs(batch: int = 2, frames: int = 4, seed: int = 0, z: int = 16) -> dict[str, torch.Tensor]:
    """Stock inputs of a clip with `frames` latent frames of 4x6 positions."""
    g = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, z, frames, 4, 6, generator=g),
        "timestep": torch.linspace(900, 100, batch),
        "encoder_hidden_states": torch.randn(batch, 5, 20, generator=g),
        "control_hidden_states": torch.randn(batch, 2 * z + 64, frames, 4, 6, generator=g),
    }


def tiny_conditions(batch: int = 2, frames: int = 4, seed: int = 0, z: int = 16) -> dict[str, torch.Tensor]:
    """Hands and action captions for `tiny_inputs`; frame 0 is a reference frame, segment 2 interacts."""
    g = torch.Generator().manual_seed(seed + 1)
    index = torch.tensor([0, 1, 2, 3])[:frames].expand(batch, -1)
    return {
        "hand_hidden_states": torch.randn(batch, z, frames, 4, 6, generator=g),
        "hand_frame_mask": torch.tensor([0.0, 1, 1, 0])[:frames].expand(batch, -1),
        "action_hidden_states": torch.randn(batch, 3, 5, 20, generator=g),
        "action_attention_mask": torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]).expand(
            batch, -1, -1
        ),
        "segment_index": index,
        "segment_interactive": torch.tensor([False, True, False]).expand(batch, -1),
    }


def proportions(name: str) -> dict[str, Any]:
    """Layers of a preset, as few as keep its VACE and action layers in proportion."""
    arguments = preset(name)
    layers = 2 * (arguments["num_layers"] // len(arguments["action_layers"]))
    kept = {k: [v for v in arguments[k] if v < layers] for k in ("vace_layers", "action_layers")}
    return {"num_layers": layers, **kept}
