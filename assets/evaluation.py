"""`video_metrics` and `isr_scores`: how good the try-on videos of a checkpoint are, and whether hands still act."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import picture, reasons, static_metadata, table_metadata, upstream_metadata
from assets.progress import steps_progress
from pipelines.evaluation.settings import ISR_VERSION, METRICS_VERSION
from pipelines.evaluation.shown import interval_shown
from pipelines.store import Commit
from pipelines.store.schemas import ISR_SCORES, VIDEO_METRICS

if TYPE_CHECKING:
    from pipelines.evaluation.rates import Rate

_MOST_CLIPS = 40
"""Try-on videos whose rates are shown with a run; all verdicts are in the table."""

_COMMON: dict[str, Any] = {
    "group_name": "evaluation",
    "owners": ["team:machine-learning"],
}


@dg.asset(
    deps=["tryon_videos", "videos"],
    description="How good try-on videos look. Against their sources, where the garment is the one worn anyway: SSIM "
    "(similarity, 1 is best) and LPIPS (perceptual distance, 0 is best). As sets, paired and unpaired: VFID and FVD "
    "(distances between features of made and of real videos, 0 is best).\n\n"
    "One row: a metric of a video or of the set. One that cannot be computed is null with the reason.",
    kinds={"deltalake", "pytorch"},
    metadata=static_metadata(VIDEO_METRICS),
    required_resource_keys={"lake", "evaluation"},
    code_version=METRICS_VERSION,
    **_COMMON,
)
def video_metrics(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Measure the try-on videos made last."""
    from pipelines.evaluation.metrics import NothingToEvaluate, evaluate_checkpoint
    from pipelines.evaluation.values import markdown_table
    from pipelines.stage import digest

    store = context.resources.lake.store()
    checkpoint_id = upstream_metadata(context, "tryon_videos", "checkpoint_id")
    with steps_progress(context, "video_metrics") as show:
        done = 0

        def on_video(name: str) -> None:
            nonlocal done
            done += 1
            show(name, done, None)

        try:
            report = evaluate_checkpoint(
                store,
                context.resources.evaluation.build(),
                checkpoint_id,
                commit=Commit(context.run.run_id, METRICS_VERSION),
                on_video=on_video,
            )
        except NothingToEvaluate as e:
            raise dg.Failure(str(e), allow_retries=False) from e
    rows = store.read(VIDEO_METRICS, where={"checkpoint_id": checkpoint_id})
    values = {m.metric: round(m.value, 4) for m in report.whole if m.value is not None}
    missing = {m.metric: m.reason or "no reason given" for m in report.whole if m.value is None}
    notes = {m.metric: m.note for m in report.whole if m.value is not None and m.note}
    return dg.MaterializeResult(
        metadata={
            "metrics": dg.MetadataValue.md(markdown_table(report)),
            "checkpoint_id": checkpoint_id,
            "mode": report.mode,
            **values,
            "notes": reasons("metric", notes),
            "not_computed": reasons("metric", missing),
            "left_out": reasons("video", report.left_out),
            **table_metadata(store, VIDEO_METRICS, store.version(VIDEO_METRICS), rows.num_rows),
        },
        data_version=dg.DataVersion(digest(rows.select(["tryon_id", "metric", "mode", "value"]).to_pylist())[:32]),
    )


@dg.asset(
    deps=["tryon_videos", "captions", "hands", "agnostic_masks"],
    description="Whether each captioned interaction, such as zipping, still happens in the try-on video, and the share "
    "in which it does: the interaction success rate (ISR).\n\n"
    "One row: the verdict on one interaction. The rate comes with the agreement of its judge with known truth (Cohen's "
    "kappa, 1 is perfect, 0 is chance), from the newest `judge_report` of exactly this judge.",
    kinds={"deltalake", "opencv"},
    metadata=static_metadata(ISR_SCORES),
    required_resource_keys={"lake", "isr"},
    code_version=ISR_VERSION,
    **_COMMON,
)
def isr_scores(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Judge the try-on videos made last."""
    from pipelines.evaluation.isr import judge_checkpoint
    from pipelines.evaluation.metrics import NothingToEvaluate
    from pipelines.stage import digest

    store = context.resources.lake.store()
    checkpoint_id = upstream_metadata(context, "tryon_videos", "checkpoint_id")
    with steps_progress(context, "isr_scores") as show:
        done = 0

        def on_verdict(row: dict) -> None:
            nonlocal done
            done += 1
            show(f"{row['action']}: {row['success']}", done, None)

        try:
            report = judge_checkpoint(
                store,
                context.resources.isr.build(),
                checkpoint_id,
                commit=Commit(context.run.run_id, ISR_VERSION),
                on_verdict=on_verdict,
            )
        except NothingToEvaluate as e:
            raise dg.Failure(str(e), allow_retries=False) from e
    # Clips in which least was done say most.
    clips = sorted(report.clips.values(), key=lambda r: (r.rate is None, r.rate or 0, r.action))[:_MOST_CLIPS]
    overall = report.rates[0]
    kappa = report.validation.kappa
    # An interaction that failed says more than one that went well.
    rows = sorted(report.rows, key=lambda r: r["success"] is not False)
    shown = [r["evidence_uri"] for r in rows if r["evidence_uri"]]
    evidence = picture(store.blobs.local_path(shown[0]).read_bytes()) if shown else "nothing was judged"
    cost = [r["cost"] for r in report.rows if r["cost"] is not None]
    return dg.MaterializeResult(
        metadata={
            "rates": _rates_table("action", report.rates),
            "clips": _rates_table("try-on video", clips),
            "evidence": evidence,
            "judge": report.judge,
            "judge_agreement": report.validation.text,
            "checkpoint_id": checkpoint_id,
        }
        | ({"isr": round(overall.rate, 4)} if overall.rate is not None else {})
        | ({"judge_kappa": round(kappa, 4)} if kappa is not None else {})
        | ({"judge_cost": sum(cost)} if cost else {})
        | table_metadata(store, ISR_SCORES, store.version(ISR_SCORES), len(report.rows)),
        data_version=dg.DataVersion(
            digest(sorted((r["tryon_id"], r["start_frame"], str(r["success"])) for r in report.rows))[:32]
        ),
    )


def _rates_table(of: str, found: "Sequence[Rate]") -> dg.MetadataValue:
    table = [f"| {of} | success rate | interval | judged | unanswered |", "|---|---|---|---|---|"]
    for r in found:
        rate = "–" if r.rate is None else f"{r.rate:.2f}"
        interval = interval_shown(r.low, r.high)
        table.append(f"| {r.action} | {rate} | {interval} | {r.judged} | {r.unanswered} |")
    return dg.MetadataValue.md("\n".join(table))


evaluation_assets = [video_metrics, isr_scores]
