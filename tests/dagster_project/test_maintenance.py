"""The lake's maintenance as a job, a schedule and a command."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from dagster_project.build import build_defs
from dagster_project.cli import app
from pipelines.store import DeltaStore
from tests.pipelines.test_retention import Pin, make_old, put_clips, there


@pytest.fixture
def churned(lake: DeltaStore, monkeypatch: pytest.MonkeyPatch) -> tuple[DeltaStore, Pin, str]:
    """A lake with a pinned set, and a blob that nothing names since last year."""
    monkeypatch.setenv("ITRYON_LAKE", lake.root)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    put_clips(lake, "a", ["one"])
    pin = Pin(lake)
    put_clips(lake, "a", ["two"])
    stray = lake.blobs.put_bytes(b"stray", ".bin")
    make_old(lake)
    return lake, pin, stray


def test_the_job_keeps_what_is_pinned_and_tells_what_it_removed(churned):
    lake, pin, stray = churned
    job = build_defs().resolve_job_def("maintenance")
    blobs = there(lake)
    with dg.DagsterInstance.ephemeral() as instance:
        shown = job.execute_in_process(
            instance=instance, run_config={"resources": {"retention": {"config": {"dry_run": True}}}}
        )
        assert shown.output_for_node("tidy_lake")["removed_blobs"] == 1 and there(lake) == blobs
        result = job.execute_in_process(instance=instance)
    report = result.output_for_node("tidy_lake")
    assert report["removed_blobs"] == 1 and there(lake) == blobs - {stray}
    (event,) = [e for e in result.all_events if e.event_type == dg.DagsterEventType.STEP_OUTPUT]
    metadata = event.event_specific_data.metadata
    assert metadata["removed_blobs"].value == 1 and metadata["kept_versions"].data == {"clips": [pin.version]}
    pin.check()


def test_the_schedule_is_off_and_runs_the_job(churned):
    (schedule,) = [s for s in build_defs().schedules if s.name == "maintenance_schedule"]
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert (schedule.job_name, schedule.cron_schedule) == ("maintenance", "0 4 * * 0")


def test_the_command_tells_and_then_removes(churned):
    lake, pin, stray = churned
    shown = CliRunner().invoke(app, ["tidy", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "1 of 6 blobs would be removed" in shown.output and lake.blobs.exists(stray)
    done = CliRunner().invoke(app, ["tidy", "--days", "14"])
    assert done.exit_code == 0, done.output
    assert "1 of 6 blobs removed" in done.output and "'clips': 1" in done.output
    assert not lake.blobs.exists(stray)
    pin.check()


def test_too_few_days_and_damaged_manifests_are_refused_with_a_reason(churned):
    lake, pin, stray = churned
    few = CliRunner().invoke(app, ["tidy", "--days", "3"])
    assert few.exit_code == 1 and "greater than or equal to 14" in few.output
    manifest = Path(lake.root) / pin.row["manifest_uri"]
    manifest.write_bytes(b"damaged")
    os.utime(manifest, (0, 0))
    damaged = CliRunner().invoke(app, ["tidy"])
    assert damaged.exit_code == 1 and "damaged" in damaged.output
    assert lake.blobs.exists(stray)
