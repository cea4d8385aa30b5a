"""Generated lakes: batches that arrive one after the other, with their blobs, landing folders and history of runs.

Batches are written as the pipeline writes them, through `DeltaStore.replace`, a commit for each table and stage, so
that the logs are those of a lake that grew. `add_many` makes a lake large sooner: the same files in fewer commits.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from benchmarks.scale.rows import ANNOTATED, CLIPS_PER_VIDEO, BatchRows, fake_digest
from pipelines.ingest.analyse import analyse_video
from pipelines.ingest.batch import measurement_key
from pipelines.ingest.batch import staging_folder as ingest_staging
from pipelines.ingest.inventory import take_inventory
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.staging import save
from pipelines.stage import Stage
from pipelines.stage.pool import staged_file, staging_folder
from pipelines.store import Commit, DeltaStore, TableSpec
from pipelines.store.schemas import (
    CHECKPOINTS,
    CLIPS,
    GARMENTS,
    ISR_SCORES,
    PROMOTIONS,
    STAGE_STATUS,
    TRAINING_METRICS,
    TRAINING_SETS,
    TRYON_VIDEOS,
    VIDEO_METRICS,
    VIDEOS,
)
from pipelines.training_sets.build import MANIFEST_COLUMNS
from pipelines.video import VideoWriter

REAL_BLOBS = 20
"""One video in so many has its bytes in the lake, and so have its clips; of the others there are rows alone."""
BATCHES_PER_CHECKPOINT = 5
"""Batches that arrive between two rounds of training."""
_TRYONS, _ISR_PER_VIDEO = 20, 2
_LONG_AGO = time.time() - 400 * 86400
_COMMIT = Commit("", "generated")


class Source:
    """Videos and photos of which every copy has other bytes and the same content."""

    def __init__(self, folder: Path, frames: int):
        folder.mkdir(parents=True, exist_ok=True)
        video = folder / "source.mp4"
        rng = np.random.default_rng(0)
        texture = rng.integers(60, 200, (12, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        with VideoWriter(video, fps=25, width=96, height=96) as writer:
            for i in range(frames):
                writer.write(np.ascontiguousarray(np.roll(texture, i, axis=1)))
        self._video = video.read_bytes()
        self._measured: dict[str, object] | None = None

    def video(self, name: str) -> bytes:
        """A video; the box behind it, which no reader looks into, makes it another file."""
        mark = name.encode()
        return self._video + (8 + len(mark)).to_bytes(4, "big") + b"free" + mark

    def measured(self, copy: Path, settings: IngestSettings) -> dict[str, object]:
        """What ingestion measures of any of the copies."""
        if self._measured is None:
            self._measured = analyse_video(str(copy), settings)
        return self._measured

    def clip(self, name: str) -> bytes:
        """A blob of a clip: as many bytes as the tensors of 17x128x96 frames take would only fill the disk."""
        return name.encode() * 40


def _write_blob(store: DeltaStore, data: bytes, suffix: str) -> str:
    # Without the flush of every file: nothing here has to outlast a power cut.
    digest = hashlib.sha256(data).hexdigest()
    uri = store.blobs.uri_for(digest, suffix)
    path = Path(store.root) / uri
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return uri


def add_generated(store: DeltaStore, rows: BatchRows, source: Source, batch: str, videos: int) -> None:
    """Write a batch's rows, commit by commit, the blobs of some of its videos, and its landing folder."""
    for spec, table in _generated(store, rows, source, batch, videos):
        where = {name: table[name][0].as_py() for name in spec.partition_by}
        store.replace(spec, table, where, _COMMIT)


def add_many(store: DeltaStore, rows: BatchRows, source: Source, batches: dict[str, int]) -> None:
    """Write several batches (name -> videos) at once: a file for each as ever, and a commit for each table."""
    tables: dict[str, list[pa.Table]] = {}
    specs: dict[str, TableSpec] = {}
    for batch, videos in batches.items():
        for spec, table in _generated(store, rows, source, batch, videos):
            specs[spec.name] = spec
            tables.setdefault(spec.name, []).append(table)
    for name, parts in tables.items():
        table = pa.concat_tables(parts)
        plain = pa.schema([f.remove_metadata() for f in table.schema])
        write_deltalake(store.open(specs[name]), table.cast(plain), mode="append")


