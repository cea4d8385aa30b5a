"""What a judge is asked and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np


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
        torso: Shape (T, 4, 2), shoulders and hips (left, right, left, right) in pixels, NaN where not known.
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
    torso: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.frames)
        if not self.start < self.end:
            raise ValueError(f"the span [{self.start}, {self.end}) is empty")
        if not (self.result.shape == self.source.shape and self.result.shape[0] == count):
            raise ValueError(f"result {self.result.shape} and source {self.source.shape} for {count} frames")
        if self.region.shape != self.result.shape[:3] or len(self.hands) != count or self.torso.shape != (count, 4, 2):
            raise ValueError("region, hands and torso do not match the pictures")

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
    """

    success: bool | None
    score: float | None
    rationale: str
    votes: list[bool] = field(default_factory=list)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Judge(ABC):
    """Decides whether an interaction happened in a try-on video."""

    name: str
    """Judge with its version or model, for records."""
    picture_height: int
    """Height to which pictures of a request are reduced, px."""

    @abstractmethod
    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        """Numbers of the frames it wants to see, increasing, for the span [start, end) of a video."""

    @abstractmethod
    def judge(self, request: JudgeRequest) -> Verdict:
        """The verdict on one interaction; what keeps it from judging is a verdict of None with the reason."""


def sample_frames(start: int, end: int, num_frames: int, context: int, most: int) -> np.ndarray:
    """At most `most` frame numbers spread evenly over the span and `context` frames around it, within the video."""
    first, last = max(0, start - context), min(num_frames, end + context) - 1
    if last < first:
        raise ValueError(f"the span [{start}, {end}) lies outside of a video of {num_frames} frames")
    return np.unique(np.linspace(first, last, min(most, last - first + 1)).round().astype(int))
