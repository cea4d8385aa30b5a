"""The landing-zone sensor: a folder that appears below `<lake>/landing` becomes a batch and is annotated.

A folder counts once nothing in it has changed for a while, so that a copy under way is not taken for a whole batch.
A batch whose files change later is annotated again; stages skip what they have done. Batches that were annotated by
hand before the sensor was turned on are left alone: turning it on in a lake with a thousand of them costs no runs.
"""

import hashlib
import json
import time

import dagster as dg

from assets.partitions import BATCHES, video_batches
from dagster_project.jobs import annotate
from dagster_project.resources import LakeResource
from pipelines.ingest.landing import landing_batches
from pipelines.registry import STAGES

SETTLE_SECONDS = 30.0
MAX_RUNS_PER_TICK = 20
_LAST = list(STAGES)[-1]


@dg.sensor(
    job=annotate,
    minimum_interval_seconds=30,
    description="Adds a partition for every folder in the landing zone and annotates it",
)
def landing_zone(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
    """Add partitions for settled landing folders that are new or changed, and request their runs."""
    store = lake.store()
    known = set(context.instance.get_dynamic_partitions(BATCHES))
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    requests: list[dg.RunRequest] = []
    added: list[str] = []
    settling: list[str] = []
    for batch, files in landing_batches(store).items():
        if not files:
            continue
        if time.time() - max(f.modified for f in files) < SETTLE_SECONDS:
            settling.append(batch)
            continue
        listing = sorted((f.path, f.size, round(f.modified, 3)) for f in files)
        signature = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
        if seen.get(batch) == signature:
            continue
        if batch not in seen and _annotated_since(context.instance, batch, max(f.modified for f in files)):
            seen[batch] = signature
            continue
        if len(requests) == MAX_RUNS_PER_TICK:
            context.log.info(f"{MAX_RUNS_PER_TICK} batches requested; the rest follow in the next tick")
            break
        if batch not in known:
            added.append(batch)
        requests.append(dg.RunRequest(run_key=f"{batch}:{signature}", partition_key=batch))
        seen[batch] = signature
    waits = f"; wait until nothing changes for {SETTLE_SECONDS:.0f} s: {', '.join(settling[:5])}" if settling else ""
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else f"no new or changed batch among {len(seen)} in the landing zone{waits}",
        dynamic_partitions_requests=[video_batches.build_add_request(added)] if added else [],
        cursor=json.dumps(seen, sort_keys=True),
    )


def _annotated_since(instance: dg.DagsterInstance, batch: str, timestamp: float) -> bool:
    """Whether the last annotation stage was run on the batch after a moment, by whomever."""
    wanted = dg.AssetRecordsFilter(dg.AssetKey(_LAST), asset_partitions=[batch], after_timestamp=timestamp)
    return bool(instance.fetch_materializations(wanted, limit=1).records)
