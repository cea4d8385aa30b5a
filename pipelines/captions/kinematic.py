"""Contact of hands and garment from geometry: no network beyond pose and hands, no picture except for cloth motion.

A hand that touches the garment lies in front of it in the picture, and so does one that gestures before the chest.
What tells them apart without a reliable depth is how the hand is held: a hand that lies on a surface has its palm
parallel to it and turned to it, it does not leave it at speed, and it does not hold the other hand. Each of these is a
soft threshold with a physical meaning; the product is the evidence of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipelines.captions.base import ActionCaption, Side
from pipelines.captions.features import Body, Hand, hand_distance, running
from pipelines.captions.settings import KinematicSettings, SmoothingSettings, SoftThreshold
from pipelines.captions.spans import Span, frames_of, smoothed_runs, temporal_iou
from pipelines.captions.wording import Movement, action_of, bystander, measure_movement, sentence

# A straight arm cannot bring the hand to its own torso: upper arm and forearm of a hanging arm make 160 to 180 degrees.
_STRAIGHT_ARM = SoftThreshold(centre=150, width=6)


@dataclass(frozen=True)
class Evidence:
    """Per-frame evidence of one hand, each of shape (frames,), 0 to 1.

    Attributes:
        near: The hand lies over the garment, in the picture.
        contact: It touches the garment.
    """

    near: np.ndarray
    contact: np.ndarray


def step(values: np.ndarray, threshold: SoftThreshold) -> np.ndarray:
    """Logistic step from 0 to 1; 0 where the value is NaN."""
    with np.errstate(over="ignore"):
        return np.nan_to_num(1 / (1 + np.exp(-(values - threshold.centre) / threshold.width)), nan=0.0)


def nearness(hand: Hand, around: np.ndarray, settings: KinematicSettings, torso: bool = True) -> np.ndarray:
    """Whether the hand lies over the garment; shape (frames,), 0 to 1.

    Args:
        hand: The hand.
        around: Shape (frames,), share of the hand's surroundings inside the garment's region; NaN where not known.
        settings: Thresholds.
        torso: Whether the garment covers the torso, so that the hand has to be over it (or over the other forearm).
    """
    near = step(around, settings.over_garment) * (1 - step(hand.elbow_flexion, _STRAIGHT_ARM))
    if not torso:
        return near
    sleeve = (hand.from_other_forearm < 0.2).astype(float)
    return near * np.maximum(step(hand.inside, settings.over_garment), sleeve)


def contact_evidence(
    hand: Hand, near: np.ndarray, drag: np.ndarray, apart: np.ndarray, fps: float, settings: KinematicSettings
) -> Evidence:
    """Evidence that one hand touches the garment.

    Args:
        hand: The hand.
        near: Shape (frames,), see `nearness`.
        drag: Shape (frames,), share of nearby cloth that moves along; NaN where not measured.
        apart: Shape (frames,), distance of the two hands in body units.
        fps: Frames a second.
        settings: Thresholds.
    """
    slow = np.where(np.isfinite(hand.speed), 1 - step(hand.speed, settings.speed), 1.0)
    laid = step(hand.facing, settings.palm_facing) * step(apart, settings.hands_apart)
    # Cloth is compared every few frames; what it says holds for the time between.
    held = running(lambda w: np.nanmax(w, -1), drag, 2 * frames_of(settings.cloth_step_s, fps) + 1)
    pulled = step(held, settings.cloth_drag)
    return Evidence(near, near * slow * np.maximum(laid, pulled))


def hand_spans(
    evidence: Evidence,
    fps: float,
    smoothing: SmoothingSettings,
    settings: KinematicSettings,
    cuts: Iterable[int] = (),
) -> list[tuple[Span, float]]:
    """Spans and how sure it is that the hand touches the garment there.

    The evidence is right in a share r of the spans (`reliability`), whichever way it points, so a span with mean
    evidence e is a contact with probability r e + (1 - r) (1 - e). Stays of the hand over the garment without evidence
    of contact therefore keep a confidence of about 1 - r, and show only below the default `min_confidence`.
    """
    lengths = (fps, smoothing.closing_s, smoothing.opening_s)
    touched = smoothed_runs(evidence.contact >= 0.5, *lengths, cuts)
    spans = list(touched)
    for stay in smoothed_runs(evidence.near >= 0.5, *lengths, cuts):
        if not any(temporal_iou(stay, t) > 0 for t in touched):
            spans.append(stay)
    r = settings.reliability
    means = [(span, float(evidence.contact[span[0] : span[1]].mean())) for span in sorted(spans)]
    scored = [(span, r * e + (1 - r) * (1 - e)) for span, e in means]
    return [(span, c) for span, c in scored if c >= settings.min_confidence]


def caption_actions(
    body: Body,
    hands: dict[str, Hand],
    evidence: dict[str, Evidence],
    drag: dict[str, np.ndarray],
    fps: float,
    smoothing: SmoothingSettings,
    settings: KinematicSettings,
    cuts: Iterable[int] = (),
) -> list[ActionCaption]:
    """Timestamped interactions of both hands; where both do the same at the same time they become one."""
    apart = hand_distance(body)
    found: list[tuple[ActionCaption, Movement]] = []
    for side, hand in hands.items():
        for (start, end), confidence in hand_spans(evidence[side], fps, smoothing, settings, cuts):
            movement = measure_movement(hand, apart, drag[side], start, end, fps)
            action = action_of(movement)
            # Below even odds the caption must not say more than what is seen.
            action = action if confidence >= 0.5 else "other"
            text = _text(action, side, movement, confidence)
            found.append((ActionCaption(action, start, end, text, confidence, _side(side)), movement))
    found.sort(key=lambda f: (f[0].start, f[0].end))
    out: list[tuple[ActionCaption, Movement]] = []
    for caption, movement in found:
        for i, (other, its) in enumerate(out):
            together = temporal_iou((caption.start, caption.end), (other.start, other.end)) > 0.5
            together = together and other.hand != caption.hand and other.action == caption.action
            together = together and (other.confidence >= 0.5) == (caption.confidence >= 0.5)
            if together:
                confidence = max(other.confidence, caption.confidence)
                merged = ActionCaption(
                    other.action,
                    min(other.start, caption.start),
                    max(other.end, caption.end),
                    _text(other.action, "both", its, confidence),
                    confidence,
                    "both",
                )
                out[i] = (merged, its)
                break
        else:
            out.append((caption, movement))
    return [c for c, _ in out]


def _text(action: str, hand: str, movement: Movement, confidence: float) -> str:
    return sentence(action, hand, movement) if confidence >= 0.5 else bystander(hand, movement)


def _side(side: str) -> Side:
    return "left" if side == "left" else "right"
