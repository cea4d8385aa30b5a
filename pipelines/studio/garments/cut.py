"""Cuts the cloth of a top or a dress to a body: yoke from the body's own surface, tubes below it and along the arms.

The yoke (shoulders, chest above the armpits) is the body's surface, refined, cut at clean lines and moved outwards:
around the shoulders nothing else deforms as well. Below it the cloth hangs from what sticks out most instead of
following the body, so there it is a grid of rows and columns around an axis; so are sleeves, whose ends can be rolled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from pipelines.studio.garments import mesh
from pipelines.studio.garments.mannequin import SIDES, Mannequin
from pipelines.studio.garments.sections import directions
from pipelines.studio.garments.spec import GarmentSpec
from pipelines.studio.garments.tubes import COLUMNS, Tube, sleeve_tube, torso_tube
from pipelines.studio.garments.yoke import (
    JOIN_ARM_M,
    along_arm,
    cut_yoke,
    left_armhole,
    right_armhole,
    side_seam,
    sideways,
)

_SHOULDER_OFFSET_M = 0.005


@dataclass
class Cloth:
    """Cloth at rest.

    Attributes:
        vertices: (N, 3) metres.
        faces: (F, 3) int32, counter-clockwise from outside.
        beneath: (N, 3) the point of the body beneath each vertex.
        normals: (N, 3) unit, out of the body there.
        clearance: (N,) least distance from the plane through `beneath` at rest, metres.
        weights: (N, J) smooth skinning weights of the cloth.
        body_weights: (N, J) skinning weights of `beneath`.
        panel: (F,) 0 front, 1 back, 2 left sleeve, 3 right sleeve.
        torso: (R, COLUMNS + 1) vertices of the torso's tube, angles from -pi to pi, rows downwards.
        sleeves: left, right -> (R, SLEEVE_COLUMNS + 1) vertices of that sleeve's tube, towards its end.
        sleeve_s: left, right -> (R,) metres along the arm of those rows.
        centre: Vertices in the middle of the front, from the neckline to the hem; edges connect them.
        right: (F,) bool, the person's right half.
        arm: (N,) 0 on the torso, +1 on the left sleeve, -1 on the right one, from the armhole on.
    """

    vertices: np.ndarray
    faces: np.ndarray
    beneath: np.ndarray
    normals: np.ndarray
    clearance: np.ndarray
    weights: csr_matrix
    body_weights: csr_matrix
    panel: np.ndarray
    torso: np.ndarray
    sleeves: dict[str, np.ndarray]
    sleeve_s: dict[str, np.ndarray]
    centre: np.ndarray
    right: np.ndarray
    arm: np.ndarray


def cut_top(m: Mannequin, spec: GarmentSpec, detail: bool = True) -> Cloth:
    """Cut the cloth of a garment that hangs from the shoulders; without detail, coarse, for what is hardly seen."""
    join_z = m.armpit_z - 0.03
    sleeve_end = {side: max(spec.sleeve * m.arms[side].length, 0.05) for side in SIDES}
    join_s = {side: min(JOIN_ARM_M, sleeve_end[side]) for side in SIDES}
    yoke = cut_yoke(m, spec, join_z, join_s, detail)
    v, normals = m.shape.vertices, m.normals
    p = yoke.mix @ v
    n = yoke.mix @ normals
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    aw = {side: yoke.mix @ m.arm_weight[side] for side in SIDES}
    any_arm = aw["left"] + aw["right"]
    flat = np.clip(1.15 - 1.3 * np.maximum(n[:, 2], 0), 0, 1)
    # What lies on the shoulders lies close; further down the sleeve stands off all around.
    on_arm = sum(np.where(aw[side] > 0.5, np.clip(along_arm(m, side, p) / 0.11, 0, 1), 0) for side in SIDES)
    flat = flat + (1 - flat) * on_arm
    below = np.clip((m.neck_z - p[:, 2]) / max(m.neck_z - m.armpit_z, 0.05), 0, 1)
    ease = (1 - any_arm) * spec.ease_m * below + any_arm * spec.sleeve_ease_m
    # Thick cloth lies on the shoulders no closer than what is worn beneath it needs.
    least = _SHOULDER_OFFSET_M + (0.005 if spec.opens else 0.0)
    clearance = least + np.maximum(ease - least, 0) * flat
    # Towards the tube below, cloth spans hollows as it does there.
    angle, _ = m.hull.polar(p)
    hollow = np.maximum(m.hull.at(angle, p[:, 2]) - m.body.at(angle, p[:, 2]), 0)
    near = np.clip(1 - (p[:, 2] - join_z) / 0.10, 0, 1) * (any_arm < 0.1)
    clearance = clearance + np.minimum(0.9 * hollow, 0.06) * near * np.maximum((n[:, :2] * directions(angle)).sum(1), 0)
    weights_body = csr_matrix(yoke.mix @ m.rig.weights)

    first = len(p)
    torso = torso_tube(m, spec, join_z, first)
    tubes, tube_weights = [torso], [_trunk_weights(m, torso)]
    first += torso.index[:, :-1].size
    faces = [yoke.faces, mesh.grid_faces(torso.index)]
    loops = mesh.boundary_loops(yoke.faces)
    waist = min((l for l in loops if abs(p[l, 0].mean()) < 0.05), key=lambda l: p[l, 2].mean())
    angle = np.arctan2(p[waist, 0], -(p[waist, 1] - m.hull.centre(np.array([join_z]))[0]))
    faces.append(_join(waist, angle, torso.index[0]))
    sleeves, sleeve_s = {}, {}
    for side in SIDES:
        sign = 1 if side == "left" else -1
        loop = max((l for l in loops if l is not waist), key=lambda l: sign * p[l, 0].mean())
        if sleeve_end[side] - join_s[side] < 0.012:
            continue
        tube, s = sleeve_tube(m, spec, side, join_s[side], sleeve_end[side], first)
        first += tube.index[:, :-1].size
        centre, frame = m.arms[side].at(np.array(join_s[side]))
        local = (p[loop] - centre) @ frame.T
        faces += [mesh.grid_faces(tube.index), _join(loop, np.arctan2(local[:, 0], -local[:, 1]), tube.index[0])]
        tubes.append(tube)
        tube_weights.append(_arm_weights(m, side, tube))
        sleeves[side], sleeve_s[side] = tube.index, s
    vertices = np.concatenate([p + clearance[:, None] * n, *(t.vertices for t in tubes)])
    beneath = np.concatenate([p, *(t.beneath for t in tubes)])
    all_normals = np.concatenate([n, *(t.normals for t in tubes)])
    support, support_normals = _eased(yoke, p, n, clearance * flat, beneath, all_normals)
    clear = np.concatenate([clearance, *(t.clearance for t in tubes)])
    body_weights = csr_matrix(vstack([weights_body, *tube_weights]))
    all_faces = np.concatenate(faces).astype(np.int32)
    mean = mesh.neighbour_mean(all_faces, len(vertices))
    free = np.zeros(len(vertices))
    free[: len(p)] = 1
    for index in (torso.index, *sleeves.values()):
        rows = min(6, len(index) - 1)
        free[index[:rows]] = np.linspace(1, 0, rows, endpoint=False)[:, None]
    vertices = relax(vertices, mean, free, support, support_normals, clear, 100 if detail else 30)
    vertices = _smoothed_joins(m, vertices, mean, join_z, join_s, aw, torso, sleeves)
    weights = body_weights
    for _ in range(5):
        weights = csr_matrix(0.5 * weights + 0.5 * (mean @ weights))
    # The body's own middle tells what the cut ran through; the cloth's has moved a little.
    x = np.concatenate([yoke.mix @ sideways(m), *(t.vertices[:, 0] for t in tubes)])
    middle = np.flatnonzero((np.abs(x[: len(p)]) < 1e-6) & (p[:, 1] < m.joint("neck01")[1]))
    centre = np.concatenate([middle[np.argsort(-p[middle, 2])], torso.index[:, COLUMNS // 2]])
    vertices[centre, 0] = 0.0
    panel, arm = _panels(m, vertices, beneath, all_faces, torso, sleeves, join_z)
    return Cloth(
        vertices,
        all_faces,
        support,
        support_normals,
        clear,
        weights,
        body_weights,
        panel,
        torso.index,
        sleeves,
        sleeve_s,
        centre,
        x[all_faces].mean(1) < 0,
        arm,
    )


def _smoothed_joins(
    m: Mannequin,
    vertices: np.ndarray,
    mean: csr_matrix,
    join_z: float,
    join_s: dict[str, float],
    aw: dict[str, np.ndarray],
    torso: Tube,
    sleeves: dict[str, np.ndarray],
) -> np.ndarray:
    """Smooth away what is left of a step where yoke and tubes meet, which are cut by different rules."""
    yoke = len(aw["left"])
    away = np.abs(vertices[:, 2] - join_z)
    away[:yoke][aw["left"] + aw["right"] > 0.2] = np.inf
    away_on_arm = np.zeros(len(vertices), bool)
    for side, index in sleeves.items():
        from_join = along_arm(m, side, vertices)
        mine = np.zeros(len(vertices), bool)
        mine[:yoke] = aw[side] > 0.6
        mine[index] = True
        away_on_arm |= mine
        away[mine] = np.abs(from_join[mine] - join_s[side] - 0.005)
    ends = np.concatenate([index[-1] for index in (torso.index, *sleeves.values())])
    soft = 0.6 * np.exp(-((away / np.where(away_on_arm, 0.035, 0.05)) ** 2))
    soft[ends] = 0
    # On narrow tubes a step out follows each step in: plain smoothing would lace them.
    out = np.where(away_on_arm, -1.03, 0.3)
    for k in range(40):
        vertices = vertices + ((1 if k % 2 == 0 else out) * soft)[:, None] * (mean @ vertices - vertices)
    return vertices


def _eased(
    yoke: mesh.Patch, p: np.ndarray, n: np.ndarray, clearance: np.ndarray, beneath: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What cloth is held up by: the body without the small things that do not show through cloth."""
    mean = mesh.neighbour_mean(yoke.faces, len(p))
    smooth, turned = p.copy(), n.copy()
    for k in range(26):
        smooth += 0.5 * (mean @ smooth - smooth)
        if k < 8:
            turned += 0.5 * (mean @ turned - turned)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    # Only across the surface: what slides along it would pull the neckline with it.
    shift = ((smooth - p) * turned).sum(1)
    # Bumps may be planed off by as much as the cloth stands off, not more: it would lie in the body. Only on the chest,
    # whose skin is never seen there, cloth spans what is sharper than cloth can bend.
    chest = np.clip((-turned[:, 1] - 0.4) / 0.3, 0, 1) * np.exp(-(((p[:, 2] - p[:, 2].min() - 0.02) / 0.06) ** 2))
    smooth = p + np.maximum(shift, np.minimum(0.003 - clearance, 0) - 0.012 * chest)[:, None] * turned
    support, support_normals = beneath.copy(), normals.copy()
    support[: len(p)], support_normals[: len(p)] = smooth, turned
    return support, support_normals


