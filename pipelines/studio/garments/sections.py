"""Cross-sections of meshes, and surfaces as distances from an axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull, QhullError


def section(vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Where a plane cuts a mesh.

    Args:
        vertices: (V, 3).
        faces: (F, 3).
        origin: (3,) a point of the plane.
        frame: (3, 3) rows: the plane's two axes and its normal.

    Returns:
        (S, 2, 2) segments in the plane's axes, from the origin.
    """
    local = (vertices - origin) @ frame.T
    side = local[:, 2] > 0
    s = side[faces]
    crossing = faces[(s.any(1)) & ~(s.all(1))]
    ends = []
    for a, b in ((0, 1), (1, 2), (2, 0)):
        p, q = local[crossing[:, a]], local[crossing[:, b]]
        cut = side[crossing[:, a]] != side[crossing[:, b]]
        t = np.divide(p[:, 2], p[:, 2] - q[:, 2], out=np.zeros(len(p)), where=cut)
        ends.append(np.where(cut[:, None], p[:, :2] + t[:, None] * (q[:, :2] - p[:, :2]), np.nan))
    stacked = np.stack(ends, 1)
    have = np.isfinite(stacked[..., 0])
    order = np.argsort(~have, axis=1, kind="stable")[:, :2]
    return np.take_along_axis(stacked, order[..., None], 1)


def ray_radius(segments: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Farthest distance (A,) at which rays from the origin meet segments (S, 2, 2); 0 where they meet none.

    An angle of 0 is along the second axis turned to its negative, and grows towards the first axis.
    """
    if not len(segments):
        return np.zeros(len(angles))
    d = np.stack([np.sin(angles), -np.cos(angles)], -1)[:, None]
    p, q = segments[None, :, 0], segments[None, :, 1]
    e = q - p
    cross = d[..., 0] * e[..., 1] - d[..., 1] * e[..., 0]
    along = (p[..., 0] * e[..., 1] - p[..., 1] * e[..., 0]) / np.where(np.abs(cross) < 1e-15, np.inf, cross)
    side_p = d[..., 0] * p[..., 1] - d[..., 1] * p[..., 0]
    side_q = d[..., 0] * q[..., 1] - d[..., 1] * q[..., 0]
    hit = (side_p * side_q <= 0) & (along > 0)
    return np.where(hit, along, 0.0).max(1)


def hull_radius(points: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """`ray_radius` of the convex hull of points (P, 2); 0 if they have none."""
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        return np.zeros(len(angles))
    return ray_radius(points[hull.simplices], angles)


def directions(angles: np.ndarray) -> np.ndarray:
    """(A, 2) what `ray_radius` takes an angle for."""
    return np.stack([np.sin(angles), -np.cos(angles)], -1)


@dataclass(frozen=True)
class PolarMap:
    """A surface around an upright axis, as its distance from the axis for each height and angle.

    Attributes:
        heights: (H,) z of each row, ascending in equal steps, metres.
        centre_y: (H,) y of the axis, whose x is 0.
        radius: (H, A) metres over equal angles from -pi to pi, both ends; an angle of 0 is the front, pi / 2 the left.
    """

    heights: np.ndarray
    centre_y: np.ndarray
    radius: np.ndarray

    def _row(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = (z - self.heights[0]) / (self.heights[1] - self.heights[0])
        at = np.clip(at, 0, len(self.heights) - 1.001)
        low = at.astype(int)
        return low, at - low

    def centre(self, z: np.ndarray) -> np.ndarray:
        """y of the axis at heights z."""
        i, f = self._row(z)
        return (1 - f) * self.centre_y[i] + f * self.centre_y[i + 1]

    def polar(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Angle and distance from the axis of points (N, 3)."""
        y = points[:, 1] - self.centre(points[:, 2])
        return np.arctan2(points[:, 0], -y), np.hypot(points[:, 0], y)

    def at(self, angle: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance of the surface from the axis, metres."""
        i, f = self._row(z)
        columns = self.radius.shape[1]
        a = (angle + np.pi) / (2 * np.pi) * (columns - 1)
        a = np.clip(a, 0, columns - 1.001)
        j = a.astype(int)
        g = a - j
        r = self.radius
        low = (1 - g) * r[i, j] + g * r[i, j + 1]
        high = (1 - g) * r[i + 1, j] + g * r[i + 1, j + 1]
        return (1 - f) * low + f * high

    def point(self, angle: np.ndarray, radius: np.ndarray, z: np.ndarray) -> np.ndarray:
        """(N, 3) from angle, distance and height."""
        return np.stack([radius * np.sin(angle), self.centre(z) - radius * np.cos(angle), z], -1)
