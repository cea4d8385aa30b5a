"""Checkpoints with try-on videos, metrics and verdicts, as the stages would have written them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.store import Commit, DeltaStore, TableSpec
from pipelines.store.schemas import CHECKPOINTS, ISR_SCORES, TRAINING_SETS, TRYON_VIDEOS, VIDEO_METRICS

_START = datetime(2026, 1, 1, tzinfo=UTC)


def put(store: DeltaStore, spec: TableSpec, rows: list[dict[str, Any]]) -> None:
    """Write rows that share their partition values."""
    now = {"created_at": _START, "run_id": "run"} if "run_id" in spec.schema.names else {}
    where = {k: rows[0][k] for k in spec.partition_by}
    store.replace(spec, pa.Table.from_pylist([now | r for r in rows], spec.schema), where, Commit())


def add_training_set(store: DeltaStore, name: str = "set1", batches: Sequence[str] = ("b1",), **values: Any) -> None:
    """One row of `training_sets`."""
    row = {
        "training_set_id": name,
        "table_versions": [("clips", 1)],
        "row_digest": "d",
        "filters": "{}",
        "batches": list(batches),
        "num_clips": 12,
        "num_interaction_clips": 5,
        "manifest_uri": "blobs/none.parquet",
        "encoder_digest": "e",
    }
    put(store, TRAINING_SETS, [row | values])


def metrics_of_videos(tryons: Sequence[dict[str, Any]], mode: str = "corrected") -> list[dict[str, Any]]:
    """A row of `video_metrics` of each row of `tryon_videos`: what tells which videos the set's metrics are of."""
    row = {"metric": "ssim", "mode": mode, "value": None, "reason": "not told", "network": "", "num_samples": 0}
    return [row | {k: t[k] for k in ("checkpoint_id", "tryon_id", "video_id")} for t in tryons]


def add_checkpoint(
    store: DeltaStore,
    name: str,
    *,
    verdicts: Sequence[bool | None] = (),
    metrics: dict[str, tuple[float | None, float | None, float | None]] | None = None,
    number: int = 0,
    videos: Sequence[str] = ("v1", "v2"),
    judge: str = "kinematic 1",
    kappa: float | None = 0.7,
    steps: int = 40,
    **values: Any,
) -> None:
    """A checkpoint with its folder in the lake, a try-on video of each of `videos`, and what was measured of it.

    Args:
        store: The lake.
        name: checkpoint_id.
        verdicts: Of interactions, in turn of the videos; None where the judge gave none.
        metrics: Metric of the set -> value, lower and upper end of its interval.
        number: When it was trained: hours after the first one.
        videos: Source videos dressed.
        judge: Name and digest of the judge.
        kappa: The judge's agreement with known truth.
        steps: Denoising steps of the try-on videos.
        values: Columns of `checkpoints` that differ.
    """
    row = {
        "checkpoint_id": name,
        "training_set_id": "set1",
        "parent_checkpoint_id": None,
        "preset": "nano",
        "uri": f"checkpoints/{name}",
        "weights_sha256": f"sha of {name}",
        "config": "{}",
        "steps": 100,
        "final_loss": 0.5,
        "seconds": 10.0,
        "created_at": _START + timedelta(hours=number),
    }
    put(store, CHECKPOINTS, [row | values])
    (Path(store.root) / "checkpoints" / name).mkdir(parents=True)
    record = json.dumps({"settings": {"steps": steps, "checkpoint": name, "device": "cpu"}})
    mine = {"checkpoint_id": name}
    made = [
        mine
        | {"tryon_id": f"t-{name}-{v}", "video_id": v, "garment_id": "g", "paired": True, "uri": None}
        | {"start_frame": 0, "num_frames": 17, "record": record, "status": "ok"}
        for v in videos
    ]
    if made:
        put(store, TRYON_VIDEOS, made)
    rows = [
        mine
        | {"tryon_id": "", "video_id": None, "metric": metric, "mode": "corrected", "network": "", "num_samples": 2}
        | {"value": value, "low": low, "high": high, "reason": None if value is not None else "no network"}
        for metric, (value, low, high) in (metrics or {}).items()
    ]
    if rows:
        put(store, VIDEO_METRICS, [*rows, *metrics_of_videos(made)])
    judged = [
        mine
        | {"tryon_id": f"t-{name}-{videos[i % len(videos)]}", "video_id": videos[i % len(videos)]}
        | {"action": "adjust_hem", "start_frame": i, "end_frame": i + 5, "text": "x", "success": verdict}
        | {"score": 0.5, "rationale": "seen", "judge": judge, "judge_digest": judge, "judge_kappa": kappa}
        | {"frames": [], "votes": []}
        for i, verdict in enumerate(verdicts)
    ]
    if judged:
        put(store, ISR_SCORES, judged)
