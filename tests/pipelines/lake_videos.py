"""Rows of `videos` for files, as the ingestion would write them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import VIDEOS
from pipelines.video import probe

BATCH = "b1"


def add_videos(store: DeltaStore, *paths: Path) -> list[dict]:
    """Make `paths` the videos of the batch; their rows."""
    rows = []
    for path in paths:
        info = probe(path)
        uri = store.blobs.put_file(path)
        digest = Path(uri).stem
        rows.append(
            {
                "batch": BATCH,
                "video_id": digest[:16],
                "source_path": path.name,
                "uri": uri,
                "sha256": digest,
                "width": info.width,
                "height": info.height,
                "fps": info.fps,
                "num_frames": info.num_frames,
                "cut_frames": [],
                "status": "ok",
                "fingerprint": "f",
            }
        )
    store.replace(VIDEOS, pa.Table.from_pylist(rows, VIDEOS.schema), {"batch": BATCH}, Commit())
    return rows
