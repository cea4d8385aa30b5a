"""Triangles to per-pixel attributes and depth, with OpenCV's software rasteriser.

The rasteriser carries three numbers per vertex. Besides two texture coordinates and the light, a pixel must know which
part it belongs to: the part's number is a multiple of `PART_STEP` added to the first coordinate, which stays exact
since parts share no vertices.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from models.perception.hands.base import Camera

PART_STEP = 8192.0
"""Larger than any texture coordinate in pixels; 24 bits of mantissa leave a hundredth of a pixel for 20 parts."""
NEAR = 0.05
"""Triangles with a corner nearer than this, in metres, are not drawn."""


@dataclass(frozen=True)
class Window:
    """Rectangle of the picture, half-open."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def empty(self) -> bool:
        return self.x1 <= self.x0 or self.y1 <= self.y0


@dataclass(frozen=True)
class Raster:
    """What was drawn within a window.

    Attributes:
        window: Where.
        attributes: (h, w, 3) float32, interpolated with perspective; 0 where nothing is.
        depth: (h, w) float32 metres, inf where nothing is.
        seen: (h, w) bool.
    """

    window: Window
    attributes: np.ndarray
    depth: np.ndarray
    seen: np.ndarray


def face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals (F, 3) of counter-clockwise faces, twice the face's area long."""
    # Column by column: several times as fast as np.cross over gathered rows.
    x, y, z = np.ascontiguousarray(vertices.T)
    a, b, c = np.ascontiguousarray(faces.T)
    xa, ya, za = x[a], y[a], z[a]
    px, py, pz = x[b] - xa, y[b] - ya, z[b] - za
    qx, qy, qz = x[c] - xa, y[c] - ya, z[c] - za
    out = np.empty((len(faces), 3), vertices.dtype)
    out[:, 0] = py * qz - pz * qy
    out[:, 1] = pz * qx - px * qz
    out[:, 2] = px * qy - py * qx
    return out


def extent(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest coordinates (D,) of points (N, D); column by column, which numpy does ten times as fast."""
    columns = [np.ascontiguousarray(c) for c in points.T]
    return np.array([c.min() for c in columns]), np.array([c.max() for c in columns])


def bounds(vertices: np.ndarray, camera: Camera, height: int, width: int) -> Window:
    """The part of the picture that these points (V, 3) of the camera frame, all before it, take up."""
    if not len(vertices):
        return Window(0, 0, 0, 0)
    low, high = extent(camera.project(vertices))
    x0, y0 = np.clip(np.floor(low) - 2, 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(high) + 3, 0, (width, height)).astype(int)
    return Window(int(x0), int(y0), int(x1), int(y1))


def rasterize(
    vertices: np.ndarray, faces: np.ndarray, attributes: np.ndarray, camera: Camera, window: Window
) -> Raster:
    """Draw triangles, both sides, the nearer before the farther.

    Args:
        vertices: (V, 3) camera frame, metres.
        faces: (F, 3); those with a corner behind `NEAR` must be left out.
        attributes: (V, 3) to interpolate.
        camera: Pinhole camera of the whole picture.
        window: What to draw of it.
    """
    h, w = window.y1 - window.y0, window.x1 - window.x0
    out = np.zeros((h, w, 3), np.float32)
    if not len(faces) or window.empty:
        return Raster(window, out, np.full((h, w), np.inf, np.float32), np.zeros((h, w), bool))
    deepest = float(vertices[:, 2].max())
    far = 1.5 * deepest
    depth = np.full((h, w), far, np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    cv2.triangleRasterize(
        _sheared(vertices, camera, window)[None],
        np.ascontiguousarray(faces, np.int32)[None],
        np.ascontiguousarray(attributes, np.float32)[None],
        out,
        depth,
        np.eye(4, dtype=np.float32),
        np.pi / 2,
        NEAR / 2,
        far,
        settings,
    )
    # The rasteriser rounds what it does not touch, too.
    seen = depth < 1.2 * deepest
    depth[~seen] = np.inf
    return Raster(window, out, depth, seen)


def rasterize_depth(vertices: np.ndarray, faces: np.ndarray, camera: Camera, window: Window) -> np.ndarray:
    """Depth (h, w) float32 in metres alone, far away where nothing is; at half the cost. Arguments as `rasterize`."""
    far = 1.5 * float(vertices[:, 2].max())
    depth = np.full((window.y1 - window.y0, window.x1 - window.x0), far, np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    cv2.triangleRasterizeDepth(
        _sheared(vertices, camera, window)[None],
        np.ascontiguousarray(faces, np.int32)[None],
        depth,
        np.eye(4, dtype=np.float32),
        np.pi / 2,
        NEAR / 2,
        far,
        settings,
    )
    return depth


def _sheared(vertices: np.ndarray, camera: Camera, window: Window) -> np.ndarray:
    """Vertices as the rasteriser wants them.

    It knows a camera that looks along -z with y up and one vertical field of view; any pinhole camera is brought to it
    by shearing the vertices, which keeps depth.
    """
    h, w = window.y1 - window.y0, window.x1 - window.x0
    x, y, z = vertices.T
    # A right angle of view gives a focal length of half the height; the first pixel's centre is at .5 there.
    half = h / 2
    out = np.empty((len(vertices), 3), np.float32)
    out[:, 0] = (camera.fx * x + (camera.cx + 0.5 - window.x0 - w / 2) * z) / half
    out[:, 1] = -(camera.fy * y + (camera.cy + 0.5 - window.y0 - h / 2) * z) / half
    out[:, 2] = -z
    return out
