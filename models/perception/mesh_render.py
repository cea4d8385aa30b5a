"""Renders meshes without a graphics library: `rasterizer` with vertex lighting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.perception.hands.base import Camera
from models.perception.rasterizer import rasterize

RIGHT_COLOR = (1.0, 0.5, 0.5)
LEFT_COLOR = (0.5, 1.0, 0.5)
"""Colours of the hands in RealisDance's renders, which hand-conditioned video models are trained with."""

_NEAR = 0.01
# Light directions in the camera frame (x right, y down, z away), each pointing to its light, and their strengths.
_LIGHTS = (((0.0, 0.0, -1.0), 0.45), ((-0.6, -0.7, -0.4), 0.35), ((0.7, -0.3, -0.6), 0.2))
_AMBIENT = 0.25


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3), outwards for counter-clockwise faces: area-weighted over the faces around, zero without."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [np.bincount(faces.ravel(), np.repeat(face[:, i], 3), minlength=len(vertices)) for i in range(3)], -1
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def shade(vertices: np.ndarray, faces: np.ndarray, color: Sequence[float]) -> np.ndarray:
    """Colour of each vertex (V, 3) in 0 to 1 under three lights that stand with the camera."""
    normals = vertex_normals(vertices, faces)
    light = np.full(len(vertices), _AMBIENT)
    for direction, strength in _LIGHTS:
        towards = np.asarray(direction) / np.linalg.norm(direction)
        light += strength * np.maximum(normals @ towards, 0.0)
    return np.clip(light[:, None] * np.asarray(color), 0.0, 1.0)


def render_meshes(
    meshes: Sequence[tuple[np.ndarray, np.ndarray, Sequence[float]]], camera: Camera, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Render lit meshes on black, the nearer before the farther.

    Args:
        meshes: (vertices (V, 3) in the camera frame in metres, faces (F, 3) counter-clockwise from outside, RGB
            colour in 0 to 1) of each mesh.
        camera: Pinhole camera.
        height: Rows of the picture.
        width: Columns of the picture.

    Returns:
        Picture (height, width, 3) uint8 RGB, and depth (height, width) float32 in metres, inf where nothing is.
    """
    picture = np.zeros((height, width, 3), np.uint8)
    depth = np.full((height, width), np.inf, np.float32)
    # A mesh that reaches behind the camera has no silhouette to draw.
    meshes = [m for m in meshes if m[0][:, 2].min() > _NEAR]
    if not meshes:
        return picture, depth
    corners = np.concatenate([camera.project(v) for v, _, _ in meshes])
    x0, y0 = np.clip(np.floor(corners.min(0)) - 1, 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(0)) + 2, 0, (width, height)).astype(int)
    if x1 <= x0 or y1 <= y0:
        return picture, depth
    vertices = np.concatenate([v for v, _, _ in meshes]).astype(np.float64)
    offsets = np.cumsum([0, *(len(v) for v, _, _ in meshes)])
    faces = np.concatenate([f.astype(np.int32) + o for (_, f, _), o in zip(meshes, offsets)])
    lit = np.concatenate([shade(*mesh) for mesh in meshes])
    corner, size = (int(x0), int(y0)), (int(y1 - y0), int(x1 - x0))
    colors, drawn, seen = rasterize(vertices, faces, lit, camera, corner, size, _NEAR)
    picture[y0:y1, x0:x1] = np.where(seen[..., None], np.clip(colors * 255 + 0.5, 0, 255), 0).astype(np.uint8)
    depth[y0:y1, x0:x1] = drawn
    return picture, depth


def render_hands(
    vertices: Sequence[np.ndarray],
    faces: Sequence[np.ndarray],
    handedness: Sequence[str],
    camera: Camera,
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Hands on black, the right one red and the left one green: picture (H, W, 3) uint8 RGB and depth (H, W) metres.

    Args:
        vertices: (V, 3) of each hand, camera frame, metres.
        faces: (F, 3) of each hand.
        handedness: left or right of each hand.
        camera: Pinhole camera.
        height: Rows of the picture.
        width: Columns of the picture.
    """
    colors = [RIGHT_COLOR if side == "right" else LEFT_COLOR for side in handedness]
    return render_meshes(list(zip(vertices, faces, colors)), camera, height, width)
