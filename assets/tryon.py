"""`tryon_videos`: the people of the annotated videos, dressed by the newest checkpoint."""

import dagster as dg

from assets.metadata import check_specs, picture, reasons, static_metadata, table_metadata, upstream_metadata
from assets.progress import steps_progress
from pipelines.store import Commit
from pipelines.store.schemas import TRYON_VIDEOS
from pipelines.tryon.settings import CODE_VERSION


@dg.asset(
    deps=["itryon_checkpoint", "videos", "garments", "pose", "hands", "agnostic_masks", "captions"],
    description="The people of annotated videos, dressed by a checkpoint: in the garment of their own (paired, so that "
    "the source is the truth) and in another one (unpaired). Interactions such as zipping are kept.\n\n"
    "One row: a video in a garment by a checkpoint, with the result and a side-by-side video.",
    code_version=CODE_VERSION,
    kinds={"deltalake", "pytorch", "diffusers"},
    metadata=static_metadata(TRYON_VIDEOS),
    check_specs=check_specs("tryon_videos", {"made": "At least one try-on video could be made"}),
    required_resource_keys={"lake", "tryon"},
    group_name="tryon",
    owners=["team:machine-learning"],
    pool="gpu",
)
def tryon_videos(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Make the try-on videos that the settings ask for and that are not there yet."""
    from pipelines.checkpoints.train import LATEST, CheckpointMissing
    from pipelines.previews.sheets import tryon_sheet
    from pipelines.stage import digest
    from pipelines.tryon.batch import NothingToDress, run_tryon

    store, settings = context.resources.lake.store(), context.resources.tryon.build()
    if settings.checkpoint == LATEST:
        checkpoint_id = upstream_metadata(context, "itryon_checkpoint", "checkpoint_id")
        settings = settings.model_copy(update={"checkpoint": checkpoint_id})
    with steps_progress(context, "tryon") as on_progress:
        try:
            report = run_tryon(
                store, settings, commit=Commit(context.run.run_id, CODE_VERSION), on_progress=on_progress
            )
        except (NothingToDress, CheckpointMissing) as e:
            raise dg.Failure(str(e), allow_retries=False) from e
    rows = store.read(TRYON_VIDEOS, ["tryon_id", "status"], {"checkpoint_id": report.checkpoint_id})
    return dg.MaterializeResult(
        metadata={
            "preview": picture(tryon_sheet(store, report.checkpoint_id)) or "nothing to show",
            "checkpoint_id": report.checkpoint_id,
            "videos_made": report.made,
            "videos_reused": report.reused,
            "videos_failed": len(report.failures),
            "failures": reasons("try-on", report.failures),
        }
        | table_metadata(store, TRYON_VIDEOS, report.table_version, rows.num_rows),
        data_version=dg.DataVersion(digest(sorted(map(str, rows.to_pylist())))[:32]),
        check_results=[
            dg.AssetCheckResult(
                check_name="made",
                passed=report.made + report.reused > 0,
                description=f"{report.made + report.reused} videos, {len(report.failures)} failures",
            )
        ],
    )


tryon_assets = [tryon_videos]
