"""The agnostic mask against the truth: what of the garment stays visible, and what is repainted without need.

Shares are of pixels summed over frames, so that a frame weighs as much as there is to hide in it. The excess is
measured against the region that would be right for any garment of the category (`studio_frames.agnostic_mask`), and
against the garment that is worn. A frame without a mask hides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from models.perception.hand_mesh import shared_mesh
from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.evaluation.annotators.goals import GOAL_OF
from pipelines.evaluation.annotators.hands import MIN_VISIBLE, true_vertices
from pipelines.evaluation.annotators.statistics import Figure, Ratio

NEAR_HAND = 0.25
"""Cloth within a touching hand's box, grown by this share of its size on every side, is what it holds."""


@dataclass(frozen=True)
class MaskSamples:
    """One video's masks against the truth, pixels in each of F frames.

    Attributes:
        frames: (F,) frame numbers.
        garment: (F,) pixels of the garment.
        left: (F,) of these, outside of the mask.
        region: (F,) pixels of the right region.
        predicted: (F,) pixels of the mask.
        excess: (F,) of these, outside of the right region.
        beyond_garment: (F,) of these, outside of the garment.
        held: (F,) garment pixels at hands that touch it.
        held_left: (F,) of these, outside of the mask.
        hand: (F,) pixels of hands that are half visible.
        hand_hidden: (F,) of these, inside the mask.
    """

    frames: np.ndarray
    garment: np.ndarray
    left: np.ndarray
    region: np.ndarray
    predicted: np.ndarray
    excess: np.ndarray
    beyond_garment: np.ndarray
    held: np.ndarray
    held_left: np.ndarray
    hand: np.ndarray
    hand_hidden: np.ndarray


_COUNTS = (
    "garment",
    "left",
    "region",
    "predicted",
    "excess",
    "beyond_garment",
    "held",
    "held_left",
    "hand",
    "hand_hidden",
)


