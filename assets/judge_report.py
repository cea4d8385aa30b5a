"""`judge_report`: the judge of interactions measured on a rendered batch whose truth is known."""

import dagster as dg

from assets.metadata import picture, static_metadata, table_metadata
from assets.partitions import ONE_BATCH_A_RUN, video_batches
from assets.progress import steps_progress
from pipelines.evaluation.judges.settings import CODE_VERSION
from pipelines.store import Commit
from pipelines.store.studio_schemas import JUDGE_REPORTS, STUDIO_CLIPS, STUDIO_FRAMES


@dg.asset(
    deps=["pose", "hands", "agnostic_masks", STUDIO_CLIPS.name, STUDIO_FRAMES.name],
    description="The judge that `isr` names, on cases with known truth: interactions done, left undone, mimed, "
    "captioned as another action, and asked for at a time when nothing happens. Accuracy, Cohen's kappa, confusion by "
    "action.\n\nNeeds a batch rendered with `undone`. Single verdicts are in the table `judge_cases`.",
    partitions_def=video_batches,
    backfill_policy=ONE_BATCH_A_RUN,
    code_version=CODE_VERSION,
    group_name="studio",
    kinds={"deltalake", "opencv"},
    owners=["team:machine-learning"],
    metadata=static_metadata(JUDGE_REPORTS),
    required_resource_keys={"lake", "isr", "judge_report"},
)
def judge_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Measure the judge on one batch."""
    from models.judges.base import JudgeError
    from models.vlm.client import VlmError
    from pipelines.evaluation.judges.cases import NothingToJudge
    from pipelines.evaluation.judges.markdown import agreement_markdown
    from pipelines.evaluation.judges.report import evaluate_judge
    from pipelines.previews import judge_plots as plots
    from pipelines.stage import digest

    store, resources = context.resources.lake.store(), context.resources
    with steps_progress(context, "judge_report") as show:
        try:
            report = evaluate_judge(
                store,
                context.partition_key,
                resources.isr.build(),
                resources.judge_report.build(),
                commit=Commit(context.run.run_id),
                on_case=show,
            )
        except (NothingToJudge, JudgeError, VlmError) as e:
            raise dg.Failure(str(e), allow_retries=False) from e
    assert report.table_version is not None
    kappas = {p: report.of("kappa", p) for p in report.pictures}
    pictures = {
        "agreement_picture": plots.agreement_picture(report),
        "confusion": plots.confusion_picture(report),
        "scores": plots.scores_picture(report),
    }
    return dg.MaterializeResult(
        metadata=table_metadata(store, JUDGE_REPORTS, report.table_version, len(report.rows))
        | {f"kappa_{p}": row["value"] for p, row in kappas.items() if row and row["value"] is not None}
        | {
            "judge": report.judge,
            "judge_digest": report.judge_digest,
            "held_back": report.held_back,
            "cases": len(report.cases),
            "agreement": dg.MetadataValue.md(agreement_markdown(report)),
        }
        | {name: picture(image) or "nothing to show" for name, image in pictures.items()},
        data_version=dg.DataVersion(
            digest([(r["pictures"], r["metric"], r["split"], r["value"]) for r in report.rows])[:32]
        ),
    )
