"""The baseline: what one would write with MediaPipe's tasks in an afternoon.

One process, one video after the other: OpenCV decodes, `PoseLandmarker` in video mode gives landmarks and mask, a crop
around each wrist goes to `HandLandmarker`, and what the tasks do not give (hand meshes, agnostic masks, captions) comes
from the project's own functions, called in the same loop. Masks become PNG files, arrays npy files. The networks
are the same files as the pipeline's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import mediapipe as mp
import numpy as np
import pyarrow as pa
from mediapipe.tasks.python import BaseOptions, vision

from models import weights
from models.perception.hands.base import SIDES, HandTrack
from pipelines.arrays import decode_mask
from pipelines.hands.settings import HandsSettings
from pipelines.hands.stage import build_estimator
from pipelines.registry import STAGES
from pipelines.stage import VideoTask
from pipelines.store import TABLES

_WRISTS = {"left": 15, "right": 16}
_CROP = 0.45  # of the shoulder-to-hip distance, to each side of the wrist


def plain_loop(videos: list[Path], out: Path) -> int:
    """Pose, person masks and posed hand meshes of `videos`, one after the other, into `out`; returns the frames."""
    pose_model = weights.path("pose_landmarker_full.task").read_bytes()
    hand_model = weights.path("hand_landmarker.task").read_bytes()
    frames = 0
    for path in videos:
        target = out / path.stem
        target.mkdir(parents=True)
        pose_options = vision.PoseLandmarkerOptions(
            base_options=BaseOptions(model_asset_buffer=pose_model),
            running_mode=vision.RunningMode.VIDEO,
            output_segmentation_masks=True,
        )
        hand_options = vision.HandLandmarkerOptions(base_options=BaseOptions(model_asset_buffer=hand_model))
        with (
            vision.PoseLandmarker.create_from_options(pose_options) as pose,
            vision.HandLandmarker.create_from_options(hand_options) as hands,
        ):
            frames += _one_video(path, target, pose, hands)
    return frames


def _one_video(path: Path, target: Path, pose: Any, hands: Any) -> int:
    capture = cv2.VideoCapture(str(path))
    fps = capture.get(cv2.CAP_PROP_FPS) or 30.0
    landmarks, worlds, hand_points, hand_worlds = [], [], [], []
    count = 0
    while True:
        ok, bgr = capture.read()
        if not ok:
            break
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        height, width = rgb.shape[:2]
        result = pose.detect_for_video(mp.Image(image_format=mp.ImageFormat.SRGB, data=rgb), round(1000 * count / fps))
        points = np.full((33, 4), np.nan, np.float32)
        world = np.full((33, 3), np.nan, np.float32)
        mask = np.zeros((height, width), np.uint8)
        found = np.full((2, 21, 3), np.nan, np.float32)
        found_world = np.full((2, 21, 3), np.nan, np.float32)
        if result.pose_landmarks:
            points = np.array(
                [(p.x * width, p.y * height, p.z * width, p.visibility) for p in result.pose_landmarks[0]], np.float32
            )
            world = np.array([(p.x, p.y, p.z) for p in result.pose_world_landmarks[0]], np.float32)
            mask = (result.segmentation_masks[0].numpy_view().squeeze() > 0.5).astype(np.uint8) * 255
            for side, wrist in enumerate(_WRISTS.values()):
                found[side], found_world[side] = _hand(rgb, points, wrist, hands)
        cv2.imwrite(str(target / f"person_{count:06d}.png"), mask)
        landmarks.append(points)
        worlds.append(world)
        hand_points.append(found)
        hand_worlds.append(found_world)
        count += 1
    capture.release()
    np.save(target / "landmarks.npy", np.stack(landmarks))
    np.save(target / "world.npy", np.stack(worlds))
    np.save(target / "hands.npy", np.stack(hand_points))
    np.save(target / "hands_world.npy", np.stack(hand_worlds))
    _fit(np.stack(hand_points), np.stack(hand_worlds), (width, height), target)
    return count


def _fit(points: np.ndarray, worlds: np.ndarray, size: tuple[int, int], target: Path) -> None:
    estimator = build_estimator(HandsSettings(), 1)
    tracks = {}
    for side, name in enumerate(SIDES):
        seen = np.flatnonzero(np.isfinite(points[:, side, 0, 0]))
        if len(seen):
            tracks[name] = HandTrack(name, seen, np.ones(len(seen)), points[seen, side, :, :2], worlds[seen, side])
    if tracks:
        camera = estimator.camera(*size)
        for name, fit in estimator.fit(tracks, camera).items():
            np.savez(target / f"mesh_{name}.npz", pose=fit.pose, shape=fit.shape, translation=fit.translation)


def _hand(rgb: np.ndarray, points: np.ndarray, wrist: int, hands: Any) -> tuple[np.ndarray, np.ndarray]:
    torso = np.linalg.norm(points[[11, 12], :2].mean(0) - points[[23, 24], :2].mean(0))
    x, y = points[wrist, :2] + 0.3 * (points[wrist + 4, :2] - points[wrist, :2])
    reach = max(32, round(_CROP * torso))
    x0, y0 = max(0, round(x) - reach), max(0, round(y) - reach)
    crop = rgb[y0 : round(y) + reach, x0 : round(x) + reach]
    empty = np.full((21, 3), np.nan, np.float32)
    if min(crop.shape[:2]) < 16:
        return empty, empty
    h, w = crop.shape[:2]
    crop = np.ascontiguousarray(cv2.resize(crop, (256, 256)))
    result = hands.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=crop))
    if not result.hand_landmarks:
        return empty, empty
    found = np.array([(x0 + p.x * w, y0 + p.y * h, p.z * w) for p in result.hand_landmarks[0]], np.float32)
    return found, np.array([(p.x, p.y, p.z) for p in result.hand_world_landmarks[0]], np.float32)


class MemoryTask(VideoTask):
    """A video and its rows without a lake, for calling a stage's function in a loop."""

    def __init__(self, path: Path, row: dict[str, Any], tables: dict[str, pa.Table]):
        super().__init__(None, row, 1, lambda frames: None)  # type: ignore[arg-type]
        self._path, self._tables = path, tables

    @property
    def path(self) -> Path:
        """The video file."""
        return self._path

    def rows(self, table: str, columns: list[str] | None = None) -> pa.Table:
        """Rows handed over at construction."""
        return self._tables[table].select(columns or TABLES[table].schema.names)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Not accounted here."""
        yield


def plain_stage(name: str, videos: list[tuple[Path, dict[str, Any], dict[str, pa.Table]]], out: Path) -> None:
    """Call one stage's function on one video after the other; masks become PNG files, all else npy files.

    Args:
        name: Stage.
        videos: File, row of `videos`, and table name -> rows that the stage reads.
        out: Folder for the files.
    """
    stage = STAGES[name].build()
    stage.setup(1)
    for path, row, tables in videos:
        target = out / path.stem
        target.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_batches(stage.annotate(MemoryTask(path, row, tables)))
        if name == "agnostic_masks":
            for r in table.select(["frame", "mask", "height", "width"]).to_pylist():
                mask = decode_mask(r["mask"], r["height"], r["width"])
                cv2.imwrite(str(target / f"agnostic_{r['frame']:06d}.png"), mask * 255)
        else:
            (target / f"{name}.json").write_text(json.dumps(table.to_pylist()))
