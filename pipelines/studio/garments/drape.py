"""Cloth in motion: folds and actions at rest, then the pose, then out of the body."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack

from pipelines.studio.body.rig import Posed, Rig
from pipelines.studio.cloth import ClothState
from pipelines.studio.garments.deform import Sheet
from pipelines.studio.garments.folds import Folds

_LEAST_WEIGHT = 0.012


def pruned(weights: csr_matrix) -> csr_matrix:
    """Skinning weights in float32 without those that cannot be seen; rows sum to 1."""
    out = csr_matrix(weights, dtype=np.float64, copy=True)
    out.data[out.data < _LEAST_WEIGHT] = 0
    out.eliminate_zeros()
    return csr_matrix(diags(1 / np.asarray(out.sum(1)).ravel()) @ out, dtype=np.float32)


@dataclass(frozen=True)
class Worn:
    """Cloth in a pose.

    Attributes:
        vertices: (N, 3) float32 metres, world.
        turn: (N, 3, 3) float32 how the pose has turned the cloth at each vertex (not quite a rotation at joints).
    """

    vertices: np.ndarray
    turn: np.ndarray

    def offset(self, index: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Points that sit on vertices `index` (K,) with offsets (K, 3) at rest, (K, 3) metres."""
        return self.vertices[index] + np.einsum("nab,nb->na", self.turn[index], offsets)

    def turned(self, rest: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Directions `rest` (N, 3) at rest of vertices `index` (K,) in this pose, (K, 3) unit."""
        out = np.einsum("nab,nb->na", self.turn[index], rest[index])
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


@dataclass(frozen=True)
class Drape:
    """Cloth that can be posed.

    Attributes:
        rig: The body.
        rest: (N, 3) float32 metres.
        normals: (N, 3) float32 unit, out of the cloth at rest.
        weights: (2 N, J) float32, of the cloth and, below them, of the body beneath it.
        beneath: (N, 3) float32 the body beneath at rest.
        body_normals: (N, 3) float32.
        margin: (N,) float32 least distance from the body, metres; far below 0 where it does not keep a vertex out.
        sheet: The same vertices for what hands do.
        folds: Its folds, if it has any.
        sag: (N,) float32 metres that it hangs down wherever the pose turns it.
    """

    rig: Rig
    rest: np.ndarray
    normals: np.ndarray
    weights: csr_matrix
    beneath: np.ndarray
    body_normals: np.ndarray
    margin: np.ndarray
    sheet: Sheet
    folds: Folds | None
    sag: np.ndarray

    @classmethod
    def make(
        cls,
        rig: Rig,
        rest: np.ndarray,
        normals: np.ndarray,
        weights: csr_matrix,
        body: tuple[np.ndarray, np.ndarray, csr_matrix],
        margin: np.ndarray,
        sheet: Sheet,
        folds: Folds | None,
        sag: np.ndarray,
    ) -> Drape:
        """See the attributes; `body` is the body beneath: points, normals and their skinning weights."""
        beneath, body_normals, body_weights = body
        both = csr_matrix(vstack([pruned(weights), pruned(body_weights)]))
        f = np.float32
        return cls(
            rig,
            rest.astype(f),
            normals.astype(f),
            both,
            beneath.astype(f),
            body_normals.astype(f),
            margin.astype(f),
            sheet,
            folds,
            sag.astype(f),
        )

    def part(self, index: np.ndarray) -> Drape:
        """Some vertices alone, for what needs only these."""
        n = len(self.rest)
        s = self.sheet
        sheet = replace(
            s,
            vertices=s.vertices[index],
            normals=s.normals[index],
            angle=s.angle[index],
            radius=s.radius[index],
            side=s.side[index],
            arm=s.arm[index],
            moves=s.moves[index],
        )
        folds = None if self.folds is None else replace(self.folds, fields=self.folds.fields[index])
        return replace(
            self,
            rest=self.rest[index],
            normals=self.normals[index],
            weights=self.weights[np.concatenate([index, index + n])],
            beneath=self.beneath[index],
            body_normals=self.body_normals[index],
            margin=self.margin[index],
            sheet=sheet,
            folds=folds,
            sag=self.sag[index],
        )

    def acted(self, posed: Posed, state: ClothState, rest: np.ndarray | None = None) -> np.ndarray:
        """(N, 3) the cloth at rest with its folds and with what hands do to it."""
        x = (self.rest if rest is None else rest).copy()
        if self.folds is not None:
            # Folds stand up; between them the cloth lies on what is beneath.
            height = np.maximum(self.folds.height(self.rig, posed, state.time_s), -self.folds.depth_m)
            x += height[:, None] * self.normals
        if state.zip_open > 0:
            self.sheet.unzip(x, state.zip_open)
        for grab in state.grabs:
            # The pull is given in the world; where it acts, the pose has turned the cloth.
            spot = int(((self.rest - grab.anchor) ** 2).sum(1).argmin())
            row = self.weights[spot]
            turn = np.einsum("j,jab->ab", row.data, posed.rotations[row.indices])
            u, _, vt = np.linalg.svd(turn)
            self.sheet.grabbed(x, grab, (u @ vt).T @ grab.offset)
        return x

    def pose(self, posed: Posed, x: np.ndarray) -> Worn:
        """Cloth `x` (N, 3), given at rest, in a pose."""
        n = len(x)
        blended = (self.weights @ posed.affine.reshape(-1, 12).astype(np.float32)).reshape(2 * n, 3, 4)
        turn = blended[:n, :, :3]
        y = _apply(blended[:n], x)
        y[:, 2] -= self.sag
        p = _apply(blended[n:], self.beneath)
        b = blended[n:]
        m = self.body_normals
        normal = b[:, :, 0] * m[:, :1] + b[:, :, 1] * m[:, 1:2] + b[:, :, 2] * m[:, 2:]
        normal /= np.sqrt((normal * normal).sum(1, keepdims=True))
        push = np.clip(self.margin - ((y - p) * normal).sum(1), 0, 0.05)
        y += np.where(self.margin > -1, push, 0)[:, None] * normal
        return Worn(y, turn)


def _apply(affine: np.ndarray, x: np.ndarray) -> np.ndarray:
    # Written out: einsum takes three times as long.
    return affine[:, :, 0] * x[:, :1] + affine[:, :, 1] * x[:, 1:2] + affine[:, :, 2] * x[:, 2:3] + affine[:, :, 3]
