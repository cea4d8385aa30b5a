"""What the backends hand to the stage: captions as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", "both"]


@dataclass(frozen=True)
class ActionCaption:
    """One interaction with the garment.

    Attributes:
        action: One of `schemas.ACTIONS`.
        start: First frame.
        end: Frame after the last.
        text: What happens, one sentence.
        confidence: 0 to 1.
        hand: The person's own hand, where known.
    """

    action: str
    start: int
    end: int
    text: str
    confidence: float
    hand: Side | None = None


@dataclass(frozen=True)
class GlobalCaption:
    """A caption of the whole video; confidence 0 to 1."""

    text: str
    confidence: float
