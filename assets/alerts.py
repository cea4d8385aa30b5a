"""Warnings about the lake as a whole: checks that stop nothing and are looked at in the UI, or by whoever is alerted.

They are on assets without partitions, where checks of this kind are stable; batches have theirs inline.
"""

import dagster as dg


@dg.asset_check(
    asset="training_set",
    name="no_batch_left_behind",
    description="No batch failed as a whole on its way to clips; those that did are named with stage and reason",
    required_resource_keys={"lake"},
)
def no_batch_left_behind(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Name batches that cannot be trained on."""
    from pipelines.checks import batches_without_clips

    missing = batches_without_clips(context.resources.lake.store())
    names = ", ".join(sorted(missing))
    return dg.AssetCheckResult(
        passed=not missing,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"failed as a whole: {names}" if missing else "none failed as a whole",
        metadata={"batches": dg.MetadataValue.json(missing)},
    )


@dg.asset_check(
    asset="isr_scores",
    name="judge_is_validated",
    description="The judge of the success rate was measured against known truth, and answers most questions",
    required_resource_keys={"lake"},
)
def judge_is_validated(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Warn of a success rate that nobody can rely on."""
    from assets.metadata import check_results
    from pipelines.checks import check_judge

    event = context.instance.get_latest_materialization_event(dg.AssetKey("isr_scores"))
    if event is None or event.asset_materialization is None:
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="never materialised")
    checkpoint_id = str(event.asset_materialization.metadata["checkpoint_id"].value)
    (result,) = check_results([check_judge(context.resources.lake.store(), checkpoint_id)], "isr_scores")
    return result


alert_checks = [no_batch_left_behind, judge_is_validated]
