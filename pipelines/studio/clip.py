"""Renders one clip: video, counterfactual, depth, truth, product pictures, and the record that says it is whole.

Everything about a clip follows from the studio's seed and the clip's number, so a batch can grow without changing
what is there, and any clip can be rendered again by itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.captions.spans import runs
from pipelines.store.blobs import sha256_file
from pipelines.studio.depth import DepthWriter
from pipelines.studio.mark import TRUTH
from pipelines.studio.motion import Script
from pipelines.studio.plan import plan_clip
from pipelines.studio.render.fabrics import photo_fabrics
from pipelines.studio.scene import Scene
from pipelines.studio.sentences import sentence
from pipelines.studio.settings import CODE_VERSION, StudioSettings
from pipelines.studio.truth import TruthWriter
from pipelines.video import VideoWriter

GARMENTS = "garments"
_ADDED = ("undone", "pantomime_share", "twins", "plain", "white_beneath")
"""Settings that change nothing at their defaults and are younger than `CODE_VERSION`: older clips stay whole."""


_NAMED = ("video", "counterfactual", "undone", "depth", "garment", "counterfactual_garment")
"""Keys of a record whose values are files below the batch folder, or null."""
_FILE = re.compile(r"clip_\d{5,}[._].+")


def settings_digest(settings: StudioSettings) -> str:
    """What a clip's pictures and truth depend on besides its number.

    Raises:
        FileNotFoundError: The folder of fabrics holds no photos.
    """
    parts = settings.model_dump(exclude={"clips", "workers", "labels", "neutral", "val_share", "test_share"})
    fields = StudioSettings.model_fields
    parts = {k: v for k, v in parts.items() if k not in _ADDED or v != fields[k].default}
    if settings.fabrics is not None:
        # What the photos show counts, not where they lie.
        parts["fabrics"] = [[p.name, _sha256(p, p.stat().st_mtime_ns)] for p in photo_fabrics(settings.fabrics)]
    return hashlib.sha256(json.dumps([CODE_VERSION, parts], sort_keys=True).encode()).hexdigest()[:16]


@lru_cache(maxsize=4096)
def _sha256(path: Path, modified: int) -> str:
    return sha256_file(path)


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of a rendered clip; None where there is none, or one that cannot be read."""
    try:
        return json.loads((folder / TRUTH / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None


def clip_files(record: Mapping[str, Any]) -> list[str]:
    """Files that a whole clip has besides its record, below the batch folder."""
    # Records of clips rendered before there was an undone video lack the name.
    named = [record[key] for key in _NAMED if record.get(key)]
    return [*named, *(f"{TRUTH}/{Path(record['video']).stem}.{table}.parquet" for table in ("frames", "hands"))]


def remove_others(settings: StudioSettings, folder: Path) -> None:
    """Remove files of clips from a batch folder that no whole clip of these settings has.

    What is not named as the studio's files are stays.

    Raises:
        FileNotFoundError: The folder of fabrics holds no photos.
    """
    digest = settings_digest(settings)
    kept = set()
    for name in (plan_clip(settings, index).name for index in range(settings.clips)):
        if (record := _whole(folder, name, digest)) is not None:
            kept |= {folder / TRUTH / f"{name}.json", *(folder / file for file in clip_files(record))}
    for part in (folder, folder / TRUTH, folder / GARMENTS):
        for path in part.glob("clip_*"):
            if path not in kept and _FILE.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _whole(folder: Path, name: str, digest: str) -> dict[str, Any] | None:
    record = read_record(folder, name)
    if record is None or record["settings"] != digest:
        return None
    return record if all((folder / file).is_file() for file in clip_files(record)) else None


def render_clip(
    settings: StudioSettings, index: int, folder: Path, on_frames: Callable[[int], None] = lambda n: None
) -> dict[str, Any]:
    """Render one clip into a batch folder, unless it is there already.

    Args:
        settings: The studio.
        index: Number of the clip.
        folder: Batch folder; `garments/` and `truth/` are made in it.
        on_frames: Called with the number of frames just done.

    Returns:
        The clip's record, as in `truth/<clip>.json`.
    """
    plan = plan_clip(settings, index)
    digest = settings_digest(settings)
    known = _whole(folder, plan.name, digest)
    if known is not None:
        on_frames(settings.frames)
        return known
    for part in (TRUTH, GARMENTS):
        (folder / part).mkdir(parents=True, exist_ok=True)
    scene = Scene(settings, plan)
    truth = TruthWriter(scene.rig, scene.shape, settings.fps)
    size: dict[str, Any] = {"fps": settings.fps, "width": settings.width, "height": settings.height}
    # What lies in `truth/` is never ingested.
    place = f"{plan.name}_" if settings.twins else f"{TRUTH}/{plan.name}."
    video, other, undone = f"{plan.name}.mp4", f"{place}other.mp4", f"{place}undone.mp4"
    depth = f"{TRUTH}/{plan.name}.depth.mkv"
    pictures = hashlib.sha256()
    actions: list[str | None] = []
    counterfactual, left_alone = settings.counterfactual, settings.undone and plan.performance == "interaction"
    with (
        VideoWriter(folder / video, **size) as writer,
        _MaybeVideo(folder / other if counterfactual else None, size) as other_writer,
        _MaybeVideo(folder / undone if left_alone else None, size) as undone_writer,
        DepthWriter(folder / depth, **size) as depth_writer,
    ):
        for number in range(settings.frames):
            shot = scene.shoot(number)
            writer.write(shot.frame.rgb)
            pictures.update(shot.frame.rgb.tobytes())
            depth_writer.write(shot.frame.depth)
            truth.add(number, shot.moment, shot.frame, shot.camera, shot.agnostic)
            actions.append(shot.moment.action)
            if shot.counterfactual is not None:
                other_writer.write(shot.counterfactual)
                pictures.update(shot.counterfactual.tobytes())
            if shot.undone is not None:
                undone_writer.write(shot.undone)
                pictures.update(shot.undone.tobytes())
            on_frames(1)
    _write_table(truth.frames(), folder / TRUTH / f"{plan.name}.frames.parquet")
    _write_table(truth.hands(), folder / TRUTH / f"{plan.name}.hands.parquet")
    worn, other_garment = (f"{GARMENTS}/{plan.name}{suffix}.png" for suffix in ("", "_other"))
    for which, target in enumerate((worn, other_garment)):
        _write_picture(folder / target, scene.product(which))
    record = {
        "video": video,
        "settings": digest,
        "version": CODE_VERSION,
        "seed": plan.seed,
        "performance": plan.performance,
        "action": plan.action,
        "side": scene.script.side,
        "garment_type": plan.garment,
        "garment_category": scene.category,
        "garment": worn,
        "counterfactual_garment": other_garment,
        "counterfactual": other if counterfactual else None,
        "undone": undone if left_alone else None,
        "depth": depth,
        "spans": _spans(actions, scene.script, plan.garment),
        "frames_sha256": pictures.hexdigest(),
        "look": scene.description(),
    }
    temporary = folder / TRUTH / f".{uuid.uuid4().hex}.tmp"
    temporary.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    # Last: a clip without its record is rendered again.
    temporary.replace(folder / TRUTH / f"{plan.name}.json")
    return record


class _MaybeVideo:
    """A video writer, or nothing where no video is wanted."""

    def __init__(self, path: Path | None, size: Mapping[str, Any]):
        self._writer = VideoWriter(path, **size) if path is not None else None

    def __enter__(self) -> _MaybeVideo:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None:
            self._writer.__exit__(*error)

    def write(self, rgb: np.ndarray) -> None:
        assert self._writer is not None
        self._writer.write(rgb)


def _spans(moments: list[str | None], script: Script, garment: str) -> list[dict[str, Any]]:
    """Spans of frames with an action: half-open, with a sentence."""
    acting = np.array([m is not None for m in moments])
    return [
        {"action": script.action, "start_frame": a, "end_frame": b, "text": sentence(script, garment)}
        for a, b in runs(acting)
    ]


def _write_table(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(path)


def _write_picture(path: Path, rgb: np.ndarray) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp.png")
    if not cv2.imwrite(str(temporary), rgb[..., ::-1]):
        raise OSError(f"{path} could not be written")
    temporary.replace(path)
