"""The landing zone: folders of raw files, one a batch, below `<lake>/landing`.

Only finding and placing files belongs here, and nothing in a file is trusted: links are not followed out of the
folder, special files are not opened, names are only names.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import unicodedata
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from models.filesystem import disk_is_full
from pipelines.ingest.manifest import MANIFEST, parse_manifest
from pipelines.stage.turns import turn
from pipelines.store import DeltaStore
from pipelines.store.errors import explained
from pipelines.studio.mark import TRUTH, is_truth

LANDING_ENV = "ITRYON_LANDING"
VIDEO_SUFFIXES = frozenset(
    [
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".mpg",
        ".mpeg",
        ".mts",
        ".m2ts",
        ".ts",
        ".3gp",
        ".3g2",
        ".flv",
        ".wmv",
        ".asf",
        ".ogv",
        ".mxf",
    ]
)
PHOTO_SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"])
_BATCH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class LandedFile:
    """One file of a landing folder.

    Attributes:
        path: Path below the batch's folder, forward slashes, as text that any table can hold.
        location: Where it is.
        size: Bytes.
        modified: Time of the last change, seconds since 1970.
        refused: Why it must not be read, if so.
        folder: Whether it is a folder, or a link to one, whose content is not seen.
    """

    path: str
    location: Path
    size: int
    modified: float
    refused: str | None = None
    folder: bool = False

    @property
    def key(self) -> str:
        """What manifests are matched by: file systems differ in how they compose accents."""
        return unicodedata.normalize("NFC", self.path)


@dataclass
class LandReport:
    """What `land` did.

    Attributes:
        batch: The batch.
        folder: Its landing folder.
        added: Files that were placed or replaced.
        unchanged: Files that were there already.
        refused: Path below the given folder -> why it was left out.
    """

    batch: str
    folder: Path
    added: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def validate_batch(name: str) -> str:
    """The name, if a batch may be called so.

    Raises:
        ValueError: It has other characters than letters, digits, `.`, `_`, `-`, starts with a dot, or is too long.
    """
    if not _BATCH.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a batch: use letters, digits, '.', '_' and '-', up to 128, no dot in front"
        )
    return name


def landing_root(store: DeltaStore) -> Path:
    """Where landing folders lie: `<lake>/landing`, or for a remote lake what `ITRYON_LANDING` names.

    Raises:
        LookupError: The lake is remote and the variable is not set.
    """
    if "://" not in store.root:
        return Path(store.root) / "landing"
    if not (local := os.environ.get(LANDING_ENV)):
        raise LookupError(f"The lake {store.root} is remote: set {LANDING_ENV} to the local folder that files land in")
    return Path(local).expanduser().resolve()


def landing_folder(store: DeltaStore, batch: str) -> Path:
    """The landing folder of a batch, which need not exist."""
    return landing_root(store) / validate_batch(batch)


def batch_folders(store: DeltaStore) -> dict[str, Path]:
    """Every batch in the landing zone with its folder. Folders whose names cannot be batches are left out."""
    root = landing_root(store)
    if not root.is_dir():
        return {}
    with os.scandir(root) as entries:
        return {
            e.name: Path(e.path)
            for e in sorted(entries, key=lambda e: e.name)
            if _BATCH.fullmatch(e.name) and e.is_dir(follow_symlinks=False)
        }


def subfolders(folder: Path) -> list[str]:
    """The folder and all below it that `scan` looks into, as paths relative to it."""
    found = []
    for parent, directories, _ in os.walk(folder):
        directories[:] = _looked_into(Path(parent), directories)
        found.append(Path(parent).relative_to(folder).as_posix())
    return found


def entries_changed(folder: Path, below: list[str]) -> int:
    """When an entry was added, removed or renamed last in any of the folders `below`, nanoseconds since 1970.

    A file that is written in place does not show here. Zero where one of the folders is gone.
    """
    try:
        return max((folder / name).stat().st_mtime_ns for name in below)
    except (OSError, ValueError):
        return 0


def last_written(folder: Path, below: list[str]) -> float:
    """When anything in the folders `below` came, went or was written, hidden files too, seconds since 1970.

    Programs that copy with the times of the source write under a hidden name first: the file that appears is old.
    """
    latest = entries_changed(folder, below) / 1e9
    for name in below:
        with contextlib.suppress(OSError), os.scandir(folder / name) as entries:
            for entry in entries:
                latest = max(latest, entry.stat(follow_symlinks=False).st_mtime)
    return latest


def _looked_into(parent: Path, directories: list[str]) -> list[str]:
    return sorted(d for d in directories if not d.startswith(".") and not is_truth(parent / d))


def scan(folder: Path) -> list[LandedFile]:
    """All files below a folder, sorted by path; what must not be read says so in `refused`.

    Hidden files are left out, and so is the truth of a studio batch, which annotators must not see.
    """
    files: list[LandedFile] = []

    def unreadable(error: OSError) -> None:
        where = Path(error.filename)
        files.append(
            LandedFile(_text(where, folder), where, 0, 0.0, f"The folder cannot be read ({error.strerror})", True)
        )

    base = folder.resolve()
    for parent, directories, names in os.walk(folder, onerror=unreadable):
        here = Path(parent)
        directories[:] = _looked_into(here, directories)
        for name in directories:
            path = here / name
            if path.is_symlink():
                files.append(
                    _refused(path, folder, "A link to a folder is not followed; copy the folder instead", True)
                )
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                files.append(_refused(path, folder, "Is a folder, not a video file", True))
        files += [_examine(here / n, folder, base) for n in names if not n.startswith(".")]
    return sorted(files, key=lambda f: f.path)


def by_key(files: list[LandedFile]) -> dict[str, LandedFile]:
    """Files by `key`; where two names differ in composition only, the exact one has the key, and none is lost."""
    found: dict[str, LandedFile] = {}
    for file in sorted(files, key=lambda f: f.path != f.key):
        found[file.key if file.key not in found else file.path] = file
    return found


def _examine(path: Path, folder: Path, base: Path) -> LandedFile:
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(base):
            return _refused(path, folder, "A link that leaves the landing folder is not read; copy the file instead")
        status = target.stat()
    except (OSError, RuntimeError) as e:
        if path.is_symlink():
            return _refused(path, folder, "A link whose target is missing")
        return _refused(path, folder, f"Cannot be examined ({getattr(e, 'strerror', None) or e})")
    if not stat.S_ISREG(status.st_mode):
        return _refused(path, folder, "Is no regular file (a pipe, socket or device) and is not opened")
    return LandedFile(_text(path, folder), target, status.st_size, status.st_mtime)


def _refused(path: Path, folder: Path, reason: str, is_folder: bool = False) -> LandedFile:
    return LandedFile(_text(path, folder), path, 0, path.lstat().st_mtime, reason, is_folder)


def _text(path: Path, folder: Path) -> str:
    # A name on Linux is any bytes; a table holds UTF-8.
    name = path.relative_to(folder).as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def land(path: str | os.PathLike[str], store: DeltaStore, batch: str) -> LandReport:
    """Place a video, or a folder with videos, photos and manifest, in the landing folder of a batch.

    Files are hard-linked where the file system allows it and copied otherwise, always under a temporary name first.
    A manifest is merged: lines for the same video are replaced, other lines stay. Files landed before stay.

    Raises:
        FileNotFoundError: There is no such file or folder, or the folder has nothing to ingest.
        ValueError: The batch name is not allowed, or the folder lies in the landing zone itself.
    """
    source = Path(path).expanduser()
    folder = landing_folder(store, batch)
    if not source.exists():
        raise FileNotFoundError(f"There is nothing at {source}")
    source = source.resolve()
    if source.is_relative_to(folder.parent.resolve()) or folder.resolve().is_relative_to(source):
        raise ValueError(f"{source} and the landing zone {folder.parent} contain one another; ingest another folder")
    files = scan(source) if source.is_dir() else [_examine(source, source.parent, source.parent)]
    if source.is_dir() and not any(Path(f.path).suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES for f in files):
        raise FileNotFoundError(f"{source} holds no videos or photos (by their suffix)")
    named = {f.path: f for f in files}
    if is_truth(source / TRUTH):
        # Not raw material, but the batch's own: it goes along.
        named |= {f"{TRUTH}/{f.path}": f for f in scan(source / TRUTH)}
    return place(named, store, batch)


def place(files: dict[str, LandedFile], store: DeltaStore, batch: str, manifest: str | None = None) -> LandReport:
    """Put files (target path -> file) and manifest lines into a batch's landing folder; see `land`.

    Waits while another process lands the same batch: the lines of the one would be lost in the manifest of the other.
    """
    folder = landing_folder(store, batch)
    with explained(str(folder), f"Batch {batch}"), turn(store, "landing", batch):
        folder.parent.mkdir(parents=True, exist_ok=True)
        return _place(files, folder, batch, manifest)


def _place(files: dict[str, LandedFile], folder: Path, batch: str, manifest: str | None) -> LandReport:
    report = LandReport(batch, folder)
    # A new batch is prepared beside its place: a sensor must not take half of it for the whole.
    work = folder if folder.exists() else folder.with_name(f".{batch}.{uuid.uuid4().hex}.tmp")
    try:
        work.mkdir(exist_ok=True)
        for name, file in files.items():
            if file.refused:
                report.refused[name] = file.refused
            elif name == MANIFEST:
                manifest = file.location.read_text("utf-8", "surrogateescape") + (manifest or "")
            else:
                _place_one(file, work / name, name, report)
        if manifest is not None:
            _merge_manifest(work / MANIFEST, manifest)
        if work != folder:
            work.rename(folder)
    except BaseException:
        if work != folder:
            shutil.rmtree(work, ignore_errors=True)
        raise
    return report


def _place_one(file: LandedFile, target: Path, name: str, report: LandReport) -> None:
    try:
        if target.is_file() and not target.is_symlink():
            there = target.stat()
            if there.st_size == file.size and (
                target.samefile(file.location) or int(there.st_mtime) == int(file.modified)
            ):
                report.unchanged.append(name)
                return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
        try:
            try:
                os.link(file.location, temporary)
            except OSError:
                shutil.copy2(file.location, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        report.added.append(name)
    except OSError as e:
        if disk_is_full(e):
            raise  # No other file would fit either.
        report.refused[name] = f"Could not be copied ({e.strerror or e})"


def _merge_manifest(target: Path, new: str) -> None:
    def videos(text: str) -> list[tuple[str, str | None]]:
        # The byte order mark of a file's first line, which is not the first of the merged one.
        lines = [line.removeprefix("\ufeff") for line in text.split("\n")]
        parsed = {p.number: p for p in parse_manifest(line.encode("utf-8", "surrogateescape") for line in lines)}
        return [
            (line, (p.entry.video if p.entry else p.video) if (p := parsed.get(i)) else None)
            for i, line in enumerate(lines, start=1)
            if line.strip()
        ]

    fresh = videos(new)
    named = {v for _, v in fresh if v}
    texts = {line for line, _ in fresh}
    old = videos(target.read_text("utf-8", "surrogateescape")) if target.is_file() else []
    lines = [line for line, video in old if line not in texts and (video is None or video not in named)]
    lines += [line for line, _ in fresh]
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text("\n".join(lines) + "\n", "utf-8", "surrogateescape")
    temporary.replace(target)
