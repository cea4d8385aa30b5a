"""Videos as an autoencoder gives them back: what no model that works in its latents can do better than."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.itryon.conditioning import decode, encode, from_model_range, to_model_range
from pipelines.clips.letterbox import Letterbox
from pipelines.clips.windows import nearest_size

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan


def through_autoencoder(vae: AutoencoderKLWan, video: np.ndarray, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """A video at the model's size through the autoencoder, and back to its own size.

    Args:
        vae: The autoencoder.
        video: (F, H, W, 3) uint8 RGB.
        sizes: (height, width) to choose the nearest shape from.

    Returns:
        (F, H, W, 3) uint8 RGB.
    """
    rows, columns = video.shape[1:3]
    box = Letterbox.fit(rows, columns, *nearest_size(rows, columns, sizes))
    small = np.stack([box.frame(f) for f in video])
    missing = (1 - len(small)) % 4
    padded = np.concatenate([small, np.repeat(small[-1:], missing, 0)])
    again = from_model_range(decode(vae, encode(vae, to_model_range(padded)))[0])
    return np.stack([box.restore(f) for f in again[: len(small)]])
