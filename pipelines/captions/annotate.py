"""The kinematic backend applied to one video: tables and pictures in, captions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.captions.base import ActionCaption, GlobalCaption, Side
from pipelines.captions.contact import ActingSpan, ContactReader, acting_spans
from pipelines.captions.features import Hand
from pipelines.captions.settings import CaptionSettings
from pipelines.captions.spans import temporal_iou
from pipelines.captions.tracks import Tracks, read_region, read_tracks
from pipelines.captions.wording import Movement, describe, measure_movement, sentence
from pipelines.stage import VideoTask


class KinematicBackend:
    """Captions from pose, hands, masks and the picture around the hands. Built once in a worker.

    Raises:
        FileNotFoundError, ValueError: The contact network's weights are missing or do not fit.
    """

    def __init__(self, settings: CaptionSettings):
        self.settings = settings
        self._reader = ContactReader()

    def caption(
        self, task: VideoTask, known_actions: list[ActionCaption] | None = None
    ) -> tuple[GlobalCaption, list[ActionCaption]]:
        """Captions of one video.

        Args:
            task: The video.
            known_actions: Interactions that people labelled; they are not looked for then.
        """
        tracks = read_tracks(task)
        actions = self._actions(tracks, task) if known_actions is None else known_actions
        text = describe(tracks.body, list(tracks.hands.values()), [a.text for a in actions], tracks.size[0], tracks.fps)
        seen = float(np.nan_to_num(tracks.pose_score).mean()) if len(tracks.pose_score) else 0.0
        return GlobalCaption(text, min(1.0, seen)), actions

    def _actions(self, tracks: Tracks, task: VideoTask) -> list[ActionCaption]:
        cuts = task.row.get("cut_frames") or ()
        smoothing, least = self.settings.smoothing, self.settings.kinematic.min_probability
        spans = {
            side: acting_spans(contact, tracks.fps, smoothing, least, cuts)
            for side, contact in self._reader.read(task, tracks, read_region(task)).items()
        }
        return caption_actions(tracks.hands, spans, tracks.fps)


def caption_actions(
    hands: Mapping[str, Hand], spans: Mapping[str, Sequence[ActingSpan]], fps: float
) -> list[ActionCaption]:
    """Timestamped interactions of both hands; where both do the same at the same time they become one.

    Args:
        hands: Side -> hand.
        spans: Side -> what the hand does.
        fps: Frames a second.
    """
    found: list[tuple[ActionCaption, Movement]] = []
    for side, hand in hands.items():
        for span in spans[side]:
            movement = measure_movement(hand, span.start, span.end, fps)
            text = sentence(span.action, side, movement)
            caption = ActionCaption(span.action, span.start, span.end, text, span.confidence, _side(side))
            found.append((caption, movement))
    found.sort(key=lambda f: (f[0].start, f[0].end))
    out: list[tuple[ActionCaption, Movement]] = []
    for caption, movement in found:
        for i, (other, its) in enumerate(out):
            together = temporal_iou((caption.start, caption.end), (other.start, other.end)) > 0.5
            if together and other.hand != caption.hand and other.action == caption.action:
                merged = ActionCaption(
                    other.action,
                    min(other.start, caption.start),
                    max(other.end, caption.end),
                    sentence(other.action, "both", its),
                    max(other.confidence, caption.confidence),
                    "both",
                )
                out[i] = (merged, its)
                break
        else:
            out.append((caption, movement))
    return [c for c, _ in out]


def _side(side: str) -> Side:
    return "left" if side == "left" else "right"
