"""Small things on cloth: rims that give it thickness, zip teeth and slider, placket and buttons, cuffs.

They sit on vertices of the cloth with an offset at rest, and go wherever these go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.studio.garments import mesh
from pipelines.studio.garments.drape import Worn

THICKNESS_M = 0.0026


@dataclass(frozen=True)
class Trim:
    """Geometry that sits on cloth.

    Attributes:
        source: (K,) vertices of the cloth.
        offset: (K, 3) float32 metres at rest.
        faces: (F, 3) int32.
        uv_shift: (K, 2) metres from the source's place in the texture.
    """

    source: np.ndarray
    offset: np.ndarray
    faces: np.ndarray
    uv_shift: np.ndarray

    def vertices(self, worn: Worn) -> np.ndarray:
        """(K, 3) metres, world."""
        return worn.offset(self.source, self.offset)


def joined(trims: list[Trim]) -> Trim:
    """Several as one."""
    counts = np.cumsum([0, *(len(t.source) for t in trims)])
    return Trim(
        np.concatenate([t.source for t in trims]),
        np.concatenate([t.offset for t in trims]).astype(np.float32),
        np.concatenate([t.faces + c for t, c in zip(trims, counts)]).astype(np.int32),
        np.concatenate([t.uv_shift for t in trims]),
    )


def make_rims(normals: np.ndarray, faces: np.ndarray, drawn: np.ndarray) -> tuple[Trim, np.ndarray]:
    """The turned edges of all openings of cloth.

    Args:
        normals: (N, 3) unit, of the cloth's vertices.
        faces: (F, 3) the cloth.
        drawn: (F, 3) the same faces in terms of the texture's vertices, of which there are several at seams.

    Returns:
        The rims, and (K,) the texture's vertex of each of their vertices.
    """
    ends = np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2).astype(np.int64)
    width = int(faces.max()) + 1
    open_edge = ~np.isin(ends[:, 0] * width + ends[:, 1], ends[:, 1] * width + ends[:, 0])
    places = np.stack([drawn, np.roll(drawn, -1, 1)], -1).reshape(-1, 2)[open_edge]
    unique, first, inverse = np.unique(places.ravel(), return_index=True, return_inverse=True)
    source = ends[open_edge].ravel()[first]
    a, b = inverse.reshape(-1, 2).T
    k = len(unique)
    offset = np.concatenate([np.zeros((k, 3)), -THICKNESS_M * normals[source]])
    quads = np.concatenate([np.stack([a, a + k, b], -1), np.stack([b, a + k, b + k], -1)])
    rims = Trim(np.tile(source, 2), offset.astype(np.float32), quads.astype(np.int32), np.zeros((2 * k, 2)))
    return rims, np.tile(unique, 2)


def make_ribbon(line: np.ndarray, vertices: np.ndarray, normals: np.ndarray, x0: float, x1: float, lift: float) -> Trim:
    """A ribbon beside a line of vertices that runs downwards, from x0 to x1 metres sideways, `lift` above the cloth."""
    along = np.gradient(vertices[line], axis=0)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    n = normals[line]
    across = np.cross(n, -along)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    across *= np.sign(across[:, :1] + 1e-12)
    rows = [x0 * across, x0 * across + lift * n, x1 * across + lift * n, x1 * across]
    k = len(line)
    index = np.arange(4 * k).reshape(4, k).T
    shift = np.array([[x, 0.0] for x in (x0, x0, x1, x1)])
    return Trim(np.tile(line, 4), np.concatenate(rows), mesh.grid_faces(index), np.repeat(shift, k, 0))


def make_buttons(line: np.ndarray, vertices: np.ndarray, normals: np.ndarray, spacing: float, radius: float) -> Trim:
    """Round buttons on a line of vertices that runs downwards."""
    z = vertices[line, 2]
    wanted = np.arange(z[0] - 0.025, z[-1] + 0.05, -spacing)
    angle = np.linspace(0, 2 * np.pi, 11)[:-1]
    trims = []
    for height in wanted:
        spot = int(line[np.abs(z - height).argmin()])
        n = normals[spot]
        side = np.cross([0.0, 0.0, 1.0], n)
        side /= np.linalg.norm(side)
        ring = radius * (np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.cross(n, side))
        offset = np.concatenate([ring + 0.0018 * n, 0.92 * ring + 0.0042 * n, [0.0036 * n]])
        a, b = np.arange(10), np.roll(np.arange(10), -1)
        faces = [
            np.stack([a, b, a + 10], -1),
            np.stack([b, b + 10, a + 10], -1),
            np.stack([a + 10, b + 10, np.full(10, 20)], -1),
        ]
        trims.append(Trim(np.full(21, spot), offset, np.concatenate(faces), np.zeros((21, 2))))
    return joined(trims)


def slider_mesh() -> tuple[np.ndarray, np.ndarray]:
    """A zip's slider with its pull: vertices (N, 3) as (left, down, out) metres, and faces."""
    # half width, top, bottom, inner, outer side of each box.
    boxes = [(0.0065, -0.009, 0.009, -0.001, 0.005), (0.004, 0.004, 0.036, 0.0052, 0.0075)]
    vertices, faces = [], []
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    for n, (half, top, bottom, low, high) in enumerate(boxes):
        # Wider at its mouth than where the teeth have met.
        corners = [
            (s * half * (1.15 if d == top else 0.85), d, o) for s in (-1, 1) for d in (top, bottom) for o in (low, high)
        ]
        vertices += corners
        for a, b, c, d in quads:
            faces += [(8 * n + a, 8 * n + b, 8 * n + c), (8 * n + a, 8 * n + c, 8 * n + d)]
    return np.array(vertices), np.array(faces, np.int32)


def cuff_faces(rows: int, columns: int) -> np.ndarray:
    """Faces of a closed band of `rows` rings of `columns` vertices."""
    index = np.arange(rows * columns).reshape(rows, columns)
    index = np.column_stack([index, index[:, 0]])
    # Its outline runs from the hand upwards, while rows of a grid run downwards.
    return mesh.grid_faces(np.vstack([index, index[:1]])[::-1])


def rolled_thickness(roll: float) -> float:
    """Metres that a cuff stands out from the sleeve."""
    return 0.0022 + 0.0058 * min(1.0, roll / 0.25)


def cuff_profile(roll: float, length: float) -> np.ndarray:
    """Outline of a sewn or rolled cuff, (K, 2) metres: along the sleeve from its end (to the hand), and out of it."""
    thick = rolled_thickness(roll)
    outline = [
        (0.001, -0.004),
        (0.0025, 0.55),
        (0.0, 0.95),
        (-0.1, 1.0),
        (-0.5, 0.9),
        (-0.92, 0.85),
        (-1.0, 0.5),
        (-1.0, -0.1),
    ]
    rows = []
    for along, out in outline:
        ds = along * length if along < 0 else along
        rows.append((ds, out * thick if out > 0 else out * 0.1))
    return np.array(rows)
