"""Hands against the truth: found or not, keypoints in the picture and in space, and the mesh surface.

Measured on hands of which at least half can be seen. A hand's size is the longer side of the box around its true
keypoints, by which PCK of hands is usually normalised (OneHand10K, COCO-WholeBody). A hand is found when a row of the
same handedness lies within half a hand size of it, keypoints on average. Errors in space take no account of where the
hand is (root-aligned), nor of its size (scale-aligned), nor of how it is turned (Procrustes, "PA").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from scipy.spatial import cKDTree

from models.perception.hand_mesh import TOPOLOGY
from models.perception.hands.hamer import HamerUnavailable
from models.perception.topologies import posed_hand
from pipelines.arrays import points_to_numpy, structs_to_numpy
from pipelines.evaluation.annotators.alignment import distances, procrustes_aligned, root_aligned, scale_aligned
from pipelines.evaluation.annotators.statistics import Figure, Median, Ratio

MIN_VISIBLE = 0.5
FOUND_WITHIN = 0.5
"""Mean distance of keypoints, in hand sizes, up to which a row is about that hand."""
THRESHOLDS = (0.1, 0.2)
_TRUE_VERTICES = 1609
_SURFACE_STRIDE = 4
"""Of the vertices, every fourth is looked up on the other surface: the mean is the same to a few percent."""
_VERTEX_STEP_M = 1e-4
_IN_SPACE = ("mpjpe", "mpjpe_scaled", "pa_mpjpe", "turned_deg", "size_ratio", "mesh", "pa_mesh", "surface")
_SIDES = ("left", "right")


@dataclass(frozen=True)
class HandSamples:
    """One video's hands against the truth; H true hands that are half visible, of which G are found.

    Attributes:
        frame: (H,) frame numbers.
        side: (H,) 0 left, 1 right.
        touching: (H,) bool, whether the hand touches the garment.
        found: (H,) bool.
        interpolated: (H,) bool, found, but filled between neighbours.
        swapped: (H,) bool, not found, while the other hand's row lies on it.
        keypoint_error: (H, 21) distances in hand sizes; infinite where not found, NaN outside of the picture.
        mpjpe: (H,) mean distance of the 20 keypoints besides the root, root-aligned, mm; NaN where not found, like
            all that follow.
        mpjpe_scaled: (H,) after scale alignment.
        pa_mpjpe: (H,) mean of all 21 after Procrustes alignment.
        turned_deg: (H,) how far the hand is turned from the true one, by the same alignment, degrees.
        size_ratio: (H,) predicted size over true size, by the distances of keypoints from their mean.
        mesh: (H,) mean distance of corresponding vertices, root-aligned, mm; NaN for other topologies, too, and for
            MANO where its files are missing.
        pa_mesh: (H,) after Procrustes alignment.
        surface: (H,) mean distance from each surface to the nearest vertex of the other, root-aligned, mm.
        predicted: Rows that were seen and not interpolated.
        predicted_right: How many of them lie on the true hand of their handedness, visible or not.
    """

    frame: np.ndarray
    side: np.ndarray
    touching: np.ndarray
    found: np.ndarray
    interpolated: np.ndarray
    swapped: np.ndarray
    keypoint_error: np.ndarray
    mpjpe: np.ndarray
    mpjpe_scaled: np.ndarray
    pa_mpjpe: np.ndarray
    turned_deg: np.ndarray
    size_ratio: np.ndarray
    mesh: np.ndarray
    pa_mesh: np.ndarray
    surface: np.ndarray
    predicted: int
    predicted_right: int


def measure_hands(truth: pa.Table, predicted: pa.Table, size: tuple[int, int]) -> HandSamples:
    """Compare one video.

    Args:
        truth: Its rows of `studio_hands`.
        predicted: Its rows of `hands`, of one backend.
        size: Rows and columns of the picture.
    """
    true_2d = points_to_numpy(truth["keypoints_2d"], 21).astype(np.float64)
    true_3d = points_to_numpy(truth["keypoints_3d"], 21).astype(np.float64)
    frames, sides = _keys(truth)
    row_of = {key: i for i, key in enumerate(zip(*(k.tolist() for k in _keys(predicted))))}
    own = np.array([row_of.get((f, s), -1) for f, s in zip(frames.tolist(), sides.tolist())], int)
    other = np.array([row_of.get((f, 1 - s), -1) for f, s in zip(frames.tolist(), sides.tolist())], int)
    points = points_to_numpy(predicted["keypoints_2d"], 21).astype(np.float64)
    extent = np.ptp(true_2d, axis=1).max(1)
    error = _errors(points, own, true_2d) / np.maximum(extent, 1e-6)[:, None]
    swapped_error = _errors(points, other, true_2d) / np.maximum(extent, 1e-6)[:, None]
    on_it = error.mean(1) <= FOUND_WITHIN
    filled = np.zeros(len(truth), bool)
    seen_rows = np.zeros(0, bool)
    if predicted.num_rows:
        seen_rows = ~np.asarray(predicted["interpolated"].to_numpy(zero_copy_only=False), bool)
        filled = on_it & ~seen_rows[own]
    keep = np.asarray(truth["visible"], np.float64) >= MIN_VISIBLE
    inside = (true_2d >= -0.5).all(-1) & (true_2d < np.array(size[::-1]) - 0.5).all(-1)
    in_space = _in_space(truth, predicted, own, true_3d, keep & on_it)
    error[~on_it] = np.inf
    error[~inside] = np.nan
    return HandSamples(
        frame=frames[keep],
        side=sides[keep],
        touching=np.asarray(truth["contact"].to_numpy(zero_copy_only=False), bool)[keep],
        found=on_it[keep],
        interpolated=filled[keep],
        swapped=(~on_it & (swapped_error.mean(1) <= FOUND_WITHIN))[keep],
        keypoint_error=error[keep],
        predicted=int(seen_rows.sum()),
        predicted_right=int((on_it & ~filled).sum()),
        **{name: values[keep] for name, values in in_space.items()},
    )


def _keys(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    sides = np.array([_SIDES.index(h) for h in rows["handedness"].to_pylist()], int)
    return np.asarray(rows["frame"], np.int64), sides


def _errors(points: np.ndarray, rows: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Distances (N, 21) in pixels of rows of predicted points from the true ones; infinite for row -1."""
    out = np.full(true.shape[:2], np.inf)
    out[rows >= 0] = np.linalg.norm(points[rows[rows >= 0]] - true[rows >= 0], axis=-1)
    return out


