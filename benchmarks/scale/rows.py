"""Rows of generated batches: the tables' own schemas, made a batch at a time with Arrow, never a row at a time.

What fills the columns is drawn once and shared by all batches, since bytes on disk and times of reading do not depend
on it; which batch, video and fingerprint a row belongs to is its own. Numbers lie on a grid of 4096 values, so that a
lake of ten million frames takes gigabytes and not tens of them, and a person is seen in one frame of 63. A frame takes
a small part of what annotators write.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from pipelines.arrays import points_to_arrow, structs_to_arrow
from pipelines.store import TableSpec
from pipelines.store.schemas import (
    ACTIONS,
    AGNOSTIC_MASKS,
    CAMERA,
    CAPTIONS,
    CLIPS,
    GARMENTS,
    HANDS,
    LANDMARK,
    POINT_2D,
    POINT_3D,
    POSE,
    STAGE_STATUS,
    VIDEOS,
)

CLIPS_PER_VIDEO, ACTIONS_PER_VIDEO, GARMENTS_PER_BATCH = 3, 2, 5
_SEEN = 63
"""The person is found in one frame of so many, with one hand."""
_MASK_BYTES = 64
_LATENT_FRAMES = 5
ANNOTATED: tuple[TableSpec, ...] = (POSE, HANDS, AGNOSTIC_MASKS, CAPTIONS, CLIPS)
"""Tables of the annotation stages, in the stages' order."""
_OWN = ("batch", "video_id", "fingerprint")


