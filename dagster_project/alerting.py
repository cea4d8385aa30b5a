"""`alerts`: a job that evaluates the check on batches that failed as a whole, and the sensor that starts it.

The check hangs on `training_set`, which runs of one batch do not make: without this it would be evaluated when the next
training set is, and a batch that failed would be seen by whoever looks for it.
"""

import json

import dagster as dg

from assets.alerts import no_batch_left_behind
from dagster_project.resources import LakeResource
from pipelines.stage import digest
from pipelines.store.schemas import STAGE_STATUS, VIDEOS

alerts = dg.define_asset_job(
    "alerts",
    selection=dg.AssetSelection.checks(no_batch_left_behind),
    description="Evaluates the check on batches that failed as a whole; makes nothing",
)


@dg.sensor(
    name="failed_batches",
    job=alerts,
    minimum_interval_seconds=300,
    # On by itself: it asks for a run only where a batch failed as a whole, or one that had failed no longer does.
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Evaluates the check no_batch_left_behind as soon as another batch failed as a whole, or was mended",
)
def failed_batches(context: dg.SensorEvaluationContext, lake: LakeResource) -> dg.SensorResult:
    """Request the check where its answer changed; the tables are read only where one of them was written."""
    from pipelines.checks import batches_without_clips

    store = lake.store()
    known = json.loads(context.cursor) if context.cursor else {"versions": None, "failed": digest({})}
    versions = [store.version(VIDEOS), store.version(STAGE_STATUS)]
    if versions == known["versions"]:
        return dg.SensorResult(skip_reason="no table of batches was written")
    missing = batches_without_clips(store)
    now = {"versions": versions, "failed": digest(missing)}
    if now["failed"] == known["failed"]:
        return dg.SensorResult(skip_reason="no other batch failed as a whole", cursor=json.dumps(now))
    # The versions too: a batch may fail, be mended, and fail again in the same words.
    request = dg.RunRequest(run_key=digest(now)[:16], tags={"itryon/failed_batches": str(len(missing))})
    return dg.SensorResult(run_requests=[request], cursor=json.dumps(now))
