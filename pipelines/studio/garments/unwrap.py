"""Flattens the panels of a garment into one texture, as a tailor lays a pattern on cloth.

The front panel fills the left half of the texture (the middle of the chest at `CHEST_UV`), the back the right one, both
upright; sleeves are cut from where the back is. One texture is `TEXTURE_M` of cloth wide and high.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from pipelines.studio.garments.cut import Cloth
from pipelines.studio.garments.mannequin import Mannequin
from pipelines.studio.garments.mesh import edge_list

TEXTURE_M = 1.6
CHEST_UV = (0.25, 0.22)
"""Where in the texture the middle of the chest lies."""
_BACK_U = 0.75
_SLEEVE_UV = (0.75, 0.08)
"""Middle and top of both sleeves: alike, and as high as what they are sewn to, so that bands and gradients go on."""
_ROUNDS = 120


def unwrap(m: Mannequin, cloth: Cloth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay a garment's panels flat.

    Returns:
        (R,) vertex of the cloth that each vertex of the texture's mesh is a copy of: at seams there are several; (F, 3)
        int32 faces of that mesh, in the order of the cloth's; (R, 2) float32 texture coordinates, u right, v down.
    """
    v, faces, panel = cloth.vertices, cloth.faces, cloth.panel
    seam = np.zeros(faces.shape, np.int64)
    flat = np.zeros((*faces.shape, 2))
    yc = m.hull.centre(v[:, 2])
    for number in (0, 1):
        take = panel == number
        p = v[faces[take]]
        angle = np.arctan2(p[..., 0], -(p[..., 1] - yc[faces[take]]))
        if number:
            angle = np.sign(-p[..., 0]) * (np.pi - np.abs(angle))
        # Shoulders lie far out, but at small angles: there x itself is the better start.
        radius = np.hypot(p[..., 0], p[..., 1] - yc[faces[take]])
        across = (1 if number == 0 else -1) * p[..., 0]
        high = np.clip((p[..., 2] - m.armpit_z + 0.06) / 0.08, 0, 1)
        flat[take] = np.stack([(1 - high) * radius * angle + high * across * 1.2, -p[..., 2]], -1)
    for number, side in ((2, "left"), (3, "right")):
        take = panel == number
        if not take.any():
            continue
        arm = m.arms[side]
        p = v[faces[take]]
        nearest = ((p[..., None, :] - arm.centre[::4]) ** 2).sum(-1).argmin(-1) * 4
        local = np.einsum("fkx,fkyx->fky", p - arm.centre[nearest], arm.frame[nearest])
        along, angle = arm.s[nearest] - local[..., 2], np.arctan2(local[..., 0], -local[..., 1])
        # The seam runs down the back of the arm; a face that meets it belongs to the side its middle is on.
        middle = np.angle(np.exp(1j * angle).mean(1))
        angle = middle[:, None] + np.angle(np.exp(1j * (angle - middle[:, None])))
        seam[take] = (middle < 0)[:, None] & (np.abs(angle) > 0.6 * np.pi)
        flat[take] = np.stack([angle * np.hypot(local[..., 0], local[..., 1]), along], -1)
    keys = faces.astype(np.int64) * 8 + panel[:, None] * 2 + seam
    unique, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    source = (unique // 8).astype(int)
    fresh = inverse.reshape(faces.shape).astype(np.int32)
    uv = flattened(v[source], fresh, flat.reshape(-1, 2)[first])
    chest = np.array([0.0, 0.0, m.joint("spine01")[2] - 0.02])
    of = (unique % 8) // 2
    for number, place in ((0, CHEST_UV), (1, (_BACK_U, CHEST_UV[1]))):
        take = np.flatnonzero(of == number)
        near = take[np.argsort(np.linalg.norm((v[source[take]] - chest)[:, [0, 2]], axis=1))[:12]]
        uv[take] += np.array(place) * TEXTURE_M - uv[near].mean(0)
    for number in (2, 3):
        take = np.flatnonzero(of == number)
        if len(take):
            low, high = uv[take].min(0), uv[take].max(0)
            uv[take] += np.array(_SLEEVE_UV) * TEXTURE_M - np.array([0.5 * (low[0] + high[0]), low[1]])
    return source, fresh, np.clip(uv / TEXTURE_M, 0, 1).astype(np.float32)


def flattened(points: np.ndarray, faces: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Flat places (N, 2) whose distances are those of the points along the faces' edges, as far as they can be."""
    edges = edge_list(faces)
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    n, e = len(points), len(edges)
    rows = np.arange(e)
    signs = np.concatenate([np.ones(e), -np.ones(e)])
    difference = csr_matrix(coo_matrix((signs, (np.tile(rows, 2), edges.T.ravel())), shape=(e, n)))
    gather = csr_matrix(difference.T)
    degree = np.maximum(np.bincount(edges.ravel(), minlength=n), 1)[:, None]
    flat, speed = start.copy(), np.zeros_like(start)
    for _ in range(_ROUNDS):
        d = difference @ flat
        now = np.maximum(np.linalg.norm(d, axis=1), 1e-6)
        force = gather @ (d * ((length - now) / now)[:, None]) / degree
        speed = 0.8 * speed + 0.5 * force
        flat = flat + speed
    return flat