def fake_digest(*parts: object) -> str:
    """64 hex digits that stand for the digest of bytes that nobody wrote."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class BatchRows:
    """The rows of batches of `videos` videos of `frames` frames each."""

    def __init__(self, videos: int, frames: int, seed: int = 0):
        self.videos, self.frames = videos, frames
        self._rng = np.random.default_rng(seed)
        # Which video each row belongs to, and everything in it that no batch changes.
        self._of_video: dict[str, np.ndarray] = {}
        self._shared: dict[str, dict[str, pa.Array]] = {}
        for spec, make in ((POSE, self._pose), (HANDS, self._hands), (AGNOSTIC_MASKS, self._masks)):
            self._of_video[spec.name], self._shared[spec.name] = make()
        for spec, make in ((CAPTIONS, self._captions), (CLIPS, self._clips)):
            self._of_video[spec.name], self._shared[spec.name] = make()

    def ids(self, batch: str) -> list[str]:
        """Digests of the videos of a generated batch."""
        return [fake_digest(batch, i) for i in range(self.videos)]

    def annotations(self, spec: TableSpec, batch: str, video_ids: list[str], fingerprints: list[str]) -> pa.Table:
        """Rows of a stage's table for a batch; videos may be fewer than `videos`, in any order."""
        keep = self._of_video[spec.name] < len(video_ids)
        of_video = pa.array(self._of_video[spec.name][keep], pa.int32())
        own = {
            "batch": pa.repeat(batch, len(of_video)),
            "video_id": pa.array(video_ids).take(of_video),
            "fingerprint": pa.array(fingerprints).take(of_video),
        }
        if spec is CLIPS:
            own |= self._clip_names(video_ids, of_video)
        count, shared = len(of_video), self._shared[spec.name]
        arrays = [(own[f.name] if f.name in own else shared[f.name].slice(0, count)).cast(f.type) for f in spec.schema]
        return pa.Table.from_arrays(arrays, schema=spec.schema)

    def video_table(self, batch: str, digests: list[str], uris: list[str]) -> pa.Table:
        """Rows of `videos`, as ingestion writes them."""
        rows = [
            {
                "batch": batch,
                "video_id": digest[:16],
                "source_path": f"clip_{i:04}.mp4",
                "uri": uri,
                "sha256": digest,
                "bytes": 2_000_000 + i,
                "width": 480,
                "height": 640,
                "fps": 25.0,
                "num_frames": self.frames,
                "duration_s": self.frames / 25,
                "codec": "h264",
                "rotation": 0,
                "variable_frame_rate": False,
                "has_audio": False,
                "split": "test" if i % 10 == 0 else "train",
                "garment_id": self.garment_ids(batch)[i % GARMENTS_PER_BATCH],
                "garment_category": "upper_body",
                "sharpness": 80.0 + i,
                "brightness": 0.5,
                "motion": 0.02,
                "bitrate_kbps": 2000.0,
                "cut_frames": [],
                "status": "ok",
                "fingerprint": digest[32:],
            }
            for i, (digest, uri) in enumerate(zip(digests, uris))
        ]
        return pa.Table.from_pylist(rows, VIDEOS.schema)

    def garment_ids(self, batch: str) -> list[str]:
        """Garments of a batch."""
        return [fake_digest("garment", batch, i)[:16] for i in range(GARMENTS_PER_BATCH)]

    def garment_table(self, batch: str, uris: list[str]) -> pa.Table:
        """Rows of `garments`; `uris` are the photos and behind them their masks."""
        rows = [
            {
                "batch": batch,
                "garment_id": garment_id,
                "source_path": f"garments/{i}.png",
                "uri": uris[i],
                "mask_uri": uris[GARMENTS_PER_BATCH + i],
                "sha256": fake_digest("photo", garment_id),
                "width": 768,
                "height": 1024,
                "category": "upper_body",
                "caption": "a jacket",
                "foreground_fraction": 0.5,
                "source": "photo",
                "status": "ok",
                "fingerprint": fake_digest(garment_id)[:32],
            }
            for i, garment_id in enumerate(self.garment_ids(batch))
        ]
        return pa.Table.from_pylist(rows, GARMENTS.schema)

    def status_table(self, stage: TableSpec, batch: str, video_ids: list[str], fingerprints: list[str]) -> pa.Table:
        """Rows of `stage_status` for a stage that worked on every video."""
        count = len(video_ids)
        lengths = np.bincount(self._of_video[stage.name], minlength=self.videos)[:count]
        columns = {
            "batch": [batch] * count,
            "stage": [stage.name] * count,
            "video_id": video_ids,
            "status": ["ok"] * count,
            "reason": [None] * count,
            "rows": lengths,
            "frames": [self.frames] * count,
            "seconds": [1.0] * count,
            "model_seconds": [0.5] * count,
            "peak_memory_mb": [400.0] * count,
            "fingerprint": fingerprints,
            "created_at": [datetime.now(UTC)] * count,
            "run_id": [""] * count,
        }
        return pa.table([pa.array(columns[f.name], f.type) for f in STAGE_STATUS.schema], schema=STAGE_STATUS.schema)

    # --- what all batches share ---------------------------------------------------------------------------------

    def _grid(self, *shape: int, scale: float = 1 / 8) -> np.ndarray:
        return (self._rng.integers(0, 4096, shape) * scale).astype(np.float32)

    def _every_frame(self) -> tuple[np.ndarray, np.ndarray]:
        return np.repeat(np.arange(self.videos), self.frames), np.tile(np.arange(self.frames), self.videos)

    def _run_lengths(self, count: int) -> pa.Array:
        data = self._rng.integers(48, 112, count * _MASK_BYTES, dtype=np.uint8).tobytes()
        offsets = np.arange(0, len(data) + 1, _MASK_BYTES, dtype=np.int32)
        return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)])

    def _floats(self, count: int, width: int, scale: float) -> pa.Array:
        values = pa.array(self._grid(count * width, scale=scale))
        return pa.ListArray.from_arrays(pa.array(np.arange(0, count * width + 1, width, dtype=np.int32)), values)

    def _pose(self) -> tuple[np.ndarray, dict[str, pa.Array]]:
        of_video, frame = self._every_frame()
        n, seen = len(frame), frame % _SEEN == 0
        return of_video, {
            "frame": pa.array(frame),
            "time_s": pa.array(frame / 25),
            "detected": pa.array(seen),
            "landmarks": points_to_arrow(self._grid(n, 33, 4), LANDMARK, seen),
            "world_landmarks": points_to_arrow(self._grid(n, 33, 3, scale=1 / 4096), POINT_3D, seen),
            "score": pa.array(self._grid(n, scale=1 / 4096)),
            "person_mask": self._run_lengths(n),
            "person_area": pa.array(self._grid(n, scale=1 / 4096)),
        }

    def _hands(self) -> tuple[np.ndarray, dict[str, pa.Array]]:
        of_video, frame = self._every_frame()
        of_video, frame = (values[frame % _SEEN == 0] for values in (of_video, frame))
        n = len(frame)
        return of_video, {
            "frame": pa.array(frame),
            "handedness": pa.repeat("right", n),
            "score": pa.array(self._grid(n, scale=1 / 4096)),
            "keypoints_2d": points_to_arrow(self._grid(n, 21, 2), POINT_2D),
            "keypoints_3d": points_to_arrow(self._grid(n, 21, 3, scale=1 / 4096), POINT_3D),
            "mesh_pose": self._floats(n, 48, 1 / 1024),
            "mesh_shape": self._floats(n, 1, 1 / 4096),
            "mesh_translation": structs_to_arrow(self._grid(n, 3, scale=1 / 4096), POINT_3D),
            "camera": structs_to_arrow(np.tile([600.0, 600.0, 240.0, 320.0], (n, 1)), CAMERA),
            "mesh_topology": pa.repeat("cc0_hand", n),
            "reprojection_error_px": pa.array(self._grid(n, scale=1 / 1024)),
            "source": pa.repeat("mediapipe", n),
            "interpolated": pa.array(np.zeros(n, bool)),
        }

    def _masks(self) -> tuple[np.ndarray, dict[str, pa.Array]]:
        of_video, frame = self._every_frame()
        n = len(frame)
        return of_video, {
            "frame": pa.array(frame),
            "mask": self._run_lengths(n),
            "height": pa.repeat(640, n),
            "width": pa.repeat(480, n),
            "area_fraction": pa.array(self._grid(n, scale=1 / 4096)),
            "category": pa.repeat("upper_body", n),
            "source": pa.repeat("geometric", n),
        }

    def _captions(self) -> tuple[np.ndarray, dict[str, pa.Array]]:
        each = 1 + ACTIONS_PER_VIDEO
        of_video = np.repeat(np.arange(self.videos), each)
        n = len(of_video)
        number = np.arange(n) % each
        actions = [ACTIONS[(i * 7 + k) % len(ACTIONS)] if k else None for i, k in zip(of_video, number)]
        return of_video, {
            "kind": pa.array(np.where(number == 0, "global", "action")),
            "action": pa.array(actions, pa.string()),
            "start_frame": pa.array(number),
            "end_frame": pa.array(np.where(number == 0, self.frames, number + 2)),
            "handedness": pa.repeat("right", n),
            "text": pa.array([f"a person works on the garment ({a or 'whole video'})" for a in actions]),
            "confidence": pa.array(self._grid(n, scale=1 / 4096)),
            "source": pa.repeat("kinematic", n),
        }

    def _clips(self) -> tuple[np.ndarray, dict[str, pa.Array]]:
        of_video = np.repeat(np.arange(self.videos), CLIPS_PER_VIDEO)
        n = len(of_video)
        number = np.arange(n) % CLIPS_PER_VIDEO
        mask = (self._rng.random((n, _LATENT_FRAMES)) < 0.4).astype(np.float32) * (number > 0)[:, None]
        offsets = pa.array(np.arange(0, n * _LATENT_FRAMES + 1, _LATENT_FRAMES, dtype=np.int32))
        actions = [[ACTIONS[(i * 7 + k) % len(ACTIONS)]] if k else [] for i, k in zip(of_video, number)]
        return of_video, {
            "start_frame": pa.array(number),
            "num_frames": pa.repeat(17, n),
            "bucket": pa.repeat("17x128x96", n),
            "action_mask": pa.ListArray.from_arrays(offsets, pa.array(mask.ravel())),
            "actions": pa.array(actions, pa.list_(pa.string())),
            "global_caption": pa.repeat("a person works on the garment", n),
            "garment_id": pa.array([fake_digest("worn", i)[:16] for i in of_video]),
            "split": pa.array(np.where(of_video % 10 == 0, "test", "train")),
            "encoder_digest": pa.repeat("0" * 64, n),
        }

    def _clip_names(self, video_ids: list[str], of_video: pa.Array) -> dict[str, pa.Array]:
        names = [fake_digest(video_ids[v], i) for i, v in enumerate(of_video.to_pylist())]
        return {
            "clip_id": pa.array([n[:16] for n in names]),
            "latents_uri": pa.array([f"blobs/{n[:2]}/{n}.safetensors" for n in names]),
            "text_uri": pa.array([f"blobs/{n[2:4]}/{n[2:]}{n[:2]}.safetensors" for n in names]),
        }
