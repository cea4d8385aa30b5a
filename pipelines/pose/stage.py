"""The pose stage: 33 landmarks and the mask of the main person, a row for each frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa

from models import weights
from models.perception.identity import IdentityLimits
from models.perception.person_mask import person_mask
from models.perception.pose import WEIGHTS, Pose, PoseEstimator, PoseTracker
from models.perception.pose_networks import NUM_LANDMARKS
from models.perception.pose_task import TASK_WEIGHTS, PoseTask
from pipelines.arrays import encode_mask, points_to_arrow, record_batch
from pipelines.pose.settings import CODE_VERSION, PoseSettings
from pipelines.stage import Stage, VideoTask
from pipelines.store.schemas import LANDMARK, POINT_3D, POSE
from pipelines.video import VideoReader

CHUNK_FRAMES = 256


class NoPersonError(Exception):
    """No person was found in any frame of a video."""


class PoseStage(Stage):
    """Follows the main person through a video and writes a row for every frame, found or not."""

    name: ClassVar[str] = "pose"
    code_version: ClassVar[str] = CODE_VERSION
    video_columns: ClassVar[tuple[str, ...]] = ("sha256", "cut_frames")

    def __init__(self, settings: PoseSettings):
        super().__init__(settings)
        self.settings: PoseSettings = settings
        self._estimator: PoseEstimator | None = None

    def weights(self) -> Mapping[str, str]:
        """Name -> SHA-256 of the networks."""
        names = WEIGHTS if self.settings.estimator == "tracker" else TASK_WEIGHTS
        return {name: weights.digest(name) for name in names}

    def setup(self, threads: int) -> None:
        """Load the networks.

        Raises:
            MissingWeights: They are not in the weights cache.
        """
        s = self.settings
        limits = IdentityLimits(s.max_speed, s.min_likeness, s.min_likeness_found)
        if s.estimator == "tracker":
            self._estimator = PoseTracker(threads, s.min_presence, limits, s.smooth)
        else:
            self._estimator = PoseTask(s.people, s.min_presence, limits)

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Rows of `pose` for every frame.

        Raises:
            NoPersonError: Nobody was found in the whole video.
            VideoError: The video cannot be read.
        """
        if self._estimator is None:
            raise RuntimeError("PoseStage.setup() was not called")
        rows = _Rows()
        found = total = 0
        with VideoReader(task.path) as reader:
            for frame, pose in self._estimator.track(reader.frames(), task.row["cut_frames"] or (), task.inference):
                # As MediaPipe's task, which is the yardstick, does it: from the network's mask to the frame's counts.
                with task.inference():
                    mask = None if pose is None else person_mask(pose, *frame.rgb.shape[:2])
                rows.add(frame.index, frame.time_s, pose, mask)
                found += pose is not None
                total += 1
                task.advance()
                if len(rows) == CHUNK_FRAMES:
                    yield rows.take()
        if not found:
            raise NoPersonError(
                f"No person was found in any of {total} frames: the video shows nobody, or only small parts of a body; "
                "remove it from the batch or use footage with head and shoulders in view"
            )
        if len(rows):
            yield rows.take()


class _Rows:
    """Collects rows and packs them into record batches."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._frames: list[tuple[int, float]] = []
        self._poses: list[Pose | None] = []
        self._masks: list[tuple[bytes, float] | None] = []

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, index: int, time_s: float, pose: Pose | None, mask: np.ndarray | None) -> None:
        self._frames.append((index, time_s))
        if pose is None or mask is None:
            self._poses.append(None)
            self._masks.append(None)
            return
        self._masks.append((encode_mask(mask), float(np.count_nonzero(mask)) / mask.size))
        # The logits are a quarter of a megabyte and no longer needed.
        self._poses.append(Pose(pose.points, pose.world, pose.presence, np.empty((0, 0)), pose.region))

    def take(self) -> pa.RecordBatch:
        poses, masks = self._poses, self._masks
        valid = np.array([p is not None for p in poses])
        points = np.zeros((len(poses), NUM_LANDMARKS, 4), np.float32)
        world = np.zeros((len(poses), NUM_LANDMARKS, 3), np.float32)
        for i, pose in enumerate(poses):
            if pose is not None:
                points[i], world[i] = pose.points, pose.world
        batch = record_batch(
            {
                "frame": [f[0] for f in self._frames],
                "time_s": [f[1] for f in self._frames],
                "detected": valid,
                "landmarks": points_to_arrow(points, LANDMARK, valid),
                "world_landmarks": points_to_arrow(world, POINT_3D, valid),
                "score": [p.score if p is not None else None for p in poses],
                "person_mask": [m[0] if m else None for m in masks],
                "person_area": [m[1] if m else None for m in masks],
            },
            POSE.schema,
        )
        self._clear()
        return batch
