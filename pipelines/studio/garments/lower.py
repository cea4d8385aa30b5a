"""Clothes of the other half of the body: trousers, shorts or a skirt, and shoes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from pipelines.studio.body.rig import Posed, Rig, Shape
from pipelines.studio.cloth import Label, Part
from pipelines.studio.garments import mesh
from pipelines.studio.garments.cut import nearest_weights, relax
from pipelines.studio.garments.drape import pruned
from pipelines.studio.garments.mannequin import SIDES, Mannequin, mannequin_of
from pipelines.studio.garments.sections import hull_radius
from pipelines.studio.garments.unwrap import TEXTURE_M, flattened

LowerKind = Literal["trousers", "shorts", "skirt", "none"]
LOWER, SHOE = "lower", "shoe"
"""Names of textures."""
_SKIRT_COLUMNS = 60
_SHOE_ROWS, _SHOE_COLUMNS = 16, 28


class LowerClothes:
    """Trousers, shorts or a skirt, and shoes.

    Attributes:
        kind: Which of them; none for shoes alone.
        covered: (F,) bool over the rig's faces: those that they hide.
    """

    THICK_M = 0.0035
    """How far they stand off the body where a shirt may hang over them, metres."""

    def __init__(self, rig: Rig, shape: Shape, kind: LowerKind = "trousers", seed: int = 0):
        if kind not in ("trousers", "shorts", "skirt", "none"):
            raise ValueError(f"unknown lower clothes {kind!r}; there are trousers, shorts, skirt and none")
        self.rig, self.shape, self.kind = rig, shape, kind
        rng = np.random.default_rng([seed, 3])
        m = mannequin_of(rig, shape)
        self._sheets: list[tuple[str, np.ndarray, csr_matrix, np.ndarray, np.ndarray, str]] = []
        hidden = np.zeros(len(shape.vertices), bool)
        top = m.waist_z - float(rng.uniform(0.0, 0.04))
        if kind in ("trousers", "shorts"):
            hidden |= self._make_trousers(m, rng, top, kind == "shorts")
        elif kind == "skirt":
            hidden |= self._make_skirt(m, rng, top)
        hidden |= self._make_shoes(m)
        self.covered = hidden[rig.faces].all(1)

    @classmethod
    def sample(cls, rig: Rig, shape: Shape, category: str, rng: np.random.Generator) -> LowerClothes:
        """What goes with a garment of a category (upper_body or dresses)."""
        if category == "dresses":
            return cls(rig, shape, "none", int(rng.integers(2**31)))
        kind: LowerKind = ("trousers", "shorts", "skirt")[int(rng.choice(3, p=[0.66, 0.17, 0.17]))]  # type: ignore[assignment]
        return cls(rig, shape, kind, int(rng.integers(2**31)))

    def parts(self, posed: Posed) -> list[Part]:
        """All of them in a pose."""
        out = []
        for name, rest, weights, faces, uv, texture in self._sheets:
            blended = (weights @ posed.affine.reshape(-1, 12).astype(np.float32)).reshape(-1, 3, 4)
            x = blended[:, :, 0] * rest[:, :1] + blended[:, :, 1] * rest[:, 1:2] + blended[:, :, 2] * rest[:, 2:]
            gloss = 0.25 if texture == SHOE else 0.03
            out.append(Part(x + blended[:, :, 3], faces, uv, texture, Label.LOWER, texture == LOWER, gloss, name))
        return out

    def _add(
        self, name: str, rest: np.ndarray, weights: csr_matrix, faces: np.ndarray, uv: np.ndarray, texture: str
    ) -> None:
        self._sheets.append(
            (
                name,
                rest.astype(np.float32),
                pruned(weights),
                faces.astype(np.int32),
                np.clip(uv, 0, 1).astype(np.float32),
                texture,
            )
        )

    def _make_trousers(self, m: Mannequin, rng: np.random.Generator, top: float, short: bool) -> np.ndarray:
        v = self.shape.vertices
        ankle = float(m.joint("foot.L")[2])
        knee = float(m.joint("lowerleg01.L")[2])
        low = knee + rng.uniform(0.02, 0.16) if short else ankle + rng.uniform(-0.005, 0.03)
        arms = m.arm_weight["left"] + m.arm_weight["right"]
        near = (v[:, 2] < top + 0.05) & (v[:, 2] > low - 0.05) & (arms < 0.1)
        patch = mesh.keep(mesh.whole_body(self.rig.faces, len(v)), near[self.rig.faces].all(1))
        for plane in (lambda p: top - p[:, 2], lambda p: p[:, 2] - low):
            patch = mesh.clip(patch, plane(patch.mix @ v))
        # The seam between front and back runs down the middle of each leg's side.
        line = [(m.joint(n)[2], m.joint(n)[1]) for n in ("foot.L", "lowerleg01.L", "upperleg01.L")]
        line.append((m.waist_z, float(m.hull.centre(np.array([m.waist_z]))[0])))
        heights, depths = np.array(line).T
        patch = mesh.split_at(patch, (patch.mix @ v)[:, 1] - np.interp((patch.mix @ v)[:, 2], heights, depths))
        p, n = patch.mix @ v, patch.mix @ m.normals
        n /= np.linalg.norm(n, axis=1, keepdims=True)
        wide = rng.uniform(0.010, 0.026) if short else rng.uniform(0.006, 0.024)
        down = np.clip((m.crotch_z - 0.01 - p[:, 2]) / 0.30, 0, 1)
        clearance = self.THICK_M + wide * down
        mean = mesh.neighbour_mean(patch.faces, len(p))
        smooth = n.copy()
        for _ in range(6):
            smooth += 0.5 * (mean @ smooth - smooth)
        smooth /= np.linalg.norm(smooth, axis=1, keepdims=True)
        rest = relax(p + clearance[:, None] * smooth, mean, np.ones(len(p)), p, smooth, clearance, 30)
        # Creases behind the knee and above the shoe.
        for at, high in ((knee, 0.004), (low + 0.05, 0.005 if not short else 0.0), (m.crotch_z - 0.02, 0.003)):
            window = np.exp(-(((p[:, 2] - at) / 0.07) ** 2))
            wave = np.cos(
                2 * np.pi * p[:, 2] / rng.uniform(0.04, 0.06) + 14 * p[:, 0] * rng.uniform(0.5, 2) + 9 * p[:, 1]
            )
            rest += (high * window * wave * down)[:, None] * smooth
        rest[:, 2] = np.where(p[:, 2] < low + 1e-3, low, rest[:, 2])
        weights = csr_matrix(patch.mix @ self.rig.weights)
        for _ in range(3):
            weights = csr_matrix(0.5 * weights + 0.5 * (mean @ weights))
        middle = p[patch.faces].mean(1)
        back = middle[:, 1] > np.interp(middle[:, 2], heights, depths)
        keys = patch.faces.astype(np.int64) * 2 + back[:, None]
        unique, inverse = np.unique(keys, return_inverse=True)
        source, faces = (unique // 2).astype(int), inverse.reshape(-1, 3)
        mirrored = np.where(unique % 2 == 1, -1.0, 1.0)
        flat = flattened(rest[source], faces, np.stack([mirrored * rest[source, 0], -rest[source, 2]], -1))
        flat += np.where(unique % 2 == 1, 0.75, 0.25)[:, None] * np.array([TEXTURE_M, 0]) + np.array([0, top + 0.05])
        self._add(self.kind, rest[source], weights[source], faces, flat / TEXTURE_M, LOWER)
        return (v[:, 2] < top - 0.03) & (v[:, 2] > low + 0.04) & (arms < 0.1)

    def _make_skirt(self, m: Mannequin, rng: np.random.Generator, top: float) -> np.ndarray:
        low = float(rng.uniform(m.thigh_z - 0.12, m.thigh_z + 0.06))
        z = np.linspace(top, low, 24)
        angle = np.linspace(-np.pi, np.pi, _SKIRT_COLUMNS + 1)
        gz, ga = (g.ravel() for g in np.meshgrid(z, angle, indexing="ij"))
        body, hull = (t.at(ga, gz).reshape(len(z), -1) for t in (m.body, m.hull))
        radius = body + 0.9 * np.maximum(hull - body, 0) + self.THICK_M
        flare = rng.uniform(0.0, 0.45)
        for k in range(1, len(z)):
            grow = flare * (z[k - 1] - z[k]) * np.clip((0.5 * (m.crotch_z + m.thigh_z) - z[k]) / 0.06, 0, 1)
            radius[k] = np.maximum(radius[k], radius[k - 1] + grow)
        radius[:, :-1] = gaussian_filter(radius[:, :-1], (1, 1), mode=("nearest", "wrap"))
        down = np.clip((m.crotch_z - z) / (m.crotch_z - low), 0, 1)[:, None]
        radius += down**1.4 * 0.03 * flare * np.cos(int(rng.integers(7, 12)) * angle + rng.uniform(0, 6))[None]
        radius[:, -1] = radius[:, 0]
        rest = m.hull.point(ga, radius.ravel(), gz)
        index = np.arange(len(rest)).reshape(radius.shape)
        solid = np.where(body.ravel() > 0.02, body.ravel(), radius.ravel())
        weights = nearest_weights(m, m.hull.point(ga, solid, gz), m.trunk, m.tree)
        faces = mesh.grid_faces(index)
        mean = mesh.neighbour_mean(faces, len(rest))
        for _ in range(8):
            weights = csr_matrix(0.5 * weights + 0.5 * (mean @ weights))
        # The seam at the back has two copies of each vertex, which must move as one.
        weights = csr_matrix(weights)
        both = weights.tolil()
        both[index[:, -1]] = weights[index[:, 0]]
        around = np.cumsum(np.linalg.norm(np.diff(rest[index], axis=1, prepend=rest[index[:, :1]]), axis=-1), axis=1)
        flat = np.stack(
            [
                around - around.mean(1, keepdims=True) + 0.5 * TEXTURE_M,
                np.broadcast_to((top - z + 0.05)[:, None], around.shape),
            ],
            -1,
        )
        self._add("skirt", rest, csr_matrix(both), faces, flat.reshape(-1, 2) / TEXTURE_M, LOWER)
        v = self.shape.vertices
        return (
            (v[:, 2] < top - 0.03)
            & (v[:, 2] > m.crotch_z + 0.02)
            & (m.arm_weight["left"] + m.arm_weight["right"] < 0.1)
        )

    def _make_shoes(self, m: Mannequin) -> np.ndarray:
        v = self.shape.vertices
        hidden = np.zeros(len(v), bool)
        top = float(m.joint("foot.L")[2]) + 0.012
        for side in SIDES:
            foot = (m.leg_weight[side] > 0.5) & (v[:, 2] < top)
            p = v[foot]
            floor = p[:, 2].min()
            y = np.linspace(p[:, 1].max() - 0.004, p[:, 1].min() + 0.004, _SHOE_ROWS)
            angle = np.linspace(-np.pi, np.pi, _SHOE_COLUMNS + 1)[:-1]
            rings = []
            for at in y:
                near = p[np.abs(p[:, 1] - at) < 0.018][:, [0, 2]]
                centre = np.array(
                    [0.5 * (near[:, 0].min() + near[:, 0].max()), 0.5 * (near[:, 1].min() + near[:, 1].max())]
                )
                radius = hull_radius(near - centre, angle) + 0.007
                ring = centre + radius[:, None] * np.stack([np.sin(angle), -np.cos(angle)], -1)
                rings.append(np.column_stack([ring[:, 0], np.full(len(ring), at), ring[:, 1]]))
            grid = np.stack(rings)
            grid = gaussian_filter(grid, (0.8, 0.6, 0), mode=("nearest", "wrap", "nearest"))
            # A sole is flat.
            grid[..., 2] = np.maximum(grid[..., 2], floor - 0.012)
            ends = [grid[k].mean(0) + np.array([0, s * 0.012, -0.004]) for k, s in ((0, 1.0), (-1, -1.0))]
            for k, s in ((0, 1.0), (-1, -1.0)):
                grid[k] = grid[k].mean(0) + 0.86 * (grid[k] - grid[k].mean(0)) + np.array([0, s * 0.006, 0])
            rest = np.concatenate([grid.reshape(-1, 3), ends])
            index = np.arange(_SHOE_ROWS * _SHOE_COLUMNS).reshape(_SHOE_ROWS, _SHOE_COLUMNS)
            closed = np.column_stack([index, index[:, 0]])
            faces = [mesh.grid_faces(closed)]
            for row, tip, turn in ((closed[0], len(rest) - 2, 1), (closed[-1], len(rest) - 1, -1)):
                fan = np.stack([np.full(len(row) - 1, tip), row[:-1], row[1:]], -1)
                faces.append(fan[:, ::turn] if turn < 0 else fan)
            stacked = np.concatenate(faces)
            out = np.einsum(
                "fa,fa->f",
                np.cross(rest[stacked[:, 1]] - rest[stacked[:, 0]], rest[stacked[:, 2]] - rest[stacked[:, 0]]),
                rest[stacked].mean(1) - rest.mean(0),
            )
            if np.median(out) < 0:
                stacked = stacked[:, ::-1].copy()
            members = np.flatnonzero(foot)
            weights = nearest_weights(m, rest, members, cKDTree(v[members]))
            uv = np.full((len(rest), 2), 0.5)
            # A sole of another shade.
            uv[:, 1] = np.where(rest[:, 2] < floor + 0.012, 0.95, 0.3)
            self._add(f"{side} shoe", rest, weights, stacked, uv, SHOE)
            hidden |= (m.leg_weight[side] > 0.5) & (v[:, 2] < top - 0.012)
        return hidden
