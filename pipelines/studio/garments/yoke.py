"""The yoke of a garment: the piece of the body's surface around shoulders and chest that its cloth is made of there."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pipelines.studio.garments import mesh
from pipelines.studio.garments.mannequin import SIDES, Mannequin
from pipelines.studio.garments.spec import GarmentSpec

JOIN_ARM_M = 0.125
"""How far along the arm a long sleeve's tube begins."""


def cut_yoke(m: Mannequin, spec: GarmentSpec, join_z: float, join_s: dict[str, float], detail: bool) -> mesh.Patch:
    """Cut it out of the body.

    Args:
        m: The body.
        spec: The garment.
        join_z: Height at which the torso's tube goes on, metres.
        join_s: left, right -> place along the arm at which the sleeve's tube goes on.
        detail: Whether to refine it where the neckline is cut.
    """
    v, faces = m.shape.vertices, m.rig.faces
    near = (v[:, 2] > join_z - 0.04) & (m.head_weight < 0.9)
    for side in SIDES:
        near &= ~((m.arm_weight[side] > 0.3) & (along_arm(m, side, v) > join_s[side] + 0.05))
    patch = mesh.keep(mesh.whole_body(faces, len(v)), near[faces].all(1))
    for _ in range(2 if detail else 0):
        p = patch.mix @ v
        # Fine where the neckline is cut, coarser elsewhere.
        patch = mesh.refine(patch, p, np.where(np.abs(neckline(m, spec, p)) < 0.022, 0.012, 0.025))
    # Before other lines are cut: they make vertices close to this one, which are not on it.
    patch = mesh.split_at(patch, patch.mix @ sideways(m))
    p = patch.mix @ v
    arm = sum(patch.mix @ m.arm_weight[side] for side in SIDES)
    patch = mesh.clip(patch, np.where(arm > 0.5, 0.1, p[:, 2] - join_z))
    for side in SIDES:
        p, arm = patch.mix @ v, patch.mix @ m.arm_weight[side]
        patch = mesh.clip(patch, np.where(arm > 0.3, join_s[side] - along_arm(m, side, p), 0.1))
    patch = mesh.clip(patch, neckline(m, spec, patch.mix @ v))
    # Seams: shoulders and sides, armholes, and the middle of front and back.
    for seam in (side_seam, left_armhole, right_armhole):
        patch = mesh.split_at(patch, seam(m, patch.mix @ v))
    for side in SIDES:
        centre, frame = m.arms[side].at(np.array(0.06))
        p, arm = patch.mix @ v, patch.mix @ m.arm_weight[side]
        patch = mesh.split_at(patch, np.where(arm > 0.1, (p - centre) @ frame[0], 1.0))
    return _largest(patch)


def sideways(m: Mannequin) -> np.ndarray:
    """(V,) x of the body's vertices, metres; 0 for those in its middle, which are not quite there."""
    x = m.shape.vertices[:, 0]
    return np.where(np.abs(x) < 0.0015, 0.0, x)


def _largest(patch: mesh.Patch) -> mesh.Patch:
    e = mesh.edge_list(patch.faces)
    n = patch.mix.shape[0]
    _, part = connected_components(coo_matrix((np.ones(len(e)), (e[:, 0], e[:, 1])), shape=(n, n)), directed=False)
    return mesh.keep(patch, part[patch.faces[:, 0]] == np.bincount(part[patch.faces[:, 0]]).argmax())


def along_arm(m: Mannequin, side: str, points: np.ndarray) -> np.ndarray:
    """Metres along the upper arm's axis."""
    centre, frame = m.arms[side].at(np.array(JOIN_ARM_M))
    return JOIN_ARM_M - (points - centre) @ frame[2]


def neckline(m: Mannequin, spec: GarmentSpec, points: np.ndarray) -> np.ndarray:
    """Positive on cloth, negative in the opening for the neck: outside and inside of an ellipsoid around its root."""
    v = m.shape.vertices
    axis = m.joint("neck01")
    z0 = axis[2] + 0.03
    ring = v[(np.abs(v[:, 2] - z0) < 0.012) & (m.head_weight < 0.9) & (np.abs(v[:, 0]) < 0.1)]
    side_x = np.abs(ring[:, 0]).max() + spec.neck_gap_m + {"scoop": 0.03, "v": 0.008}.get(spec.neck, 0.0)
    y0 = float(axis[1])
    pit_z = float(m.joint("clavicle.L")[2]) + 0.012
    front_z = pit_z - spec.neck_drop_m - {"scoop": 0.05, "v": 0.075, "crew": 0.004}.get(spec.neck, -0.004)
    # A neckline ends well above where the yoke does.
    front_z = max(front_z, m.armpit_z + 0.015)
    front = v[(np.abs(v[:, 0]) < 0.02) & (np.abs(v[:, 2] - front_z) < 0.02) & (v[:, 1] < y0)]
    front_y = float(front[:, 1].mean())
    tops = v[np.abs(np.abs(v[:, 0]) - side_x) < 0.012]
    side_z = float(tops[(tops[:, 2] < z0 + 0.02)][:, 2].max())
    c = 1.25 * (z0 - front_z)
    b_front = (y0 - front_y) / np.sqrt(max(1 - ((z0 - front_z) / c) ** 2, 0.05))
    a = side_x / np.sqrt(max(1 - ((z0 - side_z) / c) ** 2, 0.05))
    back = v[(np.abs(v[:, 0]) < 0.02) & (np.abs(v[:, 2] - axis[2] + 0.002) < 0.015) & (v[:, 1] > y0)]
    b_back = float(back[:, 1].mean()) - y0 + 0.5 * spec.neck_gap_m
    x, y, z = (points - np.array([0, y0, z0])).T
    z = np.minimum(z, 0.0)
    if spec.neck == "v":
        # Two straight edges from the shoulders: the opening narrows linearly with depth at the front.
        wide = a * np.clip(1 + z / (z0 - front_z), 0, 1) ** 0.85
        return np.where(
            y < 0, np.abs(x) - wide + 0.0005, np.sqrt((x / a) ** 2 + (y / b_back) ** 2 + (z / c) ** 2) * a - a
        )
    b = np.where(y < 0, b_front, b_back)
    return a * (np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) - 1)


def side_seam(m: Mannequin, points: np.ndarray) -> np.ndarray:
    """Negative on the front, positive on the back."""
    side_y = float(m.hull.centre(np.array([m.armpit_z - 0.03]))[0])
    top_y = 0.5 * float(m.joint("upperarm01.L")[1] + m.joint("neck01")[1]) + 0.008
    t = np.clip((points[:, 2] - m.armpit_z) / max(m.joint("upperarm01.L")[2] - m.armpit_z, 0.02), 0, 1)
    return points[:, 1] - (side_y + t * (top_y - side_y))


def left_armhole(m: Mannequin, points: np.ndarray) -> np.ndarray:
    joint = m.joint("upperarm01.L")
    return (points - joint) @ np.array([0.97, 0.0, -0.24]) - 0.004


def right_armhole(m: Mannequin, points: np.ndarray) -> np.ndarray:
    joint = m.joint("upperarm01.R")
    return (points - joint) @ np.array([-0.97, 0.0, -0.24]) - 0.004
