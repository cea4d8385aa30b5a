"""MediaPipe's own PoseLandmarker task in video mode, as a pose estimator that keeps to one person.

The reference, and the way to a GPU delegate. `pose.PoseTracker` runs the same networks: alone it is faster, because it
needs no second person to tell the main one from others, and finds who it lost by place and colours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby

import numpy as np

from models import weights
from models.perception.hands.networks import Region
from models.perception.identity import LEFT_HIP, RIGHT_HIP, TORSO, Identity, IdentityLimits, torso_colours
from models.perception.pose import Frame, Pose, shot_counter

TASK_WEIGHTS = ("pose_landmarker_full.task",)
"""Files of the weights cache that the task reads."""

_WARM_UP = 4  # times the first frame of a shot is shown: the detector misses many first frames
_LOGIT = 6.0


class PoseTask:
    """Follows the main person with the PoseLandmarker task.

    Args:
        people: People the task looks for; with one it follows whom it finds first.
        min_presence: Below it there is no person.
        limits: How much the same person may change from frame to frame.

    Raises:
        MissingWeights: The task bundle is not in the weights cache.
    """

    def __init__(self, people: int = 2, min_presence: float = 0.5, limits: IdentityLimits | None = None):
        from mediapipe.tasks.python import BaseOptions, vision

        self.limits = limits or IdentityLimits()
        self._task = vision.PoseLandmarker
        self._options = vision.PoseLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(weights.path(TASK_WEIGHTS[0]))),
            running_mode=vision.RunningMode.VIDEO,
            num_poses=people,
            min_pose_presence_confidence=min_presence,
            output_segmentation_masks=True,
        )

    def track(
        self,
        frames: Iterable[Frame],
        cuts: Collection[int] = (),
        inference: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[tuple[Frame, Pose | None]]:
        """See `models.perception.pose.PoseEstimator.track`."""
        import mediapipe as mp

        for _, shot in groupby(frames, shot_counter(cuts)):
            identity = Identity(self.limits)
            sure, stamp = False, -1
            with self._task.create_from_options(self._options) as task:
                for frame in shot:
                    image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(frame.rgb))
                    with inference():
                        for _ in range(1 if stamp >= 0 else _WARM_UP):
                            stamp = max(stamp + 1, round(frame.time_s * 1000))
                            result = task.detect_for_video(image, stamp)
                            if result.pose_landmarks:
                                break
                        pose = _main(result, frame, identity, sure)
                    sure = pose is not None
                    yield frame, pose


def _main(result, frame: Frame, identity: Identity, sure: bool) -> Pose | None:
    """The followed person among those found, or the most prominent one when nobody is followed yet."""
    height, width = frame.rgb.shape[:2]
    found = []
    for i, landmarks in enumerate(result.pose_landmarks):
        points = np.array([[p.x * width, p.y * height, p.z * width, p.visibility] for p in landmarks])
        hips = points[[LEFT_HIP, RIGHT_HIP], :2].mean(0)
        size = 2.5 * float(np.linalg.norm(points[:, :2] - hips, axis=-1).max())
        centre = points[TORSO, :2].mean(0)
        colours = torso_colours(frame.rgb, points)
        if identity.accepts(centre, size, colours, frame.time_s, sure):
            off_centre = min(abs(centre[0] - width / 2) / (width / 2), 1.0)
            found.append((identity.distance(centre), -size * (1 - 0.5 * off_centre), i, points, centre, size, colours))
    if not found:
        return None
    _, _, i, points, centre, size, colours = min(found, key=lambda f: f[:3])
    identity.remember(centre, size, colours, frame.time_s)
    world = np.array([[p.x, p.y, p.z] for p in result.pose_world_landmarks[i]])
    side = max(height, width)
    logits = np.full((side, side), -_LOGIT, np.float32)
    logits[:height, :width] = (result.segmentation_masks[i].numpy_view().reshape(height, width) - 0.5) * 2 * _LOGIT
    presence = float(np.mean([p.presence for p in result.pose_landmarks[i]]))
    return Pose(points, world, presence, logits, Region(side / 2, side / 2, side))
