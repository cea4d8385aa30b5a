"""Cutting a garment open in the middle of the front."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from pipelines.studio.garments.collar import Collar
from pipelines.studio.garments.cut import Cloth


class Split:
    """Cloth cut open along a line of vertices in the middle of the front.

    Attributes:
        origin: (N,) vertex of the cloth that each vertex is.
        faces: (F, 3) int32.
        side: (N,) +1 on the person's left half.
        copies: left, right -> the line's vertices of that half, downwards.
    """

    def __init__(self, cloth: Cloth, line: np.ndarray):
        n = len(cloth.vertices)
        self.origin = np.concatenate([np.arange(n), line])
        number = np.arange(n)
        number[line] = n + np.arange(len(line))
        self.faces = cloth.faces.copy()
        # At the back the line is not among the vertices, so faces there stay as they are.
        self.faces[cloth.right] = number[self.faces[cloth.right]].astype(np.int32)
        self.side = np.where(cloth.vertices[self.origin, 0] >= 0, 1.0, -1.0)
        self.side[n:] = -1.0
        self.copies = {"left": line, "right": n + np.arange(len(line))}


def on_halves(collar: Collar, line: np.ndarray, count: int, opens: bool) -> csr_matrix:
    """How a collar stands on cloth of `count` vertices that is cut open: its right half on the copies of `line`."""
    coo = collar.base.tocoo()
    column = coo.col.astype(int)
    if opens:
        copy = {int(v): count - len(line) + k for k, v in enumerate(line)}
        right = collar.side[coo.row] < 0
        column = np.array([copy.get(int(c), int(c)) if r else int(c) for c, r in zip(column, right)])
    return csr_matrix((coo.data, (coo.row, column)), shape=(collar.base.shape[0], count), dtype=np.float32)
