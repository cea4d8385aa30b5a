"""Builds and reads training sets.

A training set is a Parquet blob with the selected rows of `clips`, and a row that says how they were selected: Delta
version, filters, digest of the rows. Its identity is what it selects, not when: the same rows under the same filters
are the same set, and building it again writes nothing.
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.stage import digest
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import CLIPS, TRAINING_SETS
from pipelines.training_sets.settings import CODE_VERSION, TrainingSetSettings

# The fingerprint says how a row came to be; two ways to the same latents are the same sample.
MANIFEST_COLUMNS = [n for n in CLIPS.schema.names if n != "fingerprint"]


class TrainingSetError(ValueError):
    """A selection that must not be trained on; the message says what to change."""


def build_training_set(
    store: DeltaStore, settings: TrainingSetSettings | None = None, commit: Commit | None = None
) -> dict[str, Any]:
    """Select clips and pin the selection.

    Args:
        store: The lake.
        settings: Filters.
        commit: Provenance.

    Returns:
        The row of `training_sets`; the existing one when the same set was built before.

    Raises:
        TrainingSetError: No clip passes the filters, a named batch has none, or the clips are of several encoders.
    """
    settings = settings or TrainingSetSettings()
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    version = store.version(CLIPS)
    rows = select_clips(store, settings, version)
    filters = settings.model_dump(mode="json")
    row_digest = rows_digest(rows)
    training_set_id = digest(filters, row_digest)[:16]
    known = store.read(TRAINING_SETS, where={"training_set_id": training_set_id}).to_pylist()
    if known and store.blobs.exists(known[0]["manifest_uri"]):
        return _row(known[0])
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    row = {
        "training_set_id": training_set_id,
        "table_versions": [(CLIPS.name, version)],
        "row_digest": row_digest,
        "filters": json.dumps(filters, sort_keys=True),
        "batches": sorted(set(rows["batch"].to_pylist())),
        "num_clips": rows.num_rows,
        "num_interaction_clips": sum(any(m) for m in rows["action_mask"].to_pylist()),
        "manifest_uri": store.blobs.put_bytes(buffer.getvalue(), ".parquet"),
        "encoder_digest": rows["encoder_digest"][0].as_py(),
        "created_at": datetime.now(UTC),
        "run_id": commit.run_id,
    }
    store.replace(
        TRAINING_SETS,
        pa.Table.from_pylist([row], TRAINING_SETS.schema),
        {"training_set_id": training_set_id},
        commit,
    )
    return _row(row)


def select_clips(store: DeltaStore, settings: TrainingSetSettings, version: int | None = None) -> pa.Table:
    """The clips that pass the filters, sorted by clip_id, without duplicates (a video may lie in two batches).

    Args:
        store: The lake.
        settings: Filters.
        version: Delta version of `clips`; the current one by default.

    Raises:
        TrainingSetError: As `build_training_set`.
    """
    where: dict[str, Any] = {"split": settings.splits}
    if settings.batches is not None:
        where["batch"] = settings.batches
    if settings.buckets is not None:
        where["bucket"] = settings.buckets
    if settings.encoder_digest is not None:
        where["encoder_digest"] = settings.encoder_digest
    table = store.read(CLIPS, MANIFEST_COLUMNS, where, version)
    excluded = set(settings.exclude_videos)
    chosen: dict[str, dict[str, Any]] = {}
    for row in sorted(table.to_pylist(), key=lambda r: (r["clip_id"], r["batch"])):
        interactive = any(row["action_mask"])
        if (
            row["video_id"] in excluded
            or (settings.interaction is not None and interactive != settings.interaction)
            or (settings.actions is not None and not set(settings.actions) & set(row["actions"]))
        ):
            continue
        chosen.setdefault(row["clip_id"], row)
    if settings.batches is not None:
        empty = sorted(set(settings.batches) - set(table["batch"].to_pylist()))
        if empty:
            raise TrainingSetError(
                f"No clips of split {', '.join(settings.splits)} in batch {', '.join(empty)}: "
                "materialise clips for it, or leave it out"
            )
    if not chosen:
        raise TrainingSetError(
            "The training set is empty: no clip of the lake passes the filters "
            f"{settings.model_dump_json(exclude_none=True)}. "
            "Widen the filters, or materialise clips for more batches"
        )
    encoders: dict[str, set[str]] = {}
    for row in chosen.values():
        encoders.setdefault(row["encoder_digest"], set()).add(row["batch"])
    if len(encoders) > 1:
        text = "; ".join(f"{d[:12]} in {', '.join(sorted(b))}" for d, b in sorted(encoders.items()))
        raise TrainingSetError(
            f"Clips of several encoders cannot be trained on together ({text}): materialise clips again for the older "
            "batches, or set encoder_digest"
        )
    schema = pa.schema([CLIPS.schema.field(n) for n in MANIFEST_COLUMNS])
    return pa.Table.from_pylist([chosen[k] for k in sorted(chosen)], schema)


def rows_digest(rows: pa.Table) -> str:
    """Digest of the content of manifest rows, 64 hex digits."""
    return digest(rows.select(MANIFEST_COLUMNS).to_pylist())


def training_set_row(store: DeltaStore, training_set_id: str) -> dict[str, Any]:
    """The row of a training set.

    Raises:
        LookupError: There is no such training set.
    """
    rows = store.read(TRAINING_SETS, where={"training_set_id": training_set_id}).to_pylist()
    if not rows:
        raise LookupError(f"There is no training set {training_set_id}: materialise training_set")
    return _row(rows[0])


def manifest_path(store: DeltaStore, training_set: dict[str, Any]) -> Path:
    """A local file with the rows of a training set, as they were when it was built, for the trainer process.

    Args:
        store: The lake.
        training_set: Row of `training_sets`.

    Raises:
        OSError: The manifest is damaged or missing.
        TrainingSetError: It does not hold the rows that the set was built from.
    """
    rows = pq.ParquetFile(io.BytesIO(store.blobs.read_bytes(training_set["manifest_uri"]))).read()
    if rows_digest(rows) != training_set["row_digest"]:
        set_id = training_set["training_set_id"]
        raise TrainingSetError(f"Training set {set_id}: the manifest is not the one that was built")
    return store.blobs.local_path(training_set["manifest_uri"])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "table_versions": dict(row["table_versions"])}
