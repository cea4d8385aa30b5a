"""`maintenance`: a job that tidies the lake, and the schedule for it, which is off until it is turned on.

It is no asset: nothing is made, and what is removed is nothing that any asset needs. See `pipelines.store.retention`.
"""

from dataclasses import asdict
from typing import Any

import dagster as dg

from pipelines.store.retention import RetentionSettings, tidy


@dg.op(
    required_resource_keys={"lake", "retention"},
    # Two at a time would merge the same files; pools have one place by default.
    pool="maintenance",
    description="Merges small files of the tables and removes versions and blobs that nothing needs any more",
)
def tidy_lake(context: dg.OpExecutionContext) -> dict[str, Any]:
    """Tidy the lake and tell what was done."""
    settings: RetentionSettings = context.resources.retention.build()
    report = asdict(tidy(context.resources.lake.store(), settings.days, settings.dry_run))
    context.add_output_metadata(
        {k: dg.MetadataValue.json(v) if isinstance(v, (dict, list)) else v for k, v in report.items()}
    )
    return report


@dg.job(
    name="maintenance",
    description="Tidies the lake: what current rows and pinned training sets need stays, whatever its age",
)
def maintenance() -> None:
    """Tidy the lake."""
    tidy_lake()


def maintenance_schedule(cron: str) -> dg.ScheduleDefinition:
    """The schedule that tidies the lake."""
    return dg.ScheduleDefinition(
        name="maintenance_schedule",
        job=maintenance,
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Tidies the lake at fixed times (settings `retention`)",
    )
