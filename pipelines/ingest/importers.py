"""Data sets of the field in the layouts they are published in, brought into the form of a landing folder.

ViViD (Fang et al. 2024): `{upper_body,lower_body,dresses}/videos/<id>_*.mp4` and `images/<id>_*.jpg` (or `cloth/`,
`cloth_mask/`). CatV2TON (Chong et al. 2025) adds lists on top: `<category>/train_data.jsonl` and
`test_data_*.jsonl`, whose lines name files in `videos/` and `images/`, and `front_seqs`, the frames (end exclusive) in
which the person faces the camera. Their agnostic masks and poses are left: the pipeline makes its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from pipelines.ingest.landing import (
    PHOTO_SUFFIXES,
    VIDEO_SUFFIXES,
    LandedFile,
    LandReport,
    by_key,
    land,
    place,
    scan,
)
from pipelines.ingest.manifest import Category, ManifestEntry, RelativePath, read_json, readable
from pipelines.store import DeltaStore
from pipelines.store.schemas import GARMENT_CATEGORIES

_CATEGORIES = {"upper": "upper_body", "lower": "lower_body", "overall": "dresses", "dress": "dresses"}
_PHOTO_FOLDERS = ("images", "cloth")


def _category(value: object) -> object:
    return _CATEGORIES.get(value, value) if isinstance(value, str) else value


class ListLine(BaseModel):
    """One line of CatV2TON's `train_data.jsonl` or `test_data_*.jsonl`, or of the unified ViViD-S list."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    video: RelativePath = Field(description="Video, below `videos/`")
    image: RelativePath = Field(description="Garment photo, below `images/`; to put on, where `paired_image` is given")
    paired_image: RelativePath | None = Field(None, description="Photo of the garment that is worn, in unpaired lists")
    type: Literal["video"] = Field("video", description="Kind of sample; image samples have no video")
    front_seqs: list[tuple[int, int]] = Field(default_factory=list, description="Frame spans facing the camera")
    category: Annotated[Category | None, BeforeValidator(_category)] = Field(None, description="Garment category")
    subdir: Annotated[Category | None, BeforeValidator(_category)] = Field(None, description="Folder of the category")
    total_frames: int | None = Field(None, ge=1, description="Frames of the video")

    @field_validator("front_seqs", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        # Test lists write a single span as [0, 64], train lists several as [[35, 89], [120, 184]].
        flat = isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value)
        return [value] if flat else value

    @field_validator("front_seqs")
    @classmethod
    def _ordered(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for start, end in value:
            if not 0 <= start < end:
                raise ValueError(f"[{start}, {end}] is not a span of frames: 0 <= start < end")
        return value


@dataclass(frozen=True)
class ListEntry:
    """A parsed line, or what is wrong with it; `number` counts from 1."""

    number: int
    line: ListLine | None = None
    error: str | None = None


def parse_list(lines: Iterable[bytes]) -> Iterator[ListEntry]:
    """Read the lines of a `train_data.jsonl`; blank ones are skipped. Never raises for content."""
    for number, raw in enumerate(lines, start=1):
        if not raw.strip():
            continue
        try:
            yield ListEntry(number, ListLine.model_validate(read_json(raw)))
        except ValidationError as e:
            yield ListEntry(number, error=readable(e))
        except ValueError as e:
            yield ListEntry(number, error=f"the line is {e}")


def land_catv2ton(path: str | os.PathLike[str], store: DeltaStore, batch: str) -> LandReport:
    """Land a ViViD folder by CatV2TON's lists.

    Args:
        path: One list, or the folder of the data set or of one category, whose lists are all taken.
        store: The lake.
        batch: Name of the batch.

    Returns:
        What was landed; lines that are wrong or name missing files are in `refused`.

    Raises:
        FileNotFoundError: There is no such path, or no list in it.
        ValueError: The batch name is not allowed.
    """
    source = Path(path).expanduser().resolve()
    if not source.exists():
        raise FileNotFoundError(f"There is nothing at {source}")
    lists = [source] if source.is_file() else sorted([*source.glob("*.jsonl"), *source.glob("*/train_data.jsonl")])
    if not lists:
        raise FileNotFoundError(f"{source} holds no train_data.jsonl or test_data_*.jsonl")
    collected = _Collected(source.parent if source.is_file() else source)
    for file in lists:
        with file.open("rb") as stream:
            for item in parse_list(stream):
                where = f"{file.relative_to(collected.root).as_posix()}:{item.number}"
                if item.line is None:
                    collected.refused[where] = item.error or ""
                else:
                    collected.add_line(item.line, file, where)
    return collected.place(store, batch)


def land_vivid(path: str | os.PathLike[str], store: DeltaStore, batch: str) -> LandReport:
    """Land a folder in ViViD's layout; a video's garment is the photo whose name starts with the same id.

    Args:
        path: Folder with `upper_body`, `lower_body` or `dresses`, or one of those.
        store: The lake.
        batch: Name of the batch.

    Raises:
        FileNotFoundError: There is no such folder, or no `videos` in it.
        ValueError: The batch name is not allowed.
    """
    source = Path(path).expanduser().resolve()
    root = source.parent if source.name in GARMENT_CATEGORIES else source
    folders = [source] if root != source else [f for c in GARMENT_CATEGORIES if (f := source / c).is_dir()]
    collected = _Collected(root)
    for folder in folders:
        for name in sorted(n for n in collected.files if n.startswith(f"{folder.name}/videos/")):
            if PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES:
                collected.add_video(name, folder.name)
    if not collected.entries:
        raise FileNotFoundError(f"{source} holds no upper_body/videos, lower_body/videos or dresses/videos")
    return collected.place(store, batch)


class _Collected:
    """Files and manifest entries of a data set, by path below its root."""

    def __init__(self, root: Path):
        self.root = root
        self.files: dict[str, LandedFile] = by_key(scan(root)) if root.is_dir() else {}
        self.entries: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}

    def add_video(self, video: str, category: str) -> None:
        entry: dict[str, Any] = {"video": video, "garment_category": category}
        identity = PurePosixPath(video).stem.split("_")[0]
        photos = [
            n
            for folder in _PHOTO_FOLDERS
            for n in self.files
            if n.startswith(f"{category}/{folder}/")
            and PurePosixPath(n).suffix.lower() in PHOTO_SUFFIXES
            and PurePosixPath(n).stem.split("_")[0] == identity
        ]
        if photos:
            entry |= self._garment(photos[0], category)
        else:
            self.refused[f"{category}/images/{identity}_*"] = f"There is no garment photo for {video}"
        self.entries[video] = entry

    def add_line(self, line: ListLine, file: Path, where: str) -> None:
        own = file.parent.name if file.parent.name in GARMENT_CATEGORIES else None
        category = line.subdir or line.category or own
        prefix = file.parent.relative_to(self.root).as_posix()
        # Lists in a category's folder leave the category out of their paths; root lists have it in `subdir`.
        bases = list(dict.fromkeys(p for p in (prefix, category or ".", ".") if p))
        video = self._find(line.video, ("videos", "."), bases)
        worn = line.paired_image or (line.image if "unpaired" not in file.stem else None)
        put_on = line.image if line.paired_image or "unpaired" in file.stem else None
        named = {"garment": worn, "tryon_garment": put_on}
        photos = {k: self._find(v, (*_PHOTO_FOLDERS, "."), bases) for k, v in named.items() if v}
        missing = [line.video] * (video is None) + [named[k] for k, found in photos.items() if found is None]
        if video is None or missing:
            self.refused[where] = f"The data set has no {', '.join(map(repr, missing))}"
            return
        entry = self.entries.setdefault(video, {"video": video})
        if category:
            entry["garment_category"] = category
        split = next((s for s in ("test", "val", "train") if file.stem.startswith(s)), None)
        # A video that a test list names must not be trained on, whatever other lists say.
        if split and entry.get("split") != "test":
            entry["split"] = split
        if line.front_seqs:
            entry["front_seqs"] = [list(s) for s in line.front_seqs]
        if photo := photos.get("garment"):
            entry |= self._garment(photo, category)
        if photo := photos.get("tryon_garment"):
            entry["tryon_garment"] = photo

    def _find(self, name: str, folders: Iterable[str], bases: Iterable[str]) -> str | None:
        names = (str(PurePosixPath(base, folder, name)) for base in bases for folder in folders)
        return next((n for n in names if n in self.files), None)

    def _garment(self, photo: str, category: str | None) -> dict[str, str]:
        mask = str(PurePosixPath(photo.replace("/cloth/", "/cloth_mask/")))
        found = {"garment": photo}
        return found | ({"garment_mask": mask} if mask != photo and mask in self.files and category else {})

    def place(self, store: DeltaStore, batch: str) -> LandReport:
        if not self.entries:
            reasons = "; ".join(f"{k}: {v}" for k, v in list(self.refused.items())[:3])
            raise FileNotFoundError(f"Nothing in {self.root} can be landed. {reasons}")
        keys = ("video", "garment", "garment_mask", "tryon_garment")
        wanted = {e[k] for e in self.entries.values() for k in keys if k in e}
        lines = [ManifestEntry.model_validate(e).as_json() for _, e in sorted(self.entries.items())]
        files = {name: self.files[name] for name in sorted(wanted)}
        report = place(files, store, batch, "\n".join(lines))
        report.refused |= self.refused
        return report


LAYOUTS: dict[str, Callable[[str | os.PathLike[str], DeltaStore, str], LandReport]] = {
    "landing": land,
    "vivid": land_vivid,
    "catv2ton": land_catv2ton,
}
"""Layout of a folder -> the function that lands it."""
