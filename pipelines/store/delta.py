"""Delta tables of the lake: created beforehand, replaced a partition at a time, read with one cast.

Only table access belongs here; what the rows mean is the stages' business. Two incidents shaped this module. The
stock Dagster I/O manager for Delta replaces the whole table when it fails to build a partition predicate, and reports
success. And `DeltaTable.to_pyarrow_table()` makes short processes abort at exit (rc 134 in 20-60 % of runs with
deltalake 1.2-1.6), which fails children whose work succeeded; `DeltaTable.scan()` does not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from pipelines.store.blobs import BlobStore
from pipelines.store.errors import explained
from pipelines.store.schemas import TableSpec
from pipelines.store.tables import TABLES

LAKE_ENV = "ITRYON_LAKE"
DEFAULT_LAKE = "./lake"

PROPERTIES = {
    # Tools that know nothing of pinned training sets must leave old versions alone for a year; those that know are in
    # `pipelines.store.retention`.
    "delta.deletedFileRetentionDuration": "interval 365 days",
    "delta.logRetentionDuration": "interval 365 days",
    # A process that opens a table reads the commits behind the last checkpoint one by one, 0.2 ms each. With the
    # hundred that is the default, a young lake's tables took longer to open with every batch.
    "delta.checkpointInterval": "20",
    # Partitions prune what is read, and row groups within a file; minima and maxima of files only made logs longer and
    # tables slower to open (500 files: 8 ms against 5).
    "delta.dataSkippingNumIndexedCols": "0",
}
"""Configuration of every table."""

# A table that is brought up to date commit by commit keeps each commit's files apart and gets slower: after 400, a
# write took 120 ms instead of 20. Opened anew it reads them from a checkpoint, as one.
_REOPENED_AFTER = 20


def lake_root() -> str:
    """The lake's root from `ITRYON_LAKE`, or `./lake`; local paths come back absolute."""
    root = os.environ.get(LAKE_ENV) or DEFAULT_LAKE
    return root if "://" in root else str(Path(root).expanduser().resolve())


class Overtaken(RuntimeError):
    """Rows were made from a version of a table that is no longer the newest one."""


@dataclass(frozen=True)
class Commit:
    """Provenance written into every Delta commit.

    Attributes:
        run_id: Dagster run, empty outside Dagster.
        code_version: Version of the stage that made the rows.
        extra: Further key/value pairs.
    """

    run_id: str = ""
    code_version: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


