"""Brings a lake whose files were damaged into a state from which runs can go on: `itryon repair`.

It makes nothing up. A data file whose content is damaged is taken out of its table, a blob whose bytes do not hash to
its name is deleted, and the run of the batch makes both again, because rows stand only while they and their blobs are
there. A damaged checkpoint of a log, which says what its entries say, is taken away where those are whole. What a disk
or its permissions do not let be read stays, and is named. What it takes away from tables is put aside beside its place,
and deleted with the leftovers of killed runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow import fs

from models.filesystem import open_root
from pipelines.store.delta import DeltaStore
from pipelines.store.errors import DamagedBlob, LakeError, explained
from pipelines.store.leftovers import DAMAGED, remove_leftovers
from pipelines.store.schemas import TableSpec
from pipelines.store.tables import TABLES


@dataclass
class RepairReport:
    """What was found in a lake.

    Attributes:
        done: What was mended, and what to do then; one sentence each.
        left: What cannot be mended by itself, and what to do; one sentence each.
        leftovers: Files of killed runs that were deleted.
        blobs: Number of blobs that were looked at.
    """

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    blobs: int = 0


def repair(
    store: DeltaStore, scratch: Path, on_progress: Callable[[str, int, int], None] | None = None
) -> RepairReport:
    """Look at every table and every blob that a row names, and mend what can be mended.

    Reads all blobs of the lake. Nothing else may write to the lake meanwhile.

    Args:
        store: The lake.
        scratch: Folder of what is prepared on this machine; see `pipelines.stage.base.scratch`.
        on_progress: Called with what is looked at, how many were, and of how many.

    Raises:
        LakeError: The object store does not answer, or the disk is full.
    """
    report = RepairReport()
    system, base = open_root(store.root)
    for number, spec in enumerate(TABLES.values()):
        if on_progress:
            on_progress(f"table {spec.name}", number, len(TABLES))
        folder = f"{base}/tables/{spec.name}"
        if _mend_log(store, spec, system, folder, report):
            _mend_files(store, spec, system, folder, report)
    _mend_blobs(store, system, base, report, on_progress)
    report.leftovers = remove_leftovers(store, scratch)
    return report


def _mend_log(store: DeltaStore, spec: TableSpec, system: fs.FileSystem, folder: str, report: RepairReport) -> bool:
    """Whether the table can be opened, if need be without its newest commit."""
    entries = sorted(
        info.path
        for info in system.get_file_info(fs.FileSelector(f"{folder}/_delta_log", allow_not_found=True))
        if info.extension == "json" and Path(info.path).stem.isdigit()
    )
    broken = []
    for path in entries:
        actions = _actions(system, path)
        if actions == [] and path not in (entries[0], entries[-1]):
            # An entry of no bytes is one that a file system lost at a power failure. delta-rs takes it for a commit of
            # nothing and goes on behind it, so it is made one.
            with system.open_output_stream(f"{path}.tmp") as f:
                f.write(json.dumps({"commitInfo": {"operation": "REPAIR", "operationParameters": {}}}).encode() + b"\n")
            system.move(f"{path}.tmp", path)
            report.done.append(
                f"Table {spec.name}: its commit {Path(path).name} was empty, what it held is lost: run what was run "
                "then again"
            )
        elif not actions:
            broken.append(path)
    if broken and broken == entries[-1:] != entries:
        _put_aside(system, broken[0])
        report.done.append(
            f"Table {spec.name}: its newest commit {Path(broken[0]).name} was damaged and is put aside, the table is "
            "as it was before: run what was run last again"
        )
        broken = []
    if broken:
        problem = f"entry {Path(broken[0]).name} of its log is damaged"
    elif (error := _why_not_open(store, spec)) is None:
        return True
    elif isinstance(error, TableNotFoundError):
        return not entries and _make(store, spec)
    else:
        aside = _put_checkpoints_aside(system, folder, entries)
        if aside and _why_not_open(store, spec) is None:
            report.done.append(
                f"Table {spec.name}: {', '.join(aside)} of its log could not be read and is put aside; the log's "
                "entries are whole, nothing is lost"
            )
            return True
        problem = f"its log cannot be read ({str(error).splitlines()[0]})"
    report.left.append(
        f"Table {spec.name}: {problem}, and newer commits build on it. Put it back from a copy of the lake; without "
        f"one, delete {folder} and run all batches again, which makes the rows of stages anew but not a history of "
        "training sets, checkpoints and promotions"
    )
    return False


def _why_not_open(store: DeltaStore, spec: TableSpec) -> DeltaError | None:
    try:
        DeltaTable(store.uri(spec), storage_options=store.storage_options or None)
    except DeltaError as e:
        return e
    return None


def _put_checkpoints_aside(system: fs.FileSystem, folder: str, entries: list[str]) -> list[str]:
    """Put the checkpoints of a log that cannot be opened aside, where its entries do without; the names of the files.

    A log that is there from its first entry on needs none. One whose beginning was cleaned up keeps those that can be
    read, and needs one from before, or of, its first entry.
    """
    numbers = [int(Path(path).stem) for path in entries]
    if not numbers or numbers != list(range(numbers[0], numbers[-1] + 1)):
        return []
    files = {i.base_name: i for i in system.get_file_info(fs.FileSelector(f"{folder}/_delta_log"))}
    checkpoints = {n: i for n, i in files.items() if ".checkpoint." in n and not n.endswith(DAMAGED)}
    aside = [n for n, i in checkpoints.items() if numbers[0] == 0 or _problem(system, i.path, i.size)]
    if numbers[0] > 0 and all(int(n.split(".")[0]) < numbers[0] - 1 for n in checkpoints.keys() - set(aside)):
        return []
    aside += ["_last_checkpoint"] if "_last_checkpoint" in files else []
    for name in aside:
        _put_aside(system, files[name].path)
    return sorted(aside)


def _put_aside(system: fs.FileSystem, path: str) -> None:
    system.move(path, path + DAMAGED)
    if isinstance(system, fs.LocalFileSystem):
        os.utime(path + DAMAGED)  # or an old file would be deleted with the leftovers at once


def _make(store: DeltaStore, spec: TableSpec) -> bool:
    store.ensure_tables([spec])
    return True


def _actions(system: fs.FileSystem, path: str) -> list[dict] | None:
    """What an entry of a log does; None where it cannot be read."""
    with system.open_input_file(path) as f:
        lines = f.read().splitlines()
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except ValueError:
        return None


def _mend_files(store: DeltaStore, spec: TableSpec, system: fs.FileSystem, folder: str, report: RepairReport) -> None:
    """Take data files that are gone or unreadable out of the table."""
    table = DeltaTable(store.uri(spec), storage_options=store.storage_options or None)
    lost: list[str] = []
    for action in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        name = unquote(action["path"])
        try:
            with explained(store.root, f"Data file {name} of table {spec.name}"):
                problem = _problem(system, f"{folder}/{name}", action["size_bytes"])
        except LakeError:
            raise
        except OSError as e:
            report.left.append(f"Table {spec.name}: its data file {name} {_unreadable(e)}")
            continue
        if problem:
            if problem != "is gone":
                _put_aside(system, f"{folder}/{name}")
            lost.append(f"{name} {problem}")
    if not lost:
        return
    table.repair()
    report.done.append(
        f"Table {spec.name}: the rows of {len(lost)} data files are lost ({'; '.join(lost)}): run the batches "
        "again that they are of; a training set, checkpoint or promotion comes back from a copy of the lake alone"
    )


def _problem(system: fs.FileSystem, path: str, size: int) -> str | None:
    """What is wrong with a Parquet file.

    Raises:
        OSError: Its bytes cannot be read, whatever they are.
    """
    info = system.get_file_info(path)
    if info.type != fs.FileType.File:
        return "is gone"
    if info.size != size:
        return f"has {info.size} bytes instead of {size}"
    try:
        with system.open_input_file(path) as f:
            for _ in pq.ParquetFile(f).iter_batches():
                pass
    except (OSError, ValueError, pa.ArrowException) as e:
        # Arrow says OSError of damaged content, too.
        with system.open_input_stream(path) as f:
            while f.read(1 << 20):
                pass
        return f"cannot be read ({str(e)[:80]})"
    return None


def _unreadable(error: OSError) -> str:
    return (
        f"cannot be read ({error.strerror or error}) and stays: check the disk and the permissions, then run `itryon "
        "repair` again"
    )


def _mend_blobs(
    store: DeltaStore,
    system: fs.FileSystem,
    base: str,
    report: RepairReport,
    on_progress: Callable[[str, int, int], None] | None,
) -> None:
    named = _named_blobs(store)
    missing = store.blobs.missing(named)
    report.blobs = len(named)
    for number, (uri, where) in enumerate(sorted(named.items())):
        if on_progress:
            on_progress("blobs", number, len(named))
        remedy = f"run {where} again"
        if uri in missing:
            report.done.append(f"Blob {uri} is gone: {remedy}")
            continue
        try:
            store.blobs.verify(uri)
        except DamagedBlob:
            system.delete_file(f"{base}/{uri}")
            report.done.append(f"Blob {uri} was damaged and is deleted: {remedy}")
        except LakeError:
            raise
        except OSError as e:
            report.left.append(f"Blob {uri} {_unreadable(e)}")


def _named_blobs(store: DeltaStore) -> dict[str, str]:
    """URI of every blob that a current row names -> who names it first, in words."""
    named: dict[str, str] = {}
    for spec in TABLES.values():
        columns = [n for n in spec.schema.names if n == "uri" or n.endswith("_uri")]
        keys = [k for k in spec.partition_by if k not in columns]
        if not columns:
            continue
        try:
            rows = store.read(spec, [*columns, *keys]).to_pylist()
        except LakeError:
            continue  # said already
        for row in rows:
            where = f"{spec.name} of {', '.join(f'{k} {row[k]}' for k in keys)}" if keys else spec.name
            for column in columns:
                if (row[column] or "").startswith("blobs/"):
                    named.setdefault(row[column], where)
    return named
