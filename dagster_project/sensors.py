"""The landing-zone sensor: a folder that appears below `<lake>/landing` becomes a batch and is annotated.

A folder counts once nothing in it has come, gone or changed for a while, so that a copy under way is not taken for a
whole batch. A batch whose files change later is annotated again; stages skip what they have done. Batches that were
annotated by hand before the sensor was turned on are left alone: turning it on in a lake with a thousand of them costs
no runs.

A tick costs what is new, not what was landed over the years: of batches it knows it asks the folders alone whether an
entry came or went, and looks at the files of a few of them in turn, for those that were written in place.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import BATCHES, video_batches
from dagster_project.jobs import annotate
from dagster_project.resources import LakeResource
from pipelines.ingest.landing import LandedFile, batch_folders, entries_changed, last_written, scan, subfolders
from pipelines.ingest.private import is_private
from pipelines.registry import STAGES

SETTLE_SECONDS = 30.0
MAX_RUNS_PER_TICK = 20
LOOKED_AT_PER_TICK = 20
"""Known batches whose files are looked at in a tick."""
_LAST = list(STAGES)[-1]


@dg.sensor(
    job=annotate,
    minimum_interval_seconds=30,
    description="Adds a partition for every folder in the landing zone and annotates it",
)
def landing_zone(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
    """Add partitions for settled landing folders that are new or changed, and request their runs."""
    # A video that somebody wanted dressed lies there too: it was annotated as far as that needs.
    folders = {b: f for b, f in batch_folders(lake.store()).items() if not is_private(b)}
    seen, turn = _read_cursor(context.cursor)
    looked_at = _in_turn(sorted(folders.keys() & seen.keys()), turn)
    requests: list[dg.RunRequest] = []
    settling: list[str] = []
    for batch, folder in folders.items():
        if (known := seen.get(batch)) and batch not in looked_at and _untouched(folder, known):
            continue
        below = subfolders(folder)
        changed = entries_changed(folder, below)
        files = scan(folder)
        if not files:
            continue
        written = max(last_written(folder, below), *(f.modified for f in files))
        if time.time() - written < SETTLE_SECONDS:
            settling.append(batch)
            continue
        signature = _signature(files)
        state = {"signature": signature, "changed": changed, "below": below}
        if not known and _annotated_since(context.instance, batch, max(f.modified for f in files)):
            seen[batch] = state
            continue
        if not known or known["signature"] != signature:
            if len(requests) == MAX_RUNS_PER_TICK:
                context.log.info(f"{MAX_RUNS_PER_TICK} batches requested; the rest follow in the next tick")
                break
            # When it changed, too: files may come, go, and come again as they were, and a key is answered once.
            requests.append(dg.RunRequest(run_key=f"{batch}:{signature}:{changed}", partition_key=batch))
        seen[batch] = state
    asked = [str(r.partition_key) for r in requests]
    added = sorted(set(asked) - set(context.instance.get_dynamic_partitions(BATCHES))) if asked else []
    waits = f"; wait until nothing changes for {SETTLE_SECONDS:.0f} s: {', '.join(settling[:5])}" if settling else ""
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"no new or changed batch among {len(seen)} in the landing zone{waits}",
        dynamic_partitions_requests=[video_batches.build_add_request(added)] if added else [],
        cursor=json.dumps({"seen": seen, "turn": looked_at[-1] if looked_at else turn}, sort_keys=True),
    )


def _annotated_since(instance: dg.DagsterInstance, batch: str, timestamp: float) -> bool:
    """Whether the last annotation stage was run on the batch after a moment, by whomever."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(_LAST), asset_partitions=[batch], after_timestamp=timestamp)
    return bool(instance.fetch_materializations(wanted, limit=1).records)


def _read_cursor(cursor: str | None) -> tuple[dict[str, dict[str, Any]], str]:
    """What is known of each batch, and the batch that was looked at last."""
    value = json.loads(cursor) if cursor else {}
    if "turn" not in value:
        # Of an earlier release: batch -> signature. With no folders to ask, each batch is looked at once.
        return {b: {"signature": s, "changed": 0, "below": []} for b, s in value.items()}, ""
    return value["seen"], value["turn"]


def _in_turn(batches: list[str], last: str) -> list[str]:
    """The next batches behind `last` in the order of names, and from the first one on after the end."""
    behind = [b for b in batches if b > last]
    return [*behind, *(b for b in batches if b <= last)][:LOOKED_AT_PER_TICK]


def _untouched(folder: Path, known: dict[str, Any]) -> bool:
    return bool(known["below"]) and entries_changed(folder, known["below"]) == known["changed"]


def _signature(files: list[LandedFile]) -> str:
    listing = sorted((f.path, f.size, round(f.modified, 3)) for f in files)
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
