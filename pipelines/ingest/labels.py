"""What the manifest says of a video, held against the video and the garments that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.ingest.analyse import VideoAnalysis
from pipelines.ingest.inventory import Candidate, Photo
from pipelines.store.schemas import GARMENT_CATEGORIES


def category_of(video: Candidate, photos: dict[str, Photo]) -> str | None:
    """Category of the garment that is replaced: from the manifest, the garment's photo, or a folder's name."""
    if (entry := video.entry) is not None:
        if entry.garment_category:
            return entry.garment_category
        # Its row has the default where nothing says one, which is less than the video's folder says.
        if (photo := photos.get(entry.garment or "")) and photo.category:
            return photo.category
    folders = Path(video.path).parts[:-1]
    return next((p for p in folders if p in GARMENT_CATEGORIES), None)


def wrong_label(video: Candidate, a: VideoAnalysis, garments: dict[str, dict[str, Any]]) -> str | None:
    """What the manifest says of a video that cannot be so."""
    line = video.line
    if line is None:
        return None
    if line.error or line.entry is None:
        return f"{line.source}: {line.error}"
    for name in (line.entry.garment, line.entry.tryon_garment):
        if name is None:
            continue
        if name not in garments:
            return f"{line.source}: there is no garment photo {name!r} in the landing folder"
        if garments[name]["status"] != "ok":
            return f"{line.source}: garment photo {name!r} cannot be used: {garments[name]['reason']}"
    duration, frame = a.duration_s or 0.0, 1 / (a.fps or 25.0)
    for span in line.entry.actions:
        if span.end_s > duration + frame:
            return (
                f"{line.source}: action {span.action} from {span.start_s:g} to {span.end_s:g} s lies outside of the "
                f"video, which is {duration:.3f} s long"
            )
    return None
