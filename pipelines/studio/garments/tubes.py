"""Torso and sleeves of a garment as grids around an axis: cloth that hangs from what sticks out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from pipelines.studio.garments.mannequin import Mannequin
from pipelines.studio.garments.sections import directions
from pipelines.studio.garments.spec import GarmentSpec

COLUMNS = 72
SLEEVE_COLUMNS = 26
_ROW_M = 0.021
_SLEEVE_ROW_M = 0.019


@dataclass(frozen=True)
class Tube:
    """A grid of cloth; see `Cloth` for what its vertices have.

    Attributes:
        index: (R, C + 1) vertices; the last column is the first one again.
        vertices: (R C, 3).
        beneath: (R C, 3).
        normals: (R C, 3).
        clearance: (R C,).
    """

    index: np.ndarray
    vertices: np.ndarray
    beneath: np.ndarray
    normals: np.ndarray
    clearance: np.ndarray


def hem_height(m: Mannequin, spec: GarmentSpec) -> float:
    """z of the hem at rest, metres."""
    return float(np.interp(spec.hem, [0, 1, 2], [m.waist_z, m.thigh_z, m.calf_z]))


def torso_tube(m: Mannequin, spec: GarmentSpec, join_z: float, first: int) -> Tube:
    """The torso from the yoke down to the hem; its vertices count from `first`."""
    hem_z = hem_height(m, spec)
    rows = max(4, round((join_z - 0.02 - hem_z) / _ROW_M) + 1)
    z = np.linspace(join_z - 0.02, hem_z, rows)
    angle = np.linspace(-np.pi, np.pi, COLUMNS + 1)
    grid_z, grid_a = np.meshgrid(z, angle, indexing="ij")
    body = m.body.at(grid_a.ravel(), grid_z.ravel()).reshape(grid_z.shape)
    hull = m.hull.at(grid_a.ravel(), grid_z.ravel()).reshape(grid_z.shape)
    hull[:, :-1] = gaussian_filter(hull[:, :-1], (1.0, 1.5), mode=("nearest", "wrap"))
    hull[:, -1] = hull[:, 0]
    radius = body + 0.93 * np.maximum(hull - body, 0) + spec.ease_m
    if spec.kind == "dress":
        slack = np.where(z > m.waist_z + 0.03, 0.55, -spec.flare)
    else:
        # Snug cloth follows the waist, wide cloth hangs straight down from the chest.
        slack = np.full(rows, np.interp(spec.ease_m, [0.006, 0.02, 0.03], [0.5, 0.22, 0.08]))
        slack = np.where(z < m.crotch_z + 0.08, 0.05, slack)
    # Cloth falls straight from the chest before it turns in to the waist.
    slack = slack * np.clip((join_z - z) / 0.18, 0.1, 1) if spec.kind != "dress" else slack
    step = -np.diff(z, prepend=z[0])
    for k in range(1, rows):
        radius[k] = np.maximum(radius[k], radius[k - 1] - slack[k] * step[k])
    wrapped = radius[:, :-1]
    smooth = gaussian_filter(wrapped, (1.3, 1.3), mode=("nearest", "wrap"))
    # Small things of the body do not show through cloth.
    plain = gaussian_filter(body[:, :-1], (1.5, 1.5), mode=("nearest", "wrap"))
    smooth = np.maximum(smooth, plain + 0.5 * spec.ease_m)
    a, zz = grid_a[:, :-1].ravel(), grid_z[:, :-1].ravel()
    beneath_r = np.minimum(body[:, :-1], smooth - 0.5 * spec.ease_m).ravel()
    vertices = m.hull.point(a, smooth.ravel(), zz)
    beneath = m.hull.point(a, beneath_r, zz)
    d = directions(a)
    normals = np.column_stack([d, np.zeros(len(d))])
    index = first + np.arange(len(a)).reshape(rows, COLUMNS)
    # Where no body is beneath, such as before the gap between the legs, nothing keeps the cloth out.
    clearance = np.where(beneath_r > 0.02, 0.85 * (smooth.ravel() - beneath_r), -0.05)
    return Tube(np.column_stack([index, index[:, 0]]), vertices, beneath, normals, clearance)


def sleeve_tube(
    m: Mannequin, spec: GarmentSpec, side: str, start: float, end: float, first: int
) -> tuple[Tube, np.ndarray]:
    """A sleeve between two places along the arm, and those of its rows; its vertices count from `first`."""
    rows = max(2, round((end - start - 0.012) / _SLEEVE_ROW_M) + 1)
    s = np.linspace(start + 0.012, end, rows) if rows > 1 else np.array([end])
    angle = np.linspace(-np.pi, np.pi, SLEEVE_COLUMNS + 1)[:-1]
    skin = np.stack([m.arm_radius(side, float(x), angle) for x in s])
    skin = np.where(skin > 0.01, skin, np.median(skin))
    ease = np.full(rows, spec.sleeve_ease_m)
    if spec.sleeve > 0.7:
        # A long sleeve narrows to its cuff.
        ease *= np.interp(s / m.arms[side].length, [0.4, 0.9, 1.0], [1.0, 0.75, 0.55])
    else:
        ease *= 1 + 0.5 * np.clip((s - s[0]) / 0.12, 0, 1)
    radius = 0.6 * skin + 0.4 * skin.mean(1, keepdims=True)
    radius = np.maximum(radius, skin) + ease[:, None]
    for k in range(1, rows):
        radius[k] = np.maximum(radius[k], radius[k - 1] - 0.25 * (s[k] - s[k - 1]))
    radius = gaussian_filter1d(gaussian_filter1d(radius, 1.0, axis=0, mode="nearest"), 1.0, axis=1, mode="wrap")
    radius = np.maximum(radius, skin + 0.5 * ease[:, None])
    centre, frame = m.arms[side].at(s)
    d = directions(angle)
    out = np.einsum("ak,rkx->rax", d, frame[:, :2])
    vertices = centre[:, None] + radius[..., None] * out
    beneath = centre[:, None] + skin[..., None] * out
    index = first + np.arange(rows * SLEEVE_COLUMNS).reshape(rows, SLEEVE_COLUMNS)
    tube = Tube(
        np.column_stack([index, index[:, 0]]),
        vertices.reshape(-1, 3),
        beneath.reshape(-1, 3),
        out.reshape(-1, 3),
        0.95 * (radius - skin).ravel(),
    )
    return tube, s