def _generated(
    store: DeltaStore, rows: BatchRows, source: Source, batch: str, videos: int
) -> Iterator[tuple[TableSpec, pa.Table]]:
    """Rows of every table in the order in which they are committed; blobs are there before the row that names them."""
    digests, uris = rows.ids(batch)[:videos], []
    for i, digest in enumerate(digests):
        if i % REAL_BLOBS == 0:
            uris.append(_write_blob(store, source.video(f"{batch}/{i}"), ".mp4"))
            digests[i] = Path(uris[-1]).stem
        else:
            uris.append(store.blobs.uri_for(digest, ".mp4"))
    photos = [_write_blob(store, source.clip(f"{batch}/photo/{i}"), ".png") for i in range(10)]
    yield GARMENTS, rows.garment_table(batch, photos)
    yield VIDEOS, rows.video_table(batch, digests, uris)
    video_ids = [d[:16] for d in digests]
    for spec in ANNOTATED:
        prints = [fake_digest(spec.name, d)[:32] for d in digests]
        table = rows.annotations(spec, batch, video_ids, prints)
        yield spec, _with_real_clips(store, source, table) if spec is CLIPS else table
        yield STAGE_STATUS, rows.status_table(spec, batch, video_ids, prints)
    folder = Path(store.root) / "landing" / batch
    folder.mkdir(parents=True)
    (folder / "clip_0000.mp4").write_bytes(source.video(batch))
    os.utime(folder / "clip_0000.mp4", (_LONG_AGO, _LONG_AGO))
    for i in range(1, videos):
        os.link(folder / "clip_0000.mp4", folder / f"clip_{i:04}.mp4")
    os.utime(folder, (_LONG_AGO, _LONG_AGO))


def _with_real_clips(store: DeltaStore, source: Source, table: pa.Table) -> pa.Table:
    for name in ("latents_uri", "text_uri"):
        uris = table[name].to_pylist()
        for i in range(0, len(uris), REAL_BLOBS * CLIPS_PER_VIDEO):
            for k in range(i, i + CLIPS_PER_VIDEO):
                uris[k] = _write_blob(store, source.clip(uris[k]), ".safetensors")
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(uris))
    return table


def add_checkpoint(store: DeltaStore, batches: list[str], number: int) -> None:
    """A training set of some batches, a checkpoint of it, its try-on videos, their scores, and its promotion."""
    now, name = datetime.now(UTC), fake_digest("checkpoint", number)[:16]
    set_id = fake_digest("set", number)[:16]
    clips = store.read(CLIPS, MANIFEST_COLUMNS, {"batch": batches})
    buffer = io.BytesIO()
    pq.write_table(clips, buffer, compression="zstd")
    run = {"created_at": now, "run_id": ""}
    of = {"checkpoint_id": name}
    tables = {
        TRAINING_SETS: [
            {
                "training_set_id": set_id,
                "table_versions": [("clips", store.version(CLIPS))],
                "row_digest": fake_digest(set_id),
                "filters": "{}",
                "batches": batches,
                "num_clips": clips.num_rows,
                "num_interaction_clips": clips.num_rows // 2,
                "manifest_uri": _write_blob(store, buffer.getvalue(), ".parquet"),
                "encoder_digest": "0" * 64,
            }
            | run
        ],
        CHECKPOINTS: [
            {
                "training_set_id": set_id,
                "parent_checkpoint_id": fake_digest("checkpoint", number - 1)[:16] if number else None,
                "preset": "nano",
                "uri": f"checkpoints/{name}",
                "weights_sha256": fake_digest("weights", number),
                "config": "{}",
                "steps": 1000,
                "final_loss": 0.1,
                "seconds": 600.0,
            }
            | of
            | run
        ],
        TRAINING_METRICS: [
            {"step": s, "loss": 1 / s, "loss_std": 1 / s, "learning_rate": 1e-4, "step_seconds": 0.6} | of
            for s in range(10, 1001, 10)
        ],
        TRYON_VIDEOS: [
            {
                "tryon_id": fake_digest(number, i)[:16],
                "video_id": fake_digest("held back", i)[:16],
                "garment_id": fake_digest("garment", i)[:16],
                "paired": i % 2 == 0,
                "uri": f"blobs/00/{fake_digest('tryon', number, i)}.mp4",
                "side_by_side_uri": f"blobs/00/{fake_digest('side', number, i)}.mp4",
                "start_frame": 0,
                "num_frames": 49,
                "record": json.dumps({"settings": {"seed": 0, "steps": 20, "guidance_scale": 2.0}}),
                "status": "ok",
            }
            | of
            | run
            for i in range(_TRYONS)
        ],
        VIDEO_METRICS: [
            {
                "tryon_id": tryon,
                "metric": metric,
                "value": 0.5,
                "mode": "corrected",
                "network": "",
                "num_samples": 49,
                "low": 0.4,
                "high": 0.6,
            }
            | of
            | run
            for metric in ("ssim", "lpips")
            for tryon in ["", *(fake_digest(number, i)[:16] for i in range(_TRYONS))]
        ],
        ISR_SCORES: [
            {
                "tryon_id": fake_digest(number, i)[:16],
                "video_id": fake_digest("held back", i)[:16],
                "action": "operate_zipper",
                "start_frame": 5 * k,
                "end_frame": 5 * k + 5,
                "text": "zips",
                "success": (i + k) % 3 > 0,
                "rationale": "generated",
                "judge": "kinematic 1",
                "votes": [True],
            }
            | of
            | run
            for i in range(_TRYONS)
            for k in range(_ISR_PER_VIDEO)
        ],
        PROMOTIONS: [
            {
                "decision_id": fake_digest("decision", number),
                "sequence": number + 1,
                "kind": "promoted",
                "current_checkpoint_id": name,
                "reason": "generated",
                "comparison": "{}",
            }
            | of
            | run
        ],
    }
    for spec, made in tables.items():
        where = {key: made[0][key] for key in spec.partition_by}
        store.replace(spec, pa.Table.from_pylist(made, spec.schema), where, _COMMIT)


