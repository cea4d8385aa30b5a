"""`judge_report`: the judge of interactions measured on a rendered batch whose truth is known."""

import dagster as dg

from assets.report import measuring, report_asset, report_result
from pipelines.evaluation.judges.settings import CODE_VERSION
from pipelines.store import Commit
from pipelines.store.studio_schemas import JUDGE_REPORTS, STUDIO_CLIPS, STUDIO_FRAMES


@report_asset(
    JUDGE_REPORTS,
    deps=["pose", "hands", "agnostic_masks", STUDIO_CLIPS.name, STUDIO_FRAMES.name],
    description="The judge that `isr` names, on cases with known truth: interactions done, left undone, mimed, "
    "captioned as another action, and asked for at a time when nothing happens. Accuracy, Cohen's kappa, confusion by "
    "action.\n\nNeeds a batch rendered with `undone`. Single verdicts are in the table `judge_cases`.",
    code_version=CODE_VERSION,
    resources=["isr", "judge_report"],
)
def judge_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Measure the judge on one batch."""
    from models.judges.base import JudgeError
    from models.vlm.client import VlmError
    from pipelines.evaluation.judges.cases import NothingToJudge
    from pipelines.evaluation.judges.markdown import agreement_markdown
    from pipelines.evaluation.judges.report import evaluate_judge
    from pipelines.previews import judge_plots as plots

    store, resources = context.resources.lake.store(), context.resources
    with measuring(context, "judge_report", NothingToJudge, JudgeError, VlmError) as show:
        report = evaluate_judge(
            store,
            context.partition_key,
            resources.isr.build(),
            resources.judge_report.build(),
            commit=Commit(context.run.run_id),
            on_case=show,
        )
    kappas = {p: report.of("kappa", p) for p in report.pictures}
    figures = {f"kappa_{p}": row["value"] for p, row in kappas.items() if row and row["value"] is not None} | {
        "judge": report.judge,
        "judge_digest": report.judge_digest,
        "held_back": report.held_back,
        "cases": len(report.cases),
        "agreement": dg.MetadataValue.md(agreement_markdown(report)),
    }
    pictures = {
        "agreement_picture": plots.agreement_picture(report),
        "confusion": plots.confusion_picture(report),
        "scores": plots.scores_picture(report),
    }
    contents = [(r["pictures"], r["metric"], r["split"], r["value"]) for r in report.rows]
    return report_result(store, JUDGE_REPORTS, report, figures, pictures, contents)
