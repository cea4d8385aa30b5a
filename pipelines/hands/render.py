"""Hand meshes from rows of `hands`: posed, and rendered as a video of lit meshes on black."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.perception.hands.base import Camera
from models.perception.mesh_render import render_hands
from models.perception.topologies import posed_hand
from pipelines.arrays import structs_to_numpy


@dataclass(frozen=True)
class PosedHand:
    """One hand of one frame.

    Attributes:
        vertices: (V, 3) metres in the camera frame.
        faces: (F, 3) counter-clockwise from outside.
        side: right or left.
        camera: Camera of the frame.
    """

    vertices: np.ndarray
    faces: np.ndarray
    side: str
    camera: Camera


def posed_hands(rows: pa.Table) -> dict[int, list[PosedHand]]:
    """Frame number -> the hands in it, of rows of `hands` of one video.

    Raises:
        models.perception.hands.hamer.HamerUnavailable: The rows hold MANO meshes and its files are missing.
    """
    cameras = structs_to_numpy(rows["camera"]).astype(np.float64)
    translations = structs_to_numpy(rows["mesh_translation"]).astype(np.float64)
    found: dict[int, list[PosedHand]] = {}
    for i, frame in enumerate(rows["frame"].to_pylist()):
        values = {c: rows[c][i].as_py() for c in ("handedness", "mesh_topology", "mesh_pose", "mesh_shape")}
        vertices, faces = posed_hand(
            values["mesh_topology"],
            values["handedness"],
            np.asarray(values["mesh_pose"]).reshape(1, -1, 3),
            np.asarray(values["mesh_shape"]),
            translations[i, None],
        )
        found.setdefault(frame, []).append(PosedHand(vertices[0], faces, values["handedness"], Camera(*cameras[i])))
    return found


def render_posed(hands: Sequence[PosedHand], height: int, width: int) -> np.ndarray:
    """Picture (height, width, 3) uint8 RGB of one frame's hands: right red, left green, black where there is none."""
    if not hands:
        return np.zeros((height, width, 3), np.uint8)
    meshes = ([h.vertices for h in hands], [h.faces for h in hands], [h.side for h in hands])
    return render_hands(*meshes, hands[0].camera, height, width)[0]


def hand_video(rows: pa.Table, height: int, width: int, frames: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Pictures of the hands, black where there is none: right red, left green.

    Args:
        rows: Rows of `hands` of one video, cameras in pixels of the pictures to make.
        height: Rows of the pictures.
        width: Columns of the pictures.
        frames: Frame numbers to make, any order; from 0 to the last one with a hand by default.

    Yields:
        (height, width, 3) uint8 RGB for each frame number.

    Raises:
        models.perception.hands.hamer.HamerUnavailable: The rows hold MANO meshes and its files are missing.
    """
    numbers = np.asarray(rows["frame"], np.int64) if rows.num_rows else np.zeros(0, np.int64)
    if frames is None:
        frames = np.arange(numbers.max() + 1 if len(numbers) else 0)
    for frame in frames:
        # One frame at a time: the meshes of a long video would not fit in memory.
        of_frame = rows.take(pa.array(np.flatnonzero(numbers == frame)))
        yield render_posed(posed_hands(of_frame).get(int(frame), []), height, width)
