"""VideoMAE v2, ViT-g with 14-pixel patches: the features of the content-debiased FVD (Ge et al. 2024).

The network is transformers' VideoMAE; here are its configuration and how the published checkpoint (1,200 epochs of
hybrid pretraining, fine-tuned on Something-Something v2) maps onto it. No registry package carries that checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEModel

FRAMES, SIDE = 16, 224
FEATURES = 1408
EPSILON = 1e-6

_PARTS = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "attn.proj.": "attention.output.dense.",
    "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
    "norm1.": "layernorm_before.",
    "norm2.": "layernorm_after.",
}


def giant_config() -> VideoMAEConfig:
    """ViT-g: 40 layers, 1408 channels, 16 heads, 6144 hidden; one billion parameters."""
    return VideoMAEConfig(
        image_size=SIDE,
        patch_size=14,
        num_frames=FRAMES,
        tubelet_size=2,
        hidden_size=FEATURES,
        num_hidden_layers=40,
        num_attention_heads=16,
        intermediate_size=6144,
        layer_norm_eps=EPSILON,
        use_mean_pooling=True,
    )


class VideoMAE(nn.Module):
    """VideoMAE up to its pooled features.

    Args:
        state: Tensors as in the published checkpoint (`blocks.0.attn.qkv.weight`); random weights by default.
        config: Size.

    Raises:
        RuntimeError: A tensor is missing or has another shape.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None, config: VideoMAEConfig | None = None):
        super().__init__()
        self.config = config or giant_config()
        self.model = VideoMAEModel(self.config)
        self.fc_norm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
        if state is not None:
            self.fc_norm.load_state_dict({k: state[f"fc_norm.{k}"] for k in ("weight", "bias")})
            self.model.load_state_dict(published_names(state), strict=True)
        self.eval().requires_grad_(False)

    def forward(self, video: Tensor) -> Tensor:
        """Features of clips.

        Args:
            video: (B, 3, 16, 224, 224) RGB in [0, 1]: the content-debiased FVD does not normalise any further.

        Returns:
            (B, 1408), averaged over all patches.
        """
        return self.fc_norm(self.model(pixel_values=video.transpose(1, 2)).last_hidden_state.mean(1))


def published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published checkpoint's tensors under the names of transformers' `VideoMAEModel`; heads are left out."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(("head.", "fc_norm.")):
            continue
        name = key.replace("blocks.", "encoder.layer.", 1) if key.startswith("blocks.") else key
        if name.endswith("attn.qkv.weight"):
            block = name.removesuffix("attn.qkv.weight")
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                out[f"{block}attention.attention.{part}.weight"] = rows
            continue
        for theirs, ours in _PARTS.items():
            name = name.replace(theirs, ours)
        out[name] = value
    return out


def load_videomae(file: Path, device: str | torch.device = "cpu") -> VideoMAE:
    """VideoMAE with the published checkpoint (its tensors below `model` or `module`, or themselves)."""
    saved = torch.load(file, map_location="cpu", weights_only=True)
    return VideoMAE(saved.get("model", saved.get("module", saved))).to(device)
