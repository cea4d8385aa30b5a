"""Try-on of one video file with one garment photo, from nothing: annotate, dress, put the sound back.

The annotations are rows of a lake, made by the same stages as everybody's; the caller says where that lies, and a
second try with another garment or other spans finds them there.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.itryon.losses import ActionSpan
from pipelines.captions.manifest import frame_span
from pipelines.ingest.garments import analyse_garment, read_photo
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.workers import WorkerFailure, run_isolated
from pipelines.store import DeltaStore
from pipelines.store.blobs import sha256_file
from pipelines.store.columns import GARMENT_CATEGORIES
from pipelines.tryon.annotate import AnnotationSettings, CannotDress, annotate_video
from pipelines.tryon.load import LoadedPipeline
from pipelines.tryon.outputs import dress
from pipelines.tryon.run import Garment
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoError, VideoInfo, probe


@dataclass(frozen=True)
class TryOnFiles:
    """What `tryon_file` wrote.

    Attributes:
        video: The result, with the source's size, frame rate and sound.
        side_by_side: Source, agnostic frame with pose, garment, and result next to each other.
        sheet: jpg with a few moments of it.
        record: JSON with digests of the inputs, of their annotations and of the model's parts, settings, seed, spans.
    """

    video: Path
    side_by_side: Path
    sheet: Path
    record: Path


def tryon_file(
    loaded: LoadedPipeline,
    video: str | os.PathLike[str],
    garment: str | os.PathLike[str],
    output: str | os.PathLike[str],
    lake: DeltaStore,
    settings: TryOnSettings | None = None,
    *,
    category: str = "upper_body",
    spans_s: Sequence[tuple[float, float, str]] | None = None,
    prompt: str | None = None,
    annotation: AnnotationSettings | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TryOnFiles:
    """Dress the person of a video file.

    Args:
        loaded: The pipeline.
        video: Video with one person.
        garment: Photo of a garment; `<name>_mask.png` beside it, where there is one, says what of it is the garment.
        output: mp4 to write; `<name>.side_by_side.mp4`, `<name>.jpg` and `<name>.json` appear beside it.
        lake: Where annotations are looked for and kept.
        settings: Steps, guidance, seed.
        category: upper_body, lower_body or dresses: what of the person is dressed.
        spans_s: Interactions as (start, end, caption), seconds, in place of those that are found.
        prompt: Global caption in place of the automatic one.
        annotation: Settings of ingestion and annotation stages.
        on_progress: Called with what is being done, and units done and in all.

    Raises:
        FileNotFoundError: There is no such video or photo.
        CannotDress: The video or photo is unusable, has no person, or no garment region; or a span lies outside of it.
    """
    settings, annotation = settings or TryOnSettings(), annotation or AnnotationSettings()
    source, photo, target = Path(video), Path(garment), Path(output)
    if target.suffix.lower() != ".mp4":
        raise CannotDress(f"The result is an mp4: name the output {target.with_suffix('.mp4').name}")
    # What can be seen to be unusable is refused before the minutes of annotation.
    for path in (source, photo):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}")
    if category not in GARMENT_CATEGORIES:
        raise CannotDress(f"There is no category {category!r}: {', '.join(GARMENT_CATEGORIES)}")
    compare, sheet = target.with_suffix(".side_by_side.mp4"), target.with_suffix(".jpg")
    record_file = target.with_suffix(".json")
    given = {p.resolve() for p in (source, photo, _mask_beside(photo)) if p is not None}
    for path in (target, compare, sheet, record_file):
        if path.resolve() in given:
            raise CannotDress(f"{path} would be written over, and is what the result is made from: name another output")
    info, found = _first_look(source, photo, annotation.ingest)
    for span in spans_s or ():
        _check_span(span, info)
    worn, photo_record = _garment(photo, found, annotation.ingest)
    seen = annotate_video(source, lake, category, annotation, on_progress)
    spans = None
    if spans_s is not None:
        times = seen.annotations.times_s(seen.row["num_frames"], seen.row["fps"])
        # A span may begin while the last frame is shown.
        spans = [ActionSpan(*frame_span(min(start, times[-1]), end, times), text) for start, end, text in spans_s]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tryon-") as folder:
        try:
            made = dress(
                loaded,
                source,
                seen.row["num_frames"],
                worn,
                seen.annotations,
                Path(folder),
                settings,
                spans=spans,
                prompt=prompt,
                on_progress=None if on_progress is None else lambda done, total: on_progress("dressing", done, total),
            )
        except (ValueError, VideoError) as error:
            raise CannotDress(str(error)) from error
        record = made.record | {
            "video": {"path": str(video), **{k: seen.row[k] for k in ("sha256", "batch", "video_id")}},
            "garment": {"path": str(garment), **photo_record},
            "fingerprints": seen.fingerprints,
        }
        written = Path(folder) / "record.json"
        written.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        made.side_by_side.replace(compare)
        made.sheet.replace(sheet)
        written.replace(record_file)
        made.video.replace(target)
    return TryOnFiles(target, compare, sheet, record_file)


def _first_look(video: Path, photo: Path, limits: IngestSettings) -> tuple[VideoInfo, dict[str, Any]]:
    """What the video holds, and the garment of the photo as the ingestion finds it.

    In processes of their own: they are anybody's files, and may crash or stall what reads them. One after the other,
    so that what one does to its process is never said of the other.
    """
    ((_, info),) = run_isolated({video: (_probed, (video,))}, 1, limits.timeout_s, limits.memory_gb)
    if not isinstance(info, VideoInfo):
        raise CannotDress(f"{video.name} cannot be used: {info.reason if isinstance(info, WorkerFailure) else info}")
    mask = _mask_beside(photo)
    look = (analyse_garment, (str(photo), None if mask is None else str(mask), limits))
    ((_, found),) = run_isolated({photo: look}, 1, limits.timeout_s, limits.memory_gb)
    if reason := found.reason if isinstance(found, WorkerFailure) else found["error"]:
        raise CannotDress(f"{photo.name} cannot be used: {reason}")
    return info, found


def _mask_beside(photo: Path) -> Path | None:
    mask = photo.with_name(f"{photo.stem}_mask.png")
    return mask if mask.is_file() else None


def _probed(video: Path) -> VideoInfo | str:
    try:
        return probe(video)
    except VideoError as error:
        return str(error)


def _garment(photo: Path, found: dict[str, Any], settings: IngestSettings) -> tuple[Garment, dict[str, Any]]:
    """The garment of a photo that was looked at, and what the record says of it."""
    image, _ = read_photo(str(photo), settings.max_photo_side)
    mask = np.asarray(Image.open(io.BytesIO(found["mask_png"])).convert("L")) > 127
    sha256, mask_file = sha256_file(photo), _mask_beside(photo)
    record = {"sha256": sha256, "mask_sha256": None if mask_file is None else sha256_file(mask_file)}
    return Garment(image, mask, sha256[:16]), record


def _check_span(span: tuple[float, float, str], video: VideoInfo) -> None:
    start_s, end_s, text = span
    duration = video.num_frames / video.fps
    if not 0 <= start_s < end_s <= duration + 1e-6 or not text.strip():
        raise CannotDress(
            f"A span of {start_s:g} to {end_s:g} s with the caption {text!r} does not fit a video of {duration:.2f} s: "
            "give 0 <= start < end <= duration, and say what happens"
        )
