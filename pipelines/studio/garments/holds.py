"""Where hands can take hold of a garment."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from pipelines.studio.body.rig import Posed
from pipelines.studio.cloth import Anchor, ClothState
from pipelines.studio.garments.collar import Collar
from pipelines.studio.garments.drape import Drape
from pipelines.studio.garments.mannequin import Mannequin
from pipelines.studio.garments.sleeve import Sleeve
from pipelines.studio.garments.zipper import Zip

PLACES = ("zip", "hem", "stretch", "collar", "cuff")


class Holds:
    """Finds anchors without posing the whole garment: a performance asks for several in each frame."""

    def __init__(
        self,
        m: Mannequin,
        drape: Drape,
        count: int,
        hem_z: float,
        collar: Collar | None,
        foot: csr_matrix | None,
        sleeves: dict[str, Sleeve],
        zipped: Zip | None,
    ):
        self._m, self._drape, self._count, self._hem_z = m, drape, count, hem_z
        self._collar, self._foot, self._sleeves, self._zip = collar, foot, sleeves, zipped
        self._known: dict[tuple[str, str], tuple[np.ndarray, Drape]] = {}

    def anchor(self, name: str, side: str, posed: Posed, state: ClothState) -> Anchor:
        """See `Garment.anchor`.

        Raises:
            KeyError: The garment has no such place.
            ValueError: No garment has.
        """
        if name not in PLACES:
            raise ValueError(f"there is no place {name!r} on a garment; there are {', '.join(PLACES)}")
        if name == "zip":
            return self._on_zip(posed, state)
        if name == "collar":
            return self._on_collar(side, posed, state)
        if name == "cuff":
            if side not in self._sleeves:
                raise KeyError(f"{side} cuff")
            _, drape = self._some((name, side), self._sleeves[side].grid[:, :-1].ravel())
            worn = drape.pose(posed, drape.acted(posed, state))
            return self._sleeves[side].anchor(drape, worn, posed, state.sleeve_roll.get(side, 0.0))
        key = (name, side)
        index = self._known[key][0] if key in self._known else self._spot(name, side)
        _, drape = self._some(key, index)
        worn = drape.pose(posed, drape.acted(posed, state))
        normal = worn.turned(drape.normals, np.zeros(1, int))[0]
        down = worn.turn[0] @ np.array([0.0, 0.0, -1.0])
        return _anchor(drape.rest[0], worn.vertices[0], normal, down - normal * (down @ normal))

    def _some(self, key: tuple[str, str], index: np.ndarray) -> tuple[np.ndarray, Drape]:
        if key not in self._known:
            self._known[key] = (index, self._drape.part(index))
        return self._known[key]

    def _on_zip(self, posed: Posed, state: ClothState) -> Anchor:
        if self._zip is None:
            raise KeyError("zip")
        _, drape = self._some(("zip", ""), self._zip.index)
        return self._zip.anchor(drape, drape.pose(posed, drape.acted(posed, state)), state)

    def _on_collar(self, side: str, posed: Posed, state: ClothState) -> Anchor:
        if self._collar is None or self._foot is None:
            raise KeyError("collar")
        sign = 1 if side == "left" else -1
        grid = self._collar.grid
        column = 4 if sign > 0 else grid.shape[1] - 5
        spots = np.array([grid[-1, column], grid[-3, column], grid[-1, column + sign]])
        foot = self._foot[spots]
        feet = np.unique(foot.indices)
        _, drape = self._some(("collar", side), self._count + spots)
        _, below = self._some(("feet", side), feet)
        moved = foot[:, feet] @ (below.acted(posed, state) - below.rest)
        worn = drape.pose(posed, (self._collar.at(state.collar_turn)[spots] + moved).astype(np.float32))
        edge, inside, beside = worn.vertices
        normal = np.cross(edge - inside, beside - edge)
        ahead = posed.rotations[self._m.rig.index("spine01")] @ np.array([0.0, -1.0, 0.2])
        return _anchor(drape.rest[0], edge, normal * (np.sign(normal @ ahead) or 1.0), edge - inside)

    def _spot(self, name: str, side: str) -> np.ndarray:
        sign = 1.0 if side == "left" else -1.0
        m, n = self._m, self._count
        v, normals = self._drape.rest[:n], self._drape.normals[:n]
        half = m.hull.at(np.array([np.pi / 2]), np.array([m.waist_z]))[0]
        # How far from the middle to the side, and how high: in the middle of where cloth can be pinched.
        if name == "hem":
            u, z = 0.55, self._hem_z
        else:
            low, high = m.waist_z - 0.02, m.armpit_z - 0.06
            u, z = 0.4, low + 0.5 * (high - low)
        wanted = np.array([sign * u * 0.9 * half, z])
        front = np.flatnonzero((normals[:, 1] < -0.1) & (self._drape.sheet.arm[:n] == 0))
        if name == "hem":
            front = front[v[front, 2] < self._hem_z + 0.006]
        elif self._zip is not None:
            front = front[self._drape.sheet.side[front] == sign]
        return front[[np.abs(v[front][:, [0, 2]] - wanted).sum(1).argmin()]]


def _anchor(rest: np.ndarray, position: np.ndarray, normal: np.ndarray, along: np.ndarray) -> Anchor:
    unit = [np.asarray(a, float) / max(float(np.linalg.norm(a)), 1e-9) for a in (normal, along)]
    return Anchor(np.asarray(rest, float), np.asarray(position, float), unit[0], unit[1])
