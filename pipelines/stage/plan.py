"""Which videos of a batch a stage still has to do, and the status rows that say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.stage.base import Stage
from pipelines.store import DeltaStore
from pipelines.store.schemas import STAGE_STATUS, VIDEOS


@dataclass
class Plan:
    todo: list[dict[str, Any]]
    blocked: list[dict[str, Any]]
    blocked_reason: dict[str, str]
    kept: set[str]
    fingerprints: dict[str, str]
    status: dict[str, dict[str, Any]]
    changed: bool


def make_plan(stage: Stage, store: DeltaStore, batch: str) -> Plan:
    all_videos = store.read(VIDEOS, where={"batch": batch}).to_pylist()
    if not all_videos:
        raise LookupError(f"Batch {batch!r} has no videos: materialise `videos` for it, or ingest it first")
    videos = [v for v in all_videos if v["status"] == "ok"]
    known = read_statuses(store, batch, stage.name)
    upstream = {name: read_statuses(store, batch, name) for name in stage.inputs}
    stored = _stored_rows(stage, store, batch)
    beside = stage.beside(store, videos)
    plan = Plan([], [], {}, set(), {}, {}, False)
    for row in videos:
        video_id = row["video_id"]
        entries = {name: table.get(video_id) for name, table in upstream.items()}
        failed = {n: e for n, e in entries.items() if e is None or e["status"] != "ok"}
        plan.fingerprints[video_id] = stage.fingerprint(
            row, {n: e["fingerprint"] if e else "" for n, e in entries.items()}, beside.get(video_id)
        )
        before = known.get(video_id)
        if failed:
            name, entry = next(iter(failed.items()))
            plan.blocked.append(row)
            plan.blocked_reason[video_id] = (
                f"{name} failed: {entry['reason']}" if entry else f"{name} has no rows yet: materialise it first"
            )
        elif before and _stands(before, plan.fingerprints[video_id], stored.get(video_id, {})):
            plan.kept.add(video_id)
            plan.status[video_id] = before
        else:
            plan.todo.append(row)
    blocked_anew = any(
        not (e := known.get(r["video_id"])) or e["reason"] != plan.blocked_reason[r["video_id"]] for r in plan.blocked
    )
    stray = set(stored) - plan.kept
    plan.changed = bool(plan.todo or stray) or blocked_anew or set(known) != {v["video_id"] for v in videos}
    if not plan.changed:
        plan.status |= {r["video_id"]: known[r["video_id"]] for r in plan.blocked}
    return plan


def _stored_rows(stage: Stage, store: DeltaStore, batch: str) -> dict[str, Counter[str]]:
    """Video -> fingerprint -> number of rows in the stage's table whose blobs are all there."""
    stored: dict[str, Counter[str]] = {}
    named: dict[str, set[str]] = {}
    for chunk in store.batches(stage.spec, ["video_id", "fingerprint", *stage.blob_columns], {"batch": batch}):
        grouped = pa.table(chunk).group_by(["video_id", "fingerprint"]).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            stored.setdefault(row["video_id"], Counter())[row["fingerprint"]] += row["count_all"]
        for column in stage.blob_columns:
            for video_id, uri in zip(chunk["video_id"].to_pylist(), chunk[column].to_pylist(), strict=True):
                named.setdefault(video_id, set()).add(uri)
    missing = store.blobs.missing(u for uris in named.values() for u in uris)
    for video_id, uris in named.items():
        if uris & missing:
            stored[video_id] = Counter({"blobs are missing": 1})
    return stored


def _stands(status: Mapping[str, Any], fingerprint: str, stored: Mapping[str, int]) -> bool:
    # The rows are looked at too: a run with other settings, killed between its rows and its status, leaves a status
    # that speaks of rows that are no longer there.
    rows = {fingerprint: status["rows"]} if status["rows"] else {}
    return status["status"] == "ok" and status["fingerprint"] == fingerprint and stored == rows


def read_statuses(store: DeltaStore, batch: str, stage: str) -> dict[str, dict[str, Any]]:
    rows = store.read(STAGE_STATUS, where={"batch": batch, "stage": stage}).to_pylist()
    return {r["video_id"]: r for r in rows}


def status_row(
    row: Mapping[str, Any], plan: Plan, status: str, reason: str | None = None, **numbers: Any
) -> dict[str, Any]:
    defaults = {"rows": 0, "frames": 0, "seconds": 0.0, "model_seconds": 0.0, "peak_memory_mb": None}
    return {
        "video_id": row["video_id"],
        "status": status,
        "reason": reason,
        "fingerprint": plan.fingerprints[row["video_id"]],
        **defaults,
        **numbers,
    }
