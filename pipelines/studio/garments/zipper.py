"""The zip of a jacket: tape, teeth and slider."""

from __future__ import annotations

import numpy as np

from pipelines.studio.cloth import Anchor, ClothState
from pipelines.studio.garments import trim
from pipelines.studio.garments.drape import Drape, Worn
from pipelines.studio.garments.mannequin import SIDES

_BELOW_M = 0.03


class Zip:
    """A zip along the two edges of a front.

    Attributes:
        index: (2 K,) the edges' vertices downwards, the left one first.
        tapes: side and name -> what is sewn along that edge; `teeth` are of metal.
        faces: (F, 3) int32 of the slider.
    """

    def __init__(self, edges: dict[str, np.ndarray], vertices: np.ndarray, normals: np.ndarray):
        self.index = np.concatenate([edges[side] for side in SIDES])
        self.tapes: dict[tuple[str, str], trim.Trim] = {}
        for side, sign in (("left", 1.0), ("right", -1.0)):
            for name, x0, x1, lift in (("tape", 0.004, 0.013, 0.0012), ("teeth", -0.0018, 0.004, 0.0022)):
                piece = trim.make_ribbon(edges[side], vertices, normals, sign * x0, sign * x1, lift)
                if sign < 0:
                    # Mirrored, its faces would look inwards.
                    piece = trim.Trim(piece.source, piece.offset, piece.faces[:, ::-1].copy(), piece.uv_shift)
                self.tapes[side, name] = piece
        self._slider, self.faces = trim.slider_mesh()

    def slider(self, drape: Drape, worn: Worn, zip_open: float) -> np.ndarray:
        """(N, 3) vertices of the slider in a frame; `drape` and `worn` are the whole garment's."""
        vertices, normals = worn.vertices[self.index], worn.turned(drape.normals, self.index)
        position, out, down = self._at(drape, drape.rest[self.index], vertices, normals, zip_open)
        return position + self._slider @ np.stack([np.cross(out, -down), down, out])

    def anchor(self, drape: Drape, worn: Worn, state: ClothState) -> Anchor:
        """The slider; `drape` and `worn` hold the vertices `index` alone."""
        normals = worn.turned(drape.normals, np.arange(len(drape.rest)))
        position, out, down = self._at(drape, drape.rest, worn.vertices, normals, state.zip_open)
        at_rest = _between(-drape.sheet.slider_z(state.zip_open), drape.rest, drape.rest)
        return Anchor(at_rest, position + 0.004 * out, out, down)

    def _at(
        self, drape: Drape, rest: np.ndarray, vertices: np.ndarray, normals: np.ndarray, zip_open: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position of the slider, and unit vectors out of the cloth and down the zip there."""
        at = -drape.sheet.slider_z(zip_open)
        position, out = _between(at, rest, vertices), _between(at, rest, normals)
        down = _between(at + _BELOW_M, rest, vertices) - position
        out = out / np.linalg.norm(out)
        down = down - out * (down @ out)
        return position, out, down / np.linalg.norm(down)


def _between(depth: float, rest: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(3,) mean of both edges' values at a depth below z = 0; `rest` and `values` hold the left edge first."""
    half = len(rest) // 2
    depths = -rest[:half, 2]
    return np.array([np.interp(depth, depths, 0.5 * (values[:half, k] + values[half:, k])) for k in range(3)])
