"""Hair as a shell: grown outwards from the scalp to the hairline, or on from there downwards where it hangs.

Shapes are described on the mean head, in metres, and carried over to a person's head by the affine map that fits it
best; the shell stands on the person's own scalp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from pipelines.studio.body.rig import Rig, Shape
from pipelines.studio.render.look import Hair, HairStyle
from pipelines.studio.render.noise import mix, smooth_noise, smooth_step, to_bytes
from pipelines.studio.render.skin import HEAD_AXIS_Y, hairline

_COLUMNS, _ROWS = 96, 22
_ORIGIN = np.array([0.0, HEAD_AXIS_Y, 0.745])
_TUCK = -0.004
"""How far under the skin a shell ends, so that no gap shows at the hairline."""
_EAR_X, _EAR_TOP = 0.0735, 0.733
_Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Cut:
    """A style's measures on the mean head.

    Attributes:
        top: Thickness on top, metres.
        sides: Thickness at the sides and the back, metres.
        bumps: Height of random waves over thickness.
        strands: Height of ridges along the hair, metres.
        front: Extra height over the forehead, metres.
        thin: How much thinner it gets towards the hairline, 0 to 1.
        fringe: How far it hangs into the forehead, metres.
        hang: Height at which hanging hair ends; None where it ends at the hairline.
        tuck: Angle from the front from which on it hangs, degrees.
        bun: Knot on the back of the head (height, size), metres.
        tail: Whether a tail hangs from the knot.
    """

    top: float
    sides: float
    bumps: float = 0.12
    strands: float = 0.0012
    front: float = 0.0
    thin: float = 0.7
    fringe: float = 0.0
    hang: float | None = None
    tuck: float = 60.0
    bun: tuple[float, float] | None = None
    tail: bool = False


_CUTS: dict[HairStyle, _Cut] = {
    "short": _Cut(0.016, 0.006, strands=0.0016, thin=0.8),
    "side_part": _Cut(0.023, 0.007, strands=0.0016, front=0.006),
    "quiff": _Cut(0.022, 0.006, strands=0.002, front=0.020, thin=0.5),
    "curly": _Cut(0.030, 0.016, bumps=0.45, strands=0.0, fringe=0.004),
    "afro": _Cut(0.058, 0.050, bumps=0.08, strands=0.0, thin=0.75),
    "bob": _Cut(0.017, 0.014, strands=0.0014, fringe=0.026, hang=0.615, tuck=58),
    "long": _Cut(0.015, 0.013, strands=0.0018, hang=0.46, tuck=63),
    "ponytail": _Cut(0.009, 0.006, bumps=0.05, thin=0.95, bun=(0.765, 0.020), tail=True),
    "bun": _Cut(0.010, 0.007, bumps=0.05, thin=0.95, bun=(0.835, 0.034)),
}


@dataclass(frozen=True)
class HairShell:
    """Hair at rest.

    Attributes:
        vertices: (V, 3) metres, world, at rest.
        weights: (V, J) skinning weights.
        faces: (F, 3) int32.
        uv: (V, 2) float32, u around the head, v along the hair.
    """

    vertices: np.ndarray
    weights: csr_matrix
    faces: np.ndarray
    uv: np.ndarray


def grow_hair(rig: Rig, shape: Shape, hair: Hair) -> HairShell | None:
    """The hair of a person; None for styles that are only painted on the skin."""
    cut = _CUTS.get(hair.style)
    if cut is None:
        return None
    rng = np.random.default_rng(hair.seed)
    onto_mean, from_mean = _head_maps(rig, shape)
    scalp = _Scalp(onto_mean(shape.vertices), _head_vertices(rig), with_ears=cut.hang is not None)
    points, uv = _shell(scalp, cut, hair, rng)
    meshes = [(points.reshape(-1, 3), _grid_faces(_ROWS, _COLUMNS), uv.reshape(-1, 2))]
    if cut.bun is not None:
        meshes += _knot(scalp, cut, hair)
    offsets = np.cumsum([0, *(len(m[0]) for m in meshes)])
    vertices = np.concatenate([m[0] for m in meshes])
    faces = np.concatenate([m[1] + o for m, o in zip(meshes, offsets)]).astype(np.int32)
    weights = _weights(rig, vertices)
    return HairShell(from_mean(vertices), weights, faces, np.concatenate([m[2] for m in meshes]).astype(np.float32))


def paint_hair(hair: Hair) -> np.ndarray:
    """Texture (256, 512, 3) uint8 RGB of hair that runs downwards."""
    rng = np.random.default_rng(hair.seed + 1)
    h, w = 256, 512
    colour = np.array(hair.colour, np.float32)
    light = float(colour.mean())
    if hair.style in ("curly", "afro"):
        curls = smooth_noise(rng, (h, w), (60, 120), 2)
        shade = 1 + (0.28 if light < 0.3 else 0.16) * curls
    else:
        fine = smooth_noise(rng, (h, w), (5, 300), 2)
        locks = smooth_noise(rng, (h, w), (3, 60), 2)
        shade = 1 + (0.20 if light < 0.3 else 0.12) * fine + 0.13 * locks
    picture = colour * np.maximum(shade, 0.25)[..., None]
    v = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    # A band of sheen around the crown, and less light deep down.
    sheen = np.exp(-(((v - 0.38) / 0.13) ** 2)) * (0.6 + 0.4 * smooth_noise(rng, (h, w), (2, 40)))
    picture = mix(picture, np.minimum(colour * 1.5 + 0.08, 1), np.clip(0.22 * sheen, 0, 1))
    return to_bytes(picture * (1 - 0.22 * smooth_step(0.75, 1.0, v) * np.ones((1, w)))[..., None])


def _head_vertices(rig: Rig) -> np.ndarray:
    """Vertices of head and neck, without the eyeballs."""
    joints = [rig.index(n) for n in ("head", "neck01", "neck02", "neck03")]
    part = np.asarray(rig.weights[:, joints].sum(1)).ravel() > 0.5
    part[np.concatenate(list(rig.eyes.values()))] = False
    return np.flatnonzero(part)


def _head_maps(rig: Rig, shape: Shape) -> tuple[_Map, _Map]:
    """Affine maps from the person's head to the mean one, and back."""
    mean = rig.shape().vertices
    used = np.flatnonzero((np.asarray(rig.weights[:, rig.index("head")].todense()).ravel() > 0.9) & (mean[:, 2] > 0.66))
    source = np.c_[shape.vertices[used], np.ones(len(used))]
    affine, *_ = np.linalg.lstsq(source, mean[used], rcond=None)
    inverse = np.linalg.inv(affine[:3])
    return (lambda p: p @ affine[:3] + affine[3]), (lambda p: (p - affine[3]) @ inverse)


