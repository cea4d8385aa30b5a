"""What is made of one video and one garment, whoever asks for it: command, page and asset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.itryon.losses import ActionSpan
from pipelines.tryon.annotations import Annotations, StoredAnnotations
from pipelines.tryon.load import LoadedPipeline
from pipelines.tryon.run import Garment, spans_of, tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.tryon.sound import with_sound_of


@dataclass(frozen=True)
class Dressed:
    """Files of one try-on.

    Attributes:
        video: The result, with the source's size, times of frames and sound.
        side_by_side: Source, agnostic frame with pose, garment, and result next to each other.
        sheet: jpg with a few moments of it.
        record: What went in; see `pipelines.tryon.run.tryon_video`.
    """

    video: Path
    side_by_side: Path
    sheet: Path
    record: dict[str, Any]


def dress(
    loaded: LoadedPipeline,
    video: Path,
    num_frames: int,
    garment: Garment,
    annotations: Annotations | StoredAnnotations,
    folder: Path,
    settings: TryOnSettings,
    *,
    spans: Sequence[ActionSpan] | None = None,
    prompt: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dressed:
    """Dress the person of a video, or of the part of it that `settings.max_frames` leaves.

    Args:
        loaded: The pipeline.
        video: Local file.
        num_frames: Its frames.
        garment: What is put on.
        annotations: The video's rows.
        folder: Where the files go.
        settings: Steps, guidance, seed, size, blending, longest part.
        spans: Interactions in source frames, in place of those in the captions.
        prompt: Global caption, in place of that in the captions.
        on_progress: Called with denoising steps done and in all.

    Raises:
        ValueError: A span outside the video, nothing to repaint, or frames that the video does not have.
        pipelines.video.VideoError: The file cannot be read.
    """
    spans = spans_of(annotations.captions) if spans is None else spans
    start, count = _part(num_frames, settings.max_frames, spans)
    silent, compare, sheet = folder / "silent.mp4", folder / "side_by_side.mp4", folder / "sheet.jpg"
    record = tryon_video(
        loaded,
        video,
        [garment],
        annotations,
        silent,
        settings,
        side_by_side_output=compare,
        sheet_output=sheet,
        start=start,
        num_frames=count,
        spans=spans,
        prompt=prompt,
        on_progress=on_progress,
    )
    result = with_sound_of(silent, video, folder / "result.mp4", start=start, num_frames=count)
    return Dressed(result, compare, sheet, record)


def _part(num_frames: int, most: int | None, spans: Sequence[ActionSpan]) -> tuple[int, int]:
    """Start and number of frames to make: all, or `most` frames around the first interaction."""
    if most is None or num_frames <= most:
        return 0, num_frames
    middle = (spans[0].start + spans[0].end) // 2 if spans else num_frames // 2
    return min(max(0, middle - most // 2), num_frames - most), most
