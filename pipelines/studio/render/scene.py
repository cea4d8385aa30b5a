"""All parts of a frame as one mesh in the camera frame, with what lighting and drawing need of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import block_diag, csr_matrix

from models.perception.hands.base import Camera
from pipelines.studio.cloth import Label, Part
from pipelines.studio.render.body import BodyPart
from pipelines.studio.render.camera import StudioCamera
from pipelines.studio.render.raster import NEAR, Window, bounds, face_normals


@dataclass(frozen=True)
class Slot:
    """What pixels with one number show.

    Attributes:
        part: Number of the part in the list.
        label: Its label.
        region: `body.Region`, 0 for what is not skin.
    """

    part: int
    label: Label
    region: int


class Layout:
    """What of a scene does not change while its parts move.

    The back of a two-sided part is a second copy of its vertices, with normals turned round; faces that look away from
    the camera use it. All copies come after all of the parts' own vertices.

    Args:
        parts: Any frame's parts.

    Attributes:
        faces: (F, 3) int32, of the parts' own vertices.
        shift: (F,) int32, from an own vertex to its copy; 0 for faces of one-sided parts.
        source: (V,) own vertex that each vertex is.
        back: (V,) bool, whether a vertex is a copy.
        slot: (V,) float32, number in `slots`.
        soft: (V,) bool, whether it is skin.
        gloss: (V,) float32.
        slots: What the numbers stand for.
    """

    def __init__(self, parts: Sequence[Part]):
        self._parts = tuple(parts)
        self.slots: list[Slot] = []
        own = np.cumsum([0, *(len(p.vertices) for p in parts)])
        copied = np.cumsum([own[-1], *(len(p.vertices) * p.two_sided for p in parts)])
        none = np.zeros((0, 3), np.int32)
        self.faces = np.concatenate([none, *(p.faces + o for p, o in zip(parts, own))]).astype(np.int32)
        shifts = [np.full(len(p.faces), (c - o) * p.two_sided) for p, c, o in zip(parts, copied, own)]
        self.shift = np.concatenate([none[:, 0], *shifts]).astype(np.int32)
        twice = [np.arange(o, o + len(p.vertices)) for p, o in zip(parts, own) if p.two_sided]
        self.source = np.concatenate([np.arange(own[-1]), *twice]).astype(np.intp)
        self.back = np.arange(len(self.source)) >= own[-1]
        self.slot = self._spread([self._number(i, p) for i, p in enumerate(parts)])
        self.soft = self._spread([np.full(len(p.vertices), p.label is Label.SKIN) for p in parts]) > 0
        self.gloss = np.where(self.back, 0, self._spread([np.full(len(p.vertices), p.gloss) for p in parts]))
        self.gloss = self.gloss.astype(np.float32)
        self._around = csr_matrix(block_diag([_around(p) for p in parts])) if parts else csr_matrix((0, 0))

    def _spread(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Values of the parts' vertices, for copies too: (V,) float32."""
        return np.concatenate([np.zeros(0), *values]).astype(np.float32)[self.source]

    def _number(self, number: int, part: Part) -> np.ndarray:
        """Slot of each vertex, made for the part."""
        first = len(self.slots)
        if not isinstance(part, BodyPart):
            self.slots.append(Slot(number, part.label, 0))
            return np.full(len(part.vertices), first)
        present, inverse = np.unique(part.regions, return_inverse=True)
        self.slots += [Slot(number, part.label, int(r)) for r in present]
        return inverse + first

    def fits(self, parts: Sequence[Part]) -> bool:
        """Whether these parts differ from the layout's in where their vertices are, only."""
        return len(parts) == len(self._parts) and all(
            p.faces is q.faces
            and len(p.vertices) == len(q.vertices)
            and (p.label, p.gloss, p.two_sided) == (q.label, q.gloss, q.two_sided)
            and (not isinstance(q, BodyPart) or (isinstance(p, BodyPart) and p.regions is q.regions))
            for p, q in zip(parts, self._parts)
        )

    def normals(self, along: np.ndarray) -> np.ndarray:
        """Unit normals (W, 3) of own vertices from those of faces (F, 3), by area."""
        total = self._around @ along
        length = np.sqrt(np.einsum("ij,ij->i", total, total))
        total /= np.maximum(length, 1e-12)[:, None]
        return total


