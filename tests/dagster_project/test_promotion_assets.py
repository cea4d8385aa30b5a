"""`leaderboard` and `promotions` as assets, the alerts, and the commands about checkpoints."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.storage.tags import PARENT_RUN_ID_TAG, ROOT_RUN_ID_TAG
from typer.testing import CliRunner

from assets.alerts import judge_is_validated, no_batch_left_behind
from assets.metadata import upstream_metadata
from assets.promotion import promotion_assets
from dagster_project.build import build_defs
from dagster_project.cli import app
from dagster_project.resources import LakeResource, settings_resource
from dagster_project.terminal import console
from pipelines.checkpoints.current import current_id, decisions
from pipelines.evaluation.ablation import read_ablations
from pipelines.evaluation.leaderboard import write_leaderboard
from pipelines.evaluation.promotion import promote
from pipelines.evaluation.settings import LeaderboardSettings
from pipelines.ingest.private import private_batch
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import LEADERBOARD, STAGE_STATUS, VIDEOS
from tests.pipelines.scored_checkpoints import add_checkpoint, add_training_set
from tests.pipelines.test_ablation_rows import write_result


def evaluated(instance: dg.DagsterInstance, checkpoint_id: str) -> None:
    event = dg.AssetMaterialization("isr_scores", metadata={"checkpoint_id": checkpoint_id})
    instance.report_runless_asset_event(event)


def decide(store: DeltaStore, instance: dg.DagsterInstance, **settings) -> dg.ExecuteInProcessResult:
    resources = {
        "lake": LakeResource(root=store.root),
        "leaderboard": settings_resource(LeaderboardSettings)(**settings),
    }
    return dg.materialize(promotion_assets, resources=resources, instance=instance, raise_on_error=False)


def test_candidates_are_promoted_or_fail_the_blocking_check(lake: DeltaStore):
    add_training_set(lake)
    add_checkpoint(lake, "good", verdicts=[True] * 30)
    add_checkpoint(lake, "bad", verdicts=[False] * 30, number=1)
    with dg.DagsterInstance.ephemeral() as instance:
        evaluated(instance, "good")
        result = decide(lake, instance)
        assert result.success and current_id(lake) == "good"
        (event,) = result.asset_materializations_for_node("leaderboard")
        table = event.metadata["leaderboard"].value
        assert table.splitlines()[2].startswith("| good") and "| bad" in table
        row = decisions(lake)[0]
        assert row["run_id"] == result.run_id
        assert lake.read(LEADERBOARD, where={"checkpoint_id": "good"})["is_current"].to_pylist() == [True]
        # The same again decides nothing anew.
        assert decide(lake, instance).success and len(decisions(lake)) == 1

        evaluated(instance, "bad")
        result = decide(lake, instance)
        (check,) = result.get_asset_check_evaluations()
        assert not check.passed and check.blocking and "worse beyond the confidence intervals" in check.description
        assert not result.success and current_id(lake) == "good"
        assert [d["kind"] for d in decisions(lake)] == ["promoted", "kept"]


def test_a_run_means_what_it_materialised_itself_whatever_others_did_meanwhile():
    """Between two steps another run materialises the asset; a run started again from its failed step is still one."""
    asked, fails = [], [True]

    @dg.asset
    def isr_scores() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"checkpoint_id": "own"})

    @dg.asset(deps=[isr_scores])
    def promotions(context) -> None:
        evaluated(context.instance, "other")
        asked.append(upstream_metadata(context, "isr_scores", "checkpoint_id"))
        if fails:
            raise dg.Failure(f"attempt {len(asked)}", allow_retries=False)

    job = dg.Definitions([isr_scores, promotions], jobs=[dg.define_asset_job("both")]).resolve_job_def("both")
    with dg.DagsterInstance.ephemeral() as instance:
        first = job.execute_in_process(instance=instance, raise_on_error=False)
        for parent in (first.run_id, None):
            tags = {} if parent is None else {PARENT_RUN_ID_TAG: parent, ROOT_RUN_ID_TAG: parent}
            job.execute_in_process(instance=instance, tags=tags, asset_selection=[promotions.key], raise_on_error=False)
    assert asked == ["own", "own", "other"]


def test_everything_a_user_runs_by_hand_leaves_decisions_alone():
    defs = build_defs()
    promotions = dg.AssetKey("promotions")
    inside = {
        name: promotions in defs.resolve_job_def(name).asset_layer.executable_asset_keys
        for name in ("everything", "model", "promote", "retrain")
    }
    assert inside == {"everything": False, "model": False, "promote": True, "retrain": True}
    graph = defs.resolve_asset_graph()
    for key in graph.executable_asset_keys:
        node = graph.get(key)
        if node.is_partitioned:
            assert node.backfill_policy == dg.BackfillPolicy.multi_run(1), key
        else:
            assert node.freshness_policy is not None, key


def test_alerts_name_what_is_wrong(lake: DeltaStore):
    lake_resource = LakeResource(root=lake.root)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_asset_check_context(resources={"lake": lake_resource}, instance=instance)
        assert no_batch_left_behind(context).passed
        video = {"batch": "b1", "video_id": "v", "source_path": "v.mp4", "status": "ok", "fingerprint": "f"}
        lake.replace(VIDEOS, pa.Table.from_pylist([video], VIDEOS.schema), {"batch": "b1"}, Commit())
        assert no_batch_left_behind(context).passed, "not annotated yet is no failure"
        status = {"batch": "b1", "video_id": "v", "stage": "pose", "status": "error", "reason": "nobody in it"}
        write_status(lake, status)
        private = private_batch("0" * 64, ".mp4")
        for batch, states in (("b2", ("ok", "error")), ("b3", ("error",)), (private, ("error",))):
            rows = [video | {"batch": batch, "video_id": s, "status": s, "reason": "has no frames"} for s in states]
            lake.replace(VIDEOS, pa.Table.from_pylist(rows, VIDEOS.schema), {"batch": batch}, Commit())
        result = no_batch_left_behind(context)
        named = {"b1": "pose: nobody in it", "b3": "videos: has no frames"}
        assert not result.passed and result.metadata["batches"].value == named
        assert result.severity == dg.AssetCheckSeverity.WARN

        add_training_set(lake)
        add_checkpoint(lake, "mute", verdicts=[True, None, None], kappa=None)
        add_checkpoint(lake, "fine", verdicts=[True, False], kappa=0.8)
        evaluated(instance, "mute")
        result = judge_is_validated(context)
        assert not result.passed and "never validated" in result.description and "1 of 3" in result.description
        evaluated(instance, "fine")
        result = judge_is_validated(context)
        assert result.passed and "kappa 0.80; 2 of 2" in result.description


def test_a_batch_that_failed_is_told_once_and_again_when_it_is_mended(lake: DeltaStore):
    """Ticks as the daemon makes them: the cursor goes on, and each request is one run of the check."""
    defs = build_defs({"lake": LakeResource(root=lake.root)})
    sensor = next(s for s in defs.sensors if s.name == "failed_batches")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    with dg.DagsterInstance.ephemeral() as instance:
        cursor = None

        def tick() -> list[dg.RunRequest]:
            nonlocal cursor
            context = dg.build_sensor_context(instance, cursor, resources={"lake": LakeResource(root=lake.root)})
            data = sensor.evaluate_tick(context)
            cursor = data.cursor or cursor
            return data.run_requests

        assert tick() == [] and tick() == []
        video = {"batch": "b1", "video_id": "v", "source_path": "v.mp4", "status": "ok", "fingerprint": "f"}
        lake.replace(VIDEOS, pa.Table.from_pylist([video], VIDEOS.schema), {"batch": "b1"}, Commit())
        assert tick() == [], "not annotated yet is no failure"
        status = {"batch": "b1", "video_id": "v", "stage": "pose"}
        passed, keys = [], []
        for change in ({"status": "error", "reason": "nobody in it"}, {"status": "ok"}):
            write_status(lake, status | change)
            (request,) = tick()
            keys.append(request.run_key)
            assert tick() == [], "one cause, one run"
            result = defs.resolve_job_def("alerts").execute_in_process(instance=instance)
            (evaluation,) = result.get_asset_check_evaluations()
            assert evaluation.check_name == "no_batch_left_behind" and result.success
            passed.append(evaluation.passed)
        assert passed == [False, True] and len(set(keys)) == 2
        assert not result.asset_materializations_for_node("training_set")


def write_status(store: DeltaStore, row: dict) -> None:
    defaults = {"rows": 0, "frames": 0, "seconds": 0.0, "model_seconds": 0.0, "fingerprint": "f", "run_id": ""}
    where = {k: row[k] for k in STAGE_STATUS.partition_by}
    full = defaults | row | {"created_at": datetime.now(UTC)}
    store.replace(STAGE_STATUS, pa.Table.from_pylist([full], STAGE_STATUS.schema), where, Commit())


@pytest.fixture
def command(lake: DeltaStore, monkeypatch):
    monkeypatch.setenv("ITRYON_LAKE", lake.root)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)

    def run(*arguments: str):
        return CliRunner().invoke(app, list(arguments))

    return run


def test_the_command_line_lists_goes_back_and_reports(lake: DeltaStore, command, tmp_path):
    assert "itryon train" in command("leaderboard").output
    add_training_set(lake)
    add_checkpoint(lake, "a1", verdicts=[True] * 9)
    add_checkpoint(lake, "b2", verdicts=[True] * 9, number=1)
    write_leaderboard(lake)
    promote(lake, "a1")
    promote(lake, "b2")
    listed = json.loads(command("leaderboard", "--json").output)
    assert {r["checkpoint_id"]: r["is_current"] for r in listed} == {"a1": False, "b2": True}
    done = command("rollback")
    assert done.exit_code == 0 and "current checkpoint: a1 (before: b2)" in done.output
    assert current_id(lake) == "a1"
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("promotions"))
        assert event.asset_materialization.metadata["current_checkpoint_id"].value == "a1"
    refused = command("rollback")
    assert refused.exit_code == 1 and "nothing to go back to" in refused.output.replace("\n", " ")
    done = command("report", "--checkpoint", "current", "--out", str(tmp_path / "page"))
    assert done.exit_code == 0 and "Checkpoint a1" in (tmp_path / "page" / "index.html").read_text()
    assert command("retrain").exit_code == 1


def test_results_of_an_ablation_are_shown_beside_checkpoints_and_decide_nothing(
    lake: DeltaStore, command, monkeypatch, tmp_path
):
    add_training_set(lake)
    add_checkpoint(lake, "good", verdicts=[True] * 9)
    results = tmp_path / "results"
    results.mkdir()
    for seed in (0, 1):
        write_result(results, "e", seed, title="all modules")
    board = dg.AssetKey("leaderboard")
    with dg.DagsterInstance.ephemeral() as instance:
        evaluated(instance, "good")
        assert decide(lake, instance).success
        before = instance.get_latest_materialization_event(board).asset_materialization
        result = decide(lake, instance, ablation_results=[str(results)])
        assert result.success and current_id(lake) == "good"
        made = instance.get_latest_materialization_event(board).asset_materialization
        shown = made.metadata["leaderboard"].value
        assert "| good" in shown and "| e: all modules | 0, 1 | 67 % (" in shown
        assert made.metadata["ablation_rows"].value == 1 and made.metadata["dagster/row_count"].value == 1
        assert made.tags["dagster/data_version"] != before.tags["dagster/data_version"]
        # Once taken in, the rows stay without the files being named again.
        decide(lake, instance)
        again = instance.get_latest_materialization_event(board).asset_materialization
        assert again.metadata["leaderboard"].value == shown and again.tags["dagster/data_version"] == made.tags[
            "dagster/data_version"
        ]  # fmt: skip
        refused = decide(lake, instance, ablation_results=[str(tmp_path / "nowhere")])
        assert not refused.success
        (failure,) = refused.filter_events(lambda e: e.is_step_failure)
        assert "make ablation" in failure.event_specific_data.error_display_string
    listed = json.loads(command("leaderboard", "--json").output)
    assert [(r["kind"], r.get("checkpoint_id"), r.get("row")) for r in listed] == [
        ("checkpoint", "good", None),
        ("ablation", None, "e"),
    ]
    write_result(results, "a", weights_sha256="0" * 64)
    monkeypatch.setattr(console, "width", 240)
    printed = command("leaderboard", "--ablation", str(results / "a-0.json")).output
    assert "00000000" in printed and "never promoted" in printed and "good" in printed
    assert [r["row"] for r in read_ablations(lake)] == ["e"], "the command shows files, it does not take them in"
    wrong = command("leaderboard", "--ablation", str(tmp_path / "nowhere"))
    assert wrong.exit_code == 1 and "make ablation" in wrong.output.replace("\n", " ")