def _in_space(
    truth: pa.Table, predicted: pa.Table, rows: np.ndarray, true: np.ndarray, compare: np.ndarray
) -> dict[str, np.ndarray]:
    """Errors in space of the hands that `compare` names, each (N,): see `HandSamples`."""
    out = {name: np.full(len(rows), np.nan) for name in _IN_SPACE}
    chosen = np.flatnonzero(compare)
    if not len(chosen):
        return out
    every = points_to_numpy(predicted["keypoints_3d"], 21).astype(np.float64)
    a, b = root_aligned(every[rows[chosen]], true[chosen])
    out["mpjpe"][chosen] = 1e3 * distances(a, b)[:, 1:].mean(1)
    out["mpjpe_scaled"][chosen] = 1e3 * distances(scale_aligned(a, b)[0], b)[:, 1:].mean(1)
    aligned, out["turned_deg"][chosen] = procrustes_aligned(a, b)
    out["pa_mpjpe"][chosen] = 1e3 * distances(aligned, b).mean(1)
    out["size_ratio"][chosen] = _spread(a) / np.maximum(_spread(b), 1e-9)
    for i, vertices, topology in _meshes(predicted, rows, chosen):
        mine = vertices - every[rows[i], 0]
        theirs = true_vertices(truth["vertices"][int(i)].as_py())
        out["surface"][i] = 1e3 * _surface_distance(mine, theirs)
        if topology == TOPOLOGY:
            mine = mine[:_TRUE_VERTICES]
            out["mesh"][i] = 1e3 * distances(mine, theirs).mean()
            out["pa_mesh"][i] = 1e3 * distances(procrustes_aligned(mine[None], theirs[None])[0][0], theirs).mean()
    return out


