"""Training data of the hand lifter: what MediaPipe sees of hands in studio clips, with the studio's truth beside it.

`python -m pipelines.hands.lifter_data --batch NAME [NAME ...] --out FOLDER` writes one file a clip. The batches must be
in the lake with their truth and rows of `pose`; hands are looked for as the stage does. Files that are there and still
hold are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models import weights
from models.perception.hand_ik import viewing_rotation
from models.perception.hands.base import Camera
from models.perception.hands.lifter import arm_of
from models.perception.hands.mediapipe import WEIGHTS, hand_finder
from pipelines.arrays import points_to_numpy, structs_to_numpy
from pipelines.hands.settings import CODE_VERSION
from pipelines.stage import VideoTask
from pipelines.studio.samples import SampleKind, UnusableClip, run
from pipelines.video import VideoReader

_NEAR = 0.5  # hand sizes: farther from the true hand, another hand was found


def samples(task: VideoTask) -> Iterator[dict[str, Any]]:
    """What is seen of each hand in each frame of a rendered clip, and the truth; missed hands are not there."""
    rows = task.rows("pose", ["frame", "landmarks"])
    pose = dict(zip(rows["frame"].to_pylist(), points_to_numpy(rows["landmarks"], 33)))
    frames = task.rows("studio_frames", ["frame", "camera"])
    cameras = {f: Camera(*c) for f, c in zip(frames["frame"].to_pylist(), structs_to_numpy(frames["camera"]))}
    hands = task.rows("studio_hands")
    pixels, metres = points_to_numpy(hands["keypoints_2d"], 21), points_to_numpy(hands["keypoints_3d"], 21)
    keys = zip(hands["frame"].to_pylist(), hands["handedness"].to_pylist())
    truth = dict(zip(keys, zip(pixels, metres, hands["visible"].to_pylist())))
    finder = hand_finder()
    with VideoReader(task.path) as reader:
        for frame in reader.frames():
            body = pose.get(frame.index)
            body = body if body is not None and np.isfinite(body).all() else None
            for hand in finder(frame.rgb, body):
                if (frame.index, hand.handedness) not in truth:
                    continue
                points, space, visible = truth[frame.index, hand.handedness]
                if np.linalg.norm(hand.points.mean(0) - points.mean(0)) > _NEAR * np.ptp(points, axis=0).max():
                    continue
                camera = cameras[frame.index]
                # What the network must answer, in the axes in which MediaPipe sees the hand.
                turn = viewing_rotation(hand.points[None], camera)[0]
                yield {
                    "frame": frame.index,
                    "left": hand.handedness == "left",
                    "score": hand.score,
                    "points": hand.points,
                    "world": hand.world,
                    "arm": arm_of(body, hand.handedness),
                    "true_points": points,
                    "true_world": (space - space.mean(0)) @ turn,
                    "metres_per_pixel": space[:, 2].mean() / camera.fx,
                    "visible": visible,
                }


def measured(task: VideoTask) -> dict[str, np.ndarray]:
    """Arrays of a clip's file, one row a hand that was found.

    Raises:
        UnusableClip: None was found.
    """
    found = list(samples(task))
    if not found:
        raise UnusableClip("no hand was found")
    return {k: _compact(np.array([f[k] for f in found])) for k in found[0]}


def _compact(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype == np.float64 else values


def lifter_samples() -> SampleKind:
    """Files as `models.perception.hands.lifter_samples` reads them.

    Raises:
        MissingWeights: MediaPipe's networks are not in the weights cache.
    """
    return SampleKind(
        stages=("pose",),
        notes=("seed", "performance", "action", "side"),
        version=(*(weights.digest(name) for name in WEIGHTS), CODE_VERSION),
        measure=measured,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module. Returns 1 when a clip could not be used."""
    return run("pipelines.hands.lifter_data", __doc__, lifter_samples, arguments)


if __name__ == "__main__":
    sys.exit(main())
