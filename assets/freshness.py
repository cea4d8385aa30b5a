"""How old what the model half makes may be before the UI warns. Annotations follow their batches and have no age."""

from datetime import timedelta

import dagster as dg

MODEL_FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=30), warn_window=timedelta(days=14))
"""Videos keep coming: a model that nobody retrained or compared for two weeks falls behind them."""
FRESH_GROUPS = ("training", "tryon", "evaluation", "promotion")


def with_freshness(spec: dg.AssetSpec) -> dg.AssetSpec:
    """The spec with the policy of its group."""
    return spec.replace_attributes(freshness_policy=MODEL_FRESHNESS) if spec.group_name in FRESH_GROUPS else spec
