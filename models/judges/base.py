"""What a judge is asked and what it answers."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class JudgeError(Exception):
    """A judge lacks something; the message says what to do."""


@dataclass(frozen=True)
class HandContact:
    """What the contact network says of one hand in every frame of the result.

    Attributes:
        touching: Shape (F,), probability that it touches the garment; 0 where the hand is not known.
        doing: Shape (F, classes), probability of each of `models.contact.network.CLASSES` if it does.
    """

    touching: np.ndarray
    doing: np.ndarray


@dataclass(frozen=True)
class JudgeRequest:
    """One interaction of one try-on video, as sampled pictures.

    Attributes:
        action: Interaction category, such as `operate_zipper`.
        caption: What the person should be doing to the garment.
        fps: Frames a second of the videos.
        start: First frame of the span.
        end: End of the span, exclusive.
        frames: Shape (T,), numbers of the sampled frames, increasing; some lie before and after the span.
        result: Shape (T, H, W, 3), uint8 RGB: the try-on video.
        source: Shape (T, H, W, 3), uint8 RGB: the source video, in its own garment.
        region: Shape (T, H, W), bool: where the garment may be (the agnostic mask).
        hands: For each picture, side -> keypoints (21, 2) in pixels of the pictures; only known hands.
        landmarks: Shape (F, 33, 2), the pose in all frames of the result, pixels of the pictures, NaN where not known.
        contact: Side -> what the contact network says of that hand in the source, over all frames of the result; for
            judges that ask for it, see `Judge.needs_contact`.
    """

    action: str
    caption: str
    fps: float
    start: int
    end: int
    frames: np.ndarray
    result: np.ndarray
    source: np.ndarray
    region: np.ndarray
    hands: list[dict[str, np.ndarray]]
    landmarks: np.ndarray
    contact: Mapping[str, HandContact] | None = None

    def __post_init__(self) -> None:
        count = len(self.frames)
        if not self.start < self.end:
            raise ValueError(f"the span [{self.start}, {self.end}) is empty")
        if not (self.result.shape == self.source.shape and self.result.shape[0] == count):
            raise ValueError(f"result {self.result.shape} and source {self.source.shape} for {count} frames")
        if self.region.shape != self.result.shape[:3] or len(self.hands) != count:
            raise ValueError("region and hands do not match the pictures")
        if self.landmarks.shape[1:] != (33, 2) or len(self.landmarks) <= self.frames[-1]:
            raise ValueError(f"landmarks {self.landmarks.shape} for frames up to {self.frames[-1]}")

    @property
    def inside(self) -> np.ndarray:
        """Shape (T,), bool: which pictures lie in the span."""
        return (self.frames >= self.start) & (self.frames < self.end)


@dataclass(frozen=True)
class Verdict:
    """A judge's answer.

    Attributes:
        success: Whether the interaction succeeded; None where the judge cannot say.
        score: Confidence that it succeeded, 0 to 1; None where the judge cannot say.
        rationale: Why, or why there is no verdict.
        votes: Single votes.
        prompt_tokens: Tokens sent, where the judge is a language model.
        completion_tokens: Tokens received.
        cost: What they cost, where prices are known.
    """

    success: bool | None
    score: float | None
    rationale: str
    votes: list[bool] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None


class Sampling(ABC):
    """What is to be looked at of one interaction."""

    picture_height: int
    """Height to which pictures of a request are reduced, px."""
    needs_contact: bool = False
    """Whether requests must bring the contact network's reading."""

    @abstractmethod
    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        """Numbers of the frames to look at, increasing, for the span [start, end) of a video."""


class Judge(Sampling):
    """Decides whether an interaction happened in a try-on video."""

    name: str
    """Judge with its version or model, for records."""
    digest: str
    """What its verdicts depend on besides the request: settings, version, weights; 16 hex digits. An agreement that was
    measured holds for this digest only."""
    fitted_on: frozenset[str] = frozenset()
    """Videos that the judge was fitted on: measured on these it looks better than it is."""

    @abstractmethod
    def judge(self, request: JudgeRequest) -> Verdict:
        """The verdict on one interaction; what keeps it from judging is a verdict of None with the reason."""


def sample_frames(start: int, end: int, num_frames: int, context: int, most: int) -> np.ndarray:
    """At most `most` frame numbers spread evenly over the span and `context` frames around it, within the video."""
    first, last = max(0, start - context), min(num_frames, end + context) - 1
    if last < first:
        raise ValueError(f"the span [{start}, {end}) lies outside of a video of {num_frames} frames")
    return np.unique(np.linspace(first, last, min(most, last - first + 1)).round().astype(int))


def judge_digest(name: str, *parts: Any) -> str:
    """16 hex digits over a judge's name and what else its verdicts depend on, as plain values."""
    return hashlib.sha256(json.dumps([name, *parts], sort_keys=True).encode()).hexdigest()[:16]
