"""Try-on of one video file with one garment photo, from nothing: annotate, dress, put the sound back.

The annotations are made in a lake of their own, by the same stages as everybody's; the caller says where that lies, and
a second try with another garment or other spans finds them there.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.itryon.losses import ActionSpan
from pipelines.clips.garments import garment_photo
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.garments import read_photo
from pipelines.ingest.landing import land
from pipelines.ingest.manifest import MANIFEST
from pipelines.registry import STAGES
from pipelines.stage import WorkerSettings, digest
from pipelines.stage.pool import Progress
from pipelines.stage.runner import run_stage
from pipelines.store import DeltaStore
from pipelines.store.blobs import sha256_file
from pipelines.store.columns import GARMENT_CATEGORIES
from pipelines.store.schemas import GARMENTS, STAGE_STATUS, VIDEOS
from pipelines.tryon.batch import annotations_of
from pipelines.tryon.load import LoadedPipeline
from pipelines.tryon.run import Garment, tryon_video
from pipelines.tryon.settings import NEEDED, TryOnSettings
from pipelines.tryon.sound import with_sound_of
from pipelines.video import VideoError, VideoInfo, probe


class CannotDress(ValueError):
    """The video or the garment cannot be used; the message says why."""


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
    workers: WorkerSettings | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TryOnFiles:
    """Dress the person of a video file.

    Args:
        loaded: The pipeline.
        video: Video with one person.
        garment: Photo of a garment.
        output: mp4 to write; `<name>.side_by_side.mp4`, `<name>.jpg` and `<name>.json` appear beside it.
        lake: Where annotations are kept.
        settings: Steps, guidance, seed.
        category: upper_body, lower_body or dresses: what of the person is dressed.
        spans_s: Interactions as (start, end, caption), seconds, in place of those that are found.
        prompt: Global caption in place of the automatic one.
        workers: Processes of the annotation stages.
        on_progress: Called with what is being done, and units done and in all.

    Raises:
        FileNotFoundError: There is no such video or photo.
        CannotDress: The video or photo is unusable, has no person, or no garment region; or a span lies outside of it.
    """
    settings = settings or TryOnSettings()
    target = Path(output)
    if target.suffix.lower() != ".mp4":
        raise CannotDress(f"The result is an mp4: name the output {target.with_suffix('.mp4').name}")
    spans = _check_files(Path(video), Path(garment), category, spans_s)
    row, photo, fingerprints = _annotate(Path(video), Path(garment), lake, category, workers, on_progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    compare, sheet = target.with_suffix(".side_by_side.mp4"), target.with_suffix(".jpg")
    record_file = target.with_suffix(".json")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tryon-") as folder:
        silent = Path(folder) / "silent.mp4"
        try:
            record = tryon_video(
                loaded,
                lake.blobs.local_path(row["uri"]),
                [Garment(*garment_photo(lake, photo), photo["garment_id"])],
                annotations_of(lake, row),
                silent,
                settings,
                side_by_side_output=Path(folder) / "compare.mp4",
                sheet_output=Path(folder) / "sheet.jpg",
                spans=spans,
                prompt=prompt,
                on_progress=None if on_progress is None else lambda done, total: on_progress("dressing", done, total),
            )
        except ValueError as error:
            raise CannotDress(str(error)) from error
        finished = with_sound_of(silent, Path(video), Path(folder) / "result.mp4")
        record["video"] = {"path": str(video), "sha256": row["sha256"]}
        record["garment"] = {"path": str(garment), "sha256": sha256_file(Path(garment))}
        record["fingerprints"] = fingerprints
        (Path(folder) / "record.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        (Path(folder) / "compare.mp4").replace(compare)
        (Path(folder) / "sheet.jpg").replace(sheet)
        (Path(folder) / "record.json").replace(record_file)
        finished.replace(target)
    return TryOnFiles(target, compare, sheet, record_file)


def _check_files(
    video: Path, garment: Path, category: str, spans_s: Sequence[tuple[float, float, str]] | None
) -> list[ActionSpan] | None:
    """The spans in frames; what can be seen to be unusable is refused before the minutes of annotation."""
    for path in (video, garment):
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}")
    if category not in GARMENT_CATEGORIES:
        raise CannotDress(f"There is no category {category!r}: {', '.join(GARMENT_CATEGORIES)}")
    try:
        info = probe(video)
    except VideoError as error:
        raise CannotDress(f"{video.name} cannot be used: {error}") from error
    try:
        read_photo(str(garment))
    except (OSError, ValueError) as error:
        raise CannotDress(f"{garment.name} cannot be used: {error}") from error
    return None if spans_s is None else [_in_frames(s, info) for s in spans_s]


def _annotate(
    video: Path,
    garment: Path,
    lake: DeltaStore,
    category: str,
    workers: WorkerSettings | None,
    on_progress: Callable[[str, int, int], None] | None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Rows of `videos` and `garments`, and the fingerprints of the annotations, all of which are in place."""
    batch = f"tryon-{digest(sha256_file(video), sha256_file(garment), category)[:16]}"
    lake.ensure_tables()
    entry = {"video": f"video{video.suffix}", "garment": f"garment{garment.suffix}", "garment_category": category}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(video, Path(folder) / entry["video"])
        shutil.copyfile(garment, Path(folder) / entry["garment"])
        (Path(folder) / MANIFEST).write_text(json.dumps(entry) + "\n")
        land(folder, lake, batch)
    ingest_batch(lake, batch)
    (row,) = lake.read(VIDEOS, where={"batch": batch}).to_pylist()
    if row["status"] != "ok":
        raise CannotDress(f"{video.name} cannot be used: {row['reason']}")
    found = lake.read(GARMENTS, where={"garment_id": row["garment_id"] or ""}).to_pylist()
    if not found or found[0]["status"] != "ok" or not found[0]["uri"]:
        reason = found[0]["reason"] if found else "it is no picture"
        raise CannotDress(f"{garment.name} cannot be used: {reason}")

    def report(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress.stage, progress.frames_done, progress.frames_total)

    fingerprints = {}
    for name in NEEDED:
        run_stage(STAGES[name].build(), lake, batch, settings=workers, on_progress=report)
        where = {"batch": batch, "stage": name}
        (status,) = lake.read(STAGE_STATUS, where=where).to_pylist()
        if status["status"] != "ok":
            raise CannotDress(f"{video.name}, {name}: {status['reason']}")
        fingerprints[name] = status["fingerprint"]
    return row, found[0], fingerprints


def _in_frames(span: tuple[float, float, str], video: VideoInfo) -> ActionSpan:
    start_s, end_s, text = span
    duration = video.num_frames / video.fps
    if not 0 <= start_s < end_s <= duration + 1e-6 or not text.strip():
        raise CannotDress(
            f"A span of {start_s:g} to {end_s:g} s with the caption {text!r} does not fit a video of {duration:.2f} s: "
            "give 0 <= start < end <= duration, and say what happens"
        )
    start = round(start_s * video.fps)
    return ActionSpan(start, min(video.num_frames, max(start + 1, round(end_s * video.fps))), text)
