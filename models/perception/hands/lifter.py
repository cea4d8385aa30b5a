"""Lifts what MediaPipe sees of a hand to keypoints in space: a small network in plain numpy, trained on rendered clips.

MediaPipe's world landmarks get the fingers about right and the turn of the whole hand wrong, by 25 degrees in the
median on rendered hands: depth of a hanging or foreshortened hand is a guess from one small crop. The arm that the hand
is on, and how long the hand looks beside the shoulders, say more. The network corrects MediaPipe's landmarks with both,
and moves them to where the joints of the mesh `cc0_hand` are.

Only what is needed to answer belongs here; `train_lifter` makes the weights. Everything is seen as a right hand that
points up: a left one is mirrored and every one turned before, and back after, so both sides share all they learn.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.special import erf

from models.perception.hands.base import HandTrack

WEIGHTS = Path(__file__).parent / "weights" / "hand_lifter.safetensors"
COMMAND = "python -m models.perception.hands.train_lifter"

VERSION = 1
"""Of the file's form; raise it when the same numbers would mean something else."""

ARM = {"left": (11, 13, 15, 17, 19, 21, 12, 23, 24), "right": (12, 14, 16, 18, 20, 22, 11, 24, 23)}
"""Pose landmarks that say where the arm is: shoulder, elbow, wrist, little finger, index, thumb, then the other
shoulder, the hip of the side and the other hip."""

HAND_FEATURES = 42 + 63
"""How many numbers of the input describe the hand; those of the arm follow."""
FEATURES = HAND_FEATURES + 27 + 9 + 5
OUTPUTS = 63 + 42 + 1

CLIP = 5.0
"""Standard deviations beyond which an input says no more."""

_METRES = 0.1  # what world landmarks are measured in on their way into the network
_FARTHEST = 12.0  # hand sizes: pose landmarks farther away say no more


def arm_of(pose: np.ndarray | None, handedness: str) -> np.ndarray:
    """(9, 4) float32: the landmarks `ARM` of a pose (33, 4); NaN without one."""
    if pose is None:
        return np.full((9, 4), np.nan, np.float32)
    return pose[list(ARM[handedness])].astype(np.float32)