def _around(part: Part) -> csr_matrix:
    """Which faces meet at each vertex: (V, F), ones."""
    count = len(part.vertices)
    points = np.ascontiguousarray(part.vertices, np.float64)
    # Vertices that were doubled for a seam of the texture share their normal.
    _, same = np.unique(points.view("V24").ravel(), return_inverse=True)
    rows = csr_matrix((np.ones(count, np.float32), (np.arange(count), same)))
    corners = csr_matrix(
        (np.ones(part.faces.size, np.float32), (same[part.faces.ravel()], np.repeat(np.arange(len(part.faces)), 3))),
        shape=(rows.shape[1], len(part.faces)),
    )
    return csr_matrix(rows @ corners)


class Scene:
    """Parts put together in front of a camera. Faces of one-sided parts that look away are left out.

    Args:
        parts: What to draw.
        layout: A layout that fits them.
        camera: Where from.

    Attributes:
        parts: As given.
        layout: As given.
        own: (W, 3) float32 metres, camera frame: the parts' own vertices.
        normals: (W, 3) float32, unit, of the parts' own vertices.
        along: (F, 3) float32, normals of the layout's faces, not unit.
        vertices: (V, 3) float32 metres, camera frame, copies too.
        faces: (G, 3) int32, those to draw.
        used: (U,) vertices that faces use.
    """

    def __init__(self, parts: Sequence[Part], layout: Layout, camera: StudioCamera):
        self.parts, self.layout = parts, layout
        world = np.concatenate([np.zeros((0, 3)), *(p.vertices for p in parts)])
        own = camera.to_camera(world).astype(np.float32)
        faces = layout.faces
        self.own, self.along = own, face_normals(own, faces)
        self.normals = layout.normals(self.along)
        away = np.einsum("ij,ij->i", self.along, own[faces[:, 0]]) >= 0
        drawn = ~away | (layout.shift > 0)
        if len(own) and own[:, 2].min() <= NEAR:
            # A face with a corner at the camera has no place in the picture.
            drawn &= (own[:, 2] > NEAR)[faces].all(1)
        # Rows are taken by number: by mask, numpy needs several times as long.
        index = np.flatnonzero(drawn)
        self.faces = faces.take(index, 0)
        self.faces += (layout.shift.take(index) * away.take(index))[:, None]
        self.vertices = own.take(layout.source, 0)
        used = np.zeros(len(self.vertices), bool)
        used[self.faces.ravel()] = True
        self.used = np.flatnonzero(used)

    def window(self, camera: StudioCamera) -> Window:
        """Rectangle of the picture that all of it lies in."""
        return bounds(self.vertices[self.used], camera.intrinsics, camera.height, camera.width)

    def fineness(self, textures: Mapping[str, np.ndarray], camera: Camera) -> dict[str, float]:
        """Texels for each pixel of the picture, by texture: where it is shown largest, a fifth of its area aside."""
        found: dict[str, list[np.ndarray]] = {}
        first = 0
        for part in self.parts:
            at = self.own[first : first + len(part.vertices)]
            first += len(part.vertices)
            h, w = textures[part.texture].shape[:2]
            faces = part.faces[(at[:, 2] > NEAR)[part.faces].all(1)]
            shown = _area(camera.project(at)[faces])
            texels = _area(part.uv[faces] * (w, h))
            good = (shown > 1e-3) & (texels > 1e-3)
            found.setdefault(part.texture, []).append(np.stack([texels[good] / shown[good], shown[good]]))
        out = {}
        for name, pairs in found.items():
            ratio, weight = np.concatenate(pairs, 1)
            if len(ratio):
                order = np.argsort(ratio)
                total = np.cumsum(weight[order])
                out[name] = float(np.sqrt(ratio[order[np.searchsorted(total, 0.2 * total[-1])]]))
        return out


def _area(corners: np.ndarray) -> np.ndarray:
    """Areas (F,) of triangles (F, 3, 2)."""
    (ax, ay), (bx, by) = (corners[:, i].T - corners[:, 0].T for i in (1, 2))
    return np.abs(ax * by - ay * bx) / 2
