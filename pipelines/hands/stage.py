"""The hand stage: a row for each hand in each frame, with keypoints and a posed mesh.

Two passes, one over the video and one over what it left: while frames stream by, only the keypoints of each hand are
kept (a few hundred numbers a frame), then meshes are fitted with the whole clip in view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import numpy as np
import pyarrow as pa

from models import weights
from models.perception.hands.base import SIDES, Camera, HandEstimator, HandObservation, HandTrack
from models.perception.hands.lifter import WEIGHTS as LIFTER
from models.perception.hands.lifter import lifter_digest
from models.perception.hands.mediapipe import WEIGHTS, MediaPipeHands, hand_finder
from pipelines.arrays import points_to_arrow, points_to_numpy, record_batch, structs_to_arrow
from pipelines.hands.settings import CODE_VERSION, HandsSettings
from pipelines.hands.track import FilledTrack, drop_outliers, fill_and_smooth
from pipelines.stage import Stage, VideoTask
from pipelines.store.schemas import CAMERA, FLOATS, HANDS, POINT_2D, POINT_3D
from pipelines.video import VideoReader

CHUNK_FRAMES = 512
_POSE_WRIST = {"left": 15, "right": 16}


def build_estimator(settings: HandsSettings, threads: int) -> HandEstimator:
    """The backend that the settings name.

    Raises:
        MissingWeights: MediaPipe's networks are not in the weights cache.
        FileNotFoundError: The hand lifter's weights are missing from the package.
        models.perception.hands.hamer.HamerUnavailable: HaMeR was asked for and something of it is missing.
    """
    options = settings.model_dump(include={"min_presence", "min_visibility", "retry_frames"})
    finder = hand_finder(threads, **options)
    if settings.backend == "mediapipe":
        return MediaPipeHands(finder, settings.field_of_view_deg)
    from models.perception.hands.hamer import HamerHands

    return HamerHands(finder, **settings.hamer.model_dump())


class HandsStage(Stage):
    """Finds the main person's hands, led by the body pose, and fits meshes to them."""

    name: ClassVar[str] = "hands"
    code_version: ClassVar[str] = CODE_VERSION
    inputs: ClassVar[tuple[str, ...]] = ("pose",)
    video_columns: ClassVar[tuple[str, ...]] = ("sha256", "cut_frames")

    def __init__(self, settings: HandsSettings):
        super().__init__(settings)
        self.settings: HandsSettings = settings
        self._estimator: HandEstimator | None = None

    def weights(self) -> Mapping[str, str]:
        """Name -> SHA-256 of the networks."""
        digests = {name: weights.digest(name) for name in WEIGHTS}
        if self.settings.backend == "mediapipe":
            digests[LIFTER.name] = lifter_digest()
        else:
            from models.perception.hands.hamer import checkpoint_digest

            digests["hamer.ckpt"] = checkpoint_digest(self.settings.hamer.data)
        return digests

    def setup(self, threads: int) -> None:
        """Load the networks; raises what is missing."""
        self._estimator = build_estimator(self.settings, threads)

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Rows of `hands`, by frame; none for a video in which no hand is seen.

        Raises:
            VideoError: The video cannot be read.
        """
        estimator = self._estimator
        if estimator is None:
            raise RuntimeError("HandsStage.setup() was not called")
        cuts = sorted(task.row.get("cut_frames") or ())
        pose_rows = task.rows("pose", ["frame", "landmarks"])
        pose = {
            f: p
            for f, p in zip(pose_rows["frame"].to_pylist(), points_to_numpy(pose_rows["landmarks"], 33))
            if np.isfinite(p).all()
        }
        with VideoReader(task.path) as reader:
            info = reader.info
            tracks, count = self._observe(estimator, reader, pose, set(cuts), task)
        camera = estimator.camera(info.width, info.height)
        tracks = {side: estimator.refine(drop_outliers(t)) for side, t in tracks.items()}
        fits = estimator.fit(tracks, camera)
        filled = {}
        for side, fit in fits.items():
            wrists = np.full((count, 2), np.nan)
            for frame, landmarks in pose.items():
                if frame < count:
                    wrists[frame] = landmarks[_POSE_WRIST[side], :2]
            filled[side] = fill_and_smooth(
                tracks[side],
                fit,
                camera,
                info.fps,
                wrists,
                keypoints=partial(estimator.keypoints, side),
                cuts=cuts,
                max_gap=self.settings.max_gap_frames,
                smoothing_s=self.settings.smoothing_s,
                depth_smoothing_s=self.settings.depth_smoothing_s,
            )
        yield from _chunks(filled, estimator, camera)

    @staticmethod
    def _observe(
        estimator: HandEstimator,
        reader: VideoReader,
        pose: Mapping[int, np.ndarray],
        cuts: set[int],
        task: VideoTask,
    ) -> tuple[dict[str, HandTrack], int]:
        estimator.reset(task.inference)
        seen: dict[str, list[tuple[int, HandObservation]]] = {side: [] for side in SIDES}
        count = 0
        for frame in reader.frames():
            if frame.index in cuts:
                estimator.reset(task.inference)
            for hand in estimator.detect(frame.rgb, pose.get(frame.index)):
                seen[hand.handedness].append((frame.index, hand))
            count = frame.index + 1
            task.advance()
        return {side: _track(side, rows) for side, rows in seen.items() if rows}, count


def _track(side: str, rows: list[tuple[int, HandObservation]]) -> HandTrack:
    hands = [hand for _, hand in rows]
    return HandTrack(
        side,
        np.array([frame for frame, _ in rows]),
        np.array([h.score for h in hands]),
        np.stack([h.points for h in hands]),
        np.stack([h.world for h in hands]),
        {key: np.stack([h.extra[key] for h in hands]) for key in hands[0].extra},
    )


def _chunks(filled: Mapping[str, FilledTrack], estimator: HandEstimator, camera: Camera) -> Iterator[pa.RecordBatch]:
    last = max((int(t.frames[-1]) for t in filled.values() if len(t.frames)), default=-1)
    for start in range(0, last + 1, CHUNK_FRAMES):
        batches = [
            _rows(side, track, (track.frames >= start) & (track.frames < start + CHUNK_FRAMES), estimator, camera)
            for side, track in filled.items()
        ]
        table = pa.Table.from_batches([b for b in batches if b.num_rows] or batches[:1])
        if table.num_rows:
            table = table.sort_by([("frame", "ascending"), ("handedness", "ascending")])
            yield table.combine_chunks().to_batches()[0]


def _rows(side: str, track: FilledTrack, mask: np.ndarray, estimator: HandEstimator, camera: Camera) -> pa.RecordBatch:
    fit = type(track.fit)(track.fit.pose[mask], track.fit.shape, track.fit.translation[mask])
    interpolated, count = track.interpolated[mask], int(mask.sum())
    keypoints = estimator.keypoints(side, fit)
    projected = camera.project(keypoints)
    # Where no hand was seen the mesh is all there is to know of its keypoints.
    points = np.where(interpolated[:, None, None], projected, track.points[mask])
    error = np.linalg.norm(projected - points, axis=-1).mean(1) if count else np.zeros(0)
    return record_batch(
        {
            "frame": track.frames[mask],
            "handedness": [side] * count,
            "score": track.score[mask],
            "keypoints_2d": points_to_arrow(points, POINT_2D),
            "keypoints_3d": points_to_arrow(keypoints, POINT_3D),
            "mesh_pose": _floats(fit.pose.reshape(count, -1)),
            "mesh_shape": _floats(np.tile(fit.shape, (count, 1))),
            "mesh_translation": structs_to_arrow(fit.translation, POINT_3D),
            "camera": structs_to_arrow(np.tile([camera.fx, camera.fy, camera.cx, camera.cy], (count, 1)), CAMERA),
            "mesh_topology": [estimator.topology] * count,
            "reprojection_error_px": error,
            "source": [estimator.source] * count,
            "interpolated": interpolated,
        },
        HANDS.schema,
    )


def _floats(values: np.ndarray) -> pa.ListArray:
    rows, width = values.shape
    flat = pa.array(np.ascontiguousarray(values, np.float32).ravel())
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32) * width), flat).cast(FLOATS)
