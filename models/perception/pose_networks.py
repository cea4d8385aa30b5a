"""Google's person detector and body landmark network, run directly on regions of our choosing.

MediaPipe's PoseLandmarker task decides by itself whom it follows: after a loss it takes the strongest detection, and
a second person costs a detector pass in every frame. Here the caller says where to look. Only the two networks and
the geometry around them belong here, as in MediaPipe's published graphs (`pose_detection_cpu`,
`pose_detection_to_roi`, `pose_landmark_by_roi_cpu`, `pose_landmarks_to_roi`); who is followed is decided in `pose`.

Coordinates are pixels as MediaPipe counts them: a normalised position times the frame's size, with the first pixel's
centre at 0. Sampling exactly as upstream matters more than where that half pixel belongs: landmarks then agree with
the PoseLandmarker task to 0.2 px on average, against 1.7 px with half-pixel centres or averaged downsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from models.perception.hands.networks import Region
from models.perception.tflite import TfliteNetwork, anchor_centres

DETECTOR_SIZE = 224
LANDMARK_SIZE = 256
NUM_LANDMARKS = 33

_HEATMAP_SIZE = 64
_REFINE_KERNEL = 7
_REFINE_MIN_CONFIDENCE = 0.5
_ROI_SCALE = 1.25
_CENTRE, _REACH = 33, 34  # auxiliary landmarks: between the hips, and a point on the circle around the whole body
_NMS_IOU = 0.3


def _region(centre: np.ndarray, reach: np.ndarray) -> Region:
    # The person stands upright in the region: `reach` is straight above `centre`.
    dx, dy = reach - centre
    return Region(
        float(centre[0]), float(centre[1]), 2 * _ROI_SCALE * float(np.hypot(dx, dy)), float(np.arctan2(dx, -dy))
    )


def _crop(rgb: np.ndarray, region: Region, side: int, border: int) -> np.ndarray:
    m = region.matrix()
    m[:, :2] /= side
    return cv2.warpAffine(rgb, m, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=border)


@dataclass(frozen=True)
class Person:
    """A detected person.

    Attributes:
        score: 0 to 1.
        box: (x0, y0, x1, y1) of the face, frame pixels: the detector is a face detector at heart.
        points: (4, 2) frame pixels: hip centre, a point on the circle around the body, and the same for the upper body.
    """

    score: float
    box: np.ndarray
    points: np.ndarray

    @property
    def region(self) -> Region:
        """Where the landmark network should look."""
        return _region(self.points[0], self.points[1])


@lru_cache(maxsize=1)
def person_anchors() -> np.ndarray:
    """(2254, 2) anchor centres in units of the input: two a cell at stride 8 and 16, six at stride 32."""
    return anchor_centres(((28, 2), (14, 2), (7, 6)))


class PersonDetector:
    """`pose_detection.tflite` on whole frames.

    Args:
        path: The tflite file.
        threads: Threads of the interpreter.
        min_score: People below it are dropped.
    """

    def __init__(self, path: str | Path, threads: int = 1, min_score: float = 0.5):
        self._net = TfliteNetwork(path, threads, ("Identity", "Identity_1"))
        self._min_logit = float(np.log(min_score / (1 - min_score)))

    def __call__(self, rgb: np.ndarray, margin: float = 0.0) -> list[Person]:
        """People in the frame (H, W, 3) uint8 RGB, the surest first.

        Args:
            rgb: The frame.
            margin: Empty border around the frame as a share of its longer side. People who fill the frame are found
                only with one: the detector wants to see where a body could be.
        """
        height, width = rgb.shape[:2]
        view = Region(width / 2, height / 2, max(height, width) * (1 + 2 * margin))
        crop = _crop(rgb, view, DETECTOR_SIZE, cv2.BORDER_CONSTANT)
        raw, logits = self._net(crop.astype(np.float32) * (2 / 255) - 1)
        logits = logits.reshape(-1)
        keep = np.flatnonzero(logits > self._min_logit)
        if not len(keep):
            return []
        raw = raw.reshape(-1, 6, 2)[keep] / DETECTOR_SIZE
        anchors = person_anchors()[keep]
        scores = 1 / (1 + np.exp(-logits[keep].astype(np.float64)))
        centre, half = raw[:, 0] + anchors, raw[:, 1] / 2
        boxes = np.concatenate([centre - half, centre + half], -1)
        points = raw[:, 2:] + anchors[:, None]
        people = []
        for box, marks, score in _merged(boxes, points, scores):
            people.append(Person(score, view.to_frame(box.reshape(2, 2)).reshape(4), view.to_frame(marks)))
        return people


def _merged(boxes: np.ndarray, points: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Weighted non-maximum suppression: overlapping detections are averaged by score, which steadies their points."""
    found = []
    left = np.argsort(-scores)
    while len(left):
        best = left[0]
        low = np.maximum(boxes[best, :2], boxes[left, :2])
        high = np.minimum(boxes[best, 2:], boxes[left, 2:])
        common = np.clip(high - low, 0, None).prod(-1)
        area = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1)
        together = common / np.maximum(area[best] + area[left] - common, 1e-12) > _NMS_IOU
        together[0] = True
        group = left[together]
        weight = scores[group] / scores[group].sum()
        found.append(
            (weight @ boxes[group], np.tensordot(weight, points[group], 1), float(scores[best])),
        )
        left = left[~together]
    return found


