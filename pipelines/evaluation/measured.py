"""Which measurements are of the try-on videos that stand now: a checkpoint may have dressed others since."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any


def set_metrics(
    of_set: Iterable[dict[str, Any]], of_videos: Iterable[dict[str, Any]], tryon_ids: Collection[str]
) -> list[dict[str, Any]]:
    """Metrics of the whole set, of the modes in which exactly these try-on videos were measured.

    Args:
        of_set: Rows of `video_metrics` of one checkpoint without a try-on video.
        of_videos: Its rows of single videos: their `tryon_id` and `mode`.
        tryon_ids: Its try-on videos, with those that could not be made.
    """
    measured: dict[str, set[str]] = {}
    for row in of_videos:
        if row["tryon_id"]:
            measured.setdefault(row["mode"], set()).add(row["tryon_id"])
    return [row for row in of_set if measured.get(row["mode"], set()) == set(tryon_ids)]


def verdicts_that_count(verdicts: list[dict[str, Any]], tryons: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The verdicts of one checkpoint, or none of them where they are not of exactly these try-on videos.

    Videos without an interaction in the part that was dressed have no verdict and need none.

    Args:
        verdicts: Rows of `isr_scores` with `tryon_id`.
        tryons: Rows of `tryon_videos` with `tryon_id`, `start_frame`, `num_frames` and `record`, failed ones too.
    """
    judged = {v["tryon_id"] for v in verdicts}
    there, wanted = set(), set()
    for tryon in tryons:
        there.add(tryon["tryon_id"])
        first, end = tryon["start_frame"], tryon["start_frame"] + tryon["num_frames"]
        spans = json.loads(tryon["record"]).get("spans", [])
        if any(in_part(s["start"], s["end"], first, end) for s in spans):
            wanted.add(tryon["tryon_id"])
    return verdicts if wanted <= judged <= there else []


def in_part(start: int, end: int, first: int, stop: int) -> bool:
    """Whether the middle of an interaction lies in the part of its source that was dressed; ends are exclusive."""
    return first <= (start + end) / 2 < stop
