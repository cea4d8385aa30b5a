"""A small lake with truth and annotations whose differences are known: what the annotator report is tested on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from models.perception.hand_mesh import NUM_SHAPE, HandMesh
from models.perception.hands.base import Camera
from pipelines.arrays import encode_mask
from pipelines.evaluation.annotators.read import STAGES
from pipelines.store import Commit, DeltaStore, TableSpec
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, HANDS, POSE, STAGE_STATUS, VIDEOS
from pipelines.store.studio_schemas import STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS

BATCH = "b"
HEIGHT, WIDTH = 128, 96
CAMERA = Camera(110.0, 110.0, 47.5, 63.5)
TORSO = 40.0
"""Pixels from mid-shoulders to mid-hips in `standing`."""
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def table(spec: TableSpec, rows: list[dict[str, Any]], batch: str = BATCH) -> pa.Table:
    """Rows of a table; batch and fingerprint are filled in, and what is not named is null."""
    return pa.Table.from_pylist([{"batch": batch, "fingerprint": "f", **r} for r in rows], spec.schema)


def landmarks(points: np.ndarray, visibility: float | np.ndarray = 1.0) -> list[dict]:
    """(33, 2) pixels as a cell."""
    seen = np.broadcast_to(visibility, 33)
    return [{"x_px": float(x), "y_px": float(y), "z": 0.0, "visibility": float(v)} for (x, y), v in zip(points, seen)]


def standing() -> np.ndarray:
    """(33, 2) landmarks of a person whose torso is upright and `TORSO` pixels long; all in the picture."""
    points = np.stack([np.linspace(30, 60, 33), np.linspace(10, 120, 33)], 1)
    points[[11, 12]] = [[60, 40], [30, 40]]
    points[[23, 24]] = [[55, 40 + TORSO], [35, 40 + TORSO]]
    return points


def box_mask(x0: int, y0: int, x1: int, y1: int) -> bytes:
    """A rectangle, ends exclusive."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return encode_mask(mask)


def truth_frame(video_id: str, frame: int, **changed: Any) -> dict[str, Any]:
    """A row of `studio_frames`: garment 20 x 30 pixels, right region 30 x 30, person 40 x 100."""
    return {
        "video_id": video_id,
        "frame": frame,
        "time_s": frame / 25,
        "landmarks": landmarks(standing()),
        "world_landmarks": [{"x_m": 0.0, "y_m": 0.0, "z_m": 0.0}] * 33,
        "camera": dict(zip(("fx", "fy", "cx", "cy"), (CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy))),
        "person_mask": box_mask(30, 10, 70, 110),
        "garment_mask": box_mask(40, 40, 60, 70),
        "skin_mask": box_mask(0, 0, 0, 0),
        "agnostic_mask": box_mask(35, 40, 65, 70),
        "height": HEIGHT,
        "width": WIDTH,
        "action": None,
        **changed,
    }


def pose_row(video_id: str, frame: int, points: np.ndarray | None = None, **changed: Any) -> dict[str, Any]:
    """A row of `pose`; without points the truth of `truth_frame`."""
    return {
        "video_id": video_id,
        "frame": frame,
        "time_s": frame / 25,
        "detected": True,
        "landmarks": landmarks(standing() if points is None else points),
        "person_mask": box_mask(30, 10, 70, 110),
        **changed,
    }


