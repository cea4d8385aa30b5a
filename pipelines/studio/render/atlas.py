"""All textures of a scene in one picture, each in a tile of its own, as coarse as the scene shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from pipelines.studio.render.raster import PART_STEP

_MARGIN = 4
_WIDTH = 2048
TEXELS_PER_PIXEL = 1.25
"""What a texture is reduced to: finer ones shimmer, since one texel is read for a pixel."""


class Atlas:
    """Textures packed on shelves; several outfits lie alike, each in a picture of its own.

    Args:
        outfits: Name -> (h, w, 3 or 4) uint8 RGB, a fourth channel may hold a mask; one such set an outfit. All have
            the names of the first.
        fineness: Name -> texels for each pixel of the picture at full size, where known.

    Attributes:
        pictures: (H, W, 4) uint8 of each outfit.

    Raises:
        KeyError: An outfit lacks a texture.
        ValueError: The textures do not fit.
    """

    def __init__(self, outfits: Sequence[Mapping[str, np.ndarray]], fineness: Mapping[str, float]):
        sizes = {name: _reduced_size(t, fineness.get(name, 1.0)) for name, t in outfits[0].items()}
        order = sorted(sizes, key=lambda n: (-sizes[n][0], n))
        width = max(_WIDTH, *(w + 2 * _MARGIN for _, w in sizes.values()))
        x = y = shelf = 0
        places: dict[str, tuple[int, int]] = {}
        for name in order:
            h, w = (s + 2 * _MARGIN for s in sizes[name])
            if x + w > width:
                x, y, shelf = 0, y + shelf, 0
            places[name] = (x + _MARGIN, y + _MARGIN)
            x, shelf = x + w, max(shelf, h)
        if max(width, y + shelf) >= PART_STEP:
            raise ValueError(f"Textures need {width} x {y + shelf} pixels, more than {PART_STEP:.0f}")
        self.pictures = [np.zeros((y + shelf, width, 4), np.uint8) for _ in outfits]
        self._tiles: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, (x, y) in places.items():
            h, w = sizes[name]
            self._tiles[name] = (np.array([w, h], np.float32), np.array([x - 0.5, y - 0.5], np.float32))
            for picture, textures in zip(self.pictures, outfits):
                tile = cv2.copyMakeBorder(_resized(textures[name], h, w), *(_MARGIN,) * 4, cv2.BORDER_REPLICATE)
                picture[y - _MARGIN : y + h + _MARGIN, x - _MARGIN : x + w + _MARGIN] = tile

    def place(self, texture: str, uv: np.ndarray) -> np.ndarray:
        """Where texture coordinates (V, 2) in 0 to 1 lie in the atlas, (V, 2) pixels.

        Raises:
            KeyError: There is no such texture.
        """
        size, origin = self._tiles[texture]
        return uv * size + origin


def _reduced_size(texture: np.ndarray, fineness: float) -> tuple[int, int]:
    scale = TEXELS_PER_PIXEL / max(fineness, TEXELS_PER_PIXEL)
    h, w = (max(8, round(s * scale)) for s in texture.shape[:2])
    return h, w


def _resized(texture: np.ndarray, height: int, width: int) -> np.ndarray:
    if texture.shape[2] == 3:
        texture = np.dstack([texture, np.zeros(texture.shape[:2], np.uint8)])
    if texture.shape[:2] == (height, width):
        return texture
    return cv2.resize(texture, (width, height), interpolation=cv2.INTER_AREA)