def _literal(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def predicate(where: Mapping[str, Any]) -> str:
    """SQL predicate `a = 'x' AND b IN ('y', 'z')` of a mapping column -> value or list of values."""
    terms = []
    for column, value in where.items():
        if isinstance(value, (list, tuple, set, frozenset)):
            terms.append(f"{column} IN ({', '.join(_literal(v) for v in sorted(value))})" if value else "false")
        else:
            terms.append(f"{column} = {_literal(value)}")
    return " AND ".join(terms)


def _without_comments(schema: pa.Schema) -> pa.Schema:
    """The types alone. A table keeps the column comments that it was made with; delta-rs refuses rows with others, so
    that a better wording in a release would have locked everyone out of their lakes."""
    return pa.schema([f.remove_metadata() for f in schema])


def stored_schema(spec: TableSpec) -> pa.Schema:
    """The declared columns as Delta Lake types them."""
    return pa.schema(Schema.from_arrow(_without_comments(spec.schema)).to_arrow())


class DeltaStore:
    """The tables and blobs below one lake root.

    A store remembers the tables that it opened and looks only for commits that came since, so that what a read or a
    write costs does not grow with the lake. Copies that arrive in one worker process share what they remember.

    Args:
        root: Folder or URI that Delta Lake takes (`s3://bucket/lake`); `ITRYON_LAKE` or `./lake` by default.
        storage_options: Passed to delta-rs; credentials belong in the environment, not here.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, storage_options: Mapping[str, str] | None = None):
        text = os.fspath(root) if root is not None else lake_root()
        self.root = text.rstrip("/") if "://" in text else str(Path(text).expanduser().resolve())
        self.storage_options = dict(storage_options or {})
        self._tables: dict[str, tuple[DeltaTable, int]] = {}

    def __reduce__(self):
        return (shared_store, (self.root, tuple(sorted(self.storage_options.items()))))

    def __repr__(self) -> str:
        return f"DeltaStore({self.root!r})"

    @cached_property
    def blobs(self) -> BlobStore:
        """Content-addressed files of this lake."""
        return BlobStore(self.root)

    def uri(self, spec: TableSpec) -> str:
        """Where the table lives."""
        return f"{self.root}/tables/{spec.name}"

    def ensure_tables(self, specs: Iterable[TableSpec] = TABLES.values()) -> None:
        """Create missing tables, and add columns that an older release did not have.

        Safe to call from many processes at once, and cheap when nothing is missing. Tables are made here and never by
        a first write: of eight processes that wrote first, five failed. Columns are added here for the same reason.
        """
        for spec in specs:
            with self._explained(spec):
                self._ensure_table(spec)

    def _ensure_table(self, spec: TableSpec) -> None:
        uri = self.uri(spec)
        if spec.name in self._tables or self.has(spec):
            self._bring_up_to_date(spec)
            return
        if "://" not in uri:
            Path(uri).mkdir(parents=True, exist_ok=True)
        try:
            DeltaTable.create(
                uri,
                schema=spec.schema,
                mode="ignore",
                partition_by=list(spec.partition_by),
                name=spec.name,
                description=spec.description,
                configuration=PROPERTIES,
                storage_options=self.storage_options or None,
            )
        except CommitFailedError:
            # A store that made the table and lost the answer is asked again, and finds somebody else's table there.
            if not self.has(spec):
                raise

    def _explained(self, spec: TableSpec, version: int | None = None) -> contextlib.AbstractContextManager[None]:
        return explained(self.root, f"Table {spec.name}" + ("" if version is None else f" at version {version}"))

    @retry(
        retry=retry_if_exception_type((CommitFailedError, DeltaError)),
        stop=stop_after_attempt(5),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )
    def _bring_up_to_date(self, spec: TableSpec) -> None:
        """Add the nullable columns and properties that the table lacks; old rows have null there.

        A lost race is looked at again.
        """
        table = self._current(spec)
        known = {f.name for f in table.schema().fields}
        if any(f.name not in known and f.nullable for f in spec.schema):
            declared = Schema.from_arrow(_without_comments(spec.schema)).fields
            table.alter.add_columns([f for f in declared if f.name not in known and f.nullable])
        configuration = table.metadata().configuration
        if missing := {k: v for k, v in PROPERTIES.items() if configuration.get(k) != v}:
            table.alter.set_table_properties(missing)

    def has(self, spec: TableSpec) -> bool:
        """Whether the table was made.

        Raises:
            LakeError: The store does not answer.
        """
        with self._explained(spec):
            return DeltaTable.is_deltatable(self.uri(spec), self.storage_options or None)

    def open(self, spec: TableSpec, version: int | None = None) -> DeltaTable:
        """The Delta table, created on demand; at an older `version` for time travel.

        Raises:
            ValueError: The version's log entries were removed, or there is no table.
            DeltaError: The version is newer than the table.
            LakeError: The table is damaged, or the store does not answer.
        """
        with self._explained(spec, version):
            try:
                return DeltaTable(self.uri(spec), version=version, storage_options=self.storage_options or None)
            except TableNotFoundError:
                if version is not None:
                    # Today's rows would be taken for those of that version.
                    raise ValueError(
                        f"Table {spec.name} has no version {version}, or its log entries were removed: read a newer one"
                    ) from None
                self.ensure_tables([spec])
                return DeltaTable(self.uri(spec), storage_options=self.storage_options or None)

    def _current(self, spec: TableSpec) -> DeltaTable:
        """The table as it is now: remembered, and brought up to date by the commits that came since."""
        table, opened_at = self._tables.get(spec.name, (None, 0))
        if table is not None and self._still_there(spec, table.version()):
            with self._explained(spec):
                table.update_incremental()
            if table.version() - opened_at < _REOPENED_AFTER:
                return table
        # Forgotten first: what makes a table anew, if it was deleted, asks for the remembered one.
        self._tables.pop(spec.name, None)
        table = self.open(spec)
        self._tables[spec.name] = (table, table.version())
        return table

    def _still_there(self, spec: TableSpec, version: int) -> bool:
        # A lake that was deleted and made again in the same folder has another history.
        uri = self.uri(spec)
        return "://" in uri or Path(uri, "_delta_log", f"{version:020}.json").exists()

    def schema(self, spec: TableSpec) -> pa.Schema:
        """The columns that the table has, whatever is declared."""
        return pa.schema(self._current(spec).schema().to_arrow())

    def version(self, spec: TableSpec) -> int:
        """Current version of the table."""
        return self._current(spec).version()

    def replace(
        self,
        spec: TableSpec,
        rows: pa.Table | Callable[[], pa.RecordBatchReader],
        where: Mapping[str, str],
        commit: Commit,
        since: int | None = None,
    ) -> int:
        """Replace exactly the rows that match `where` (partition columns) by `rows`; returns the new version.

        A writer that lost a race reloads the table and writes again, five times.

        Args:
            spec: Table.
            rows: New rows in the table's schema, or a function that opens a reader on them: that is streamed, and
                opened anew for each try, so memory does not grow with the rows.
            where: Partition column -> value; must name the partition columns.
            commit: Provenance for the commit's metadata.
            since: Version of the table that the rows were made from, where they only hold if nobody wrote since. Of
                two that write the same partition from one version, one is told; writers of others may pass unseen.

        Raises:
            ValueError: `where` does not name the partition columns, or a row lies outside of it.
            Overtaken: Somebody wrote the table after version `since`.
            CommitFailedError: Still in conflict after five tries.
            LakeError: The disk is full, or the store does not answer; the rows are those of before.
        """
        if set(where) != set(spec.partition_by):
            raise ValueError(f"{spec.name} is replaced by {spec.partition_by}, not by {tuple(where)}")
        properties = CommitProperties(
            custom_metadata={
                "itryon/run_id": commit.run_id,
                "itryon/code_version": commit.code_version,
                **{f"itryon/{k}": str(v) for k, v in {**where, **commit.extra}.items()},
            }
        )

        @retry(
            retry=retry_if_exception_type(CommitFailedError),
            stop=stop_after_attempt(5),
            wait=wait_random_exponential(multiplier=0.1, max=2),
            reraise=True,
        )
        def write() -> int:
            table = self._current(spec)
            if since is not None and table.version() != since:
                raise Overtaken(f"Table {spec.name} was written meanwhile: run again")
            data = rows.select(spec.schema.names) if isinstance(rows, pa.Table) else rows()
            data = data.cast(_without_comments(spec.schema))
            write_deltalake(table, data, mode="overwrite", predicate=predicate(where), commit_properties=properties)
            return table.version()

        with self._explained(spec):
            return write()

    def batches(
        self,
        spec: TableSpec,
        columns: list[str] | None = None,
        where: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows that match `where`, in the declared types. Order is not guaranteed.

        Raises:
            LakeError: The table is damaged, or the store does not answer.
        """
        names = columns or spec.schema.names
        schema = pa.schema([spec.schema.field(n) for n in names])
        table = self._current(spec) if version is None else self.open(spec, version)
        known = {f.name for f in table.schema().fields}
        # A version from before a column was added has null there. One column is read in any case, for the rows' count.
        there = [n for n in names if n in known] or [next(f.name for f in table.schema().fields)]
        for batch in self._scanned(spec, version, table, there, where):
            # Strings and binaries come back as views, which have no comparison kernels: one cast, here.
            arrays = [
                batch.column(n).cast(schema.field(n).type)
                if n in known
                else pa.nulls(batch.num_rows, schema.field(n).type)
                for n in names
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _scanned(
        self,
        spec: TableSpec,
        version: int | None,
        table: DeltaTable,
        columns: list[str],
        where: Mapping[str, Any] | None,
    ) -> Iterator[pa.RecordBatch]:
        # The errors of reading alone: what is raised where the rows are used passes through a generator too.
        with self._explained(spec, version):
            scan = table.scan(columns=columns, predicate=predicate(where) if where else None)
            reader = pa.RecordBatchReader.from_stream(scan)
        while True:
            try:
                with self._explained(spec, version):
                    batch = reader.read_next_batch()
            except StopIteration:
                return
            yield batch

    def read(
        self,
        spec: TableSpec,
        columns: list[str] | None = None,
        where: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Rows that match `where`, sorted by the table's `sort_by` as far as those columns are read."""
        names = columns or spec.schema.names
        schema = pa.schema([spec.schema.field(n) for n in names])
        table = pa.Table.from_batches(list(self.batches(spec, names, where, version)), schema=schema)
        keys = [(k, "ascending") for k in spec.sort_by if k in names]
        return table.sort_by(keys) if keys else table


@lru_cache(maxsize=16)
def shared_store(root: str, storage_options: tuple[tuple[str, str], ...] = ()) -> DeltaStore:
    """The store of a lake that this process has already, or a new one."""
    return DeltaStore(root, dict(storage_options))
