"""Body landmarks and the person mask against the truth.

The share of correct keypoints (PCK) is over the landmarks whose true place is in the picture, hidden by the body or
not, as COCO and MPII count labelled joints; what is not found is wrong. The headline takes MediaPipe's counterparts of
COCO's 17 keypoints. A network and a rig do not mean quite the same by "hip" or "shoulder": such constant offsets are
reported for each landmark, along and across the torso, and `pck_0.1_debiased` is what would be left without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from pipelines.arrays import points_to_numpy
from pipelines.evaluation.annotators.statistics import Figure, Median, Ratio

LANDMARKS = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky", "right_pinky", "left_index", "right_index",
    "left_thumb", "right_thumb", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "left_heel", "right_heel", "left_foot_index", "right_foot_index",
)  # fmt: skip
"""MediaPipe's names of its 33 landmarks."""
HEADLINE = np.array([0, 2, 5, 7, 8, *range(11, 17), *range(23, 29)])
"""Nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles: COCO's 17 keypoints."""
THRESHOLDS = (0.1, 0.2)
"""Shares of the torso within which a landmark is right."""


@dataclass(frozen=True)
class PoseSamples:
    """One video's landmarks and masks against the truth; F frames.

    Attributes:
        frames: (F,) frame numbers.
        offsets: (F, 33, 2) predicted minus true place along the torso (down) and across it (to the picture's right
            when upright), in torso lengths; NaN where not found.
        torso: (F,) pixels from mid-shoulders to mid-hips.
        inside: (F, 33) bool, whether the true place is in the picture.
        visible: (F, 33) bool, whether the landmark can be seen as well.
        detected: (F,) bool, whether a pose was found.
        person_iou: (F,) IoU of the person masks, 0 where there is none; NaN where no person is in the picture.
    """

    frames: np.ndarray
    offsets: np.ndarray
    torso: np.ndarray
    inside: np.ndarray
    visible: np.ndarray
    detected: np.ndarray
    person_iou: np.ndarray

    @property
    def distance(self) -> np.ndarray:
        """(F, 33) distances in torso lengths; infinite where not found, NaN where there is no truth to compare with."""
        found = np.linalg.norm(self.offsets, axis=-1)
        return np.where(self.inside, np.where(np.isnan(found), np.inf, found), np.nan)


def measure_pose(truth: pa.Table, predicted: pa.Table) -> PoseSamples:
    """Compare one video.

    Args:
        truth: Its rows of `studio_frames`.
        predicted: Its rows of `pose`; frames without a row count as not found.
    """
    frames = np.asarray(truth["frame"], np.int64)
    row_of = {f: i for i, f in enumerate(predicted["frame"].to_pylist())}
    rows = np.array([row_of.get(int(f), -1) for f in frames], int)
    true = points_to_numpy(truth["landmarks"], 33).astype(np.float64)
    found = np.full((len(frames), 33, 2), np.nan)
    if predicted.num_rows:
        detected = np.asarray(predicted["detected"].to_numpy(zero_copy_only=False), bool)
        points = points_to_numpy(predicted["landmarks"], 33)[..., :2]
        points[~detected] = np.nan
        found[rows >= 0] = points[rows[rows >= 0]]
    width, height = (np.asarray(truth[k], np.float64)[:, None] for k in ("width", "height"))
    x, y = true[..., 0], true[..., 1]
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    spine = true[:, [23, 24], :2].mean(1) - true[:, [11, 12], :2].mean(1)
    torso = np.linalg.norm(spine, axis=1)
    # A torso seen from straight above has no length to measure by.
    inside &= (torso > 1)[:, None]
    down = spine / np.maximum(torso, 1)[:, None]
    across = np.stack([down[:, 1], -down[:, 0]], 1)
    error = (found - true[..., :2]) / np.maximum(torso, 1)[:, None, None]
    offsets = np.stack([np.einsum("fka,fa->fk", error, axis) for axis in (down, across)], -1)
    return PoseSamples(
        frames,
        offsets,
        torso,
        inside,
        inside & (true[..., 3] >= 0.5),
        np.isfinite(found[:, 0, 0]),
        _person_iou(truth, predicted, rows),
    )


