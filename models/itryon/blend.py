"""Putting the generated garment back into the source: unmasked pixels stay what they are."""

from __future__ import annotations

import cv2
import numpy as np


def soft_alpha(mask: np.ndarray, edge: float) -> np.ndarray:
    """Weight of the generated picture: 0 outside the mask, rising to 1 over `edge` pixels inside it.

    The ramp lies inside, so that no pixel outside the mask changes. The picture's own border is no edge.

    Args:
        mask: (H, W), nonzero = generated.
        edge: Width of the ramp in pixels; 0 cuts hard.

    Returns:
        (H, W) float32, 0 to 1.
    """
    inside = (np.asarray(mask) > 0).astype(np.uint8)
    if edge <= 0 or inside.all():
        return inside.astype(np.float32)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(distance / (edge + 1), 0, 1).astype(np.float32)


def blend_back(source: np.ndarray, generated: np.ndarray, mask: np.ndarray, edge: float) -> np.ndarray:
    """`generated` inside the mask, `source` outside, with a soft edge; (H, W, 3) uint8 each.

    Raises:
        ValueError: The sizes differ.
    """
    if source.shape != generated.shape or source.shape[:2] != mask.shape:
        raise ValueError(f"Cannot blend {generated.shape} into {source.shape} with mask {mask.shape}")
    alpha = soft_alpha(mask, edge)[..., None]
    return np.rint(source * (1 - alpha) + generated * alpha).astype(np.uint8)