def land_real(store: DeltaStore, source: Source, batch: str, videos: int) -> None:
    """A landing folder of `videos` files, each with its own bytes, as a killed ingestion left them: measured."""
    folder = Path(store.root) / "landing" / batch
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(videos):
        file = folder / f"clip_{i:04}.mp4"
        file.write_bytes(source.video(f"{batch}/{i}"))
        os.utime(file, (_LONG_AGO, _LONG_AGO))
    os.utime(folder, (_LONG_AGO, _LONG_AGO))
    settings, staging = IngestSettings(), ingest_staging(store, batch)
    staging.mkdir(parents=True, exist_ok=True)
    measured = source.measured(folder / "clip_0000.mp4", settings)
    for candidate in take_inventory(folder).videos:
        save(staging / f"{measurement_key(candidate, settings)}.json", measured)


def stage_rows(store: DeltaStore, rows: BatchRows, stages: list[Stage], batch: str) -> None:
    """Leave a batch's rows where workers leave theirs before a stage commits them.

    A run that was killed after its workers were done looks like this; the stages then do everything but inference.
    """
    videos = store.read(VIDEOS, where={"batch": batch, "status": "ok"}).to_pylist()
    ids = [v["video_id"] for v in videos]
    prints: dict[str, dict[str, str]] = {}
    for stage in stages:
        prints[stage.name] = {
            v["video_id"]: stage.fingerprint(v, {name: prints[name][v["video_id"]] for name in stage.inputs})
            for v in videos
        }
        table = rows.annotations(stage.spec, batch, ids, [prints[stage.name][i] for i in ids])
        folder = staging_folder(store, stage, batch)
        for uri in {u for column in stage.blob_columns for u in table[column].to_pylist()}:
            # A stage redoes what has lost its blobs. Nobody reads them.
            path = Path(store.root, uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        for video_id, part in _by_video(table):
            numbers = {"rows": part.num_rows, "frames": rows.frames, "seconds": 1.0, "model_seconds": 0.5}
            with pq.ParquetWriter(
                staged_file(folder, video_id, prints[stage.name][video_id]), part.schema, compression="zstd"
            ) as writer:
                writer.write_table(part)
                writer.add_key_value_metadata({"itryon": json.dumps({**numbers, "peak_memory_mb": 400.0})})


def _by_video(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    ids = table["video_id"].to_numpy()
    bounds = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)]
    for start, end in itertools.pairwise(bounds):
        yield ids[start], table.slice(start, end - start)
