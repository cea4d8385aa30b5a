"""Sizes of the iTryOn transformer. Plain numbers: nothing heavy is imported.

`1.3b` and `14b` are the public Wan2.1-VACE checkpoints (their reported 2.15 B and 17.3 B parameters include the VACE
branch); the paper's model is the size of `1.3b`. `nano` is the same network small enough for two CPU cores.

nano's patch is Wan's own (1, 2, 2): 17 frames of 128x96 pixels with a garment are 6 latent frames of 8x6 patches, 288
tokens. A patch of (1, 1, 1) would see single latent positions but cost four times the tokens, hence a quarter of the
samples in the same minutes; 192 channels hold the 128 numbers of a patch, but not beside those of its noise: nano
predicts clean latents. Its latents have the 32 channels of the nano autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_WAN = {
    "patch_size": (1, 2, 2),
    "in_channels": 16,
    "out_channels": 16,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "vace_in_channels": 96,
}

PRESETS: dict[str, dict[str, Any]] = {
    "nano": {
        **_WAN,
        "in_channels": 32,
        "out_channels": 32,
        "vace_in_channels": 2 * 32 + 64,
        "num_attention_heads": 6,
        "attention_head_dim": 32,
        "ffn_dim": 576,
        "num_layers": 6,
        "text_dim": 384,
        "vace_layers": [0, 2, 4],
        "guider_dim": 96,
        "guider_heads": 3,
        "action_layers": [0, 2, 4],
        "prediction": "sample",
    },
    "1.3b": {
        **_WAN,
        "num_attention_heads": 12,
        "attention_head_dim": 128,
        "ffn_dim": 8960,
        "num_layers": 30,
        "text_dim": 4096,
        "vace_layers": list(range(0, 30, 2)),
        "guider_dim": 384,
        "guider_heads": 6,
        "action_layers": list(range(0, 30, 3)),
    },
    "14b": {
        **_WAN,
        "num_attention_heads": 40,
        "attention_head_dim": 128,
        "ffn_dim": 13824,
        "num_layers": 40,
        "text_dim": 4096,
        "vace_layers": list(range(0, 40, 5)),
        "guider_dim": 640,
        "guider_heads": 10,
        "action_layers": list(range(0, 40, 5)),
    },
}
"""Preset name -> keyword arguments of `ITryOnTransformer3DModel`."""


@dataclass(frozen=True)
class ModelWindow:
    """What a preset dresses at a time, unless its pipeline says otherwise.

    Attributes:
        num_frames: Frames of a window, 4n + 1.
        sizes: Height and width in pixels; the one nearest in aspect ratio is taken.
    """

    num_frames: int
    sizes: tuple[tuple[int, int], ...]


NANO_WINDOW = ModelWindow(17, ((128, 96), (96, 128)))
"""What the embedded checkpoint was trained at."""
WAN_WINDOW = ModelWindow(81, ((832, 480), (480, 832)))
"""What the public Wan2.1-VACE checkpoints of 1.3b and 14b were made for: 480p."""


def preset(name: str) -> dict[str, Any]:
    """Arguments of one preset, as a copy.

    Raises:
        ValueError: There is no such preset.
    """
    try:
        return dict(PRESETS[name])
    except KeyError:
        raise ValueError(f"No preset {name!r}; there are {', '.join(PRESETS)}") from None


def of_stock(arguments: dict[str, Any]) -> dict[str, Any]:
    """Of an iTryOn transformer's arguments, those of the stock `WanVACETransformer3DModel` of the same size."""
    return {k: v for k, v in arguments.items() if not k.startswith(("guider_", "action_", "prediction"))}
