"""From the light in the picture to what a camera makes of it: exposure, white balance, blur, vignette, sensor noise."""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.studio.render.look import Film

_TILE_MARGIN = 64
_TIME_STEPS = 1000
"""Moments a second that have noise of their own."""


class FilmEffect:
    """Applies a film to pictures of one size; the same picture and time give the same bytes.

    Args:
        film: What to do.
        height: Pixels.
        width: Pixels.
        seed: For the noise.
    """

    def __init__(self, film: Film, height: int, width: int, seed: int):
        self._blur = film.blur * height / 640
        self._seed = seed
        self._curves = np.stack([_curve(film.exposure * b, film.contrast) for b in film.balance], -1)[None]
        self._vignette = None
        if film.vignette > 0.02:
            y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            loss = 1 - film.vignette * np.clip((x**2 + y**2) / 2, 0, 1) ** 1.5
            self._vignette = np.repeat(np.rint(loss * 255)[..., None], 3, -1).astype(np.uint8)
        self._noise: tuple[np.ndarray, ...] | None = None
        if film.noise > 0.1:
            rng = np.random.default_rng(seed)
            tile = rng.standard_normal((height + _TILE_MARGIN, width + _TILE_MARGIN, 3), np.float32)
            tile *= np.float32(film.noise)
            # Demosaicing makes neighbours alike.
            tile = 0.75 * tile + 0.55 * np.roll(tile, 1, 1)
            # Added and taken away as bytes, which is several times as fast as adding signed numbers.
            self._noise = tuple(np.clip(np.rint(s * tile), 0, 255).astype(np.uint8) for s in (1, -1))

    def __call__(self, rgb: np.ndarray, time_s: float) -> np.ndarray:
        """The picture (H, W, 3) uint8 as the camera records it at a time."""
        if self._blur > 0.15:
            rgb = cv2.GaussianBlur(rgb, (3, 3) if self._blur < 0.8 else (5, 5), self._blur)
        rgb = cv2.LUT(rgb, self._curves)
        if self._vignette is not None:
            rgb = cv2.multiply(rgb, self._vignette, scale=1 / 255)
        if self._noise is not None:
            rng = np.random.default_rng([self._seed, round(abs(time_s) * _TIME_STEPS)])
            dy, dx = rng.integers(0, _TILE_MARGIN, 2)
            h, w = rgb.shape[:2]
            brighter, darker = (n[dy : dy + h, dx : dx + w] for n in self._noise)
            rgb = cv2.subtract(cv2.add(rgb, brighter), darker)
        return rgb


def _curve(exposure: float, contrast: float) -> np.ndarray:
    """Tone curve of one channel, (256,) uint8: gain in light, then an S about the middle grey that keeps black."""
    x = np.arange(256) / 255 * exposure ** (1 / 2.2)
    x = 0.46 * (x / 0.46) ** contrast
    # Highlights roll off instead of clipping.
    x = np.where(x > 0.8, 0.8 + 0.22 * np.tanh((x - 0.8) / 0.22), x)
    return np.clip(x * 255 + 0.5, 0, 255).astype(np.uint8)
