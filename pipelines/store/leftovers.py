"""What killed processes leave behind, and its deletion.

Everything is written under a temporary name first. Who takes a killed run up again deletes or uses what it left, but
nobody has to come back to a batch, and two kinds are in nobody's way: blobs that were never finished, and data files of
a table whose commit never came. Both are deleted here once they are too old to be anybody's work.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from deltalake.exceptions import DeltaError
from pyarrow import fs

from models.filesystem import open_root
from pipelines.store.blobs import TEMPORARY
from pipelines.store.delta import DeltaStore
from pipelines.store.errors import LakeError, explained
from pipelines.store.tables import TABLES

DAYS = 7.0
"""Age at which a temporary file is nobody's work any more. The clocks of machines differ by hours, not by days."""
DAMAGED = ".damaged"
"""Ending of what a repair put aside."""
_EVERY_S = 86_400
# With the 32 digits that a temporary name has: a file `notes.tmp` of a user in a landing folder is none.
_NAME = re.compile(r".*[0-9a-f]{32}\.tmp(\.\w+)?")
_UPLOAD = re.compile(r".*#\d+")  # of a table's file that was being written to a local folder
_log = logging.getLogger(__name__)


def remove_leftovers_daily(store: DeltaStore, scratch: Path) -> None:
    """Delete leftovers if nobody did so on this machine for a day. What goes wrong is logged, and fails nothing.

    Args:
        store: The lake.
        scratch: Folder of what is prepared on this machine; see `pipelines.stage.base.scratch`.
    """
    stamp = scratch / "locks" / "tidied"
    if stamp.is_file() and abs(time.time() - stamp.stat().st_mtime) < _EVERY_S:
        return
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        removed = remove_leftovers(store, scratch)
    except (OSError, DeltaError) as e:
        _log.warning("Leftovers of killed runs were not deleted: %s", e)
        return
    if removed:
        _log.info("%d leftovers of killed runs were deleted", len(removed))


def remove_leftovers(store: DeltaStore, scratch: Path, days: float = DAYS, dry_run: bool = False) -> list[str]:
    """Delete what killed processes left, where it did not change for some days.

    Args:
        store: The lake.
        scratch: Folder of what is prepared on this machine.
        days: Age from which on it is deleted.
        dry_run: Only tell.

    Returns:
        What was deleted, or would be.

    Raises:
        OSError: Something cannot be deleted.
        LakeError: The object store does not answer.
    """
    before = time.time() - 86_400 * days
    system, base = open_root(store.root)
    in_lake = [*_blobs(system, base, before), *_data_files(store, base, days), *_put_aside(system, base, before)]
    here = [p for p in [*_temporary(store, scratch), *_staged(scratch)] if _changed(p) < before]
    if not dry_run:
        for name in in_lake:
            system.delete_file(name)
        for path in here:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return [*in_lake, *map(str, here)]


def _blobs(system: fs.FileSystem, base: str, before: float) -> Iterator[str]:
    selector = fs.FileSelector(f"{base}/{TEMPORARY}", allow_not_found=True)
    for info in system.get_file_info(selector):
        if info.type == fs.FileType.File and info.mtime.timestamp() < before:
            yield info.path


def _data_files(store: DeltaStore, base: str, days: float) -> Iterator[str]:
    """Files that no entry of a table's log names. Those of older versions are named, and stay."""
    for spec in TABLES.values():
        try:
            if not store.has(spec):
                continue
            with explained(store.root, f"Table {spec.name}"):
                table = store.open(spec)
                tombs, all_of_them = (
                    table.vacuum(int(24 * days), enforce_retention_duration=False, dry_run=True, full=full)
                    for full in (False, True)
                )
        except LakeError as e:
            # `itryon repair` is for that one; its files are looked at when it can be read again.
            _log.warning("%s", e)
            continue
        for name in sorted(set(all_of_them) - set(tombs)):
            yield f"{base}/tables/{spec.name}/{name}"


def _put_aside(system: fs.FileSystem, base: str, before: float) -> Iterator[str]:
    """What a repair put aside in the tables' logs, where no vacuum looks."""
    for spec in TABLES.values():
        selector = fs.FileSelector(f"{base}/tables/{spec.name}/_delta_log", allow_not_found=True)
        for info in system.get_file_info(selector):
            if info.path.endswith(DAMAGED) and info.mtime.timestamp() < before:
                yield info.path


def _temporary(store: DeltaStore, scratch: Path) -> Iterator[Path]:
    below = [scratch / "training", scratch / "cache"]
    if "://" in store.root:
        below += [scratch.parent / "blobs", scratch.parent / "evaluation"]
    else:
        below += [Path(store.root) / name for name in ("landing", "checkpoints")]
        # Of releases that wrote blobs beside their place.
        yield from sorted((Path(store.root) / "blobs").glob("??/*.tmp"))
        yield from (p for p in sorted(_inside(Path(store.root) / "tables")) if _UPLOAD.fullmatch(p.name))
    for folder in below:
        yield from (p for p in sorted(_inside(folder)) if _NAME.fullmatch(p.name))


def _staged(root: Path) -> Iterator[Path]:
    """What stages of batches prepared that nobody took up again."""
    for stage in sorted(p for p in (root / "staging").glob("*") if p.is_dir()):
        yield from sorted(stage.iterdir())


def _inside(folder: Path) -> Iterator[Path]:
    # Not `rglob`, which raises where a run that works beside it renames or deletes a folder.
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _changed(path: Path) -> float:
    """When a file, or anything in a folder, was changed last; just now where somebody takes it away meanwhile."""
    try:
        return max(p.lstat().st_mtime for p in (path, *_inside(path)))
    except FileNotFoundError:
        return time.time()
