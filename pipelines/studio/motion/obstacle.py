"""What a hand may not enter: the cloth of the torso and the bare body beneath it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from models.perception.mesh_render import vertex_normals
from pipelines.studio.body.rig import Posed, Rig, Shape

SOLID = (
    "root", "spine05", "spine04", "spine03", "spine02", "spine01", "clavicle.L", "clavicle.R", "neck01", "neck02",
    "neck03", "head", "pelvis.L", "pelvis.R", "upperleg01.L", "upperleg01.R", "upperleg02.L", "upperleg02.R",
)  # fmt: skip
"""Bones of the part that a hand cannot pass through."""


@dataclass(frozen=True)
class Obstacle:
    """Points with normals, of one frame.

    Attributes:
        points: Shape (N, 3), metres; cloth first.
        normals: Shape (N, 3), unit length, outwards.
        cloth: How many of the points are cloth.
        tree: Over the points.
    """

    points: np.ndarray
    normals: np.ndarray
    cloth: int
    tree: cKDTree

    def way_out(self, hand: np.ndarray, margin: float) -> np.ndarray:
        """(3,) metres by which a hand's skin (V, 3) moves so that no part of it is nearer than `margin`.

        Part of it may still be after three pushes, where cloth and body are on both of its sides.
        """
        moved = np.zeros(3)
        for _ in range(3):
            distance, nearest = self.tree.query(hand + moved, distance_upper_bound=0.05 + margin)
            found = np.flatnonzero(np.isfinite(distance))
            if not len(found):
                break
            normal = self.normals[nearest[found]]
            depth = margin - ((hand[found] + moved - self.points[nearest[found]]) * normal).sum(-1)
            if depth.max() <= 1e-4:
                break
            way = normal[depth > 0.5 * depth.max()].mean(0)
            moved += depth.max() * way / max(np.linalg.norm(way), 1e-6)
        # Should an arm have ended up deep inside of the body, a push of its width would only hide that.
        moved *= min(1.0, 0.15 / max(float(np.linalg.norm(moved)), 1e-9))
        return moved


class Torso:
    """The solid part of a person in a garment; makes the obstacle of each frame.

    Args:
        rig: The rig.
        shape: The person.
        cloth: Vertices of the garment at rest, (N, 3).
    """

    def __init__(self, rig: Rig, shape: Shape, cloth: np.ndarray):
        self._rig, self._shape = rig, shape
        body = np.asarray(rig.weights[:, [rig.index(n) for n in SOLID]].sum(1)).ravel() > 0.6
        self._solid = np.flatnonzero(body)[::3]
        self._solid_normals = vertex_normals(shape.vertices, rig.faces)[self._solid]
        # Sleeves go with the arms: a hand is always near its own cuff, which tells nothing.
        _, beneath = cKDTree(shape.vertices).query(cloth)
        self.cloth = np.flatnonzero(body[beneath])
        """Vertices of the garment that lie on the torso."""

    def obstacle(self, posed: Posed, cloth: np.ndarray, normals: np.ndarray) -> Obstacle:
        """Of a frame; `cloth` and `normals` (N, 3) are those of the whole garment."""
        body, body_normals = self._skin(posed)
        points = np.concatenate([cloth[self.cloth], body])
        normals = np.concatenate([normals[self.cloth], body_normals])
        return Obstacle(points, normals, len(self.cloth), cKDTree(points, balanced_tree=False))

    def _skin(self, posed: Posed) -> tuple[np.ndarray, np.ndarray]:
        weights = self._rig.weights[self._solid]
        skin = posed.skin(self._shape.vertices[self._solid], weights)
        turn = (weights @ posed.rotations.reshape(-1, 9)).reshape(-1, 3, 3)
        normals = np.einsum("nab,nb->na", turn, self._solid_normals)
        return skin, normals / np.linalg.norm(normals, axis=1, keepdims=True)
