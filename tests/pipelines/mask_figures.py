"""Drawn people and hands with known landmarks, for the tests of the agnostic masks."""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow as pa
from scipy.ndimage import distance_transform_edt

from pipelines.arrays import encode_mask, points_to_arrow
from pipelines.masks.base import Observation
from pipelines.masks.body import HandOutline, hand_length
from pipelines.masks.geometric import GeometricBackend
from pipelines.masks.settings import MasksSettings
from pipelines.masks.stage import compose
from pipelines.stage import VideoTask
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import HANDS, LANDMARK, POINT_2D, POSE

# A standing adult, front view, in units of torso length, origin between the hips, y up. The person's left is at +x.
_LEFT = {
    2: (0.05, 1.47), 1: (0.03, 1.47), 3: (0.07, 1.47), 7: (0.14, 1.44), 9: (0.05, 1.33), 11: (0.36, 1.00),
    13: (0.47, 0.48), 15: (0.52, 0.02), 17: (0.54, -0.13), 19: (0.50, -0.15), 21: (0.46, -0.08),
    23: (0.19, 0.0), 25: (0.20, -0.80), 27: (0.21, -1.55), 29: (0.20, -1.63), 31: (0.26, -1.67),
}  # fmt: skip


def standing(height: int, width: int, torso: float, centre: tuple[float, float]) -> np.ndarray:
    """(33, 4) landmarks in pixels of a standing person; `centre` is between the hips."""
    units = np.zeros((33, 2))
    units[0] = (0.0, 1.40)
    for k, (x, y) in _LEFT.items():
        units[k] = (x, y)
        units[{1: 4, 2: 5, 3: 6}.get(k, k + 1)] = (-x, y)
    out = np.ones((33, 4), np.float32)
    out[:, :2] = np.array(centre) + torso * units * (1, -1)
    out[:, 2] = 0.0
    return out


