"""Light at vertices, and the colours that light turns into.

A pixel carries one number for its light, 0 to 1: its strength, gamma encoded like the colours that it multiplies.
`light_table` turns it into a factor for each channel: little light has the colour of the light from all around, much
light that of the key light, and what is brighter than matt things get is highlight and whitens.
"""

from __future__ import annotations

import numpy as np

from models.perception.hands.base import Camera
from pipelines.studio.cloth import Label
from pipelines.studio.render.look import Lights
from pipelines.studio.render.raster import Window, extent, rasterize_depth

BRIGHTEST = 2.0
"""Strength of light that the number 1 stands for; a surface that faces ordinary lights has about 1."""
LEVELS = 1024
"""Entries of a light table."""
GAIN_ONE = 128
"""Value in the table that leaves a colour as it is."""
_GAMMA = 2.2
_BEHIND = 0.62
_WHITENS = 0.86
_WHITE = 90.0
# Skin lets light through: its shading falls off more slowly, and what comes through is red.
_WRAP = 0.28
_SHADOW_PIXELS = 176
_SHADOW_DISTANCE = 12.0
_SHADOW_BIAS = 0.012
_TAPS = ((-0.9, -0.4), (0.4, -0.9), (0.9, 0.4), (-0.4, 0.9))


def vertex_light(
    vertices: np.ndarray,
    normals: np.ndarray,
    lights: Lights,
    *,
    key: np.ndarray,
    fill: np.ndarray,
    up: np.ndarray,
    arrives: np.ndarray,
    soft: np.ndarray,
    gloss: np.ndarray,
) -> np.ndarray:
    """The light number of vertices (V,). Everything is in the camera frame.

    Args:
        vertices: (V, 3) metres.
        normals: (V, 3), unit.
        lights: The lights; their directions are the next three.
        key: (3,) unit, towards the key light.
        fill: (3,) unit, towards the fill light.
        up: (3,) unit.
        arrives: (V,) 0 to 1, how much of the key light does.
        soft: (V,) bool, whether light wraps around as on skin.
        gloss: (V,) 0 to 1.
    """
    wrap = np.where(soft, np.float32(_WRAP), np.float32(0.06))
    diffuse = np.maximum((normals @ key + wrap) / (1 + wrap), 0)
    beside = np.maximum((normals @ fill + 0.2) / 1.2, 0)
    strength = lights.ambient * (0.8 + 0.2 * (normals @ up)) + lights.key * diffuse * arrives + lights.fill * beside
    number = np.minimum((strength * np.float32(1 / BRIGHTEST)) ** np.float32(1 / _GAMMA), 1)
    shiny = np.flatnonzero(gloss > 0)
    if len(shiny):
        view = -vertices[shiny]
        view /= np.sqrt(np.einsum("ij,ij->i", view, view))[:, None]
        half = view + key
        half /= np.sqrt(np.einsum("ij,ij->i", half, half))[:, None]
        cosine = np.maximum(np.einsum("ij,ij->i", normals[shiny], half), 0)
        g = gloss[shiny]
        highlight = np.minimum(g * lights.key * arrives[shiny] * cosine ** (10 + 50 * g), 1)
        number[shiny] += highlight * (1 - number[shiny])
    return number


def behind(light: np.ndarray) -> np.ndarray:
    """Light numbers on the inside of two-sided parts."""
    return light * np.float32(_BEHIND)


def light_table(lights: Lights, label: Label) -> np.ndarray:
    """What each light number does to a colour: (LEVELS, 4) uint8.

    The first three are factors of the channels, of which `GAIN_ONE` leaves a colour as it is; the fourth is grey levels
    to add afterwards.
    """
    number = np.linspace(0, 1, LEVELS)
    strength = (number**_GAMMA * BRIGHTEST)[:, None]
    even = np.minimum(strength, lights.ambient)
    colour = even * np.array(lights.ambient_colour) + (strength - even) * np.array(lights.key_colour)
    if label is Label.SKIN:
        # Half-lit skin is redder.
        dim = np.exp(-(((strength - 0.35) / 0.3) ** 2))
        colour = colour * (1 + dim * np.array([0.07, -0.02, -0.05]))
    gain = np.clip(colour ** (1 / _GAMMA) * GAIN_ONE + 0.5, 0, 255)
    white = np.clip((number - _WHITENS) / (1 - _WHITENS), 0, 1) * _WHITE
    return np.concatenate([gain, white[:, None]], 1).astype(np.uint8)


def key_light(
    points: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    towards: np.ndarray,
    shadow: float,
) -> np.ndarray:
    """How much of the key light arrives at points (N,), 0 to 1, given all that stands in its way.

    Args:
        points: (N, 3) metres, within the bounds of the vertices.
        vertices: (V, 3) metres.
        faces: (F, 3) of everything.
        normals: (F, 3) of the faces.
        towards: (3,) unit, to the light.
        shadow: 0 to 1, how dark shadows are.
    """
    across = np.eye(3)[np.argmin(np.abs(towards))]
    right = np.cross(across, towards)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(-towards, right), -towards]).astype(np.float32)
    seen = vertices @ rotation.T
    low, high = extent(seen)
    # From far away, so that its rays are nearly parallel.
    shift = np.array([*-(low + high)[:2] / 2, _SHADOW_DISTANCE - low[2]], np.float32)
    seen += shift
    n = _SHADOW_PIXELS
    focal = (n - 6) / float((high - low)[:2].max()) * _SHADOW_DISTANCE
    camera = Camera(focal, focal, (n - 1) / 2, (n - 1) / 2)
    # The far side of things casts the shadow: the near side would shade itself.
    away = np.flatnonzero(normals @ towards.astype(np.float32) < 0)
    depth = rasterize_depth(seen, faces.take(away, 0), camera, Window(0, 0, n, n)).ravel()
    x, y, z = np.ascontiguousarray((points @ rotation.T + shift).T)
    scale = np.float32(focal) / z
    x, y = x * scale + np.float32(n / 2), y * scale + np.float32(n / 2)
    z -= np.float32(_SHADOW_BIAS)
    lit = np.zeros(len(points), np.float32)
    for dx, dy in _TAPS:
        column, row = (x + np.float32(dx)).astype(np.int32), (y + np.float32(dy)).astype(np.int32)
        row *= n
        row += column
        lit += depth.take(row) > z
    return 1 - np.float32(shadow) * (1 - lit / len(_TAPS))
