"""What every hand estimator has in common: observations frame by frame, then one fit over a whole track.

A hand is looked for while the video streams by (`HandEstimator.detect`); what is kept of a frame is a few hundred
numbers. Once the video is over, `HandEstimator.fit` turns each hand's track into a posed mesh, with what is constant in
a video (the shape of the person's hands) estimated over all of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np

Inference = Callable[[], AbstractContextManager]
"""Opens a context around each run of a network, to account for its time."""

SIDES = ("left", "right")
MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Camera:
    """Pinhole camera of the full frame: x right, y down, z away; pixels, the first one's centre at 0."""

    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_field_of_view(cls, width: int, height: int, degrees: float) -> Camera:
        """Camera whose longer side spans `degrees`."""
        focal = max(width, height) / 2 / float(np.tan(np.radians(degrees) / 2))
        return cls(focal, focal, (width - 1) / 2, (height - 1) / 2)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in metres to pixels (..., 2)."""
        return points[..., :2] / points[..., 2:] * (self.fx, self.fy) + (self.cx, self.cy)


@dataclass(frozen=True)
class HandObservation:
    """One hand seen in one frame.

    Attributes:
        handedness: left or right, the person's own.
        score: Probability that it is a hand, 0 to 1.
        points: (21, 2) keypoints, frame pixels.
        world: (21, 3) keypoints, metres about the hand's centre, axes of the frame (x right, y down, z away).
        extra: Further arrays that the estimator's own `fit` needs.
    """

    handedness: str
    score: float
    points: np.ndarray
    world: np.ndarray
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass
class HandTrack:
    """One hand through a video: row t of every array belongs to `frames[t]`, where the hand was seen.

    Attributes:
        handedness: left or right.
        frames: (T,) frame numbers, rising.
        score: (T,).
        points: (T, 21, 2) frame pixels.
        world: (T, 21, 3) metres.
        extra: Stacked extras of the observations.
    """

    handedness: str
    frames: np.ndarray
    score: np.ndarray
    points: np.ndarray
    world: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def keep(self, rows: np.ndarray) -> HandTrack:
        """The track with only these rows (mask or indices)."""
        return HandTrack(
            self.handedness,
            self.frames[rows],
            self.score[rows],
            self.points[rows],
            self.world[rows],
            {k: v[rows] for k, v in self.extra.items()},
        )


@dataclass
class HandFit:
    """The posed mesh of one track.

    Attributes:
        pose: (T, J, 3) axis-angle per joint, radians; joint 0 turns the whole hand.
        shape: (S,) shape coefficients, constant in the video.
        translation: (T, 3) wrist in the camera frame, metres.
    """

    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray


class HandEstimator(ABC):
    """Finds hands in frames and fits meshes to tracks. One per worker; `reset` before every video."""

    source: str
    """Value of the column `source`."""
    topology: str
    """Value of the column `mesh_topology`."""

    @abstractmethod
    def camera(self, width: int, height: int) -> Camera:
        """Camera that `fit` uses for frames of this size."""

    @abstractmethod
    def reset(self, inference: Inference = nullcontext) -> None:
        """Forget the video before; what runs a network in the next one runs it inside `inference()`."""

    @abstractmethod
    def detect(self, rgb: np.ndarray, pose: np.ndarray | None) -> list[HandObservation]:
        """Hands of the main person in the next frame, at most one of each side.

        Args:
            rgb: (H, W, 3) uint8.
            pose: (33, 4) body landmarks: x, y in pixels, z, visibility; None where the person was not found.
        """

    def refine(self, track: HandTrack) -> HandTrack:
        """The track as `fit` and the table should have it, with all of its frames known; unchanged by default."""
        return track

    @abstractmethod
    def fit(self, tracks: Mapping[str, HandTrack], camera: Camera) -> dict[str, HandFit]:
        """Posed meshes of the hands of one person, by handedness."""

    @abstractmethod
    def keypoints(self, handedness: str, fit: HandFit) -> np.ndarray:
        """Keypoints (T, 21, 3) of fitted hands, metres in the camera frame."""