class _Scalp:
    """How far the head reaches in every direction from its middle.

    Args:
        vertices: (V, 3) the body carried over to the mean head.
        head: Numbers of the head's vertices.
        with_ears: Whether the ears count.
    """

    def __init__(self, vertices: np.ndarray, head: np.ndarray, with_ears: bool):
        points = vertices[head]
        if not with_ears:
            ear = (np.abs(points[:, 0]) > _EAR_X) & (points[:, 2] < _EAR_TOP) & (points[:, 2] > 0.655)
            points = points[~ear]
        away = points - _ORIGIN
        self._radius = np.linalg.norm(away, axis=1)
        self._tree = cKDTree(away / self._radius[:, None])
        self._with_ears = with_ears

    def point(self, azimuth: np.ndarray, polar: np.ndarray) -> np.ndarray:
        """(..., 3) on the surface; azimuth from the front to the person's left, polar angle from the top."""
        azimuth, polar = np.broadcast_arrays(azimuth, polar)
        direction = np.stack([np.sin(polar) * np.sin(azimuth), -np.sin(polar) * np.cos(azimuth), np.cos(polar)], -1)
        gap, index = self._tree.query(direction, k=5)
        radius = self._radius[index]
        # Ears and folds have several depths in one direction: the outermost counts for what lies over them.
        near = np.exp(-((gap / (gap[..., :1] + 0.035)) ** 2))
        smooth = (radius * near).sum(-1) / near.sum(-1)
        radius = radius.max(-1) if self._with_ears else smooth
        return _ORIGIN + direction * radius[..., None]


