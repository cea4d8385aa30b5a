"""The annotation stages as assets: `pose`, `hands`, `agnostic_masks`, `captions` and `clips`.

They differ only in what `pipelines.registry` says of them, so one factory declares them all.
"""

from collections.abc import Callable
from typing import Any

import dagster as dg

from assets.metadata import check_results, check_specs, drawn, stage_metadata, static_metadata
from assets.partitions import ONE_BATCH_A_RUN, video_batches
from assets.progress import stage_progress
from pipelines.checks import STAGE_CHECKS, check_stage
from pipelines.registry import STAGES, StageEntry
from pipelines.store import TABLES, Commit

# Only what a second try can mend is worth one: an endpoint that was busy, a machine that was short of memory.
_RETRY = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL)
_KINDS = {"pose": "opencv", "hands": "opencv", "agnostic_masks": "opencv", "captions": "opencv", "clips": "pytorch"}


def annotation_asset(entry: StageEntry) -> dg.AssetsDefinition:
    """The asset of one annotation stage."""
    spec = TABLES[entry.name]

    @dg.asset(
        name=entry.name,
        description=f"{entry.title}.\n\nOne row: {spec.description.lower()}.",
        partitions_def=video_batches,
        backfill_policy=ONE_BATCH_A_RUN,
        deps=["videos", *(["garments"] if entry.name == "clips" else []), *entry.inputs],
        code_version=entry.release,
        kinds={"deltalake", _KINDS[entry.name]},
        group_name="annotations",
        owners=["team:data-engineering"],
        metadata=static_metadata(spec),
        check_specs=check_specs(entry.name, STAGE_CHECKS),
        required_resource_keys={"lake", "workers", entry.name},
        retry_policy=_RETRY,
    )
    def _asset(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        from pipelines.previews.plots import stage_times
        from pipelines.previews.sheets import contact_sheet
        from pipelines.stage import run_stage

        store, batch = context.resources.lake.store(), context.partition_key
        stage = entry.build(getattr(context.resources, entry.name).build())
        with stage_progress(context, entry.name) as on_progress:
            try:
                report = run_stage(
                    stage,
                    store,
                    batch,
                    settings=context.resources.workers.build(),
                    commit=Commit(context.run.run_id),
                    on_progress=on_progress,
                )
            except LookupError as e:
                raise dg.Failure(str(e), allow_retries=False) from e
        shown: dict[str, Any] = {}

        def show(key: str, draw: Callable[[], bytes | None]) -> None:
            shown[key] = drawn(context, entry.name, key, report.changed, draw)

        show("preview", lambda: contact_sheet(store, batch, entry.name))
        if entry.name == list(STAGES)[-1]:
            # The last stage shows what all of them took.
            show("throughput", lambda: stage_times(store, batch))
        return dg.MaterializeResult(
            metadata=shown | stage_metadata(store, spec, report),
            data_version=dg.DataVersion(report.data_version),
            check_results=check_results(check_stage(store, spec, batch), entry.name),
        )

    return _asset


annotation_assets = [annotation_asset(entry) for entry in STAGES.values()]
