"""`annotator_report`: the annotators of a rendered batch measured against its truth."""

import dagster as dg

from assets.report import measuring, report_asset, report_result
from pipelines.evaluation.annotators.settings import CODE_VERSION
from pipelines.store import Commit
from pipelines.store.studio_schemas import ANNOTATOR_REPORTS, STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS

_TRUTH = (STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS)


@report_asset(
    ANNOTATOR_REPORTS,
    deps=["pose", "hands", "agnostic_masks", "captions", *(spec.name for spec in _TRUTH)],
    description="Pose, hands, masks and captions of a rendered batch against its truth, overall and by what the videos "
    "show, with the goals that are met.\n\nNeeds a batch rendered without labels, so that annotators had to find them.",
    code_version=CODE_VERSION,
)
def annotator_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Measure the annotators of one batch."""
    from pipelines.evaluation.annotators.read import NothingToMeasure
    from pipelines.evaluation.annotators.report import evaluate_batch, goals_markdown
    from pipelines.previews import annotator_plots as plots
    from pipelines.previews.annotator_sheet import worst_cases

    store = context.resources.lake.store()
    with measuring(context, "annotator_report", NothingToMeasure) as show:
        report = evaluate_batch(store, context.partition_key, commit=Commit(context.run.run_id), on_video=show)
    figures = {
        "videos": len(report.clips),
        "goals_met": sum(row.met is True for row in report.goals),
        "goals": dg.MetadataValue.md(goals_markdown(report)),
        "videos_not_annotated": dg.MetadataValue.json(report.unannotated),
    }
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
    contents = [(r.metric, r.split, r.estimate.value) for r in report.rows]
    return report_result(store, ANNOTATOR_REPORTS, report, figures, pictures, contents)
