"""Human labels of a video, from its object in the landing folder's manifest. They win over every backend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from pipelines.captions.base import ActionCaption
from pipelines.ingest.manifest import ActionSpan, ManifestEntry

_DEFAULT_TEXT = {
    "adjust_collar": "a person adjusts the collar of the garment",
    "adjust_hem": "a person adjusts the hem of the garment",
    "operate_zipper": "a person moves the zipper of the garment",
    "stretch_fabric": "a person stretches the fabric of the garment",
    "roll_sleeve": "a person rolls the sleeve of the garment",
    "other": "a person touches the garment",
}


@dataclass(frozen=True)
class HumanLabels:
    """What people said about a video.

    Attributes:
        actions: None when nobody labelled the video; an empty tuple says that nothing is done to the garment.
        global_caption: None when nobody wrote one.
    """

    actions: tuple[ActionSpan, ...] | None = None
    global_caption: str | None = None


def read_labels(manifest: str | None, global_caption: str | None = None) -> HumanLabels:
    """The human labels in the columns `manifest` (JSON) and `global_caption` of `videos`.

    Raises:
        ValueError: A label does not hold what it should; says which, and what was expected.
    """
    text = (global_caption or "").strip() or None
    if not manifest:
        return HumanLabels(None, text)
    try:
        entry = ManifestEntry.model_validate_json(manifest)
    except ValidationError as e:
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'entry'}: {p['msg']}" for p in e.errors())
        raise ValueError(
            f"The manifest entry of this video is wrong ({problems}); correct it and ingest again"
        ) from None
    labelled = tuple(entry.actions) if "actions" in entry.model_fields_set else None
    return HumanLabels(labelled, text or (entry.global_caption or "").strip() or None)


def frame_span(start_s: float, end_s: float, times_s: np.ndarray) -> tuple[int, int]:
    """Half-open span of the frames whose time is in [start_s, end_s), at least one frame.

    Args:
        start_s: Seconds from the first frame.
        end_s: Seconds from the first frame, after `start_s`.
        times_s: Shape (frames,), presentation times in seconds, ascending; may be of variable rate.

    Raises:
        ValueError: The span begins after the last frame.
    """
    # Labels are decimal numbers and frame times are not: 0.1 s must mean frame 3 at 30 fps, not frame 4.
    slack = 1e-3
    start, end = np.searchsorted(times_s, [start_s - slack, end_s - slack])
    if start >= len(times_s):
        last = float(times_s[-1]) if len(times_s) else 0.0
        raise ValueError(
            f"A labelled action starts at {start_s} s, after the last frame ({last:.2f} s); correct the manifest"
        )
    return int(start), int(max(end, start + 1))


def human_captions(actions: Iterable[ActionSpan], times_s: np.ndarray) -> list[ActionCaption]:
    """Labelled actions as captions, in order of time; confidence 1.

    Raises:
        ValueError: An action begins after the last frame.
    """
    out = []
    for a in sorted(actions, key=lambda a: (a.start_s, a.end_s)):
        start, end = frame_span(a.start_s, a.end_s, times_s)
        # The manifest fills an empty text with the bare name of the category, which is no sentence.
        text = a.text if a.text != a.action.replace("_", " ") else _DEFAULT_TEXT[a.action]
        out.append(ActionCaption(a.action, start, end, text, 1.0))
    return out
