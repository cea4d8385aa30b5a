"""The truth of a rendered clip as rows: what the annotators should have found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from models.perception.hands.base import Camera
from models.perception.mesh_render import vertex_normals
from pipelines.arrays import encode_mask, points_to_arrow, record_batch, structs_to_arrow
from pipelines.store.schemas import CAMERA, LANDMARK, POINT_2D, POINT_3D, TableSpec
from pipelines.store.studio_schemas import STUDIO_FRAMES, STUDIO_HANDS
from pipelines.studio.body.hand import SIDES, HandRig
from pipelines.studio.body.landmarks import Landmarks, hand_keypoints, visible, visible_share
from pipelines.studio.body.rig import Rig, Shape
from pipelines.studio.cloth import Label
from pipelines.studio.motion import Moment
from pipelines.studio.render import Frame, StudioCamera

VERTEX_STEP_M = 1e-4
"""Unit of the stored mesh vertices."""
_SKIN_NORMALS_STEP = 3
_FILLED_LATER = ("batch", "video_id", "fingerprint")


@dataclass
class TruthWriter:
    """Collects the rows of one clip, frame by frame.

    Attributes:
        rig: The body.
        shape: The person.
        fps: Frames a second.
    """

    rig: Rig
    shape: Shape
    fps: float
    _frames: list[dict] = field(default_factory=list)
    _hands: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._landmarks = Landmarks.of(self.rig, self.shape)
        self._hand_rigs = {side: HandRig(self.rig, self.shape, side) for side in SIDES}
        faces = self.rig.faces
        self._hand_faces = {}
        for side, index in self.rig.hands.items():
            inside = np.isin(faces, index).all(1)
            lookup = np.full(self.rig.num_vertices, -1)
            lookup[index] = np.arange(len(index))
            self._hand_faces[side] = lookup[faces[inside]]

    def add(self, number: int, moment: Moment, frame: Frame, camera: StudioCamera, agnostic: np.ndarray) -> None:
        """Add one frame.

        Args:
            number: Frame number from 0.
            moment: What was performed.
            frame: What was drawn.
            camera: Where from.
            agnostic: (H, W) bool, the region to repaint.
        """
        points = camera.to_camera(self._landmarks.positions(moment.posed, moment.skin))
        intrinsics = camera.intrinsics
        pixels = intrinsics.project(points)
        hips = points[[23, 24]].mean(0)
        seen = visible(points, pixels, frame.depth)
        z = (points[:, 2] - hips[2]) * intrinsics.fx / hips[2]
        label = frame.label
        self._frames.append(
            {
                "frame": number,
                "time_s": number / self.fps,
                "landmarks": np.concatenate([pixels, z[:, None], seen[:, None]], 1),
                "world_landmarks": points - hips,
                "camera": (intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy),
                "person_mask": encode_mask((label != Label.BACKGROUND).astype(np.uint8)),
                "garment_mask": encode_mask((label == Label.GARMENT).astype(np.uint8)),
                "skin_mask": encode_mask((label == Label.SKIN).astype(np.uint8)),
                "agnostic_mask": encode_mask(agnostic.astype(np.uint8)),
                "height": label.shape[0],
                "width": label.shape[1],
                "action": moment.action,
            }
        )
        for side in SIDES:
            self._hands.append(self._hand_row(number, side, moment, frame, camera, intrinsics))

    def _hand_row(
        self, number: int, side: str, moment: Moment, frame: Frame, camera: StudioCamera, intrinsics: Camera
    ) -> dict:
        keypoints = camera.to_camera(hand_keypoints(self._hand_rigs[side], moment.posed, moment.skin))
        vertices = camera.to_camera(moment.skin[self.rig.hands[side]])
        normals = vertex_normals(vertices, self._hand_faces[side])[::_SKIN_NORMALS_STEP]
        some = vertices[::_SKIN_NORMALS_STEP]
        touch = moment.touches[side]
        stored = np.rint((vertices - keypoints[0]) / VERTEX_STEP_M).astype("<i2")
        return {
            "frame": number,
            "handedness": side,
            "keypoints_2d": intrinsics.project(keypoints),
            "keypoints_3d": keypoints,
            "vertices": stored.tobytes(),
            "visible": visible_share(some, intrinsics.project(some), normals, frame.depth),
            "contact": touch.contact,
            "action": touch.action,
            "distance_m": touch.distance_m,
        }

    def frames(self) -> pa.Table:
        """Rows of `studio_frames` without batch, video and fingerprint."""
        return _table(self._frames, STUDIO_FRAMES)

    def hands(self) -> pa.Table:
        """Rows of `studio_hands` without batch, video and fingerprint."""
        return _table(self._hands, STUDIO_HANDS)


def mesh_vertices(stored: bytes, wrist: np.ndarray) -> np.ndarray:
    """The mesh of a row of `studio_hands`: (1609, 3) metres, camera frame.

    Args:
        stored: The row's `vertices`.
        wrist: (3,) its keypoint 0, metres.
    """
    return np.frombuffer(stored, "<i2").reshape(-1, 3) * VERTEX_STEP_M + wrist


_STRUCTS = {
    "landmarks": LANDMARK,
    "world_landmarks": POINT_3D,
    "keypoints_2d": POINT_2D,
    "keypoints_3d": POINT_3D,
}


def _table(rows: Sequence[dict], spec: TableSpec) -> pa.Table:
    schema = pa.schema([f for f in spec.schema if f.name not in _FILLED_LATER])
    columns: dict = {}
    for name in schema.names:
        values = [r[name] for r in rows]
        if name in _STRUCTS:
            columns[name] = points_to_arrow(np.stack(values), _STRUCTS[name])
        elif name == "camera":
            columns[name] = structs_to_arrow(np.array(values), CAMERA)
        else:
            columns[name] = values
    return pa.Table.from_batches([record_batch(columns, schema)])
