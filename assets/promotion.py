"""`leaderboard` and `promotions`: what was measured of every checkpoint, and which one is the current one."""

from typing import Any

import dagster as dg

from assets.metadata import check_specs, static_metadata, table_metadata, upstream_metadata
from pipelines.evaluation.settings import LEADERBOARD_VERSION, PROMOTION_VERSION
from pipelines.store import Commit
from pipelines.store.schemas import LEADERBOARD, PROMOTIONS


@dg.asset(
    deps=["itryon_checkpoint", "tryon_videos", "video_metrics", "isr_scores"],
    description="All checkpoints with what was measured of them, best first: interaction success rate (ISR) with the "
    "kappa of its judge, metrics with intervals, parent, training set, and which one is the current one.\n\n"
    "One row: a checkpoint. Only rows that were evaluated on the same videos compare.",
    code_version=LEADERBOARD_VERSION,
    kinds={"deltalake"},
    metadata=static_metadata(LEADERBOARD),
    required_resource_keys={"lake"},
    group_name="evaluation",
    owners=["team:machine-learning"],
)
def leaderboard(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Gather what is known of all checkpoints."""
    from pipelines.evaluation.leaderboard import leaderboard_markdown, write_leaderboard
    from pipelines.stage import digest

    store = context.resources.lake.store()
    rows = write_leaderboard(store, Commit(context.run.run_id))
    content = [{k: v for k, v in r.items() if k not in ("created_at", "run_id", "table_versions")} for r in rows]
    shown: dict[str, Any] = {
        "leaderboard": dg.MetadataValue.md(leaderboard_markdown(rows)),
        "checkpoints": len(rows),
    }
    return dg.MaterializeResult(
        metadata=shown | table_metadata(store, LEADERBOARD, store.version(LEADERBOARD), len(rows)),
        data_version=dg.DataVersion(digest(content)[:32]),
    )


@dg.asset(
    deps=["leaderboard"],
    description="Decisions about which checkpoint is the current one. The checkpoint evaluated last (the candidate) is "
    "promoted unless its interaction success rate (ISR) or a metric falls beyond the confidence intervals of the "
    "current one.\n\nOne row: a decision with its reason. `itryon rollback` goes back.",
    code_version=PROMOTION_VERSION,
    kinds={"deltalake"},
    metadata=static_metadata(PROMOTIONS),
    check_specs=check_specs(
        "promotions", {"candidate_holds": "The checkpoint evaluated last does not fall behind the current one"}
    ),
    required_resource_keys={"lake"},
    group_name="promotion",
    owners=["team:machine-learning"],
    # One decision at a time: each builds on the one before.
    pool="promotion",
)
def promotions(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Decide on the checkpoint that was evaluated last."""
    from pipelines.checkpoints.current import current_id, decisions
    from pipelines.evaluation.promotion import PromotionError, comparison_markdown, promote

    store = context.resources.lake.store()
    candidate = upstream_metadata(context, "isr_scores", "checkpoint_id")
    try:
        decision, row = promote(store, candidate, Commit(context.run.run_id))
    except PromotionError as e:
        raise dg.Failure(str(e), allow_retries=False) from e
    current = current_id(store)
    shown: dict[str, Any] = {
        "promoted": decision.promote,
        "reason": decision.reason,
        "comparison": dg.MetadataValue.md(comparison_markdown(row)),
        "candidate": candidate,
        "current_checkpoint_id": current or "none",
    }
    return dg.MaterializeResult(
        metadata=shown | table_metadata(store, PROMOTIONS, store.version(PROMOTIONS), len(decisions(store))),
        data_version=dg.DataVersion(current or "none"),
        check_results=[
            dg.AssetCheckResult(
                check_name="candidate_holds",
                passed=decision.promote,
                description=decision.reason,
                metadata={"candidate": candidate, "current": current or "none"},
            )
        ],
    )


promotion_assets = [leaderboard, promotions]
