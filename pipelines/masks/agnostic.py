"""Frames with the garment painted over, as VACE takes them. Plain functions over arrays."""

from __future__ import annotations

import cv2
import numpy as np

GREY = 128
"""Value of pixels to repaint: VACE's masked video is mid-grey there."""


def agnostic_frame(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame with grey where the mask is set.

    Args:
        rgb: (height, width, 3) uint8.
        mask: (height, width); nonzero is repainted.

    Returns:
        A new (height, width, 3) uint8 array.

    Raises:
        ValueError: The sizes differ.
    """
    if mask.shape != rgb.shape[:2]:
        raise ValueError(f"A mask of {mask.shape} for a frame of {rgb.shape[:2]}")
    out = rgb.copy()
    out[mask > 0] = GREY
    return out


def agnostic_with_pose(rgb: np.ndarray, mask: np.ndarray, landmarks: np.ndarray | None) -> np.ndarray:
    """The agnostic frame with the skeleton drawn inside the masked region only.

    That is how VACE combines inpainting and pose in one pass (github:ali-vilab/VACE issues 34 and 36): the source
    pixels stay untouched, and the region to repaint says how the body stands.

    Args:
        rgb: (height, width, 3) uint8.
        mask: (height, width); nonzero is repainted.
        landmarks: (33, >= 2) pixels, with visibility as fourth column where there is one; None draws no skeleton.

    Returns:
        A new (height, width, 3) uint8 array.

    Raises:
        ValueError: The sizes differ.
    """
    from pipelines.previews.skeleton import draw_skeleton

    out = agnostic_frame(rgb, mask)
    if landmarks is None or not np.isfinite(landmarks[:, :2]).all() or not mask.any():
        return out
    drawn = out.copy()
    draw_skeleton(drawn, landmarks)
    cv2.copyTo(drawn, (mask > 0).astype(np.uint8), out)
    return out
