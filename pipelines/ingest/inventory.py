"""What a landing folder holds, before anything is decoded: which files are videos, which are photos, who is a copy of
whom, and what the manifest says of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipelines.ingest.landing import PHOTO_SUFFIXES, VIDEO_SUFFIXES, LandedFile, by_key, scan
from pipelines.ingest.manifest import MANIFEST, ManifestEntry, ManifestLine, manifest_lines, parse_manifest
from pipelines.store.blobs import sha256_file
from pipelines.store.schemas import GARMENT_CATEGORIES

_GARMENT_FOLDER = "garments"
_MASK_ENDING = "_mask"


@dataclass
class Candidate:
    """One future row: a file, or a manifest line without one.

    Attributes:
        path: `source_path` of the row.
        file: The file, if there is one.
        line: The manifest line about it, if any.
        sha256: Digest of the file's bytes, where it could be read.
        problem: Why the row is an error without looking inside of the file.
        transient: Whether the problem may be gone next time.
        copy_of: Path of the first file with the same bytes.
    """

    path: str
    file: LandedFile | None = None
    line: ManifestLine | None = None
    sha256: str | None = None
    problem: str | None = None
    transient: bool = False
    copy_of: str | None = None

    @property
    def identity(self) -> str:
        """First 16 hex digits of the content's digest; of the path's where the content cannot be read."""
        return (self.sha256 or hashlib.sha256(f"path:{self.path}".encode()).hexdigest())[:16]

    @property
    def entry(self) -> ManifestEntry | None:
        """What the manifest says, where the line is right."""
        return self.line.entry if self.line else None


@dataclass
class Photo(Candidate):
    """A garment photo; `category` is empty where nothing says one."""

    category: str = ""
    caption: str = ""
    mask: Candidate | None = None


@dataclass
class Inventory:
    """Everything that becomes a row; other files are passed over.

    Attributes:
        videos: Rows of `videos`.
        photos: Rows of `garments`, by path in composed form; photos with equal bytes share one.
    """

    videos: list[Candidate] = field(default_factory=list)
    photos: dict[str, Photo] = field(default_factory=dict)


def take_inventory(folder: Path) -> Inventory:
    """Look through a batch's landing folder; reads every candidate once for its digest, and decodes nothing."""
    files = by_key(scan(folder))
    lines, manifest_problem = _read_manifest(files)
    inventory = Inventory()
    if manifest_problem:
        inventory.videos.append(manifest_problem)
    by_video = {(p.entry.video if p.entry else p.video): p for p in reversed(lines) if p.entry or p.video}
    _add_videos(inventory, files, lines, by_video)
    photos = _photo_files(files, by_video.values())
    for key, photo in photos.items():
        _describe(photo, key, by_video.values(), files)
    masks = [p.mask for p in photos.values() if p.mask]
    _digest([*inventory.videos, *photos.values(), *masks])
    inventory.photos = _unique(photos)
    mark_copies(inventory.videos)
    return inventory


def _suffix(key: str) -> str:
    return PurePosixPath(key).suffix.lower()


def _read_manifest(files: dict[str, LandedFile]) -> tuple[list[ManifestLine], Candidate | None]:
    file = files.get(MANIFEST)
    if file is None:
        return [], None
    if file.refused:
        return [], Candidate(MANIFEST, file, problem=file.refused)
    try:
        with file.location.open("rb") as stream:
            return list(parse_manifest(manifest_lines(stream))), None
    except OSError as e:
        return [], Candidate(MANIFEST, file, problem=f"Cannot be read ({e.strerror})", transient=True)


def _add_videos(
    inventory: Inventory,
    files: dict[str, LandedFile],
    lines: list[ManifestLine],
    by_video: dict[str | None, ManifestLine],
) -> None:
    for key, file in files.items():
        if key != MANIFEST and (file.folder or _suffix(key) in VIDEO_SUFFIXES or key in by_video):
            inventory.videos.append(Candidate(file.path, file, by_video.get(key), problem=file.refused))
    for line in lines:
        named = line.entry.video if line.entry else line.video
        first = by_video.get(named)
        if named in files and first is line:
            continue  # its error, if any, is told in the video's own row
        if line.error:
            problem = line.error
        elif first is None or first is line:
            problem = f"there is no file {named!r}; correct the name or add the file"
        else:
            problem = f"{named!r} was described by line {first.number} already"
        inventory.videos.append(Candidate(line.source, None, line, problem=f"{line.source}: {problem}"))


def _photo_files(files: dict[str, LandedFile], lines: Iterable[ManifestLine]) -> dict[str, Photo]:
    named = {p for line in lines if line.entry for p in (line.entry.garment, line.entry.tryon_garment) if p}
    photos = {}
    for key, file in files.items():
        parts = PurePosixPath(key)
        in_folder = _GARMENT_FOLDER in parts.parts[:-1] and _suffix(key) in PHOTO_SUFFIXES
        if key in named or (in_folder and not parts.stem.endswith(_MASK_ENDING)):
            photos[key] = Photo(file.path, file, problem=file.refused)
    return photos


def _describe(photo: Photo, key: str, lines: Iterable[ManifestLine], files: dict[str, LandedFile]) -> None:
    """Category, caption and mask: from the manifest, else from the names of folders and file."""
    worn = [line.entry for line in lines if line.entry and line.entry.garment == key]
    path = PurePosixPath(key)
    photo.category = next(
        (e.garment_category for e in worn if e.garment_category),
        next((p for p in path.parts[:-1] if p in GARMENT_CATEGORIES), ""),
    )
    words = path.stem.replace("_", " ").replace("-", " ").split()
    photo.caption = next((e.garment_caption for e in worn if e.garment_caption), " ".join(words))
    mask_key = next((e.garment_mask for e in worn if e.garment_mask), str(path.with_name(f"{path.stem}_mask.png")))
    if mask_key in files:
        photo.mask = Candidate(files[mask_key].path, files[mask_key], problem=files[mask_key].refused)
    elif any(e.garment_mask for e in worn):
        photo.problem = photo.problem or f"The manifest names a mask that is not there: {mask_key!r}"


def _digest(candidates: list[Candidate]) -> None:
    def work(candidate: Candidate) -> None:
        if candidate.problem or candidate.file is None:
            return
        try:
            candidate.sha256 = sha256_file(candidate.file.location)
        except OSError as e:
            candidate.problem, candidate.transient = f"Cannot be read ({e.strerror})", True

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, candidates))


def _unique(photos: dict[str, Photo]) -> dict[str, Photo]:
    first: dict[str, Photo] = {}
    return {key: first.setdefault(photo.identity, photo) for key, photo in sorted(photos.items())}


def mark_copies(videos: list[Candidate]) -> None:
    """Set `copy_of` on every file whose bytes an earlier one has. A file that the manifest describes comes first."""
    first: dict[str, str] = {}
    for v in sorted(videos, key=lambda v: (v.entry is None, v.path)):
        # Empty files are alike in nothing but being empty.
        if v.sha256 and v.file and v.file.size > 0:
            original = first.setdefault(v.sha256, v.path)
            v.copy_of = original if original != v.path else None
