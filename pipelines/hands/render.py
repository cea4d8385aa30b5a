"""The rendered hand video: lit meshes of both hands on black, from rows of `hands`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from models.perception.hands.base import Camera
from models.perception.mesh_render import render_hands
from models.perception.topologies import posed_hand
from pipelines.arrays import structs_to_numpy


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
    cameras = structs_to_numpy(rows["camera"]).astype(np.float64)
    translations = structs_to_numpy(rows["mesh_translation"]).astype(np.float64)
    for frame in frames:
        hands = []
        for row in np.flatnonzero(numbers == frame):
            values = {c: rows[c][int(row)].as_py() for c in ("handedness", "mesh_topology", "mesh_pose", "mesh_shape")}
            vertices, faces = posed_hand(
                values["mesh_topology"],
                values["handedness"],
                np.asarray(values["mesh_pose"]).reshape(1, -1, 3),
                np.asarray(values["mesh_shape"]),
                translations[row, None],
            )
            hands.append((vertices[0], faces, values["handedness"], Camera(*cameras[row])))
        if not hands:
            yield np.zeros((height, width, 3), np.uint8)
            continue
        vertices_of, faces_of, sides, (camera, *_) = zip(*hands)
        yield render_hands(vertices_of, faces_of, sides, camera, height, width)[0]
