"""Triangles to pixels on the CPU: OpenCV's rasteriser behind a pinhole camera.

OpenCV's rasteriser knows a camera that looks along -z with y up and one vertical field of view; any pinhole camera is
brought to it by shearing the vertices, which keeps depth. Pixels count from the centre of the first one.
"""

from __future__ import annotations

import cv2
import numpy as np

from models.perception.hands.base import Camera


def rasterize(
    vertices: np.ndarray,
    faces: np.ndarray,
    attributes: np.ndarray,
    camera: Camera,
    corner: tuple[int, int],
    size: tuple[int, int],
    near: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw triangles, both sides, the nearer before the farther, into a rectangle of the picture.

    Everything goes into one call: given a buffer that it drew into before, OpenCV can lose a second mesh whole.

    Args:
        vertices: (V, 3) camera frame, metres.
        faces: (F, 3), at least one.
        attributes: (V, 3) to interpolate.
        camera: Pinhole camera of the whole picture.
        corner: x and y of the rectangle's first pixel.
        size: Its rows and columns.
        near: What is nearer than this, in metres, is not drawn.

    Returns:
        Attributes (h, w, 3) float32, interpolated with perspective, 0 where nothing is; depth (h, w) float32 metres,
        inf where nothing is; and where something is, (h, w) bool.
    """
    values = np.zeros((*size, 3), np.float32)
    deepest = float(vertices[:, 2].max())
    far = 1.5 * deepest
    depth = np.full(size, far, np.float32)
    cv2.triangleRasterize(
        _sheared(vertices, camera, corner, size)[None],
        np.ascontiguousarray(faces, np.int32)[None],
        np.ascontiguousarray(attributes, np.float32)[None],
        values,
        depth,
        np.eye(4, dtype=np.float32),
        np.pi / 2,
        near,
        far,
        _settings(),
    )
    # The rasteriser rounds what it does not touch, too.
    seen = depth < 1.2 * deepest
    depth[~seen] = np.inf
    return values, depth, seen


def rasterize_depth(
    vertices: np.ndarray,
    faces: np.ndarray,
    camera: Camera,
    corner: tuple[int, int],
    size: tuple[int, int],
    near: float,
) -> np.ndarray:
    """Depth (h, w) float32 in metres alone, far away where nothing is; at half the cost. Arguments as `rasterize`."""
    far = 1.5 * float(vertices[:, 2].max())
    depth = np.full(size, far, np.float32)
    cv2.triangleRasterizeDepth(
        _sheared(vertices, camera, corner, size)[None],
        np.ascontiguousarray(faces, np.int32)[None],
        depth,
        np.eye(4, dtype=np.float32),
        np.pi / 2,
        near,
        far,
        _settings(),
    )
    return depth


def _settings() -> cv2.TriangleRasterizeSettings:
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    return settings


def _sheared(vertices: np.ndarray, camera: Camera, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Vertices (V, 3) as the rasteriser wants them, float32; reckoned as exactly as `vertices` are."""
    (x0, y0), (h, w) = corner, size
    x, y, z = vertices.T
    # A right angle of view gives a focal length of half the height; the first pixel's centre is at .5 there.
    half = h / 2
    out = np.empty((len(vertices), 3), np.float32)
    out[:, 0] = (camera.fx * x + (camera.cx + 0.5 - x0 - w / 2) * z) / half
    out[:, 1] = -(camera.fy * y + (camera.cy + 0.5 - y0 - h / 2) * z) / half
    out[:, 2] = -z
    return out
