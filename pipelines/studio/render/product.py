"""A garment alone, as shops show it: seen from the front, evenly lit, on a light ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from pipelines.studio.cloth import Part
from pipelines.studio.render.camera import StudioCamera
from pipelines.studio.render.look import Lights
from pipelines.studio.render.raster import extent
from pipelines.studio.render.renderer import NO_PART, Shader

_DISTANCE_M = 8.0
"""From far away: flat photographs have little perspective."""
_MARGIN = 0.07
_FINE = 2
_GROUND = 244
_LIGHTS = Lights(
    key_direction=(-0.3015, -0.8321, 0.4656),
    key=0.62,
    key_colour=(1.0, 1.0, 1.0),
    fill_direction=(0.5571, -0.7428, 0.3714),
    fill=0.25,
    ambient=0.5,
    ambient_colour=(1.0, 1.0, 1.0),
    shadow=0.0,
)
_FORWARD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def product_image(
    parts: Sequence[Part], textures: Mapping[str, np.ndarray], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A product photo.

    Args:
        parts: The garment's parts in its rest pose, facing -y.
        textures: Name -> (h, w, 3) uint8 RGB of the textures they use.
        size: (height, width) of the picture.

    Returns:
        (height, width, 3) uint8 RGB, and (height, width) uint8 opacity of the garment.

    Raises:
        ValueError: There are no parts.
        KeyError: A part names a texture that there is not.
    """
    if not parts:
        raise ValueError("There is no garment to show")
    height, width = (s * _FINE for s in size)
    low, high = extent(np.concatenate([p.vertices for p in parts]))
    wide, _, tall = high - low
    focal = _DISTANCE_M * (1 - 2 * _MARGIN) * min(width / wide, height / tall)
    middle = (low + high) / 2
    camera = StudioCamera(middle - (0, _DISTANCE_M, 0), _FORWARD, float(focal), width, height)
    rgb = np.full((height, width, 3), _GROUND, np.uint8)
    opacity = np.zeros((height, width), np.uint8)
    drawn = Shader([textures], _LIGHTS).draw(parts, camera)
    if drawn is not None:
        shown = (drawn.part != NO_PART).astype(np.uint8)
        opacity[drawn.window.slices] = shown * 255
        # It lies on the ground: a thin shadow below it.
        shade = cv2.GaussianBlur(np.roll(opacity, height // 120, 0), (0, 0), height / 110)
        rgb = np.rint(rgb * (1 - 0.22 * (shade / 255.0))[..., None]).astype(np.uint8)
        cv2.copyTo(drawn.rgb[0], shown, rgb[drawn.window.slices])
    out = (size[1], size[0])
    return cv2.resize(rgb, out, interpolation=cv2.INTER_AREA), cv2.resize(opacity, out, interpolation=cv2.INTER_AREA)