def measure_masks(truth: pa.Table, hands: pa.Table, predicted: pa.Table) -> MaskSamples:
    """Compare one video.

    Args:
        truth: Its rows of `studio_frames`.
        hands: Its rows of `studio_hands`.
        predicted: Its rows of `agnostic_masks`.
    """
    masks = dict(zip(predicted["frame"].to_pylist(), predicted["mask"].to_pylist()))
    outlines = _HandOutlines(hands)
    columns = ("frame", "height", "width", "garment_mask", "agnostic_mask", "skin_mask", "camera")
    out: dict[str, list[int]] = {name: [] for name in _COUNTS}
    frames = []
    for row in truth.select(columns).to_pylist():
        size = [row["height"], row["width"]]
        garment, region = ({"size": size, "counts": row[k]} for k in ("garment_mask", "agnostic_mask"))
        counts = masks.get(row["frame"])
        mask = {"size": size, "counts": counts} if counts is not None else _empty(size)
        garment_area, mask_area = int(coco.area(garment)), int(coco.area(mask))
        covered, right = _common(garment, mask), _common(region, mask)
        values = {
            "garment": garment_area,
            "left": garment_area - covered,
            "region": int(coco.area(region)),
            "predicted": mask_area,
            "excess": mask_area - right,
            "beyond_garment": mask_area - covered,
            "held": 0,
            "held_left": 0,
            "hand": 0,
            "hand_hidden": 0,
        }
        shown, boxes = outlines.of(row["frame"], row["camera"], (size[0], size[1]))
        if shown is not None or boxes:
            inside = coco.decode(mask) > 0
            if shown is not None:
                shown &= decode_mask(row["skin_mask"], *size) > 0
                values["hand"], values["hand_hidden"] = int(shown.sum()), int((shown & inside).sum())
            if boxes:
                near = np.zeros(size, bool)
                for x0, y0, x1, y1 in boxes:
                    near[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = True
                near &= coco.decode(garment) > 0
                values["held"], values["held_left"] = int(near.sum()), int((near & ~inside).sum())
        frames.append(row["frame"])
        for name in _COUNTS:
            out[name].append(values[name])
    return MaskSamples(np.array(frames, int), **{name: np.array(v, np.int64) for name, v in out.items()})


def _empty(size: list[int]) -> dict:
    return coco.encode(np.zeros(size, np.uint8, order="F"))


def _common(a: dict, b: dict) -> int:
    return int(coco.area(coco.merge([a, b], intersect=True)))


class _HandOutlines:
    """Where the true hands of a video are in its pictures."""

    def __init__(self, hands: pa.Table):
        self._points = points_to_numpy(hands["keypoints_2d"], 21).astype(np.float64)
        self._wrists = points_to_numpy(hands["keypoints_3d"], 21)[:, 0].astype(np.float64)
        self._rows = hands.select(["handedness", "vertices", "visible", "contact"]).to_pylist()
        self._of_frame: dict[int, list[int]] = {}
        for i, frame in enumerate(hands["frame"].to_pylist()):
            self._of_frame.setdefault(frame, []).append(i)

    def of(
        self, frame: int, camera: dict[str, float], size: tuple[int, int]
    ) -> tuple[np.ndarray | None, list[tuple[int, int, int, int]]]:
        """The silhouette (H, W) bool of hands that are half visible, None without any, and boxes about touching ones.

        Boxes are x0, y0, x1, y1 in pixels, ends exclusive, and may reach out of the picture.
        """
        canvas, boxes = None, []
        for i in self._of_frame.get(frame, []):
            row = self._rows[i]
            if row["visible"] >= MIN_VISIBLE:
                canvas = np.zeros(size, np.uint8) if canvas is None else canvas
                self._draw(canvas, i, camera)
            if row["contact"]:
                low, high = self._points[i].min(0), self._points[i].max(0)
                margin = NEAR_HAND * (high - low).max()
                x0, y0 = np.floor(low - margin).astype(int)
                x1, y1 = np.ceil(high + margin).astype(int) + 1
                boxes.append((int(x0), int(y0), int(x1), int(y1)))
        return (None if canvas is None else canvas > 0), boxes

    def _draw(self, canvas: np.ndarray, i: int, camera: dict[str, float]) -> None:
        row = self._rows[i]
        vertices = true_vertices(row["vertices"]) + self._wrists[i]
        focal, centre = (np.array([camera[a + k] for k in "xy"]) for a in "fc")
        pixels = vertices[:, :2] / np.maximum(vertices[:, 2:], 1e-3) * focal + centre
        faces = shared_mesh(row["handedness"]).faces
        # The vertex that closes the wrist is not part of the truth.
        faces = faces[(faces < len(vertices)).all(1)]
        corners = np.rint(np.clip(pixels, -8000, 8000)).astype(np.int32)[faces]
        for triangle in corners:
            cv2.fillConvexPoly(canvas, triangle, 1)


def mask_figures(videos: Sequence[MaskSamples]) -> list[Figure]:
    """Figures of many videos."""

    def pooled(
        name: str, part: str, whole: str, better: Literal["higher", "lower"] = "lower", *, rest: bool = False
    ) -> Figure:
        parts = [getattr(v, part).sum() for v in videos]
        wholes = [getattr(v, whole).sum() for v in videos]
        samples = [int((getattr(v, whole) > 0).sum()) for v in videos]
        numerator = [w - p for w, p in zip(wholes, parts)] if rest else parts
        return Figure(f"masks.{name}", Ratio(numerator, wholes, samples), "share", better)

    overlap = [(v.predicted - v.excess).sum() for v in videos]
    union = [(v.region + v.excess).sum() for v in videos]
    frames = [len(v.frames) for v in videos]
    return [
        pooled("left_visible", "left", "garment"),
        pooled("excess", "excess", "region"),
        pooled("excess_of_garment", "beyond_garment", "garment"),
        Figure("masks.region_iou", Ratio(overlap, union, frames)),
        pooled("held_left_visible", "held_left", "held"),
        pooled("hands_kept", "hand_hidden", "hand", "higher", rest=True),
    ]


def worst_masks(samples: MaskSamples) -> np.ndarray:
    """(F,) how bad each frame's mask is: the worse of both shares that have a goal, in multiples of the goal."""
    left = samples.left / np.maximum(samples.garment, 1) / GOAL_OF["masks.left_visible"].limit
    excess = samples.excess / np.maximum(samples.region, 1) / GOAL_OF["masks.excess"].limit
    return np.maximum(left, excess)
