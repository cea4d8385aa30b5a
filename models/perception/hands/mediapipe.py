"""The embedded hand estimator: MediaPipe landmarks, lifted into space and fitted onto the CC0 hand mesh."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from models import weights
from models.perception.hand_ik import estimate_shape, fit_hands, refine_shape
from models.perception.hand_mesh import TOPOLOGY, shared_mesh
from models.perception.hands.base import MIRROR, Camera, HandEstimator, HandFit, HandObservation, HandTrack, Inference
from models.perception.hands.finder import HandFinder
from models.perception.hands.lifter import HandLifter, arm_of

WEIGHTS = ("palm_detection_full.tflite", "hand_landmark_full.tflite")


def hand_finder(threads: int = 1, **options: Any) -> HandFinder:
    """A finder with the networks from the weights cache; options are those of `HandFinder`.

    Raises:
        MissingWeights: The networks are not in the cache; the message says how to get them.
    """
    palm, landmark = (weights.path(name) for name in WEIGHTS)
    return HandFinder(palm, landmark, threads, **options)


class MediaPipeHands(HandEstimator):
    """Landmarks around the body pose's wrists, lifted, then inverse kinematics with one hand shape per video.

    Args:
        finder: Finds the hands.
        field_of_view_deg: Angle that the longer side of the frame is taken to span.
        lifter: Turns what was seen into keypoints in space; the one in the package by default.

    Raises:
        FileNotFoundError: The lifter's weights are missing.
    """

    source = "mediapipe"
    topology = TOPOLOGY

    def __init__(self, finder: HandFinder, field_of_view_deg: float = 55.0, lifter: HandLifter | None = None):
        self._finder = finder
        self._field_of_view = field_of_view_deg
        self._lifter = lifter or HandLifter()

    def camera(self, width: int, height: int) -> Camera:
        """Camera with the assumed field of view."""
        return Camera.from_field_of_view(width, height, self._field_of_view)

    def reset(self, inference: Inference = nullcontext) -> None:
        """Forget the video before."""
        self._finder.reset(inference)

    def detect(self, rgb: np.ndarray, pose: np.ndarray | None) -> list[HandObservation]:
        """Hands in the next frame, each with its arm in `extra`."""
        return [replace(h, extra={"arm": arm_of(pose, h.handedness)}) for h in self._finder(rgb, pose)]

    def refine(self, track: HandTrack) -> HandTrack:
        """Keypoints corrected in the picture and in space."""
        return self._lifter(track)

    def fit(self, tracks: Mapping[str, HandTrack], camera: Camera) -> dict[str, HandFit]:
        """Both hands of a person share one shape."""
        seen = {side: t for side, t in tracks.items() if len(t.frames)}
        if not seen:
            return {}
        world = np.concatenate([t.world * (MIRROR if side == "left" else 1.0) for side, t in seen.items()])
        shape = refine_shape([(t.points, t.world, s) for s, t in seen.items()], camera, estimate_shape(world))
        return {side: fit_hands(t.points, t.world, camera, side, shape) for side, t in seen.items()}

    def keypoints(self, handedness: str, fit: HandFit) -> np.ndarray:
        """Keypoints of fitted hands."""
        return shared_mesh(handedness).keypoints(fit.pose, fit.shape, fit.translation)