@dataclass(frozen=True)
class BodyLandmarks:
    """What the landmark network says of one region.

    Attributes:
        points: (33, 4): x and y in frame pixels, z in pixels of the frame (smaller is nearer, origin between the hips),
            visibility 0 to 1.
        auxiliary: (2, 2) frame pixels, the points that the next frame's region is made from.
        world: (33, 3) metres, origin between the hips, axes of the frame: x right, y down, z away.
        presence: Probability that the region holds a person.
        mask_logits: (256, 256) float32 in the region, above 0 where the person is.
        region: The region.
    """

    points: np.ndarray
    auxiliary: np.ndarray
    world: np.ndarray
    presence: float
    mask_logits: np.ndarray
    region: Region

    @property
    def next_region(self) -> Region:
        """Where to look in the next frame."""
        return _region(self.auxiliary[0], self.auxiliary[1])


class BodyLandmarkNetwork:
    """`pose_landmark_full.tflite`: 33 landmarks and the mask of the person in a region.

    Args:
        path: The tflite file.
        threads: Threads of the interpreter.
    """

    def __init__(self, path: str | Path, threads: int = 1):
        outputs = ("Identity", "Identity_1", "Identity_2", "Identity_3", "Identity_4")
        self._net = TfliteNetwork(path, threads, outputs)

    def __call__(self, rgb: np.ndarray, region: Region) -> BodyLandmarks:
        """Landmarks of the person in `region` of the frame (H, W, 3) uint8 RGB."""
        crop = _crop(rgb, region, LANDMARK_SIZE, cv2.BORDER_REPLICATE)
        raw, presence, mask, heatmap, world = self._net(crop.astype(np.float32) * (1 / 255))
        marks = raw.reshape(39, 5).astype(np.float64)
        unit = _refined(marks[:, :2] / LANDMARK_SIZE, heatmap[0])
        frame = region.to_frame(unit)
        visibility = 1 / (1 + np.exp(-marks[:NUM_LANDMARKS, 3]))
        depth = marks[:NUM_LANDMARKS, 2] / LANDMARK_SIZE * region.size
        c, s = np.cos(region.rotation), np.sin(region.rotation)
        metric = world.reshape(39, 3)[:NUM_LANDMARKS] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
        return BodyLandmarks(
            np.column_stack([frame[:NUM_LANDMARKS], depth, visibility]),
            frame[[_CENTRE, _REACH]],
            metric,
            float(presence.item()),
            mask[0, :, :, 0].copy(),
            region,
        )


def _refined(unit: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Points (39, 2) moved to the centre of mass of their heat map (64, 64, 39) within a window around them.

    As MediaPipe's `RefineLandmarksFromHeatmapCalculator`: only where the window's peak is above 0.5.
    """
    offset = _REFINE_KERNEL // 2
    cells = np.floor(unit * _HEATMAP_SIZE).astype(int)
    inside = ((cells >= 0) & (cells < _HEATMAP_SIZE)).all(-1)
    reach = np.arange(-offset, offset + 1)
    columns, rows = (np.clip(cells, 0, _HEATMAP_SIZE - 1).T[:, :, None] + reach)[:, :, :, None]
    rows, columns = np.broadcast_arrays(rows, columns.swapaxes(1, 2))
    valid = (rows >= 0) & (rows < _HEATMAP_SIZE) & (columns >= 0) & (columns < _HEATMAP_SIZE)
    last = _HEATMAP_SIZE - 1
    logits = heatmap[np.clip(rows, 0, last), np.clip(columns, 0, last), np.arange(len(unit))[:, None, None]]
    confidence = valid / (1 + np.exp(-logits.astype(np.float64)))
    total = confidence.sum((1, 2))
    sure = inside & (confidence.max((1, 2)) >= _REFINE_MIN_CONFIDENCE)
    mass = np.stack([(columns * confidence).sum((1, 2)), (rows * confidence).sum((1, 2))], -1)
    return np.where(sure[:, None], mass / np.maximum(total, 1e-9)[:, None] / _HEATMAP_SIZE, unit)
