"""Random textures that everything procedural is made of."""

from __future__ import annotations

import cv2
import numpy as np


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[float, float], octaves: int = 1
) -> np.ndarray:
    """Noise (h, w) float32 with mean 0 and standard deviation 1 that varies smoothly.

    Args:
        rng: Source of randomness.
        shape: Rows and columns.
        cells: Bumps along rows' direction (down) and along columns' direction (across) in the first octave.
        octaves: Each further one is twice as fine and half as strong.
    """
    h, w = shape
    out = np.zeros(shape, np.float32)
    for i in range(octaves):
        rows, columns = (int(np.clip(np.ceil(c * 2**i), 1, n)) + 3 for c, n in zip(cells, shape))
        grid = rng.standard_normal((rows, columns)).astype(np.float32)
        # Cubic, from the inside of a larger picture: the border of an enlarged grid is flat.
        large = cv2.resize(grid, (round(w * columns / (columns - 2)), round(h * rows / (rows - 2))), interpolation=2)
        y, x = (large.shape[0] - h) // 2, (large.shape[1] - w) // 2
        out += large[y : y + h, x : x + w] * 0.5**i
    return (out - out.mean()) / max(float(out.std()), 1e-6)


def smooth_step(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """`a` (..., 3) with `share` (...) of `b` (3,) or (..., 3) over it."""
    weight = np.asarray(share, np.float32)[..., None]
    out = np.subtract(b, a, dtype=np.float32)
    out *= weight
    out += a
    return out


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Picture in 0 to 1 as uint8."""
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
