"""How much of the light from all around reaches a surface.

Baked for a body at rest, where rays are cheap to trace once; in screen space for what moves.
"""

from __future__ import annotations

import cv2
import numpy as np

from models.perception.hands.base import Camera
from models.perception.mesh_render import vertex_normals
from pipelines.studio.render.raster import Window, face_normals, rasterize_depth

_DIRECTIONS = 48
_PIXELS = 420
_DISTANCE = 30.0
_BIAS = 0.004
_NOWHERE = 1e3


def vertex_openness(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Share of the sky over each vertex that nothing hides, weighted by the cosine: (V,) 0 to 1."""
    normals = vertex_normals(vertices, faces)
    along = face_normals(vertices, faces)
    open_, whole = np.zeros(len(vertices)), np.zeros(len(vertices))
    golden = np.pi * (3 - np.sqrt(5))
    for i in range(_DIRECTIONS):
        z = 1 - (2 * i + 1) / _DIRECTIONS
        r = np.sqrt(1 - z * z)
        towards = np.array([r * np.cos(golden * i), r * np.sin(golden * i), z])
        right = np.cross([0.0, 0.0, 1.0], towards)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(-towards, right), -towards])
        seen = vertices @ rotation.T + (0, 0, _DISTANCE)
        plane = seen[:, :2] / seen[:, 2:]
        low, high = plane.min(0), plane.max(0)
        focal = (_PIXELS - 4) / float((high - low).max())
        camera = Camera(focal, focal, 2 - focal * low[0], 2 - focal * low[1])
        near = along @ towards > 0
        depth = rasterize_depth(seen, faces[near], camera, Window(0, 0, _PIXELS, _PIXELS))
        x, y = np.clip(np.rint(camera.project(seen)), 0, _PIXELS - 1).astype(int).T
        weight = np.maximum(normals @ towards, 0)
        # Slopes need room: within a pixel, depth changes by its size times the slope.
        bias = _BIAS + (1 / focal * _DISTANCE) * np.minimum(np.sqrt(1 / np.maximum(weight, 0.2) ** 2 - 1), 3)
        open_ += weight * (depth[y, x] > seen[:, 2] - bias)
        whole += weight
    return np.where(whole > 0, open_ / np.maximum(whole, 1e-9), 1.0)


# Pixels at half size and 640 rows; two rings, so that creases and larger gaps both count. Each is looked at on both
# sides of a pixel: on a slope one side stands out as much as the other lies back.
_RING = ((2, 0), (-1, 2), (6, 3), (-4, 7), (1, 8), (8, -4))


def screen_openness(depth: np.ndarray, focal: float, reach: float) -> np.ndarray:
    """How open each pixel of a depth picture is to the light around, by what stands out before it nearby.

    Args:
        depth: (h, w) metres, inf where nothing is.
        focal: Pixels.
        reach: Metres; what stands out farther than this casts no shade.

    Returns:
        (h, w) float32, 0.5 to 1.
    """
    h, w = depth.shape
    d = np.minimum(depth[::2, ::2], np.float32(_NOWHERE))
    size = focal / 900.0
    full = np.float32(reach / 3)
    shade = np.zeros_like(d)
    for dx, dy in _RING:
        mx, my = max(1, round(abs(dx) * size)) * np.sign(dx), max(1, round(abs(dy) * size)) * np.sign(dy)
        ahead = _ahead(d, mx, my, full, reach)
        ahead += _ahead(d, -mx, -my, full, reach)
        shade += np.clip(ahead, 0, full)
    open_ = 1 - np.minimum(shade * (1.5 / (len(_RING) * full)), np.float32(0.5))
    open_ = cv2.blur(open_, (3, 3))
    return cv2.resize(open_, (w, h), interpolation=cv2.INTER_LINEAR)


def _ahead(d: np.ndarray, dx: int, dy: int, full: np.float32, reach: float) -> np.ndarray:
    """How far what is beside each pixel stands out before it, at most `full`; less again towards the reach."""
    moved = cv2.warpAffine(
        d, np.array([[1.0, 0, dx], [0, 1, dy]]), (d.shape[1], d.shape[0]), flags=cv2.INTER_NEAREST, borderMode=1
    )
    gap = d - moved
    near = np.clip(gap, -full, full)
    # What lies far behind says nothing about this surface.
    near *= np.clip((np.float32(reach) - np.abs(gap)) * np.float32(2 / reach), 0, 1)
    return near
