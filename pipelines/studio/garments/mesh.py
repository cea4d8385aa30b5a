"""Cutting, refining and smoothing of triangle meshes whose vertices are mixtures of the body's vertices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix, diags, eye_array, vstack


@dataclass(frozen=True)
class Patch:
    """A piece of the body's surface.

    Attributes:
        faces: (F, 3) int32, counter-clockwise from outside.
        mix: (N, V) sparse; row i says of which vertices of the body vertex i is made. Rows sum to 1.
    """

    faces: np.ndarray
    mix: csr_matrix

    def compact(self) -> Patch:
        """The same without vertices that no face uses."""
        used = np.unique(self.faces)
        number = np.full(self.mix.shape[0], -1, np.int32)
        number[used] = np.arange(len(used), dtype=np.int32)
        return Patch(number[self.faces], self.mix[used])


def whole_body(faces: np.ndarray, count: int) -> Patch:
    """All of the body as a patch."""
    return Patch(np.asarray(faces, np.int32), csr_matrix(eye_array(count, format="csr")))


def split_at(patch: Patch, field: np.ndarray) -> Patch:
    """Insert vertices where a field is 0, so that no face has both signs.

    Args:
        patch: What to split.
        field: (N,) the field at the patch's vertices; it counts as linear on each face.
    """
    # A vertex that nearly lies on the line counts as on it: slivers have no normal.
    field = np.where(np.abs(field) < 1e-4, 0.0, field)
    sign = np.sign(field).astype(int)
    faces = patch.faces
    s = sign[faces]
    crossing = (s.min(1) < 0) & (s.max(1) > 0)
    if not crossing.any():
        return patch
    cut = faces[crossing]
    edges = np.sort(cut[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges = np.unique(edges[sign[edges[:, 0]] * sign[edges[:, 1]] < 0], axis=0)
    a, b = edges.T
    t = field[a] / (field[a] - field[b])
    fresh = diags(1 - t) @ patch.mix[a] + diags(t) @ patch.mix[b]
    first = patch.mix.shape[0]
    middle = {(int(i), int(j)): first + n for n, (i, j) in enumerate(edges)}

    def between(i: int, j: int) -> int:
        return middle[(i, j) if i < j else (j, i)]

    pieces: list[tuple[int, int, int]] = []
    for face in cut.tolist():
        signs = [int(sign[i]) for i in face]
        if 0 in signs:
            k = signs.index(0)
            z, p, q = face[k], face[(k + 1) % 3], face[(k + 2) % 3]
            m = between(p, q)
            pieces += [(z, p, m), (z, m, q)]
            continue
        k = next(k for k in range(3) if signs.count(signs[k]) == 1)
        tip, p, q = face[k], face[(k + 1) % 3], face[(k + 2) % 3]
        m, n = between(tip, p), between(tip, q)
        pieces += [(tip, m, n), (m, p, q), (m, q, n)]
    return Patch(np.concatenate([faces[~crossing], np.array(pieces, np.int32)]), csr_matrix(vstack([patch.mix, fresh])))


def clip(patch: Patch, field: np.ndarray) -> Patch:
    """The part of a patch where a field over its vertices (N,) is positive, with a clean edge where it is 0."""
    out = split_at(patch, field)
    # What is new lies on the line.
    field = np.concatenate([np.where(np.abs(field) < 1e-4, 0.0, field), np.zeros(out.mix.shape[0] - len(field))])
    return keep(out, field[out.faces].sum(1) > 0)


def keep(patch: Patch, mask: np.ndarray) -> Patch:
    """The faces where `mask` (F,) holds."""
    return Patch(patch.faces[mask], patch.mix).compact()


def refine(patch: Patch, points: np.ndarray, longest: np.ndarray) -> Patch:
    """Split edges in the middle where they are longer than is wanted there.

    Args:
        patch: What to refine.
        points: (N, 3) its vertices.
        longest: (N,) wanted length of edges at each vertex, metres; the smaller one of its two ends counts for an edge.
    """
    pairs = np.sort(patch.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, inverse = np.unique(pairs, axis=0, return_inverse=True)
    length = np.linalg.norm(points[edges[:, 0]] - points[edges[:, 1]], axis=1)
    long = length > longest[edges].min(1)
    number = np.full(len(edges), -1)
    number[long] = patch.mix.shape[0] + np.arange(long.sum())
    fresh = 0.5 * (patch.mix[edges[long, 0]] + patch.mix[edges[long, 1]])
    middle = number[inverse.reshape(-1, 3)]
    count = (middle >= 0).sum(1)
    pieces = [patch.faces[count == 0]]
    # Turn faces so that the cut edges come first (one cut: the first edge; two cuts: the first and the second).
    for cuts, first in ((1, middle >= 0), (2, np.roll(middle < 0, -2, axis=1)), (3, None)):
        take = np.flatnonzero(count == cuts)
        turn = np.zeros(len(take), int) if first is None else first[take].argmax(1)
        order = (turn[:, None] + np.arange(3)) % 3
        a, b, c = np.take_along_axis(patch.faces[take], order, 1).T
        m, n, o = np.take_along_axis(middle[take], order, 1).T
        made = {
            1: ((a, m, c), (m, b, c)),
            2: ((m, b, n), (a, m, n), (a, n, c)),
            3: ((a, m, o), (m, b, n), (o, n, c), (m, n, o)),
        }
        pieces += [np.stack(corners, -1) for corners in made[cuts]]
    return Patch(np.concatenate(pieces).astype(np.int32), csr_matrix(vstack([patch.mix, fresh])))


def boundary_loops(faces: np.ndarray) -> list[np.ndarray]:
    """The open edges as closed loops of vertices, each with the surface to its left, longest loop first."""
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    width = int(faces.max()) + 1
    alone = ~np.isin(edges[:, 0] * width + edges[:, 1], edges[:, 1] * width + edges[:, 0])
    following = {int(a): int(b) for a, b in edges[alone]}
    loops = []
    while following:
        start, here = next(iter(following.items()))
        loop = [start]
        del following[start]
        while here != start and here in following:
            loop.append(here)
            here = following.pop(here)
        loops.append(np.array(loop))
    return sorted(loops, key=lambda l: -len(l))


def edge_list(faces: np.ndarray) -> np.ndarray:
    """(E, 2) every edge once."""
    return np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)


def neighbour_mean(faces: np.ndarray, count: int) -> csr_matrix:
    """(N, N) sparse: the mean of a vertex's neighbours; on an open edge, of its neighbours along the edge.

    A vertex without faces is its own mean.
    """
    edges = edge_list(faces)
    corners = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, uses = np.unique(corners, axis=0, return_counts=True)
    rim = np.zeros(count, bool)
    rim[edges[uses == 1].ravel()] = True
    # Along an open edge only what lies on it counts: hems stay smooth and do not creep inwards.
    i, j = np.concatenate([edges, edges[:, ::-1]]).T
    along = np.concatenate([uses == 1, uses == 1])
    take = ~rim[i] | along
    lonely = np.flatnonzero(np.bincount(i[take], minlength=count) == 0)
    rows, columns = np.concatenate([i[take], lonely]), np.concatenate([j[take], lonely])
    matrix = csr_matrix(coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count)))
    return csr_matrix(diags(1 / np.asarray(matrix.sum(1)).ravel()) @ matrix)


def strip(upper: np.ndarray, lower: np.ndarray, upper_at: np.ndarray, lower_at: np.ndarray) -> np.ndarray:
    """Triangles between two rows of vertices that run the same way, each with its own places along the way.

    Args:
        upper: (M,) vertices; `upper_at` ascends. With the surface seen from outside and the way going to the right,
            `upper` lies above `lower`.
        lower: (N,) vertices.
        upper_at: (M,) places along the way.
        lower_at: (N,) places.

    Returns:
        (M + N - 2, 3) faces, counter-clockwise from outside.
    """
    faces, i, j = [], 0, 0
    while i + 1 < len(upper) or j + 1 < len(lower):
        # Whichever side lags behind goes on, so that the strip stays as straight as it can.
        above = j + 1 >= len(lower) or (
            i + 1 < len(upper) and upper_at[i] + upper_at[i + 1] <= lower_at[j] + lower_at[j + 1]
        )
        if above:
            faces.append((upper[i], lower[j], upper[i + 1]))
            i += 1
        else:
            faces.append((upper[i], lower[j], lower[j + 1]))
            j += 1
    return np.array(faces, np.int32).reshape(-1, 3)


def grid_faces(index: np.ndarray) -> np.ndarray:
    """Triangles of a grid of vertex numbers (R, C), rows downwards and columns to the right as seen from outside."""
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    # Alternate diagonals, or all of the cloth leans to one side.
    odd = (np.add.outer(np.arange(a.shape[0]), np.arange(a.shape[1])) % 2).astype(bool)
    first = np.where(odd[..., None], np.stack([a, c, d], -1), np.stack([a, c, b], -1))
    second = np.where(odd[..., None], np.stack([a, d, b], -1), np.stack([b, c, d], -1))
    return np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)]).astype(np.int32)
