"""Spans of captions and action masks as bars under a row of thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.previews.canvas import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    write,
)
from pipelines.store.schemas import ACTIONS

ACTION_COLOURS = dict(zip(ACTIONS, (SKY, GREEN, VERMILION, ORANGE, PURPLE, YELLOW)))
_LANE = 19


def spans_picture(spans: Sequence[dict[str, Any]], num_frames: int, shown: Sequence[int], width: int) -> np.ndarray:
    """One lane for each action that occurs, over a frame axis; ticks mark the frames of the thumbnails.

    Args:
        spans: Rows of `captions` of kind action.
        num_frames: Frames of the video.
        shown: Frames of the thumbnails above.
        width: Columns of the picture.
    """
    actions = [a for a in ACTIONS if any(s["action"] == a for s in spans)]
    height = _LANE * max(1, len(actions)) + 16
    out = np.full((height, width, 3), PAPER, np.uint8)
    total = max(1, num_frames)
    axis = height - 15
    out[axis] = FAINT
    for frame in shown:
        x = min(width - 1, int((frame + 0.5) / total * width))
        out[axis - 3 : axis + 3, x] = INK
        write(out, (max(0, min(x - 8, width - 30)), axis + 1), str(frame), 10, FAINT)
    if not actions:
        write(out, (3, 2), "no interaction", 11, FAINT)
    for lane, action in enumerate(actions):
        y = lane * _LANE
        for s in (s for s in spans if s["action"] == action):
            x0 = int(s["start_frame"] / total * width)
            x1 = max(x0 + 2, min(width, int(np.ceil(s["end_frame"] / total * width))))
            out[y + 1 : y + _LANE - 2, x0:x1] = ACTION_COLOURS[action]
            text = f"{action} {s['start_frame']}–{s['end_frame']}  {s['confidence']:.2f} {s['source']}"
            # A short span's text runs on beyond its bar, onto the paper.
            write(out, (x0 + 4, y + 2), text, 11, INK)
    return out


def latent_strip(action_mask: Sequence[float], width: int) -> np.ndarray:
    """The action mask as one box a latent frame: filled where an interaction span overlaps."""
    out = np.full((14, width, 3), PAPER, np.uint8)
    count = max(1, len(action_mask))
    for k, value in enumerate(action_mask):
        x0, x1 = round(k * width / count), round((k + 1) * width / count) - 2
        out[2:12, x0:x1] = VERMILION if value > 0 else (205, 215, 225)
    return out


def cut_strip(cuts: Sequence[int], num_frames: int, width: int) -> np.ndarray:
    """A frame axis with a mark at every shot cut."""
    out = np.full((8, width, 3), PAPER, np.uint8)
    out[3:5] = BLUE
    for cut in cuts:
        x = min(width - 3, round(cut / max(1, num_frames) * width))
        out[:, x : x + 3] = VERMILION
    return out
