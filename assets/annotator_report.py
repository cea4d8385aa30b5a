"""`annotator_report`: the annotators of a rendered batch measured against its truth."""

import dagster as dg

from assets.metadata import picture, static_metadata, table_metadata
from assets.partitions import ONE_BATCH_A_RUN, video_batches
from assets.progress import steps_progress
from pipelines.evaluation.annotators.settings import CODE_VERSION
from pipelines.store import Commit
from pipelines.store.studio_schemas import ANNOTATOR_REPORTS, STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS


@dg.asset(
    deps=[
        "pose",
        "hands",
        "agnostic_masks",
        "captions",
        *(spec.name for spec in (STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS)),
    ],
    description="Pose, hands, masks and captions of a rendered batch against its truth, overall and by what the videos "
    "show, with the goals that are met.\n\nNeeds a batch rendered without labels, so that annotators had to find them.",
    partitions_def=video_batches,
    backfill_policy=ONE_BATCH_A_RUN,
    code_version=CODE_VERSION,
    group_name="studio",
    kinds={"deltalake", "opencv"},
    owners=["team:machine-learning"],
    metadata=static_metadata(ANNOTATOR_REPORTS),
    required_resource_keys={"lake"},
)
def annotator_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Measure the annotators of one batch."""
    from pipelines.evaluation.annotators.read import NothingToMeasure
    from pipelines.evaluation.annotators.report import evaluate_batch, goals_markdown
    from pipelines.previews import annotator_plots as plots
    from pipelines.previews.annotator_sheet import worst_cases
    from pipelines.stage import digest

    store, batch = context.resources.lake.store(), context.partition_key
    with steps_progress(context, "annotator_report") as show:
        try:
            report = evaluate_batch(store, batch, commit=Commit(context.run.run_id), on_video=show)
        except NothingToMeasure as e:
            raise dg.Failure(str(e), allow_retries=False) from e
    assert report.table_version is not None
    pictures = {
        "goals_picture": plots.goals_picture(report),
        "splits": plots.splits_picture(report),
        "landmarks": plots.landmarks_picture(report),
        "hand_errors": plots.hands_picture(report),
        "actions": plots.confusion_picture(report),
        "confidence": plots.reliability_picture(report),
        "worst_body": worst_cases(store, report, ["pose", "masks"]),
        "worst_hands": worst_cases(store, report, ["missed hands", "hands"]),
        "worst_captions": worst_cases(store, report, ["captions"]),
    }
    return dg.MaterializeResult(
        metadata=table_metadata(store, ANNOTATOR_REPORTS, report.table_version, len(report.rows))
        | {
            "videos": len(report.clips),
            "goals_met": sum(row.met is True for row in report.goals),
            "goals": dg.MetadataValue.md(goals_markdown(report)),
            "videos_not_annotated": dg.MetadataValue.json(report.unannotated),
        }
        | {name: picture(image) or "nothing to show" for name, image in pictures.items()},
        data_version=dg.DataVersion(digest([(r.metric, r.split, r.estimate.value) for r in report.rows])[:32]),
    )
