"""Keeps a lake from growing for ever: small files are merged, and what nothing needs any more is removed.

What is needed: the current rows; rows of versions that training sets are pinned to; older versions for as many days as
was asked for; and every blob that any of those rows, or the manifest of any training set, names. So a version that can
still be read can be read with its blobs, and a pinned training set gives the same samples for ever.

Nothing here stops work that goes on beside it. A blob that somebody is about to name is young, since storing one
that is there makes it young again (`BlobStore`), and young blobs stay; staged rows are used for a week only
(`pipelines.stage.pool`), and blobs stay for longer than that.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake.exceptions import CommitFailedError, DeltaError
from pyarrow import fs
from pydantic import BaseModel, Field

from models.filesystem import open_root
from pipelines.store.delta import DeltaStore
from pipelines.store.schemas import TRAINING_SETS, TableSpec
from pipelines.store.tables import TABLES

DAY_S = 86400


class RetentionSettings(BaseModel):
    """How long the lake keeps what nothing current and no pinned training set needs."""

    days: int = Field(
        30, ge=14, description="Days that replaced rows, and blobs that nothing names, are kept before they are removed"
    )
    cron: str = Field("0 4 * * 0", description="When the schedule tidies the lake, in UTC")
    dry_run: bool = Field(False, description="Tell what would be removed and leave everything as it is")


@dataclass
class RetentionReport:
    """What was done, or would be done.

    Attributes:
        dry_run: Whether nothing was changed.
        merged: Table -> files that were merged into larger ones.
        removed_files: Table -> files of replaced rows that were removed.
        kept_versions: Table -> versions that pinned training sets hold.
        lost_versions: Table -> pinned versions that cannot be read any more; the sets' manifests still can.
        blobs: Blobs there were.
        missing_blobs: Blobs that a readable row or a manifest names and that are not there.
        removed_blobs: Those removed, with unfinished ones, and `removed_bytes`.
        removed_staged: Files of killed runs that nobody took up.
        conflicts: Tables that were written meanwhile and are left for the next time.
        seconds: Duration.
    """

    dry_run: bool = False
    merged: dict[str, int] = field(default_factory=dict)
    removed_files: dict[str, int] = field(default_factory=dict)
    kept_versions: dict[str, list[int]] = field(default_factory=dict)
    lost_versions: dict[str, list[int]] = field(default_factory=dict)
    blobs: int = 0
    missing_blobs: int = 0
    removed_blobs: int = 0
    removed_bytes: int = 0
    removed_staged: int = 0
    conflicts: list[str] = field(default_factory=list)
    seconds: float = 0.0


def tidy(store: DeltaStore, days: float, dry_run: bool = False) -> RetentionReport:
    """Merge small files and remove what is older than `days` and nothing needs.

    Killed at any point, it is simply run again: rows are never without their files, nor files without their blobs.

    Args:
        store: The lake.
        days: Age from which what is not needed goes. Less than the 14 days of `RetentionSettings` is safe only while
            nothing else runs.
        dry_run: Only tell.

    Raises:
        OSError: A manifest of a training set is damaged, so that nobody can tell which blobs it needs; no blob is
            removed then.
    """
    started = time.perf_counter()
    report = RetentionReport(dry_run)
    pins, gone = _pinned_versions(store), set[str]()
    for spec in TABLES.values():
        keep = _readable(store, spec, pins.get(spec.name, []), report)
        try:
            if not dry_run and (files := _small_files(store, spec)):
                store.open(spec).optimize.compact()
                report.merged[spec.name] = files
            if removed := _replaced_files(store, spec, days, keep, dry_run):
                report.removed_files[spec.name] = len(removed)
                gone |= removed
        except CommitFailedError:
            report.conflicts.append(spec.name)
    _sweep_blobs(store, days, gone, report)
    _sweep_staged(store, days, report)
    report.seconds = time.perf_counter() - started
    return report


def _pinned_versions(store: DeltaStore) -> dict[str, list[int]]:
    """Table -> versions that training sets were made from."""
    pins: dict[str, set[int]] = {}
    for row in store.read(TRAINING_SETS, ["table_versions"]).to_pylist():
        for table, version in row["table_versions"]:
            pins.setdefault(table, set()).add(version)
    return {table: sorted(versions) for table, versions in pins.items()}


def _readable(store: DeltaStore, spec: TableSpec, versions: list[int], report: RetentionReport) -> list[int]:
    """The versions whose log is still there."""
    keep = []
    for version in versions:
        try:
            store.open(spec, version)
            keep.append(version)
        except (DeltaError, ValueError):
            report.lost_versions.setdefault(spec.name, []).append(version)
    if keep:
        report.kept_versions[spec.name] = keep
    return keep


def _small_files(store: DeltaStore, spec: TableSpec) -> int:
    """Files in partitions that have more than one."""
    folders = Counter(str(PurePosixPath(uri).parent) for uri in store.open(spec).file_uris())
    return sum(count for count in folders.values() if count > 1)


def _replaced_files(store: DeltaStore, spec: TableSpec, days: float, keep: list[int], dry_run: bool) -> set[str]:
    """Names of the files that no version to be kept needs; removed but in a dry run."""

    def vacuum(dry_run: bool) -> list[str]:
        return store.open(spec).vacuum(
            retention_hours=int(days * 24),
            dry_run=dry_run,
            enforce_retention_duration=False,
            # Otherwise only files that were replaced since the last checkpoint of the log are looked at.
            full=True,
            keep_versions=keep or None,
        )

    there = {PurePosixPath(path).name for path in _data_files(store, spec)}
    # Names of files that were removed long ago come again and again, and each removal is a commit.
    found = {name for path in vacuum(dry_run=True) if (name := PurePosixPath(path).name) in there}
    if found and not dry_run:
        vacuum(dry_run=False)
    return found


def _data_files(store: DeltaStore, spec: TableSpec) -> list[str]:
    """Paths of a table's Parquet files, current or replaced, in the lake's file system."""
    system, base = open_root(store.root)
    folder = fs.FileSelector(f"{base}/tables/{spec.name}", recursive=True, allow_not_found=True)
    return [
        i.path for i in system.get_file_info(folder) if i.path.endswith(".parquet") and "/_delta_log/" not in i.path
    ]


def _uri_columns(spec: TableSpec) -> list[str]:
    return [f.name for f in spec.schema if pa.types.is_string(f.type) and (f.name == "uri" or f.name.endswith("_uri"))]


def needed_blobs(store: DeltaStore, without: Container[str] = ()) -> set[str]:
    """Every blob that a row of any version that can still be read, or the manifest of a training set, names.

    Read from the files in the tables' folders, whether current or replaced, and not from one version after the other.

    Args:
        store: The lake.
        without: Names of such files that do not count.

    Raises:
        OSError: A manifest is damaged.
    """
    system, _ = open_root(store.root)
    found: set[str] = set()
    for spec in TABLES.values():
        names = _uri_columns(spec)
        if not names:
            continue
        files = [path for path in _data_files(store, spec) if PurePosixPath(path).name not in without]
        schema = pa.schema([(n, pa.string()) for n in names])
        # Columns that older files do not have are null there.
        for batch in ds.dataset(files, schema=schema, format="parquet", filesystem=system).to_batches():
            for column in batch.columns:
                found.update(column.unique().to_pylist())
    found.discard(None)
    manifests = store.read(TRAINING_SETS, ["manifest_uri"])["manifest_uri"].to_pylist()
    for uri in manifests:
        found |= _manifest_blobs(store, uri)
    return {uri for uri in found if uri.startswith("blobs/")}


def _manifest_blobs(store: DeltaStore, uri: str) -> set[str]:
    try:
        content = store.blobs.read_bytes(uri)
    except FileNotFoundError:
        # A set whose manifest is gone cannot be trained on; `manifest_path` says so to whoever tries.
        return set()
    file = pq.ParquetFile(io.BytesIO(content))
    names = [n for n in file.schema_arrow.names if n == "uri" or n.endswith("_uri")]
    table = file.read(names)
    return {v for name in names for v in table[name].unique().to_pylist() if v}


def _sweep_blobs(store: DeltaStore, days: float, gone: set[str], report: RetentionReport) -> None:
    # Which blobs there are is asked first: one that comes while rows are read is not among them.
    there = list(store.blobs.list())
    needed = needed_blobs(store, gone)
    before = time.time() - days * DAY_S
    report.blobs = len(there)
    # One that came after it was asked which there are is no missing one.
    report.missing_blobs = sum(not store.blobs.exists(uri) for uri in needed - {b.uri for b in there})
    for blob in there:
        if blob.uri in needed or blob.modified > before:
            continue
        if report.dry_run or store.blobs.remove(blob.uri, before):
            report.removed_blobs += 1
            report.removed_bytes += blob.size


def _sweep_staged(store: DeltaStore, days: float, report: RetentionReport) -> None:
    if "://" in store.root:
        # Staged rows of a remote lake are in the cache folder of whoever ran the stage.
        return
    before = time.time() - days * DAY_S
    for file in _files(Path(store.root) / "staging"):
        if file.stat().st_mtime < before:
            report.removed_staged += 1
            if not report.dry_run:
                file.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else iter(())