def relax(
    vertices: np.ndarray,
    mean: csr_matrix,
    free: np.ndarray,
    beneath: np.ndarray,
    normals: np.ndarray,
    clearance: np.ndarray,
    rounds: int,
) -> np.ndarray:
    """Pull cloth taut between what it lies on, where it is `free` (N,) from 0 to 1; see `Cloth` for the rest.

    It stays at least `clearance` outside of the body.
    """
    x = vertices.copy()
    for _ in range(rounds):
        x += 0.5 * free[:, None] * (mean @ x - x)
        depth = clearance - ((x - beneath) * normals).sum(-1)
        x += np.where(free > 0, np.maximum(depth, 0), 0)[:, None] * normals
    return x


def _join(loop: np.ndarray, angle: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Triangles between the yoke's edge and the first row of a tube, both around the same axis."""
    # The yoke lies to the left of its edge, so that its edge runs with growing angles as seen from outside.
    start = int(angle.argmin())
    order = np.roll(np.arange(len(loop)), -start)
    ordered, at = loop[order], np.unwrap(angle[order])
    if at[-1] < at[0]:
        raise ValueError("the edge of a yoke runs the wrong way")
    ordered, at = np.append(ordered, ordered[0]), np.append(at, at[0] + 2 * np.pi)
    return mesh.strip(ordered, row, np.maximum.accumulate(at), np.linspace(-np.pi, np.pi, len(row)))


def _trunk_weights(m: Mannequin, tube: Tube) -> csr_matrix:
    inside = np.linalg.norm(tube.beneath[:, :2], axis=1) < 0.02
    return nearest_weights(m, np.where(inside[:, None], tube.vertices, tube.beneath), m.trunk, m.tree)


def _arm_weights(m: Mannequin, side: str, tube: Tube) -> csr_matrix:
    index = np.flatnonzero(m.arm_weight[side] > 0.5)
    return nearest_weights(m, tube.beneath, index, cKDTree(m.shape.vertices[index]))


def nearest_weights(m: Mannequin, points: np.ndarray, index: np.ndarray, tree: cKDTree) -> csr_matrix:
    """Skinning weights (N, J) at points (N, 3), from the nearest of the body's vertices `index` that `tree` holds."""
    distance, near = tree.query(points, k=4)
    w = 1 / (distance + 1e-4)
    w /= w.sum(1, keepdims=True)
    rows = np.repeat(np.arange(len(points)), 4)
    mix = csr_matrix((w.ravel(), (rows, index[near.ravel()])), shape=(len(points), m.rig.num_vertices))
    return csr_matrix(mix @ m.rig.weights)


def _panels(
    m: Mannequin,
    vertices: np.ndarray,
    beneath: np.ndarray,
    faces: np.ndarray,
    torso: Tube,
    sleeves: dict[str, np.ndarray],
    join_z: float,
) -> tuple[np.ndarray, np.ndarray]:
    middle = beneath[faces].mean(1)
    panel = (side_seam(m, middle) > 0).astype(int)
    touching = np.isin(faces, torso.index).any(1)
    outer = vertices[faces].mean(1)
    panel[touching] = outer[touching, 1] > m.hull.centre(outer[touching, 2])
    left = (left_armhole(m, middle) > 0) & ~touching & (middle[:, 2] > join_z - 1)
    right = (right_armhole(m, middle) > 0) & ~touching & (middle[:, 2] > join_z - 1)
    panel[left], panel[right] = 2, 3
    for number, side in ((2, "left"), (3, "right")):
        if side in sleeves:
            panel[np.isin(faces, sleeves[side]).any(1)] = number
    arm = np.zeros(len(vertices))
    arm[np.unique(faces[panel == 2])] = 1
    arm[np.unique(faces[panel == 3])] = -1
    return panel, arm
