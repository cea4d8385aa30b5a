"""The capture studio: rendered batches, so that truth has lineage like everything else."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.metadata import picture, reasons, static_metadata, table_metadata
from assets.partitions import ONE_BATCH_A_RUN, video_batches
from assets.progress import steps_progress
from pipelines.store import Commit
from pipelines.store.studio_schemas import STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS
from pipelines.studio.settings import CODE_VERSION

_COMMON: dict[str, Any] = {
    "partitions_def": video_batches,
    "code_version": CODE_VERSION,
    "group_name": "studio",
    "owners": ["team:data-engineering"],
    "kinds": {"deltalake", "opencv"},
}
_SPECS = {
    STUDIO_CLIPS: "Rendered clips: who does what to which garment, with the same clip in another garment.",
    STUDIO_FRAMES: "The truth of every frame: landmarks, camera, person, garment, skin and agnostic masks.",
    STUDIO_HANDS: "The truth of every hand: keypoints, mesh, how much of it is seen, whether it touches the garment.",
}


@dg.multi_asset(
    name="studio_truth",
    specs=[
        dg.AssetSpec(spec.name, description=text, metadata=static_metadata(spec), **_COMMON)
        for spec, text in _SPECS.items()
    ],
    backfill_policy=ONE_BATCH_A_RUN,
    required_resource_keys={"lake", "studio"},
)
def studio(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """Render a batch into the landing zone, unless it is there, and take its truth into the lake."""
    from pipelines.ingest.landing import landing_folder
    from pipelines.studio.batch import render_batch, settings_to_render
    from pipelines.studio.load import load_truth
    from pipelines.studio.sheets import batch_sheet

    store, batch = context.resources.lake.store(), context.partition_key
    folder = landing_folder(store, batch)
    with steps_progress(context, "studio") as show:
        try:
            settings = settings_to_render(folder, context.resources.studio.build())
            report = render_batch(settings, folder, on_progress=lambda done, total: show("frames", done, total))
        except (FileExistsError, FileNotFoundError, ValueError) as e:
            raise dg.Failure(str(e), allow_retries=False) from e
    if not report.clips:
        raise dg.Failure(f"no clip could be rendered: {report.failures}", allow_retries=False)
    loaded = load_truth(store, batch, Commit(context.run.run_id, CODE_VERSION))
    sheet = picture(batch_sheet(folder)) or "nothing to show"
    for spec in _SPECS:
        figures: dict[str, Any] = {"frames": loaded.frames, "interaction_frames": loaded.interaction_frames}
        yield dg.MaterializeResult(
            asset_key=spec.name,
            metadata=({"preview": sheet} if spec is STUDIO_CLIPS else {})
            | figures
            | {
                "clips_failed": len(report.failures),
                "failures": reasons("clip", {str(k): str(v) for k, v in report.failures.items()}),
            }
            | table_metadata(store, spec, store.version(spec), loaded.rows[spec.name]),
            data_version=dg.DataVersion(loaded.data_version),
        )
