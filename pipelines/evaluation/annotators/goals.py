"""What the annotators are meant to reach, in one place. No heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Goal:
    """A figure over all videos of a batch and the bound that it should keep.

    Attributes:
        metric: Name of the figure.
        limit: The bound.
        better: Whether higher or lower values are better, i.e. on which side of `limit` the goal is met.
        title: What it says, in words.
    """

    metric: str
    limit: float
    better: Literal["higher", "lower"]
    title: str

    def met(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.limit if self.better == "higher" else value <= self.limit

    @property
    def sign(self) -> str:
        """The bound's direction as a sign."""
        return "≥" if self.better == "higher" else "≤"


GOALS = (
    Goal("pose.pck_0.1", 0.95, "higher", "landmarks within a tenth of the torso"),
    Goal("pose.person_iou", 0.93, "higher", "person mask, IoU"),
    Goal("hands.found", 0.95, "higher", "hands found that are half visible or more"),
    Goal("hands.mpjpe", 15.0, "lower", "hand keypoints, root-aligned 3D error"),
    Goal("masks.left_visible", 0.015, "lower", "garment pixels left visible"),
    Goal("masks.excess", 0.60, "lower", "area repainted in excess of the right region"),
    Goal("captions.span_f1", 0.80, "higher", "action spans, F1 at IoU 0.5"),
    Goal("captions.told_from_pantomime", 0.85, "higher", "pantomime told from interaction, balanced accuracy"),
)
GOAL_OF = {g.metric: g for g in GOALS}
