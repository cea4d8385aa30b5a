"""Google's palm detector and hand landmark network on regions of our choosing.

MediaPipe's HandLandmarker searches palms in the whole frame shrunk to 192 px, where a hand of somebody standing is
ten pixels wide. Here the caller says where to look. Only the two networks and the geometry around them belong here:
decoding of the detector's anchors and the rotated square regions, both as in MediaPipe's published graphs
(`palm_detection_cpu`, `palm_detection_detection_to_roi`, `hand_landmark_landmarks_to_roi`,
`hand_landmarks_from_pose_to_recrop_roi`).

Coordinates are pixels with the centre of the first one at 0.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from models.perception.hands.base import Inference
from models.perception.tflite import TfliteNetwork, anchor_centres

PALM_SIZE = 192
LANDMARK_SIZE = 224

# Landmarks without the finger ends, which MediaPipe bounds the next frame's region by: it then stays still while
# fingers open and close.
_STABLE = np.array([0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18])


@dataclass(frozen=True)
class Region:
    """A rotated square in the frame.

    Attributes:
        x, y: Centre, pixels.
        size: Side, pixels.
        rotation: Radians clockwise on screen from the frame's upright to the square's; the hand points up inside.
    """

    x: float
    y: float
    size: float
    rotation: float = 0.0

    def matrix(self) -> np.ndarray:
        """(2, 3) affine map from unit coordinates of the square, (0, 0) its upper left, to frame pixels."""
        c, s = np.cos(self.rotation) * self.size, np.sin(self.rotation) * self.size
        return np.array([[c, -s, self.x - (c - s) / 2], [s, c, self.y - (s + c) / 2]])

    def to_frame(self, unit: np.ndarray) -> np.ndarray:
        """Unit coordinates (..., 2) to frame pixels."""
        m = self.matrix()
        return unit @ m[:, :2].T + m[:, 2]

    def crop(self, rgb: np.ndarray, side: int, border: int = cv2.BORDER_REPLICATE) -> np.ndarray:
        """The square resampled to (side, side, 3) uint8, averaged where it shrinks by more than two."""
        m = self.matrix()
        shrink = int(self.size / side)
        if shrink >= 2:
            reach = self.size * (abs(np.cos(self.rotation)) + abs(np.sin(self.rotation))) / 2 + 2
            height, width = rgb.shape[:2]
            x0, x1 = int(np.clip(self.x - reach, 0, width - 1)), int(np.clip(self.x + reach, 1, width))
            y0, y1 = int(np.clip(self.y - reach, 0, height - 1)), int(np.clip(self.y + reach, 1, height))
            cut = rgb[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
            to = max(1, cut.shape[1] // shrink), max(1, cut.shape[0] // shrink)
            scale = np.array([to[0] / cut.shape[1], to[1] / cut.shape[0]])
            rgb = cv2.resize(cut, to, interpolation=cv2.INTER_AREA)
            m = np.column_stack([m[:, :2] * scale[:, None], (m[:, 2] + 0.5 - (x0, y0)) * scale - 0.5])
        linear = m[:, :2] / side
        shift = m[:, 2] + linear @ (0.5, 0.5)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(rgb, np.column_stack([linear, shift]), (side, side), flags=flags, borderMode=border)


def _towards(origin: np.ndarray, target: np.ndarray) -> float:
    """Rotation of a region in which `target` lies straight above `origin`."""
    dx, dy = target - origin
    return float(np.arctan2(dx, -dy))


def _fit(points: np.ndarray, rotation: float, scale: float, shift: float) -> Region:
    """Square around points (N, 2) in the rotated frame: moved up by `shift` heights, then the long side scaled."""
    c, s = np.cos(rotation), np.sin(rotation)
    turn = np.array([[c, s], [-s, c]])
    local = points @ turn.T
    low, high = local.min(0), local.max(0)
    extent = high - low
    centre = (low + high) / 2 + (0.0, shift * extent[1])
    x, y = centre @ turn
    return Region(float(x), float(y), float(max(extent.max(), 1.0) * scale), rotation)


def region_from_landmarks(points: np.ndarray) -> Region:
    """Where the hand with these 21 landmarks (21, 2) should be looked for in the next frame."""
    knuckles = 0.25 * (points[5] + points[13]) + 0.5 * points[9]
    return _fit(points[_STABLE], _towards(points[0], knuckles), 2.0, -0.1)


def region_from_palm(box: np.ndarray, points: np.ndarray) -> Region:
    """Where the whole hand of a detected palm is; box (x0, y0, x1, y1) and 7 palm points (7, 2) in pixels."""
    # The shift is along the hand, the detector's box along the frame: as in the published graph.
    rotation = _towards(points[0], points[2])
    centre, size = (box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2]))
    height = float(box[3] - box[1])
    x, y = centre + 0.5 * height * np.array([np.sin(rotation), -np.cos(rotation)])
    return Region(float(x), float(y), size * 2.6, rotation)


def region_from_pose(wrist: np.ndarray, index: np.ndarray, pinky: np.ndarray, scale: float = 5.4) -> Region:
    """Where the body pose expects the hand; `scale` is the side in distances from the wrist to the knuckles."""
    middle = (2 * index + pinky) / 3
    reach = float(np.hypot(*(middle - wrist)))
    rotation = _towards(wrist, middle)
    size = max(reach * scale, 8.0)
    up = 0.1 * 2 * reach * np.array([np.sin(rotation), -np.cos(rotation)])
    x, y = middle + up
    return Region(float(x), float(y), size, rotation)


@dataclass(frozen=True)
class HandLandmarks:
    """What the landmark network says of one region.

    Attributes:
        points: (21, 2) frame pixels.
        world: (21, 3) metres about the hand's centre, axes of the frame (x right, y down, z away).
        presence: Probability that the region holds a hand.
        right: Probability that it is a person's right hand.
    """

    points: np.ndarray
    world: np.ndarray
    presence: float
    right: float


class HandLandmarkNetwork:
    """`hand_landmark_full.tflite`: 21 landmarks of one hand in a region.

    Args:
        path: The tflite file.
        threads: Threads of the interpreter.
    """

    def __init__(self, path: str | Path, threads: int = 1):
        self.inference: Inference = nullcontext
        self._net = TfliteNetwork(path, threads, ("Identity", "Identity_1", "Identity_2", "Identity_3"))

    def __call__(self, rgb: np.ndarray, region: Region) -> HandLandmarks:
        """Landmarks of the hand in `region` of the frame (H, W, 3) uint8 RGB."""
        crop = region.crop(rgb, LANDMARK_SIZE)
        with self.inference():
            landmarks, presence, handedness, world = self._net(crop.astype(np.float32) / 255.0)
        points = region.to_frame(landmarks.reshape(21, 3)[:, :2] / LANDMARK_SIZE)
        c, s = np.cos(region.rotation), np.sin(region.rotation)
        metric = world.reshape(21, 3) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
        return HandLandmarks(points, metric, float(presence.item()), float(handedness.item()))


@dataclass(frozen=True)
class Palm:
    """A detected palm: score, box (x0, y0, x1, y1) and 7 points (7, 2) in frame pixels."""

    score: float
    box: np.ndarray
    points: np.ndarray

    @property
    def region(self) -> Region:
        """Where the whole hand is."""
        return region_from_palm(self.box, self.points)


def palm_anchors() -> np.ndarray:
    """(2016, 2) anchor centres in units of the input: two a cell of the 24 x 24 map, six a cell of the 12 x 12 map."""
    return anchor_centres(((24, 2), (12, 6)))


class PalmDetector:
    """`palm_detection_full.tflite` on a square region.

    Args:
        path: The tflite file.
        threads: Threads of the interpreter.
        min_score: Palms below it are dropped.
    """

    def __init__(self, path: str | Path, threads: int = 1, min_score: float = 0.5):
        self.inference: Inference = nullcontext
        self._net = TfliteNetwork(path, threads, ("Identity", "Identity_1"))
        self._anchors = palm_anchors()
        self._min_score = min_score

    def __call__(self, rgb: np.ndarray, region: Region) -> list[Palm]:
        """Palms in `region` of the frame (H, W, 3) uint8 RGB, best first, overlapping ones dropped."""
        crop = region.crop(rgb, PALM_SIZE, cv2.BORDER_CONSTANT)
        with self.inference():
            boxes, logits = self._net(crop.astype(np.float32) / 255.0)
        logits = logits[0, :, 0]
        scores = 1.0 / (1.0 + np.exp(-np.clip(logits, -100, 100)))
        keep = np.flatnonzero(scores >= self._min_score)
        raw = boxes[0][keep].reshape(len(keep), 9, 2) / PALM_SIZE
        anchors = self._anchors[keep]
        centres, sizes = raw[:, 0] + anchors, raw[:, 1]
        points = raw[:, 2:] + anchors[:, None]
        found: list[Palm] = []
        taken: list[np.ndarray] = []
        for i in np.argsort(-scores[keep]):
            box = np.concatenate([centres[i] - sizes[i] / 2, centres[i] + sizes[i] / 2])
            if any(box_iou(box, other) > 0.3 for other in taken):
                continue
            taken.append(box)
            # Regions for the detector are upright, so a box stays a box.
            corners = region.to_frame(box.reshape(2, 2))
            found.append(Palm(float(scores[keep][i]), corners.reshape(4), region.to_frame(points[i])))
        return found


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))
