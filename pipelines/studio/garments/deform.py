"""What hands do to cloth, worked out at rest: there the body stands still, so that cloth can glide over it.

All functions take vertices at rest and return them moved. Cloth glides along the body: where it comes to lie over a
place that sticks out more, it goes outwards with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.studio.cloth import Grab
from pipelines.studio.garments.mannequin import Mannequin

ZIP_GAP_M = 0.085
_ZIP_LENGTH_M = 0.17
_ZIP_REACH_M = 0.13
_SKIN_GAP_M = 0.006


@dataclass(frozen=True)
class Sheet:
    """Vertices of a torso's cloth that actions move.

    Attributes:
        mannequin: The body beneath.
        vertices: (N, 3) metres, at rest.
        normals: (N, 3) unit.
        angle: (N,) around the body, 0 at the front.
        radius: (N,) from the body's axis.
        side: (N,) +1 or -1, which half of a zipped front a vertex belongs to.
        arm: (N,) 0 on the torso, else on a sleeve.
        hem_z: Height of the hem.
        top_z: Height of the zip's upper end.
        moves: (N,) bool, whether actions move a vertex; what is sewn on follows by itself.
        gap_m: Least distance of moved cloth from the body.
    """

    mannequin: Mannequin
    vertices: np.ndarray
    normals: np.ndarray
    angle: np.ndarray
    radius: np.ndarray
    side: np.ndarray
    arm: np.ndarray
    hem_z: float
    top_z: float
    moves: np.ndarray
    gap_m: float = _SKIN_GAP_M

    @classmethod
    def make(
        cls,
        m: Mannequin,
        vertices: np.ndarray,
        normals: np.ndarray,
        side: np.ndarray,
        arm: np.ndarray,
        hem_z: float,
        top_z: float,
        moves: np.ndarray,
    ) -> Sheet:
        """Of vertices at rest; see the attributes."""
        angle, radius = m.hull.polar(vertices)
        return cls(m, vertices, normals, angle, radius, side, arm, hem_z, top_z, moves)

    def slider_z(self, zip_open: float) -> float:
        """Height of a zip's slider."""
        return self.top_z + zip_open * (self.hem_z + 0.045 - self.top_z)

    def glide(self, x: np.ndarray, index: np.ndarray, angle: np.ndarray, z: np.ndarray, out: np.ndarray) -> None:
        """Move vertices `index` of `x` to angles and heights along the body, and `out` metres away from it."""
        hull, body = self.mannequin.hull, self.mannequin.body
        old_angle, old_radius = hull.polar(x[index])
        radius = old_radius + hull.at(angle, z) - hull.at(old_angle, x[index, 2]) + out
        radius = np.maximum(radius, body.at(angle, z) + self.gap_m)
        x[index] = hull.point(angle, radius, z)

    def unzip(self, x: np.ndarray, zip_open: float) -> None:
        """Open a zip from the top: both halves glide sideways above the slider, their edges turn outwards."""
        slider = self.slider_z(zip_open)
        rise = self.vertices[:, 2] - slider
        across = np.abs(self.angle) * self.radius
        # Around the neck a quarter turn is a short way, but it is on another side of the person.
        across = (
            across + np.clip(self.vertices[:, 2] - self.mannequin.armpit_z - 0.03, 0, None) * np.abs(self.angle) * 0.8
        )
        near = (rise > 0) & (across < 2.5 * _ZIP_REACH_M) & (np.abs(self.angle) < 1.5) & (self.arm == 0)
        index = np.flatnonzero(near & self.moves)
        if not len(index):
            return
        rise, across = rise[index], across[index]
        widest = ZIP_GAP_M * (0.55 + 0.45 * zip_open)
        gap = widest * (1 - np.exp(-((rise / _ZIP_LENGTH_M) ** 1.25)))
        fade = np.clip((1.5 - np.abs(self.angle[index])) / 0.7, 0, 1)
        shift = gap * fade * np.exp(-((across / _ZIP_REACH_M) ** 2))
        # What was as wide as the gap bunches up beside it.
        out = gap * fade * (0.22 * np.exp(-across / 0.035) + 0.10 * np.exp(-(((across - 0.08) / 0.04) ** 2)))
        angle, _ = self.mannequin.hull.polar(x[index])
        angle = angle + self.side[index] * shift / np.maximum(self.radius[index], 0.06)
        self.glide(x, index, angle, x[index, 2], out)

    def grabbed(self, x: np.ndarray, grab: Grab, offset: np.ndarray) -> None:
        """Pull at a spot; `offset` (3,) is the grab's in the axes of the rest pose."""
        if not np.any(np.abs(offset) > 1e-5):
            return
        match grab.kind:
            case "hem":
                self._lift(x, grab, offset)
            case "pinch":
                self._pinch(x, grab, offset)
            case _:
                self._rub(x, grab, offset)

    def _lift(self, x: np.ndarray, grab: Grab, offset: np.ndarray) -> None:
        hull = self.mannequin.hull
        at, far = (float(a[0]) for a in hull.polar(grab.anchor[None]))
        outward = np.array([np.sin(at), -np.cos(at), 0.0])
        sideways = np.array([np.cos(at), np.sin(at), 0.0])
        pull, shear, up = float(offset @ outward), float(offset @ sideways), float(offset[2])
        turn = np.angle(np.exp(1j * (self.angle - at)))
        along = turn * np.maximum(self.radius, 0.8 * far)
        height = self.vertices[:, 2] - self.hem_z
        reach = 2.6 * abs(up) + 0.10
        index = np.flatnonzero((height < reach) & (np.abs(along) < 3.2 * grab.radius) & (self.arm == 0) & self.moves)
        along, height = along[index], np.maximum(height[index], 0)
        # The edge hangs from the hand as a tent from its pole: steep beside it, flatter further away.
        fall = np.exp(-(np.sqrt(along**2 + 0.025**2) - 0.025) / (0.62 * grab.radius))
        fade = (1 - height / reach) ** 1.5
        lift = up * fall
        squeezed = height * (1 - lift / reach) + lift
        near = np.exp(-((along / 0.09) ** 2)) * np.exp(-((height / 0.10) ** 2))
        # The cloth between hem and hand has to go somewhere: it bulges in soft folds across and radiates from it.
        slack = np.clip(lift, 0, None)
        bulge = 0.09 * slack * np.sin(np.pi * np.clip(height / reach, 0, 1)) ** 2
        # Irregular, or it looks like a bellows.
        wander = 1.3 * np.sin(9 * along + 7 * squeezed) + 0.9 * np.sin(23 * along - 11 * squeezed + 2)
        crease = np.cos(2 * np.pi * (squeezed / 0.085 + 0.5 * along / grab.radius) + wander)
        bulge = bulge * (1 + (0.45 + 0.25 * np.sin(14 * along + 1)) * crease)
        rays = 0.05 * np.abs(up) * np.cos(2 * np.pi * along / 0.075) * np.exp(-np.abs(along) / 0.12) * fade
        out = pull * fall * fade + bulge + rays
        angle, _ = hull.polar(x[index])
        angle = angle + (shear * fall * fade - 0.35 * along * near) / np.maximum(self.radius[index], 0.06)
        z = x[index, 2] + (self.hem_z + squeezed - np.maximum(self.vertices[index, 2], self.hem_z))
        self.glide(x, index, angle, z, out)

    def _pinch(self, x: np.ndarray, grab: Grab, offset: np.ndarray) -> None:
        way = self.vertices - grab.anchor
        distance = np.sqrt((way**2).sum(1))
        spot = int(distance.argmin())
        same = (self.normals @ self.normals[spot] > 0.1) & (self.arm == self.arm[spot])
        index = np.flatnonzero((distance < 1.8 * grab.radius) & same & self.moves)
        d = distance[index] / grab.radius
        # Held between two fingers, not at a mathematical point.
        d = np.sqrt(d**2 + 0.015) - np.sqrt(0.015)
        tent = np.clip(1 - d / 1.7, 0, 1) ** 2.6
        n = self.normals[spot]
        side = np.cross(n, [0.0, 0.0, 1.0])
        side = side / max(float(np.linalg.norm(side)), 1e-6)
        over = np.cross(side, n)
        around = np.arctan2(way[index] @ over, way[index] @ side)
        size = float(np.linalg.norm(offset))
        # Folds run away from the fingers, mostly against the pull.
        rays = 0.10 * size * np.cos(7 * around + 1.0) * np.exp(-(((d - 0.45) / 0.3) ** 2))
        x[index] += tent[:, None] * offset + rays[:, None] * self.normals[index]
        if self.arm[spot] == 0:
            self._keep_out(x, index)

    def _rub(self, x: np.ndarray, grab: Grab, offset: np.ndarray) -> None:
        hull = self.mannequin.hull
        way = self.vertices - grab.anchor
        distance = np.sqrt((way**2).sum(1))
        spot = int(distance.argmin())
        same = (self.normals @ self.normals[spot] > 0.1) & (self.arm == 0)
        index = np.flatnonzero((distance < 2.2 * grab.radius) & same & self.moves)
        n = self.normals[spot]
        along = offset - n * (offset @ n)
        size = float(np.linalg.norm(along))
        if size < 1e-5:
            return
        pull = np.exp(-((distance[index] / grab.radius) ** 2))
        ahead = way[index] @ (along / size)
        # Pushed together before the hand, the cloth throws small folds across the way.
        ripple = 0.22 * size * np.cos(2 * np.pi * ahead / 0.04) * np.exp(-(((ahead - 0.8 * grab.radius) / 0.05) ** 2))
        ripple = ripple * np.exp(-((distance[index] / (1.5 * grab.radius)) ** 2))
        moved = x[index] + pull[:, None] * along
        angle, _ = hull.polar(moved)
        self.glide(x, index, angle, moved[:, 2], np.maximum(ripple, -0.3 * size))

    def _keep_out(self, x: np.ndarray, index: np.ndarray) -> None:
        hull, body = self.mannequin.hull, self.mannequin.body
        angle, radius = hull.polar(x[index])
        least = body.at(angle, x[index, 2]) + self.gap_m
        low = radius < least
        # Above the shoulders the axis says nothing about what is inside.
        low &= self.vertices[index, 2] < self.mannequin.armpit_z + 0.05
        x[index[low]] = hull.point(angle[low], least[low], x[index[low], 2])
