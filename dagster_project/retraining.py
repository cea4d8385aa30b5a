"""The lake retrains by itself: new clips become a training set, a checkpoint, try-on videos, scores and a decision.

A sensor (enough new clips) and a schedule (any new clips), both stopped by default, ask
`pipelines.training_sets.due.retraining_due`, and request one run of job `retrain`. They are sensors and not conditions
of declarative automation for what was measured of those: `eager` on an asset below dynamic partitions waits until
every batch is there, so that one failed batch stops retraining for ever; a change that comes while a run is in progress
is an edge that gets lost; `execution_failed` is a level and asks again without end; and each tick costs time in
proportion to the number of batches.

Here the tables are the state, and what was requested is on the instance: a run carries its cause as a tag. So a tick
that is lost loses nothing, the same state never asks twice, and a round that failed is not asked for again until there
are more clips.
"""

import json
from typing import Any

import dagster as dg

from dagster_project.jobs import retrain
from dagster_project.resources import LakeResource
from pipelines.stage import digest
from pipelines.store import DeltaStore
from pipelines.store.schemas import CLIPS, PROMOTIONS, TRAINING_SETS
from pipelines.training_sets.due import NotDue, RetrainingDue, retraining_due
from pipelines.training_sets.settings import RetrainingSettings, TrainingSetSettings

CAUSE_TAG = "itryon/cause"
_RUNNING = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def run_resources(due: RetrainingDue, settings: RetrainingSettings) -> dict[str, dict[str, Any]]:
    """Settings of the assets in one round: new batches with replay, from the current checkpoint, on the fixed set."""
    return {
        "training_set": {
            "batches": list(due.batches),
            "new_batches": list(due.new_batches),
            "exclude_videos": list(due.exclude_videos),
            "replay_share": settings.replay_share,
        },
        "training": {"parent": "current"},
        "tryon": {"checkpoint": "latest", "batches": settings.evaluation_batches},
    }


def request_retraining(
    instance: dg.DagsterInstance, store: DeltaStore, settings: RetrainingSettings, filters: TrainingSetSettings
) -> dg.RunRequest | dg.SkipReason:
    """The run that is due, or why it is not requested now.

    Raises:
        NotDue: Nothing is due in this state of the tables.
    """
    running = instance.get_runs(dg.RunsFilter(job_name=retrain.name, statuses=_RUNNING), limit=1)
    if running:
        # What came meanwhile is still there at the next tick.
        return dg.SkipReason(f"run {running[0].run_id} is retraining")
    due = retraining_due(store, settings, filters)
    before = instance.get_runs(dg.RunsFilter(tags={CAUSE_TAG: due.cause}), limit=1)
    if before:
        return dg.SkipReason(
            f"run {before[0].run_id} was for these {due.num_new} clips and built no training set of them: look at why, "
            "then run it again, or `itryon retrain`"
        )
    resources = {k: {"config": v} for k, v in run_resources(due, settings).items()}
    return dg.RunRequest(
        run_key=due.cause,
        job_name=retrain.name,
        run_config={"resources": resources},
        tags={CAUSE_TAG: due.cause, "itryon/new_clips": str(due.num_new)},
    )


@dg.sensor(
    name="retraining",
    job=retrain,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Retrains when there are enough clips that no training set holds yet (settings `retraining`)",
)
def retraining_sensor(
    context: dg.SensorEvaluationContext,
    lake: LakeResource,
    retraining: dg.ResourceParam[Any],
    training_set: dg.ResourceParam[Any],
) -> dg.SensorResult | dg.SkipReason:
    """Request the retraining that is due. The cursor only saves work: what it says was found not to be due."""
    store, settings, filters = lake.store(), retraining.build(), training_set.build()
    versions = [store.version(t) for t in (CLIPS, TRAINING_SETS, PROMOTIONS)]
    state = digest(versions, settings.model_dump(), filters.model_dump())[:16]
    known = json.loads(context.cursor) if context.cursor else {}
    if known.get("state") == state:
        return dg.SkipReason(known["reason"])
    try:
        answer = request_retraining(context.instance, store, settings, filters)
    except NotDue as e:
        cursor = json.dumps({"state": state, "reason": str(e)})
        return dg.SensorResult(skip_reason=dg.SkipReason(str(e)), cursor=cursor)
    return dg.SensorResult(run_requests=[answer]) if isinstance(answer, dg.RunRequest) else answer


def retraining_schedule(cron: str) -> dg.ScheduleDefinition:
    """The schedule that retrains on whatever is new."""

    @dg.schedule(
        name="retraining_schedule",
        job=retrain,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Retrains on any clips that no training set holds yet, at fixed times",
    )
    def _schedule(
        context: dg.ScheduleEvaluationContext,
        lake: LakeResource,
        retraining: dg.ResourceParam[Any],
        training_set: dg.ResourceParam[Any],
    ) -> dg.RunRequest | dg.SkipReason:
        settings = retraining.build().model_copy(update={"min_new_clips": 1})
        try:
            return request_retraining(context.instance, lake.store(), settings, training_set.build())
        except NotDue as e:
            return dg.SkipReason(str(e))

    return _schedule
