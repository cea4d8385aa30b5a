"""Takes the truth of a studio batch from its landing folder into the lake."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest.landing import landing_folder
from pipelines.stage.base import digest
from pipelines.store import Commit, DeltaStore, TableSpec
from pipelines.store.blobs import sha256_file
from pipelines.store.studio_schemas import STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS
from pipelines.studio.batch import batch_settings
from pipelines.studio.clip import clip_files, read_record, settings_digest
from pipelines.studio.mark import STUDIO_MARK, TRUTH, is_truth
from pipelines.studio.plan import plan_clip
from pipelines.studio.settings import CODE_VERSION

Chunks = Callable[[], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class LoadReport:
    """Rows in each table and what the rows are, for data versions."""

    rows: dict[str, int]
    data_version: str
    frames: int
    interaction_frames: int


def load_truth(store: DeltaStore, batch: str, commit: Commit | None = None) -> LoadReport:
    """Bring the batch's rows of the studio's tables in line with its landing folder.

    Raises:
        LookupError: The batch was not rendered by the studio.
        FileNotFoundError: A clip's file is missing; rendering the batch again mends it.
    """
    folder = landing_folder(store, batch)
    if not is_truth(folder / TRUTH):
        raise LookupError(
            f"batch {batch!r} has no truth ({folder / TRUTH / STUDIO_MARK} is missing): render it with "
            f"`itryon studio --batch {batch}`, or ingest a folder that `itryon studio --out` wrote"
        )
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    records = _records(folder)
    if not records:
        raise LookupError(f"batch {batch!r} holds no whole clip of its settings: render it again")
    for record in records.values():
        for missing in (f for f in clip_files(record) if not (folder / f).is_file()):
            raise FileNotFoundError(f"{folder / missing} is missing: render the batch again with `itryon studio`")
    ids = {name: sha256_file(folder / record["video"])[:16] for name, record in records.items()}
    fingerprints = {name: digest([CODE_VERSION, records[name]["frames_sha256"], ids[name]])[:32] for name in records}
    rows: dict[str, int] = {}
    for spec, suffix in ((STUDIO_FRAMES, "frames"), (STUDIO_HANDS, "hands")):
        counted = 0

        def chunks(spec: TableSpec = spec, suffix: str = suffix) -> Iterator[pa.RecordBatch]:
            nonlocal counted
            for name in records:
                table = pq.read_table(folder / TRUTH / f"{name}.{suffix}.parquet")
                counted += table.num_rows
                added = {"batch": batch, "video_id": ids[name], "fingerprint": fingerprints[name]}
                columns = [
                    pa.repeat(added[f.name], table.num_rows) if f.name in added else table[f.name].cast(f.type)
                    for f in spec.schema
                ]
                yield from pa.Table.from_arrays(columns, schema=spec.schema).to_batches()

        def reader(spec: TableSpec = spec, chunks: Chunks = chunks) -> pa.RecordBatchReader:
            return pa.RecordBatchReader.from_batches(spec.schema, chunks())

        store.replace(spec, reader, {"batch": batch}, commit)
        rows[spec.name] = counted
    # Last: a batch counts as loaded once its clips are listed.
    clips = [_clip_row(store, folder, batch, records[n], ids[n], fingerprints[n]) for n in records]
    store.replace(STUDIO_CLIPS, pa.Table.from_pylist(clips, STUDIO_CLIPS.schema), {"batch": batch}, commit)
    rows[STUDIO_CLIPS.name] = len(clips)
    acting = sum(s["end_frame"] - s["start_frame"] for r in records.values() for s in r["spans"])
    return LoadReport(rows, digest(sorted(fingerprints.values()))[:32], rows[STUDIO_FRAMES.name], acting)


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of the batch's clips, those of the settings that it was rendered with last."""
    settings = batch_settings(folder)
    assert settings is not None, "a folder with truth has settings"
    names = [plan_clip(settings, index).name for index in range(settings.clips)]
    wanted = settings_digest(settings)
    found = ((name, read_record(folder, name)) for name in names)
    return {name: record for name, record in found if record is not None and record["settings"] == wanted}


def _clip_row(
    store: DeltaStore, folder: Path, batch: str, record: dict[str, Any], video_id: str, fingerprint: str
) -> dict[str, Any]:
    # Records of clips rendered before there was an undone video lack the name.
    other, undone = record["counterfactual"], record.get("undone")
    return {
        "batch": batch,
        "video_id": video_id,
        "source_path": record["video"],
        "counterfactual_uri": store.blobs.put_file(folder / other) if other else None,
        "undone_uri": store.blobs.put_file(folder / undone) if undone else None,
        "depth_uri": store.blobs.put_file(folder / record["depth"]),
        "look": json.dumps(record["look"], sort_keys=True),
        "fingerprint": fingerprint,
        **{
            k: record[k]
            for k in (
                "seed",
                "version",
                "performance",
                "action",
                "side",
                "garment_type",
                "garment",
                "counterfactual_garment",
            )
        },
    }