def _shell(scalp: _Scalp, cut: _Cut, hair: Hair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Grid (rows, columns, 3) from the crown to the hair's ends, with texture coordinates."""
    around = np.linspace(-np.pi, np.pi, _COLUMNS)
    side = np.abs(around)
    end = hairline(side, hair.recession)
    # Hair does not end along a ruler.
    waves = sum(np.sin(around * k + p) / np.sqrt(k) for k, p in zip((3, 7, 13, 23, 41), rng.uniform(0, 6.3, 5)))
    end = end + 0.0016 * waves
    if cut.fringe:
        end = end - cut.fringe * smooth_step(np.radians(62), np.radians(30), side)
    hangs = np.zeros(_COLUMNS, bool)
    if cut.hang is not None:
        hangs = side > np.radians(cut.tuck)
        low = 0.615 - (0.615 - cut.hang) * hair.length if cut.hang < 0.6 else cut.hang - 0.05 * (hair.length - 1)
        end = np.where(hangs, low, end)
    polar = np.linspace(0.02, np.radians(152), 60)
    along = scalp.point(around[None], polar[:, None])
    paths = np.empty((_ROWS, _COLUMNS, 3))
    t = np.linspace(0, 1, _ROWS - 1)
    for c in range(_COLUMNS):
        line = _hanging(along[:, c], end[c]) if hangs[c] else _until(along[:, c], end[c])
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
        for k in range(3):
            paths[:-1, c, k] = np.interp(t * length[-1], length, line[:, k])
    paths[-1] = paths[-2]
    # The back and the sides hang behind the shoulders.
    back = np.maximum(0.60 - paths[..., 2], 0) * 0.75 * smooth_step(np.radians(40), np.radians(80), side)
    paths[..., 1] += back
    t = np.append(t, 1.0)[:, None]
    thick = _thickness(paths, t, side[None], hangs[None], cut, hair, rng)
    out = paths - _ORIGIN
    out[..., 2] *= np.where(paths[..., 2] > _ORIGIN[2], 1, 0.25)
    out /= np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-9)
    points = paths + out * thick[..., None]
    points[:, -1] = points[:, 0]
    uv = np.stack(np.broadcast_arrays((around / (2 * np.pi) + 0.5)[None], np.clip(t, 0.01, 0.99)), -1)
    return points, uv


def _until(line: np.ndarray, height: float) -> np.ndarray:
    """A line that goes down, cut off at a height."""
    below = np.flatnonzero(line[:, 2] < height)
    if not len(below) or below[0] == 0:
        return line
    b = below[0]
    share = (line[b - 1, 2] - height) / (line[b - 1, 2] - line[b, 2])
    return np.concatenate([line[:b], [line[b - 1] + share * (line[b] - line[b - 1])]])


def _hanging(line: np.ndarray, height: float) -> np.ndarray:
    """A line down the head that falls on from its widest place, to a height."""
    axis = np.array([0, HEAD_AXIS_Y])
    radius = np.linalg.norm(line[:, :2] - axis, axis=1)
    widest = int(np.argmax(np.where(line[:, 2] > 0.66, radius, 0)))
    start = line[widest]
    steps = np.linspace(0, 1, 24)[1:, None]
    fall = (start[2] - height) * steps
    # Inwards to the neck a little, as far as it goes.
    inward = 1 - 0.16 * smooth_step(0.0, 0.10, fall)
    flat = axis + (start[:2] - axis) * inward
    return np.concatenate([line[: widest + 1], np.concatenate([flat, start[2] - fall], 1)])