def silhouette(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """The person drawn with thick lines, independent of the code under test; (height, width) uint8."""
    out = np.zeros((height, width), np.uint8)
    p = [tuple(int(v) for v in xy) for xy in np.round(landmarks[:, :2])]
    torso = np.linalg.norm(landmarks[[11, 12], :2].mean(0) - landmarks[[23, 24], :2].mean(0))
    cv2.fillConvexPoly(out, np.array([p[11], p[12], p[24], p[23]], np.int32), 1)
    for a, b, w in (
        (11, 12, 0.2), (23, 24, 0.3), (11, 23, 0.2), (12, 24, 0.2), (11, 13, 0.2), (12, 14, 0.2), (13, 15, 0.16),
        (14, 16, 0.16), (15, 19, 0.14), (16, 20, 0.14), (23, 25, 0.28), (24, 26, 0.28), (25, 27, 0.2), (26, 28, 0.2),
        (27, 31, 0.12), (28, 32, 0.12),
    ):  # fmt: skip
        cv2.line(out, p[a], p[b], 1, max(1, round(w * torso)))
    neck = landmarks[[11, 12], :2].mean(0)
    cv2.line(out, tuple(int(v) for v in neck), p[0], 1, max(1, round(0.22 * torso)))
    cv2.ellipse(
        out, tuple(int(v) for v in eyes(landmarks)), (round(0.17 * torso), round(0.25 * torso)), 0, 0, 360, 1, -1
    )
    return out


def eyes(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[1:7, :2].mean(0)


def face(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """A box from brow to mouth between the ears, a little inside; bool."""
    y, x = np.mgrid[:height, :width]
    left, right = sorted((landmarks[7, 0], landmarks[8, 0]))
    inset = 0.15 * (right - left)
    inside = (x > left + inset) & (x < right - inset)
    return inside & (y > eyes(landmarks)[1] - 2) & (y < landmarks[[9, 10], 1].mean() + 1)


def open_hand(wrist: tuple[float, float], length: float, angle: float = 0.0) -> np.ndarray:
    """(21, 2) keypoints of a hand with spread fingers, pointing up at angle 0 (degrees, clockwise)."""
    out = [(0.0, 0.0)]
    out += [(0.12, 0.12), (0.22, 0.24), (0.30, 0.34), (0.37, 0.42)]
    for base, spread in ((0.14, 0.30), (0.045, 0.08), (-0.05, -0.12), (-0.14, -0.35)):
        knuckle = np.array([base, 0.47])
        for joint in (0.0, 0.21, 0.34, 0.44):
            out.append(tuple(knuckle + joint * np.array([np.sin(spread), np.cos(spread)])))
    a = np.radians(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return (np.array(wrist) + length * (np.array(out) * (1, -1)) @ turn.T).astype(np.float32)


def observe(landmarks, person, hands=(), options: MasksSettings | None = None, frame: int = 0) -> Observation:
    options = options or MasksSettings()
    size = person.shape
    scale = min(1.0, options.working_side_px / max(size))
    small = (round(size[1] * scale), round(size[0] * scale))
    reduced = (cv2.resize(person * np.uint8(255), small, interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
    return Observation(frame, landmarks, reduced, size, scale, tuple(hands))


def masks_of(seen: list[Observation], category: str = "upper_body", options: MasksSettings | None = None):
    options = options or MasksSettings()
    backend = GeometricBackend(options)
    return [m for _, m in compose(zip(seen, backend.regions(seen, None, category)), options)]


def hand(side: str, keypoints: np.ndarray, precise: bool = True) -> HandOutline:
    return HandOutline(side, keypoints, hand_length(keypoints), precise)


def grown(mask: np.ndarray, radius: float) -> np.ndarray:
    return distance_transform_edt(mask == 0) <= radius


def pose_table(landmarks: list[np.ndarray | None], persons: list[np.ndarray | None], fps: float = 30.0) -> pa.Table:
    found = np.array([p is not None for p in landmarks])
    points = np.stack([p if p is not None else np.zeros((33, 4)) for p in landmarks])
    return pa.table(
        {
            "frame": pa.array(range(len(landmarks)), pa.int32()),
            "time_s": np.arange(len(landmarks)) / fps,
            "detected": found,
            "landmarks": points_to_arrow(points, LANDMARK, found),
            "person_mask": pa.array([None if m is None else encode_mask(m) for m in persons], pa.binary()),
        }
    )


def hand_table(rows: list[tuple[int, str, np.ndarray, bool]]) -> pa.Table:
    points = np.stack([k for *_, k, _ in rows]) if rows else np.zeros((0, 21, 2))
    return pa.table(
        {
            "frame": pa.array([r[0] for r in rows], pa.int32()),
            "handedness": pa.array([r[1] for r in rows], pa.string()),
            "keypoints_2d": points_to_arrow(points, POINT_2D),
            "interpolated": pa.array([r[3] for r in rows], pa.bool_()),
        }
    )


def write_tables(
    store: DeltaStore, landmarks: list[np.ndarray], persons: list[np.ndarray], video_id: str = "v"
) -> None:
    keys = {"batch": "b", "video_id": video_id, "fingerprint": "x"}
    table = pose_table(landmarks, persons)
    empty = {
        "world_landmarks": pa.array([[]] * len(landmarks), POSE.schema.field("world_landmarks").type),
        "score": pa.array([1.0] * len(landmarks), pa.float32()),
        "person_area": pa.array([0.1] * len(landmarks), pa.float32()),
        **{k: pa.array([v] * len(landmarks)) for k, v in keys.items()},
    }
    columns = {**{n: table[n] for n in table.column_names}, **empty}
    store.replace(POSE, pa.table([columns[n] for n in POSE.schema.names], schema=POSE.schema), {"batch": "b"}, Commit())
    store.replace(HANDS, HANDS.schema.empty_table(), {"batch": "b"}, Commit())


def task(store: DeltaStore, height: int, width: int, **columns) -> VideoTask:
    row = {"batch": "b", "video_id": "v", "height": height, "width": width, "garment_category": None, **columns}
    return VideoTask(store, row, 1, lambda n: None)
