"""Sleeves that can be rolled up, and their cuffs."""

from __future__ import annotations

import numpy as np

from pipelines.studio.body.rig import Posed
from pipelines.studio.cloth import Anchor
from pipelines.studio.garments import trim
from pipelines.studio.garments.cut import Cloth
from pipelines.studio.garments.drape import Drape, Worn
from pipelines.studio.garments.mannequin import Mannequin
from pipelines.studio.garments.spec import GarmentSpec
from pipelines.studio.garments.tubes import SLEEVE_COLUMNS
from pipelines.studio.garments.unwrap import TEXTURE_M

_SEWN_M = {"collared_shirt": 0.055, "zip_jacket": 0.045, "long_sleeve": 0.028}
_HIDDEN_M = 0.0035
_TIGHT = 0.6
"""Share of a sleeve's looseness that a roll takes up."""


class Sleeve:
    """The tube of one sleeve.

    Attributes:
        grid: (R, C + 1) vertices, rows towards the end.
        s: (R,) metres along the arm of each row.
        elbow_s: Metres along the arm to the elbow.
        faces: (F, 3) int32 of its cuff.
        uv: (K, 2) float32 of its cuff.
    """

    def __init__(self, m: Mannequin, side: str, cloth: Cloth, spec: GarmentSpec):
        self.grid, self.s, self.spec, self.side = cloth.sleeves[side], cloth.sleeve_s[side], spec, side
        index = self.grid[:, :-1]
        # How far the cloth stands off the arm, on average around it.
        self._loose = np.linalg.norm(cloth.vertices[index] - cloth.beneath[index], axis=-1).mean(1)
        end = f".{side[0].upper()}"
        self.elbow_s = float(np.linalg.norm(m.joint(f"lowerarm01{end}") - m.joint(f"upperarm01{end}")))
        self._chest = m.rig.index("spine01")
        rows = len(trim.cuff_profile(0, 1))
        self.faces = trim.cuff_faces(rows, SLEEVE_COLUMNS)
        around = np.linspace(0, 0.3, SLEEVE_COLUMNS)
        self.uv = np.stack(
            [
                np.tile(0.15 + around / TEXTURE_M, rows),
                np.repeat(0.96 + np.linspace(0, 0.05, rows) / TEXTURE_M, SLEEVE_COLUMNS),
            ],
            -1,
        ).astype(np.float32)

    def end(self, roll: float) -> float:
        """Metres along the arm where it ends."""
        top = min(self.elbow_s + 0.02, self.s[-1])
        return float(self.s[-1] + np.clip(roll, 0, 1) * (top - self.s[-1]))

    def _at(self, rows: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Rings (len(s), C, 3) between rows (R, C, 3) at places s."""
        at = np.interp(s, self.s, np.arange(len(self.s)))
        low = np.minimum(at.astype(int), len(self.s) - 2)
        f = (at - low)[:, None, None]
        return (1 - f) * rows[low] + f * rows[low + 1]

    def roll(self, worn: Worn, normals: np.ndarray, amount: float) -> None:
        """Move the rows beyond the rolled end up to it, in place; `normals` (N, 3) are the cloth's at rest."""
        if amount <= 0:
            return
        index = self.grid[:, :-1]
        end = self.end(amount)
        moved = self.s > end - 1e-6
        if not moved.any():
            return
        turned = np.einsum("rcab,rcb->rca", worn.turn[index], normals[index])
        done = _rolled(amount)
        # A roll sits snugly on the arm; pushed together, the cloth above it bulges.
        tight = np.exp(-(((self.s - end) / 0.035) ** 2)) * _TIGHT * self._loose
        above = np.clip((self.s - end + 0.11) / 0.09, 0, 1) * (self.s < end)
        bulge = 0.004 * above * (0.5 + 0.5 * np.cos(2 * np.pi * (end - self.s) / 0.045))
        worn.vertices[index] += (done * (bulge - tight)[:, None, None] * turned).astype(np.float32)
        ring = self._at(worn.vertices[index], np.array([end]))[0]
        worn.vertices[index[moved]] = ring - _HIDDEN_M * self._out(worn, normals, end)

    def _out(self, worn: Worn, normals: np.ndarray, s: float) -> np.ndarray:
        index = self.grid[:, :-1]
        turned = np.einsum("rcab,rcb->rca", worn.turn[index], normals[index])
        out = self._at(turned, np.array([s]))[0]
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)

    def cuff(self, worn: Worn, normals: np.ndarray, amount: float) -> np.ndarray | None:
        """(K, 3) vertices of its cuff in a frame; None for sleeves that end without."""
        sewn = _SEWN_M.get(self.spec.kind, 0.0)
        if not sewn and amount <= 0:
            return None
        end = self.end(amount)
        length = sewn + (0.05 - sewn) * min(1.0, amount / 0.2)
        profile = trim.cuff_profile(amount, length)
        index = self.grid[:, :-1]
        rings = self._at(worn.vertices[index], np.clip(end + profile[:, 0], self.s[0], end))
        out = self._out(worn, normals, end)
        along = self._at(worn.vertices[index], np.array([end, end - 0.02]))
        if amount > 0:
            # Rows beyond the end lie on it: the last ring before it is what the cuff follows.
            out = rings[0] - rings[0].mean(0)
            way = (along[0] - along[1]).mean(0)
            way = way / max(float(np.linalg.norm(way)), 1e-9)
            out = out - (out @ way)[:, None] * way
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
        tip = (along[0] - along[1]) / 0.02
        beyond = np.maximum(profile[:, 0], 0)[:, None, None]
        return (rings + profile[:, 1][:, None, None] * out + beyond * tip).reshape(-1, 3)

    def anchor(self, drape: Drape, worn: Worn, posed: Posed, amount: float) -> Anchor:
        """The side of the sleeve's end that faces forwards and upwards; `drape` and `worn` hold this sleeve alone."""
        shape = (len(self.s), SLEEVE_COLUMNS, 3)
        rows, rest = worn.vertices.reshape(shape), drape.rest.reshape(shape)
        end = self.end(amount)
        ring, before = self._at(rows, np.array([end, end - 0.04]))
        along = ring.mean(0) - before.mean(0)
        along = along / np.linalg.norm(along)
        out = ring - ring.mean(0)
        want = posed.rotations[self._chest] @ np.array([0.0, -0.75, 0.65])
        want = want - along * (want @ along)
        weight = np.exp(
            4 * (out @ want) / (np.linalg.norm(out, axis=1).mean() * max(float(np.linalg.norm(want)), 1e-6))
        )
        weight = weight / weight.sum()
        normal = weight @ out
        normal = normal - along * (normal @ along)
        normal = normal / np.linalg.norm(normal)
        radius = float(np.linalg.norm(out, axis=1) @ weight)
        # As it lies when it is rolled, see `roll`.
        tight = _TIGHT * float(np.interp(end, self.s, self._loose)) * _rolled(amount)
        thick = trim.rolled_thickness(amount) - tight
        position = ring.mean(0) + (radius + thick) * normal
        at_rest = self._at(rest, np.array([end]))[0]
        return Anchor(
            np.asarray(weight @ at_rest, float), np.asarray(position, float), normal.astype(float), along.astype(float)
        )


def _rolled(amount: float) -> float:
    """0 to 1, how much of a roll there is: it is one after the first turns."""
    return min(1.0, amount / 0.25)
