"""The shirt beneath a jacket: as much of it as an open zip and a collar can show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from models.perception.mesh_render import vertex_normals
from pipelines.studio.body.rig import Posed
from pipelines.studio.cloth import Label, Part
from pipelines.studio.garments.cut import cut_top
from pipelines.studio.garments.drape import pruned
from pipelines.studio.garments.mannequin import Mannequin
from pipelines.studio.garments.spec import GarmentSpec
from pipelines.studio.garments.unwrap import unwrap

INNER = "inner"
"""Name of its texture."""
_HALF_WIDTH_M = 0.135


class InnerShirt:
    """Front of a shirt that is worn beneath the garment of `spec`."""

    def __init__(self, m: Mannequin, spec: GarmentSpec):
        rng = np.random.default_rng([spec.seed, 5])
        beneath = replace(
            spec,
            kind="t_shirt",
            ease_m=0.006,
            sleeve=0.2,
            sleeve_ease_m=0.006,
            neck="crew",
            neck_gap_m=float(rng.uniform(0.014, 0.03)),
            neck_drop_m=float(rng.uniform(0.012, 0.04)),
            hem=max(spec.hem - 0.03, 0.0),
            fold_m=0.002,
        )
        cloth = cut_top(m, beneath, detail=False)
        _, fresh, uv = unwrap(m, cloth)
        middle = cloth.vertices[cloth.faces].mean(1)
        take = (cloth.panel == 0) & (np.abs(middle[:, 0]) < _HALF_WIDTH_M)
        # On the shoulders nothing of it can be seen, and there is no room for it.
        take &= (middle[:, 2] < m.armpit_z + 0.07) | (np.abs(middle[:, 0]) < 0.10)
        _, first, inverse = np.unique(fresh[take].ravel(), return_index=True, return_inverse=True)
        source = cloth.faces[take].ravel()[first]
        self._faces = inverse.reshape(-1, 3).astype(np.int32)
        self._uv = uv[fresh[take].ravel()[first]]
        normals = vertex_normals(cloth.vertices, cloth.faces)
        # It stays within the jacket, however snug that is.
        x = cloth.vertices[source]
        self._rest = (x - 0.001 * normals[source]).astype(np.float32)
        self._weights = pruned(cloth.weights[source])

    def part(self, posed: Posed) -> Part:
        """It, in a pose."""
        blended = (self._weights @ posed.affine.reshape(-1, 12).astype(np.float32)).reshape(-1, 3, 4)
        x = self._rest
        y = blended[:, :, 0] * x[:, :1] + blended[:, :, 1] * x[:, 1:2] + blended[:, :, 2] * x[:, 2:] + blended[:, :, 3]
        return Part(y, self._faces, self._uv, INNER, Label.INNER, True, 0.0, "inner shirt")
