"""The side-by-side picture: source, agnostic with pose, garment, result."""

from __future__ import annotations

import cv2
import numpy as np


def fit_height(image: np.ndarray, height: int) -> np.ndarray:
    """Scale (h, w, 3) uint8 to `height` rows."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrink = height < image.shape[0]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def garment_panel(photo: np.ndarray, height: int, width: int) -> np.ndarray:
    """The garment photo centred on a white panel, (height, width, 3)."""
    scale = min(height / photo.shape[0], width / photo.shape[1])
    size = max(1, int(photo.shape[1] * scale)), max(1, int(photo.shape[0] * scale))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    panel = np.full((height, width, 3), 255, np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    panel[top : top + size[1], left : left + size[0]] = small
    return panel


def side_by_side(source: np.ndarray, agnostic: np.ndarray, garment: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Four panels in a row. `garment` sets the panels' size; the others have the source's aspect ratio."""
    height = garment.shape[0]
    return np.concatenate(
        [fit_height(source, height), fit_height(agnostic, height), garment, fit_height(result, height)], 1
    )