class Hand:
    """A posed hand with its rows in both tables."""

    def __init__(self, side: str, seed: int = 0, at: tuple[float, float, float] = (0.0, 0.1, 0.7), bend: float = 0.2):
        rng = np.random.default_rng(seed)
        self.side = side
        self.pose = rng.normal(0, bend, (1, 20, 3))
        self.shape = np.ones(NUM_SHAPE)
        self.at = np.array(at)

    def posed(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (1610, 3) and keypoints (21, 3), metres."""
        vertices, keypoints = HandMesh(self.side)(self.pose, self.shape, self.at[None])
        return vertices[0], keypoints[0]

    def truth(self, video_id: str, frame: int, **changed: Any) -> dict[str, Any]:
        """A row of `studio_hands`."""
        vertices, keypoints = self.posed()
        stored = np.rint((vertices[:1609] - keypoints[0]) * 1e4).astype("<i2").tobytes()
        return {
            **self._points(video_id, frame),
            "vertices": stored,
            "visible": 1.0,
            "contact": False,
            "action": None,
            "distance_m": 0.1,
            **changed,
        }

    def found(self, video_id: str, frame: int, **changed: Any) -> dict[str, Any]:
        """A row of `hands`."""
        return {
            **self._points(video_id, frame),
            "score": 0.9,
            "mesh_pose": self.pose.ravel().tolist(),
            "mesh_shape": self.shape.tolist(),
            "mesh_translation": dict(zip(("x_m", "y_m", "z_m"), self.at.tolist())),
            "camera": {"fx": CAMERA.fx, "fy": CAMERA.fy, "cx": CAMERA.cx, "cy": CAMERA.cy},
            "mesh_topology": "cc0_hand",
            "reprojection_error_px": 0.0,
            "source": "mediapipe",
            "interpolated": False,
            **changed,
        }

    def _points(self, video_id: str, frame: int) -> dict[str, Any]:
        _, keypoints = self.posed()
        return {
            "video_id": video_id,
            "frame": frame,
            "handedness": self.side,
            "keypoints_2d": [dict(zip(("x_px", "y_px"), p)) for p in CAMERA.project(keypoints).tolist()],
            "keypoints_3d": [dict(zip(("x_m", "y_m", "z_m"), p)) for p in keypoints.tolist()],
        }


def caption(video_id: str, action: str, start: int, end: int, confidence: float = 0.8, **changed: Any) -> dict:
    """A row of `captions`."""
    return {
        "video_id": video_id,
        "kind": "action",
        "action": action,
        "start_frame": start,
        "end_frame": end,
        "text": action,
        "confidence": confidence,
        "source": "kinematic",
        **changed,
    }


def clip(video_id: str, performance: str, action: str | None = None) -> dict[str, Any]:
    """A row of `studio_clips`."""
    return {
        "video_id": video_id,
        "source_path": f"{video_id}.mp4",
        "seed": 0,
        "version": "1",
        "performance": performance,
        "action": action,
        "side": "right",
        "garment_type": "t_shirt",
        "garment": "g.png",
        "counterfactual_garment": "h.png",
        "depth_uri": "d",
        "look": "{}",
    }


def video(video_id: str, manifest: str | None = None, uri: str = "none", frames: int = 10) -> dict[str, Any]:
    """A row of `videos`."""
    return {
        "video_id": video_id,
        "source_path": f"{video_id}.mp4",
        "uri": uri,
        "width": WIDTH,
        "height": HEIGHT,
        "fps": 25.0,
        "num_frames": frames,
        "manifest": manifest,
        "status": "ok",
    }


def fill(store: DeltaStore, rows: dict[TableSpec, list[dict]], batch: str = BATCH, done: tuple[str, ...] = STAGES):
    """Write rows of a batch, and that the stages `done` went through all of its videos."""
    for spec, values in rows.items():
        store.replace(spec, table(spec, values, batch), {"batch": batch}, Commit())
    for stage in done:
        status = [
            {
                "stage": stage,
                "video_id": v["video_id"],
                "status": "ok",
                "rows": 1,
                "frames": 1,
                "seconds": 1.0,
                "model_seconds": 0.0,
                "created_at": NOW,
                "run_id": "",
            }
            for v in rows.get(VIDEOS, [])
        ]
        store.replace(STAGE_STATUS, table(STAGE_STATUS, status, batch), {"batch": batch, "stage": stage}, Commit())


def whole_scene(uri: str = "none", frames: int = 10) -> dict[TableSpec, list[dict]]:
    """Three clips: a zip pulled and found, one mimed and taken for pulled, a walk; all else is annotated as it is.

    The true zip is at frames 2 to 7; the annotated one at 3 to 8 (IoU 4/6), the false one at 0 to 5.
    """
    names = {"acts": "interaction", "mimes": "pantomime", "walks": "walk"}
    hands = {"left": Hand("left", 1, (-0.1, 0.1, 0.7)), "right": Hand("right", 2, (0.1, 0.1, 0.7))}
    numbers = range(frames)
    mask = box_mask(35, 40, 65, 70)
    return {
        VIDEOS: [video(v, uri=uri, frames=frames) for v in names],
        STUDIO_CLIPS: [
            clip(v, performance, None if performance == "walk" else "operate_zipper")
            for v, performance in names.items()
        ],
        STUDIO_FRAMES: [
            truth_frame(v, f, action="operate_zipper" if v == "acts" and 2 <= f < 7 else None)
            for v in names
            for f in numbers
        ],
        STUDIO_HANDS: [h.truth(v, f, contact=v == "acts" and 2 <= f < 7 and s == "right")
                       for v in names for f in numbers for s, h in hands.items()],
        POSE: [pose_row(v, f) for v in names for f in numbers],
        HANDS: [h.found(v, f) for v in names for f in numbers for h in hands.values()],
        AGNOSTIC_MASKS: [
            {"video_id": v, "frame": f, "mask": mask, "height": HEIGHT, "width": WIDTH, "area_fraction": 0.1,
             "category": "upper_body", "source": "geometric"}
            for v in names for f in numbers
        ],
        CAPTIONS: [
            caption("acts", "operate_zipper", 3, 8, 0.9),
            caption("mimes", "operate_zipper", 0, 5, 0.6),
            *({**caption(v, "other", 0, frames), "kind": "global", "action": None} for v in names),
        ],
    }  # fmt: skip