def true_vertices(stored: bytes) -> np.ndarray:
    """The mesh of a row of `studio_hands` from its `vertices`: (1609, 3) metres from keypoint 0, camera frame."""
    return np.frombuffer(stored, "<i2").reshape(-1, 3) * _VERTEX_STEP_M


def _spread(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points - points.mean(1, keepdims=True), axis=-1).mean(1)


def _meshes(predicted: pa.Table, rows: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray, str]]:
    """Yields (true hand, (V, 3) posed vertices in metres, topology); hands of one shape are posed together."""
    translations = structs_to_numpy(predicted["mesh_translation"]).astype(np.float64)
    groups: dict[tuple, list[int]] = {}
    for i in chosen:
        row = int(rows[i])
        values = (predicted[c][row].as_py() for c in ("mesh_topology", "handedness", "mesh_shape"))
        topology, handedness, shape = values
        groups.setdefault((topology, handedness, tuple(shape)), []).append(int(i))
    for (topology, handedness, shape), members in groups.items():
        for start in range(0, len(members), 64):  # bounds memory
            part = members[start : start + 64]
            pose = np.array([predicted["mesh_pose"][int(rows[i])].as_py() for i in part]).reshape(len(part), -1, 3)
            try:
                vertices, _ = posed_hand(topology, handedness, pose, np.array(shape), translations[rows[part]])
            except HamerUnavailable:
                break  # MANO's files are licence-gated: keypoints can be compared without them, surfaces cannot
            for i, v in zip(part, vertices):
                yield i, v, topology


def _surface_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance from some vertices of each mesh to the nearest vertex of the other, metres."""
    there = cKDTree(b).query(a[::_SURFACE_STRIDE])[0].mean()
    back = cKDTree(a).query(b[::_SURFACE_STRIDE])[0].mean()
    return float(there + back) / 2


def hand_figures(videos: Sequence[HandSamples]) -> list[Figure]:
    """Figures of many videos, of one backend."""

    def mean(name: str, unit: str = "share", better: Literal["higher", "lower"] = "higher") -> Figure:
        return Figure(f"hands.{name}", Ratio.mean([np.asarray(getattr(v, name), float) for v in videos]), unit, better)

    out = [
        mean("found"),
        Figure("hands.found_touching", Ratio.mean([v.found[v.touching].astype(float) for v in videos])),
        Figure("hands.found_observed", Ratio.mean([(v.found & ~v.interpolated).astype(float) for v in videos])),
        mean("swapped", better="lower"),
        Figure("hands.precision", Ratio([v.predicted_right for v in videos], [v.predicted for v in videos])),
    ]
    for t in THRESHOLDS:
        right = [np.where(np.isnan(v.keypoint_error), np.nan, v.keypoint_error <= t) for v in videos]
        out.append(Figure(f"hands.pck_{t:g}", Ratio.mean(right)))
        out.append(Figure(f"hands.pck_{t:g}_found", Ratio.mean([r[v.found] for r, v in zip(right, videos)])))
    touching = [np.where(v.touching, v.mpjpe, np.nan) for v in videos]
    out += [
        mean("mpjpe", "mm", "lower"),
        Figure("hands.mpjpe_touching", Ratio.mean(touching), "mm", "lower"),
        Figure("hands.mpjpe_median", Median([v.mpjpe for v in videos]), "mm", "lower"),
        mean("mpjpe_scaled", "mm", "lower"),
        mean("pa_mpjpe", "mm", "lower"),
        mean("mesh", "mm", "lower"),
        mean("pa_mesh", "mm", "lower"),
        mean("surface", "mm", "lower"),
        Figure("hands.turned_median", Median([v.turned_deg for v in videos]), "deg", "lower"),
        Figure("hands.size_ratio", Median([v.size_ratio for v in videos]), "ratio", ""),
    ]
    return out
