"""Collars: a stand around the neck and a flap that turns about the fold between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from models.perception.mesh_render import vertex_normals
from pipelines.studio.garments import mesh
from pipelines.studio.garments.cut import Cloth
from pipelines.studio.garments.mannequin import Mannequin
from pipelines.studio.garments.spec import GarmentSpec

TURNS = 9
_COLUMNS = 48
_STAND_ROWS = 3
_FLAP_ROWS = 6
_THICK_M = 0.0022


@dataclass(frozen=True)
class Collar:
    """A collar at rest.

    Attributes:
        keys: (TURNS, N, 3) float32 metres: lying on the shoulders to turned up, in equal steps of the turn.
        faces: (F, 3) int32; all sides of it are closed surfaces with a thickness.
        weights: (N, J) skinning weights.
        base: (N, len(cloth)) sparse: of which vertices of the cloth's neckline each one's foot is made.
        uv_m: (N, 2) metres along the neckline and across.
        grid: (rows, columns) vertices of its outer side, from the neckline to the flap's edge; columns from the front's
            middle over the person's left around to the front again.
        side: (N,) +1 on the left half, -1 on the right.
    """

    keys: np.ndarray
    faces: np.ndarray
    weights: csr_matrix
    base: csr_matrix
    uv_m: np.ndarray
    grid: np.ndarray
    side: np.ndarray

    def at(self, turn: float) -> np.ndarray:
        """(N, 3) at rest, turned by 0 to 1."""
        at = np.clip(turn, 0, 1) * (TURNS - 1)
        k = min(int(at), TURNS - 2)
        return (1 - (at - k)) * self.keys[k] + (at - k) * self.keys[k + 1]


def neck_loop(cloth: Cloth) -> np.ndarray:
    """Vertices of the neckline from the front's middle over the person's left around to the front again."""
    v = cloth.vertices
    loop = max(mesh.boundary_loops(cloth.faces), key=lambda l: v[l, 2].mean())
    ahead = loop[v[loop, 1] < v[loop, 1].mean()]
    front = ahead[np.abs(cloth.beneath[ahead, 0]).argmin()]
    loop = np.roll(loop, -int(np.flatnonzero(loop == front)[0]))
    quarter = loop[len(loop) // 4]
    if v[quarter, 0] < 0:
        loop = np.concatenate([loop[:1], loop[:0:-1]])
    return np.append(loop, loop[0])


def make_collar(m: Mannequin, spec: GarmentSpec, cloth: Cloth) -> Collar:
    """A collar that fits the neckline of a garment."""
    loop = neck_loop(cloth)
    line = cloth.vertices[loop]
    long = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.linspace(0, long[-1], _COLUMNS)
    mix = _resampler(long, at, loop, len(cloth.vertices))
    base = mix @ cloth.vertices
    base[1:-1] = gaussian_filter1d(base, 1.5, axis=0)[1:-1]
    u = at / at[-1]
    front = np.exp(-((np.minimum(u, 1 - u) / 0.10) ** 2))
    sign = np.where(u < 0.5, 1.0, -1.0)
    axis = m.joint("neck03") - m.joint("neck01")
    up = axis / np.linalg.norm(axis)
    out = base - base.mean(0)
    out -= (out @ up)[:, None] * up
    out /= np.linalg.norm(out, axis=1, keepdims=True)
    stand = 0.030 - 0.006 * front if spec.neck == "collar" else np.full(_COLUMNS, 0.024)
    flap = spec.collar_m * (0.85 + (0.22 if spec.neck == "collar" else 0.1) * front)
    # The tips of a collar point away from each other.
    tip = front[:, None] * sign[:, None] * np.array([0.55, 0.0, 0.0])
    cloth_tree, cloth_normals = cKDTree(cloth.vertices), vertex_normals(cloth.vertices, cloth.faces)
    near = (m.head_weight < 0.95) & (m.shape.vertices[:, 2] > m.armpit_z)
    skin, skin_normals = m.shape.vertices[near], m.normals[near]
    skin_tree = cKDTree(skin)

    def outside(points: np.ndarray, gap: np.ndarray) -> np.ndarray:
        x = points.copy()
        for tree, at_points, normals, least in (
            (skin_tree, skin, skin_normals, 0.004 + gap),
            (cloth_tree, cloth.vertices, cloth_normals, gap),
        ):
            distance, n = tree.query(x, distance_upper_bound=0.05)
            ok = np.isfinite(distance)
            n = np.where(ok, n, 0)
            depth = least - ((x - at_points[n]) * normals[n]).sum(-1)
            x += np.where(ok, np.maximum(depth, 0), 0)[:, None] * normals[n]
        return x

    rows_s = np.linspace(0, 1, _STAND_ROWS)[:, None]
    inner = base - 0.004 * up + rows_s[..., None] * stand[None, :, None] * (up - 0.05 * out)
    inner = outside(inner.reshape(-1, 3), np.repeat([-0.004, 0.0, 0.0], _COLUMNS)).reshape(inner.shape)
    fold = inner[-1]
    keys = []
    for turn in np.linspace(0, 1, TURNS):
        # A collar that lies down is bent back about the fold, in a curve: the flap cannot lie in the stand.
        angle = np.radians(155 - 150 * turn)
        flaps: list[np.ndarray] = []
        for k in range(1, _FLAP_ROWS + 1):
            t = k / _FLAP_ROWS
            a = angle * min(1.0, 2.2 * t) if turn < 0.9 else angle * t
            way = np.cos(a) * up + np.sin(a) * out + (0.25 + 0.75 * np.sin(angle / 2) ** 2) * tip * min(1.0, 1.6 * t)
            last = flaps[-1] if flaps else fold
            step = (flap / _FLAP_ROWS)[:, None] * way / np.linalg.norm(way, axis=1, keepdims=True)
            flaps.append(outside(last + step, np.full(_COLUMNS, 0.0055)))
        outer = np.concatenate([inner, np.stack(flaps)])
        outer[:, 1:-1] = 0.5 * outer[:, 1:-1] + 0.25 * (outer[:, 2:] + outer[:, :-2])
        keys.append(outer)
    rows = _STAND_ROWS + _FLAP_ROWS
    index = np.arange(rows * _COLUMNS).reshape(rows, _COLUMNS)
    faces = mesh.grid_faces(index[::-1])
    both = np.concatenate([faces, faces[:, ::-1] + rows * _COLUMNS])
    # The rim that closes the two sides: along the flap's edge and up the front.
    ring = np.concatenate([index[:, 0], index[-1, 1:], index[-2::-1, -1]])
    under = ring + rows * _COLUMNS
    a, b, c, d = ring[:-1], ring[1:], under[:-1], under[1:]
    rim = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)])
    solid = []
    for outer in keys:
        flat = outer.reshape(-1, 3)
        n = vertex_normals(flat, faces)
        solid.append(np.concatenate([flat, flat - _THICK_M * n]))
    foot = csr_matrix(_tiled(mix, rows * 2))
    across = np.linspace(0, 1, rows)[:, None] * (stand + flap)[None]
    uv = np.stack([np.broadcast_to(at, across.shape), across], -1).reshape(-1, 2)
    return Collar(
        np.stack(solid).astype(np.float32),
        np.concatenate([both, rim]).astype(np.int32),
        csr_matrix(foot @ cloth.weights),
        foot,
        np.tile(uv, (2, 1)),
        index,
        np.tile(np.tile(sign, rows), 2),
    )


def _resampler(long: np.ndarray, at: np.ndarray, loop: np.ndarray, count: int) -> csr_matrix:
    low = np.clip(np.searchsorted(long, at, "right") - 1, 0, len(long) - 2)
    f = (at - long[low]) / np.maximum(long[low + 1] - long[low], 1e-9)
    rows = np.arange(len(at))
    return csr_matrix(
        (np.concatenate([1 - f, f]), (np.tile(rows, 2), np.concatenate([loop[low], loop[low + 1]]))),
        shape=(len(at), count),
    )


def _tiled(matrix: csr_matrix, times: int) -> csr_matrix:
    return csr_matrix(vstack([matrix] * times))
