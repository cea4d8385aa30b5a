"""Builds and reads training sets.

A training set is a Parquet blob with the selected rows of `clips`, and a row that says how they were selected: Delta
version, filters, digest of the rows. Its identity is what it selects, not when: the same rows under the same filters
are the same set, and building it again writes nothing.

For retraining, a set may be made of new batches and a share of replayed older clips, so that a model does not forget
what it knew. Which older clips are replayed follows from their digests alone; they are marked in the manifest's column
`replay`, which is no part of a clip's content.
"""

from __future__ import annotations

import hashlib
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.ingest.private import is_private
from pipelines.stage import digest
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import CLIPS, TRAINING_SETS
from pipelines.training_sets.settings import CODE_VERSION, TrainingSetSettings

# The fingerprint says how a row came to be; two ways to the same latents are the same sample.
MANIFEST_COLUMNS = [n for n in CLIPS.schema.names if n != "fingerprint"]
_DECISIVE = ["clip_id", "batch", "video_id", "split", "action_mask", "actions", "encoder_digest"]


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
    manifest, drawn = rows, {}
    if settings.new_batches is None:
        # Sets made before there was replay keep their identity.
        filters = {k: v for k, v in filters.items() if k not in ("new_batches", "replay_share")}
    else:
        replay = [b not in settings.new_batches for b in rows["batch"].to_pylist()]
        manifest = rows.append_column("replay", pa.array(replay))
        drawn = {"drawn": {"new": replay.count(False), "replayed": replay.count(True)}}
    row_digest = rows_digest(rows)
    training_set_id = digest(filters, row_digest)[:16]
    known = store.read(TRAINING_SETS, where={"training_set_id": training_set_id}).to_pylist()
    if known and store.blobs.exists(known[0]["manifest_uri"]):
        return _row(known[0])
    buffer = io.BytesIO()
    pq.write_table(manifest, buffer, compression="zstd")
    row = {
        "training_set_id": training_set_id,
        "table_versions": [(CLIPS.name, version)],
        "row_digest": row_digest,
        "filters": json.dumps(filters | drawn, sort_keys=True),
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
    if settings.batches is None:
        found = set(table["batch"].unique().to_pylist()) - set(settings.new_batches or [])
        private = pa.array(sorted(filter(is_private, found)), pa.string())
        table = table.filter(pc.invert(pc.is_in(table["batch"], private)))
    table = table.sort_by([("clip_id", "ascending"), ("batch", "ascending")])
    # Only what decides is taken out of Arrow: the rest of a hundred thousand rows would take seconds.
    decisive = table.select(_DECISIVE).to_pylist()
    excluded, new = set(settings.exclude_videos), set(settings.new_batches or [])
    chosen: dict[str, _Choice] = {}
    for place, row in enumerate(decisive):
        interactive = any(row["action_mask"])
        if (
            row["video_id"] in excluded
            or (settings.interaction is not None and interactive != settings.interaction)
            or (settings.actions is not None and not set(settings.actions) & set(row["actions"]))
        ):
            continue
        known = chosen.setdefault(row["clip_id"], _Choice(place, row))
        # A clip of an old batch that comes again in a new one is new.
        if row["batch"] in new and known.row["batch"] not in new:
            chosen[row["clip_id"]] = _Choice(place, row)
    named = [*(settings.batches or []), *(settings.new_batches or [])]
    if named:
        empty = sorted(set(named) - set(table["batch"].unique().to_pylist()))
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
    if settings.new_batches is not None and settings.replay_share is not None:
        chosen = _with_replay(chosen, settings.new_batches, settings.replay_share)
    encoders: dict[str, set[str]] = {}
    for choice in chosen.values():
        encoders.setdefault(choice.row["encoder_digest"], set()).add(choice.row["batch"])
    if len(encoders) > 1:
        text = "; ".join(f"{d[:12]} in {', '.join(sorted(b))}" for d, b in sorted(encoders.items()))
        raise TrainingSetError(
            f"Clips of several encoders cannot be trained on together ({text}): materialise clips again for the older "
            "batches, or set encoder_digest"
        )
    return table.take(pa.array([chosen[k].place for k in sorted(chosen)], pa.int64())).combine_chunks()


class _Choice(NamedTuple):
    """A clip that takes part: where it is in the table, and what decides about it."""

    place: int
    row: dict[str, Any]


def _with_replay(clips: dict[str, _Choice], new_batches: list[str], share: float) -> dict[str, _Choice]:
    """The new clips, and as many older ones that they are `share` of the whole, or all when there are fewer.

    Older clips are taken in the order of a digest of their identity: no order of ingestion is preferred, and a set
    with a larger share holds that with a smaller one. Only clips of split train count and are drawn; those of other
    splits, which validation shows, stay as they are.

    Raises:
        TrainingSetError: The filters leave no new clip.
    """
    counted = {k: c for k, c in clips.items() if c.row["split"] == "train"} or clips
    new = {k for k, c in counted.items() if c.row["batch"] in new_batches}
    if not new:
        raise TrainingSetError(f"No clip of the new batches {', '.join(new_batches)} passes the filters: widen them")
    wanted = round(share / (1 - share) * len(new))
    order = sorted(counted.keys() - new, key=lambda k: hashlib.sha256(k.encode()).digest())
    dropped = set(order[wanted:])
    return {k: c for k, c in clips.items() if k not in dropped}


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
        OSError: The manifest is damaged.
        TrainingSetError: It is gone, or does not hold the rows that the set was built from.
    """
    set_id = training_set["training_set_id"]
    try:
        content = store.blobs.read_bytes(training_set["manifest_uri"])
    except FileNotFoundError as e:
        versions = ", ".join(f"{k} {v}" for k, v in dict(training_set["table_versions"]).items())
        raise TrainingSetError(
            f"Training set {set_id}: its manifest {training_set['manifest_uri']} (pinned versions: {versions}) is gone "
            "from the lake, vacuumed or deleted: materialise training_set again, or restore the blob"
        ) from e
    rows = pq.ParquetFile(io.BytesIO(content)).read()
    if rows_digest(rows) != training_set["row_digest"]:
        raise TrainingSetError(f"Training set {set_id}: the manifest is not the one that was built")
    return store.blobs.local_path(training_set["manifest_uri"])


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "table_versions": dict(row["table_versions"])}
