"""What a pinned training set is made of, batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.store import DeltaStore
from pipelines.store.studio_schemas import STUDIO_CLIPS
from pipelines.training_sets.build import manifest_path, rows_digest


@dataclass(frozen=True)
class BatchPart:
    """The clips of one batch in a training set.

    Attributes:
        batch: Name of the batch.
        clips: Training clips.
        interactive: Those of them in which somebody acts on a garment.
        replayed: Those of them that were drawn from older batches.
        videos: Videos they were cut from.
        version: Digest of exactly these rows, 16 hex digits: the same clips, annotations and encoders give the same.
        rendered: Whether the capture studio rendered the batch into this lake; clips that it rendered into a folder
            and that were ingested like any others are not known to be.
        buckets: Frames, height and width of the clips, such as `17x128x96`.
    """

    batch: str
    clips: int
    interactive: int
    replayed: int
    videos: int
    version: str
    rendered: bool
    buckets: tuple[str, ...]


def batch_parts(store: DeltaStore, training_set: dict[str, Any]) -> list[BatchPart]:
    """The batches of a training set, by name.

    Args:
        store: The lake.
        training_set: Row of `training_sets`.

    Raises:
        OSError: The manifest is damaged.
        pipelines.training_sets.build.TrainingSetError: It is gone, or does not hold the rows that were pinned.
    """
    rows = pq.ParquetFile(manifest_path(store, training_set)).read()
    names = sorted(set(rows["batch"].to_pylist()))
    rendered = set(store.read(STUDIO_CLIPS, ["batch"], {"batch": names})["batch"].to_pylist())
    parts = []
    for name in names:
        mine = rows.filter(pc.equal(rows["batch"], name))
        parts.append(
            BatchPart(
                batch=name,
                clips=mine.num_rows,
                interactive=sum(any(m) for m in mine["action_mask"].to_pylist()),
                replayed=sum(mine["replay"].to_pylist()) if "replay" in mine.schema.names else 0,
                videos=len(set(mine["video_id"].to_pylist())),
                version=rows_digest(mine)[:16],
                rendered=name in rendered,
                buckets=tuple(sorted(set(mine["bucket"].to_pylist()))),
            )
        )
    return parts