def _thickness(
    paths: np.ndarray,
    t: np.ndarray,
    side: np.ndarray,
    hangs: np.ndarray,
    cut: _Cut,
    hair: Hair,
    rng: np.random.Generator,
) -> np.ndarray:
    height = smooth_step(0.735, 0.80, paths[..., 2])
    thick = (cut.sides + (cut.top - cut.sides) * height) * hair.volume
    if cut.front:
        over = smooth_step(np.radians(70), np.radians(20), side) * smooth_step(0.45, 0.9, t)
        lean = 1.0 if hair.style == "quiff" else 0.6 + 0.4 * np.sign(hair.seed % 2 - 0.5) * np.sign(paths[..., 0])
        thick = thick + cut.front * hair.volume * over * lean
    waves = sum(
        np.sin(paths @ k + p)
        for k, p in zip(rng.normal(0, 130 if cut.bumps > 0.3 else 70, (6, 3)), rng.uniform(0, 6.3, 6))
    ) / np.sqrt(3)
    thick = thick * (1 + cut.bumps * np.clip(waves, -1.5, 1.5))
    around = np.arange(_COLUMNS)[None]
    ridges = np.sin(around * rng.uniform(1.3, 1.8) + 2 * waves) + np.sin(around * rng.uniform(0.7, 1.0) + 4 * t)
    thick = thick + cut.strands * ridges * smooth_step(0.05, 0.3, t)
    # At the hairline it thins out and ends under the skin; over the forehead it may stand up.
    slick = cut.thin > 0.9
    thick = thick * (1 - cut.thin * smooth_step(0.25 if slick else 0.68, 1.0, t) * ~hangs)
    return np.where((t >= 1.0) & (np.arange(_ROWS)[:, None] == _ROWS - 1) & ~hangs, _TUCK, thick)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Triangles (F, 3) of a grid whose columns go around to the left seen from above, rows downwards."""
    number = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (n.ravel() for n in (number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]))
    return np.concatenate([np.stack([a, c, d], -1), np.stack([a, d, b], -1)])


def _knot(scalp: _Scalp, cut: _Cut, hair: Hair) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A bun, or the root and length of a tail."""
    assert cut.bun is not None
    height, size = cut.bun
    size *= 0.6 + 0.4 * hair.volume
    polar = 0.25 if height > 0.8 else 1.5
    base = scalp.point(np.array(np.pi), np.array(polar))
    out = (base - _ORIGIN) / np.linalg.norm(base - _ORIGIN)
    centre = base + out * (size * 0.55 + cut.top * hair.volume)
    rows, columns = 10, 20
    v, u = np.meshgrid(np.linspace(0.02, np.pi - 0.02, rows), np.linspace(-np.pi, np.pi, columns), indexing="ij")
    ball = np.stack([np.sin(v) * np.sin(u), -np.sin(v) * np.cos(u), np.cos(v)], -1)
    ridged = size * (1 + 0.06 * np.sin(7 * u + 3 * v))[..., None] * ball
    uv = np.stack([u / (2 * np.pi) + 0.5, v / np.pi], -1)
    meshes = [((centre + ridged).reshape(-1, 3), _grid_faces(rows, columns), uv.reshape(-1, 2))]
    if cut.tail:
        rows = 14
        down = np.linspace(0, 1, rows)[:, None]
        length = 0.30 * hair.length
        wide = size * (0.7 + 0.9 * np.sin(np.pi * np.clip(down + 0.08, 0, 1)) ** 0.8) * smooth_step(1.08, 0.8, down)
        middle = centre + np.concatenate(
            [0.01 * np.sin(3 * down), 0.035 * smooth_step(0, 0.25, down), -length * down], 1
        )
        u = np.linspace(-np.pi, np.pi, columns)[None]
        ring = np.stack(np.broadcast_arrays(np.sin(u), -0.6 * np.cos(u), 0.0 * u), -1)
        tail = middle[:, None] + wide[..., None] * ring * (1 + 0.07 * np.sin(6 * u))[..., None]
        uv = np.stack(np.broadcast_arrays(u / (2 * np.pi) + 0.5, down), -1)
        meshes.append((tail.reshape(-1, 3), _grid_faces(rows, columns), uv.reshape(-1, 2)))
    return meshes


def _weights(rig: Rig, vertices: np.ndarray) -> csr_matrix:
    """Hair follows the head; what hangs low follows the back more and more."""
    low = 0.85 * smooth_step(0.63, 0.50, vertices[:, 2])
    rows = np.arange(len(vertices))
    joints = np.concatenate([np.full(len(rows), rig.index("head")), np.full(len(rows), rig.index("spine01"))])
    values = np.concatenate([1 - low, low])
    return csr_matrix((values, (np.tile(rows, 2), joints)), shape=(len(rows), len(rig.names)))