@dataclass(frozen=True)
class Canonical:
    """Hands as the network sees them: right ones that point up, about their centre, in units of their size.

    Attributes:
        points: (N, 21, 2) keypoints.
        world: (N, 21, 3) MediaPipe's world landmarks about their mean, metres.
        features: (N, `FEATURES`); NaN where the pose is not known.
        centre: (N, 2) mean keypoint, pixels.
        size: (N,) twice the root mean square distance of keypoints from it, pixels.
        turn: (N, 2, 2) rotations from the frame to here, before mirroring.
        mirror: (N,) -1 for left hands, 1 for right ones.
    """

    points: np.ndarray
    world: np.ndarray
    features: np.ndarray
    centre: np.ndarray
    size: np.ndarray
    turn: np.ndarray
    mirror: np.ndarray

    @classmethod
    def of(
        cls, points: np.ndarray, world: np.ndarray, score: np.ndarray, arm: np.ndarray, left: np.ndarray
    ) -> Canonical:
        """Canonical form of N observations.

        Args:
            points: (N, 21, 2) pixels.
            world: (N, 21, 3) metres, axes of the frame.
            score: (N,) 0 to 1.
            arm: (N, 9, 4) of `arm_of`.
            left: (N,) bool, whose left hand it is.
        """
        points, world, arm = (np.asarray(a, np.float64) for a in (points, world, arm))
        count = len(points)
        along = 0.25 * (points[:, 5] + points[:, 13]) + 0.5 * points[:, 9] - points[:, 0]
        angle = np.arctan2(along[:, 0], -along[:, 1])
        c, s = np.cos(angle), np.sin(angle)
        turn = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], 1)
        mirror = np.where(left, -1.0, 1.0)
        centre = points.mean(1)
        size = np.maximum(2 * np.sqrt(((points - centre[:, None]) ** 2).sum(-1).mean(1)), 1.0)
        flat = cls(points, world, np.zeros((count, 0)), centre, size, turn, mirror)
        own = flat._turned(points - centre[:, None]) / size[:, None, None]
        about = flat._turned(world - world.mean(1, keepdims=True))
        place = flat._turned(arm[..., :2] - centre[:, None])
        depth = arm[..., 2:3] - arm[:, 2:3, 2:3]
        placed = np.clip(np.concatenate([place, depth], -1) / size[:, None, None], -_FARTHEST, _FARTHEST)
        shoulders = np.linalg.norm(arm[:, 0, :2] - arm[:, 6, :2], axis=-1)
        torso = np.linalg.norm(arm[:, [0, 6], :2].mean(1) - arm[:, [7, 8], :2].mean(1), axis=-1)
        body = [np.log(np.maximum(shoulders, 1.0) / size), np.log(np.maximum(torso, 1.0) / size)]
        rest = np.stack([*body, s * mirror, c, np.asarray(score, np.float64)], -1)
        parts = [own, about / _METRES, placed, arm[..., 3], rest]
        features = np.concatenate([p.reshape(count, -1) for p in parts], -1)
        return cls(own, about, features, centre, size, turn, mirror)

    def _turned(self, values: np.ndarray) -> np.ndarray:
        """Vectors (N, K, 2 or 3) of the frame, seen from here."""
        out = values.copy()
        out[..., :2] = np.einsum("nij,nkj->nki", self.turn, values[..., :2])
        out[..., 0] *= self.mirror[:, None]
        return out

    def rough(self, log_metres: float) -> np.ndarray:
        """(N, 21, 3) in hand sizes: what was seen across the picture, MediaPipe's depth along the viewing ray.

        Args:
            log_metres: Logarithm of metres a hand size, typically.
        """
        return np.concatenate([self.points, self.world[..., 2:] / np.exp(log_metres)], -1)

    def vectors(self, frame: np.ndarray) -> np.ndarray:
        """Vectors (N, K, 2 or 3) of the frame in canonical axes."""
        return self._turned(np.asarray(frame, np.float64))

    def back(self, vectors: np.ndarray) -> np.ndarray:
        """The inverse of `vectors`."""
        out = vectors.copy()
        out[..., 0] *= self.mirror[:, None]
        out[..., :2] = np.einsum("nji,nkj->nki", self.turn, out[..., :2])
        return out


