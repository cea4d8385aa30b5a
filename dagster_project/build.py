"""One factory for the definitions: the code location, the command line and the tests all use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from pydantic import BaseModel

from assets.alerts import alert_checks
from assets.annotations import annotation_assets
from assets.annotator_report import annotator_report
from assets.evaluation import evaluation_assets
from assets.freshness import with_freshness
from assets.ingest import ingest
from assets.judge_report import judge_report
from assets.promotion import promotion_assets
from assets.studio import studio
from assets.training import training_assets
from assets.tryon import tryon_assets
from dagster_project.alerting import alerts, failed_batches
from dagster_project.jobs import all_jobs
from dagster_project.launchers import TrainerLauncher
from dagster_project.maintenance import maintenance, maintenance_schedule
from dagster_project.resources import LakeResource, settings_resource
from dagster_project.retraining import retraining_schedule, retraining_sensor
from dagster_project.sensors import landing_zone
from dagster_project.settings_file import build_settings, configured
from pipelines.checkpoints.settings import TrainingSettings
from pipelines.evaluation.judges.settings import JudgeReportSettings
from pipelines.evaluation.settings import EvaluationSettings, IsrSettings, LeaderboardSettings
from pipelines.ingest.settings import IngestSettings
from pipelines.registry import STAGES
from pipelines.stage import WorkerSettings
from pipelines.store.retention import RetentionSettings
from pipelines.studio.settings import StudioSettings
from pipelines.training_sets.settings import RetrainingSettings, TrainingSetSettings
from pipelines.tryon.settings import TryOnSettings

SETTINGS: dict[str, type[BaseModel]] = {
    "workers": WorkerSettings,
    "studio": StudioSettings,
    "ingest": IngestSettings,
    **{name: entry.settings for name, entry in STAGES.items()},
    "training_set": TrainingSetSettings,
    "training": TrainingSettings,
    "tryon": TryOnSettings,
    "evaluation": EvaluationSettings,
    "isr": IsrSettings,
    "judge_report": JudgeReportSettings,
    "leaderboard": LeaderboardSettings,
    "retraining": RetrainingSettings,
    "retention": RetentionSettings,
}
"""Resource key -> settings model. A backend is chosen in the settings of its family."""


def build_defs(overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """All assets, jobs, sensors and resources.

    Args:
        overrides: Resource key -> resource that replaces the default one.

    Raises:
        dagster_project.settings_file.SettingsError: The file that `ITRYON_CONFIG` names cannot be used.
    """
    values = configured([*SETTINGS, "pipes"])
    settings = build_settings(values, SETTINGS)
    resources: dict[str, Any] = {
        "lake": LakeResource.configure_at_launch(),
        "pipes": TrainerLauncher.configure_at_launch(**values.get("pipes", {})),
        **{key: settings_resource(model).configure_at_launch(**values.get(key, {})) for key, model in SETTINGS.items()},
    }
    assets = [
        studio,
        ingest,
        *annotation_assets,
        annotator_report,
        judge_report,
        *training_assets,
        *tryon_assets,
        *evaluation_assets,
        *promotion_assets,
    ]
    return dg.Definitions(
        assets=dg.map_asset_specs(with_freshness, assets),
        jobs=[*all_jobs, alerts, maintenance],
        asset_checks=alert_checks,
        sensors=[landing_zone, retraining_sensor, failed_batches],
        schedules=[
            retraining_schedule(settings["retraining"].cron),
            maintenance_schedule(settings["retention"].cron),
        ],
        resources={**resources, **(overrides or {})},
    )
