"""`videos` and `garments`: a landing folder becomes a batch."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.metadata import check_results, check_specs, drawn, static_metadata, table_metadata
from assets.partitions import ONE_BATCH_A_RUN, video_batches
from assets.progress import stage_progress
from pipelines.checks import VIDEO_CHECKS, check_videos
from pipelines.ingest.settings import CODE_VERSION
from pipelines.store import Commit
from pipelines.store.schemas import GARMENTS, VIDEOS

_COMMON: dict[str, Any] = {
    "partitions_def": video_batches,
    "code_version": CODE_VERSION,
    "group_name": "ingest",
    "owners": ["team:data-engineering"],
}


@dg.multi_asset(
    name="ingest",
    specs=[
        dg.AssetSpec(
            "videos",
            description="Raw videos of a batch: probed, scored, checked for cuts and duplicates, stored by content.\n\n"
            "One row: a file. One that cannot be used is a row with the reason, never a failed batch.",
            metadata=static_metadata(VIDEOS),
            kinds={"deltalake", "ffmpeg"},
            **_COMMON,
        ),
        dg.AssetSpec(
            "garments",
            description="Product photos of the garments of a batch, each with a mask of what in it is the garment.\n\n"
            "One row: a photo. Try-on dresses people in them.",
            metadata=static_metadata(GARMENTS),
            kinds={"deltalake", "opencv"},
            **_COMMON,
        ),
    ],
    check_specs=check_specs("videos", VIDEO_CHECKS),
    backfill_policy=ONE_BATCH_A_RUN,
    required_resource_keys={"lake", "workers", "ingest"},
)
def ingest(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Bring `videos` and `garments` of one batch in line with its landing folder."""
    from pipelines.ingest.batch import ingest_batch
    from pipelines.previews.sheets import contact_sheet

    store, batch = context.resources.lake.store(), context.partition_key
    with stage_progress(context, "videos") as on_progress:
        try:
            report = ingest_batch(
                store,
                batch,
                context.resources.ingest.build(),
                commit=Commit(context.run.run_id, CODE_VERSION),
                on_progress=on_progress,
            )
        except LookupError as e:
            raise dg.Failure(str(e), allow_retries=False) from e

    def show(asset: str) -> dg.MetadataValue | str:
        return drawn(context, asset, "preview", asset in report.committed, lambda: contact_sheet(store, batch, asset))

    videos_version, garments_version = store.version(VIDEOS), store.version(GARMENTS)
    yield dg.MaterializeResult(
        asset_key="videos",
        metadata={
            "preview": show("videos"),
            "files_ok": report.ok,
            "files_rejected": report.rejected,
            "files_with_errors": report.errors,
            **table_metadata(store, VIDEOS, videos_version, report.rows),
        },
        data_version=dg.DataVersion(report.data_versions["videos"]),
        check_results=check_results(check_videos(store, batch, "videos" in report.committed), "videos"),
    )
    yield dg.MaterializeResult(
        asset_key="garments",
        metadata={
            "preview": show("garments"),
            **table_metadata(store, GARMENTS, garments_version, report.garments),
        },
        data_version=dg.DataVersion(report.data_versions["garments"]),
    )