class HandLifter:
    """The network with its weights.

    Args:
        path: File that `train_lifter` wrote.

    Raises:
        FileNotFoundError: There are no weights; says how to make them.
        ValueError: The file is something else, or was trained on other inputs.
    """

    def __init__(self, path: Path = WEIGHTS):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: restore it, or train it with `{COMMAND}`")
        try:
            with safe_open(path, "np") as file:
                self.notes: dict = json.loads((file.metadata() or {})["hand_lifter"])
                tensors = {k: file.get_tensor(k).astype(np.float32) for k in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} does not hold the weights of a hand lifter: {error}") from None
        if [self.notes.get(k) for k in ("version", "features", "outputs")] != [VERSION, FEATURES, OUTPUTS]:
            raise ValueError(f"{path.name} was trained on other inputs: train it again with `{COMMAND}`")
        self._tensors = tensors
        self.log_metres = float(self.notes["log_metres"])
        self.hand_scale = float(self.notes["hand_scale"])
        self.residual_limits: tuple[float, float] = tuple(self.notes["residual_limits"])
        self.strangeness_limits: tuple[float, float] = tuple(self.notes["strangeness_limits"])

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """The network itself: (N, `FEATURES`), NaN where not known, to (N, `OUTPUTS`)."""
        t = self._tensors
        x = (np.asarray(features, np.float32) - t["mean"]) / t["scale"]
        x = np.nan_to_num(np.clip(x, -CLIP, CLIP))
        x = _gelu(_linear(t, "first", x))
        for block in range(self.notes["blocks"]):
            name = f"blocks.{block}"
            x = x + _linear(t, f"{name}.out", _gelu(_linear(t, f"{name}.hidden", _normed(t, f"{name}.norm", x))))
        return _linear(t, "last", _normed(t, "norm", x))

    def answer(self, seen: Canonical) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the network makes of N hands, canonical axes.

        How large a person's hands are cannot be seen; they are taken to be as large as people's are on average.

        Returns:
            Keypoints (N, 21, 3) along the viewing ray in hand sizes, metres a hand size (N,), and corrected keypoints
            (N, 21, 2) in the picture, hand sizes about the centre of those seen.
        """
        out = self.outputs(seen.features).astype(np.float64)
        flat = seen.rough(self.log_metres) + out[:, :63].reshape(-1, 21, 3)
        points = seen.points + out[:, 63:105].reshape(-1, 21, 2)
        return flat, self.hand_scale * np.exp(out[:, -1] + self.log_metres), points

    def blended(self, seen: Canonical) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (N, 21, 3) about their mean, metres, and (N, 21, 2) in the picture, as far as to be trusted."""
        flat, metres, points = self.answer(seen)
        trust = self.trust(seen, flat)[:, None, None]
        about = (flat - flat.mean(1, keepdims=True)) * metres[:, None, None]
        return seen.world + trust * (about - seen.world), seen.points + trust * (points - seen.points)

    def __call__(self, track: HandTrack) -> HandTrack:
        """The track with better keypoints: pixels where the mesh's joints are, `world` along the viewing ray.

        Where the hand is unlike those of the clips it was trained on, or the answer does not agree with the picture,
        MediaPipe's keypoints stay to the same measure.

        Args:
            track: With `extra["arm"]` of `arm_of` where the pose is known.
        """
        count = len(track.frames)
        if not count:
            return track
        arm = track.extra.get("arm", np.full((count, 9, 4), np.nan))
        left = np.full(count, track.handedness == "left")
        seen = Canonical.of(track.points, track.world, track.score, arm, left)
        world, points = self.blended(seen)
        pixels = track.points.mean(1)[:, None] + seen.back(points) * seen.size[:, None, None]
        return replace(track, points=pixels, world=seen.back(world))

    def strangeness(self, seen: Canonical) -> np.ndarray:
        """(N,) how far hands are from those trained on: Mahalanobis distance, about 1 a direction where it is usual."""
        t = self._tensors
        x = (seen.features[:, :HAND_FEATURES] - t["mean"][:HAND_FEATURES]) / t["scale"][:HAND_FEATURES]
        return np.sqrt(((x @ t["whiten"].T) ** 2).mean(-1))

    def trust(self, seen: Canonical, flat: np.ndarray) -> np.ndarray:
        """(N,) how much of the answer to take: 1 for a usual hand and an answer that agrees with it, falling to 0.

        Args:
            seen: N hands.
            flat: (N, 21, 3) of `answer`.
        """
        unlike = _falling(self.strangeness(seen), self.strangeness_limits)
        return np.minimum(unlike, _falling(disagreement(flat[..., :2], seen.points), self.residual_limits))


def _falling(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    low, high = limits
    return np.clip((high - values) / (high - low), 0.0, 1.0)


def disagreement(flat: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) root mean square distance in hand sizes of keypoints along the ray (N, 21, 2) from those in the picture."""
    flat = flat - flat.mean(1, keepdims=True)
    return np.sqrt(((flat - (points - points.mean(1, keepdims=True))) ** 2).sum(-1).mean(1))


def _linear(tensors: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def _normed(tensors: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / np.sqrt(np.float32(2))))


@lru_cache(maxsize=1)
def lifter_digest(path: Path = WEIGHTS) -> str:
    """SHA-256 of the weights' file, 64 hex digits.

    Raises:
        FileNotFoundError: There is none; says how to make it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it, or train it with `{COMMAND}`")
    return hashlib.sha256(path.read_bytes()).hexdigest()