def _person_iou(truth: pa.Table, predicted: pa.Table, rows: np.ndarray) -> np.ndarray:
    out = np.zeros(len(rows))
    masks = predicted["person_mask"].to_pylist() if predicted.num_rows else []
    sizes = zip(truth["height"].to_pylist(), truth["width"].to_pylist())
    for i, (counts, size) in enumerate(zip(truth["person_mask"].to_pylist(), sizes)):
        true = {"size": list(size), "counts": counts}
        if coco.area(true) == 0:
            out[i] = np.nan
        elif rows[i] >= 0 and masks[rows[i]] is not None:
            out[i] = coco.iou([{"size": list(size), "counts": masks[rows[i]]}], [true], [0])[0, 0]
    return out


def pose_figures(videos: Sequence[PoseSamples]) -> list[Figure]:
    """Figures of many videos."""
    distances = [v.distance for v in videos]
    seen = [np.where(v.visible, d, np.nan) for v, d in zip(videos, distances)]
    pixels = [np.where(np.isinf(d), np.nan, d * v.torso[:, None]) for v, d in zip(videos, distances)]
    debiased = _debiased(videos)
    out = [
        Figure("pose.detected", Ratio.mean([v.detected.astype(float) for v in videos])),
        Figure("pose.person_iou", Ratio.mean([v.person_iou for v in videos])),
    ]
    for t in THRESHOLDS:
        out.append(Figure(f"pose.pck_{t:g}", _share([d[:, HEADLINE] for d in distances], t)))
        out.append(Figure(f"pose.pck_{t:g}_visible", _share([d[:, HEADLINE] for d in seen], t)))
        out.append(Figure(f"pose.pck_{t:g}_debiased", _share([d[:, HEADLINE] for d in debiased], t)))
    out.append(Figure("pose.median_px", Median([d[:, HEADLINE] for d in pixels]), "px", "lower"))
    visible_px = [np.where(v.visible, d, np.nan)[:, HEADLINE] for v, d in zip(videos, pixels)]
    out.append(Figure("pose.median_px_visible", Median(visible_px), "px", "lower"))
    for k, name in enumerate(LANDMARKS):
        for t in THRESHOLDS:
            out.append(Figure(f"pose.pck_{t:g}/{name}", _share([d[:, k] for d in distances], t), split=False))
            out.append(Figure(f"pose.pck_{t:g}_visible/{name}", _share([d[:, k] for d in seen], t), split=False))
        median = Median([d[:, k] for d in pixels])
        out.append(Figure(f"pose.median_px/{name}", median, "px", "lower", split=False))
        for axis, way in enumerate(("down", "right")):
            bias = Ratio.mean([np.where(v.inside[:, k], v.offsets[:, k, axis], np.nan) for v in videos])
            out.append(Figure(f"pose.bias_{way}/{name}", bias, "torso", "", split=False))
    return out


def _share(distances: Sequence[np.ndarray], threshold: float) -> Ratio:
    """Share of distances within a threshold; NaN does not count, infinity is beyond it."""
    return Ratio.mean([np.where(np.isnan(d), np.nan, d <= threshold) for d in distances])


def _debiased(videos: Sequence[PoseSamples]) -> list[np.ndarray]:
    """Distances after the mean offset of each landmark, over all videos, is taken away; as `PoseSamples.distance`."""
    total, count = np.zeros((33, 2)), np.zeros(33)
    for v in videos:
        known = v.inside & np.isfinite(v.offsets[..., 0])
        total += np.where(known[..., None], v.offsets, 0).sum(0)
        count += known.sum(0)
    bias = total / np.maximum(count, 1)[:, None]
    out = []
    for v in videos:
        found = np.linalg.norm(v.offsets - bias, axis=-1)
        out.append(np.where(v.inside, np.where(np.isnan(found), np.inf, found), np.nan))
    return out


def worst_pose(samples: PoseSamples) -> np.ndarray:
    """(F,) how bad each frame's landmarks are: their mean distance, capped at half a torso; NaN without any to see."""
    distance = np.minimum(samples.distance[:, HEADLINE], 0.5)
    known = np.isfinite(distance)
    return np.where(known.any(1), np.nansum(distance, 1) / np.maximum(known.sum(1), 1), np.nan)
