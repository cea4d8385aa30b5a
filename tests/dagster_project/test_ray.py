"""Two nodes of a Ray cluster on this machine: annotation runs that write the same tables, and a training run.

Skipped where Ray is not installed: `pip install 'itryon-pipeline[ray]'`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.partitions import BATCHES
from dagster_project.launchers import TrainerLauncher
from pipelines.checks import check_stage
from pipelines.ingest.landing import land
from pipelines.registry import STAGES
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import CHECKPOINTS, HANDS, POSE, STAGE_STATUS, VIDEOS
from tests.conftest import REPOSITORY
from tests.dagster_project import test_training_asset
from tests.pipelines.media import dancer_frames, write_frames

# Found but not imported: Ray reads its patience from the environment when it is.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("ray", "dagster_ray", "aiohttp_cors")),
        reason="Ray is not installed: pip install 'itryon-pipeline[ray]'",
    ),
]

FRAMES = 24
PATIENCE_S = 1500
ENVIRONMENT = {
    # Jobs find the project and `dagster` by them.
    "PYTHONPATH": str(REPOSITORY),
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "RAY_USAGE_STATS_ENABLED": "0",
    # Agents take 127.0.0.1 for the address of this machine in a network, where nobody listens: all of them wait then,
    # and every job is refused. With this, as Ray has it on other systems, loopback stays loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The others keep a busy machine from being taken for a broken cluster.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "600",
    "RAY_DASHBOARD_GCS_RPC_TIMEOUT_SECONDS": "300",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_health_check_failure_threshold": "100",
    "RAY_JOB_START_TIMEOUT_SECONDS": "1200",
}
NODE: dict[str, Any] = {
    "num_cpus": 1,
    "num_gpus": 0,
    "object_store_memory": 100 << 20,
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
}
store, recipe = test_training_asset.store, test_training_asset.recipe


PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def node(**more: Any) -> dict[str, Any]:
    """Options of a node. Ports are chosen here, since a node whose agents choose them waits for those 15 s only."""
    return NODE | dict(zip(PORTS, free_ports(len(PORTS)))) | more


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """HTTP address of a cluster of two nodes, each with room for one job."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        (port,) = free_ports(1)
        head = node(include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=port)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(**node())
            cluster.wait_for_nodes(timeout=300)
            yield when_it_takes_jobs(f"http://{cluster.webui_url}")
        finally:
            cluster.shutdown()


def when_it_takes_jobs(address: str) -> str:
    """The address, once agents of the nodes are there: until then jobs are refused."""
    from ray.job_submission import JobSubmissionClient

    deadline = time.time() + PATIENCE_S
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return address
        except (RuntimeError, ConnectionError):
            if time.time() > deadline:
                raise
            time.sleep(2)


def wait_for(runs: list[str], instance: dg.DagsterInstance, address: str) -> list[dg.DagsterRun]:
    """The runs, once they are finished; a job that ended without finishing its run fails the test with its log."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(address)
    deadline = time.time() + PATIENCE_S
    while time.time() < deadline:
        found = [run for run_id in runs if (run := instance.get_run_by_id(run_id))]
        if len(found) == len(runs) and all(run.is_finished for run in found):
            return found
        for run in runs:
            if client.get_job_status(f"dagster-run-{run}") == JobStatus.FAILED:
                raise AssertionError(client.get_job_logs(f"dagster-run-{run}")[-3000:])
        time.sleep(2)
    raise AssertionError(f"still running: {[(r.run_id, r.status) for r in found]}")


def test_runs_on_two_nodes_write_the_same_tables_without_loss(address, lake, tmp_path, monkeypatch):
    from ray.job_submission import JobSubmissionClient

    batches = {"b1": 100, "b2": 160}
    for batch, start in batches.items():
        folder = tmp_path / batch
        folder.mkdir()
        write_frames(folder / f"{batch}.mp4", dancer_frames(start, FRAMES))
        land(folder, lake, batch)

    home = tmp_path / "home"
    home.mkdir()
    configuration = yaml.safe_load((REPOSITORY / "dagster_project" / "dagster.yaml").read_text())
    launcher = yaml.safe_load((REPOSITORY / "deploy" / "ray" / "dagster.yaml").read_text())["run_launcher"]
    monkeypatch.setenv("RAY_ADDRESS", address)
    launcher["config"]["ray"]["num_cpus"] = 1
    # No daemon takes runs out of a queue here.
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    configuration |= {"run_launcher": launcher, "run_coordinator": coordinator}
    (home / "dagster.yaml").write_text(yaml.safe_dump(configuration))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("ITRYON_LAKE", lake.root)

    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions(BATCHES, list(batches))
        resources = {"workers": {"config": {"workers": 1}}, "ingest": {"config": {"workers": 1}}}
        config = json.dumps({"execution": {"config": {"in_process": {}}}, "resources": resources})
        for batch in batches:
            command = [sys.executable, "-m", "dagster", "job", "launch", "-w", "workspace.yaml", "-j", "annotate"]
            command += ["--tags", json.dumps({"dagster/partition": batch}), "--config-json", config]
            done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
        runs = [r.run_id for r in instance.get_runs(dg.RunsFilter(job_name="annotate"))]
        assert len(runs) == len(batches)
        finished = wait_for(runs, instance, address)
        logs = [str(JobSubmissionClient(address).get_job_logs(f"dagster-run-{r}"))[-2000:] for r in runs]
        assert [r.status for r in finished] == [dg.DagsterRunStatus.SUCCESS] * 2, "\n".join(logs)
        times = [instance.get_run_stats(r) for r in runs]
        assert max(t.start_time for t in times) < min(t.end_time for t in times), "they ran one after the other"
        jobs = [JobSubmissionClient(address).get_job_info(f"dagster-run-{r}") for r in runs]
        assert len({j.driver_node_id for j in jobs}) == 2, "they ran on one node"

    assert_nothing_lost_or_doubled(lake, set(runs), batches)


def assert_nothing_lost_or_doubled(lake: DeltaStore, runs: set[str], batches: dict[str, int]) -> None:
    videos = lake.read(VIDEOS, ["batch", "video_id", "num_frames", "status"]).to_pylist()
    assert Counter((v["batch"], v["status"], v["num_frames"]) for v in videos) == {
        (b, "ok", FRAMES): 1 for b in batches
    }
    every_frame = {(v["batch"], v["video_id"], f) for v in videos for f in range(FRAMES)}
    for name in ("pose", "agnostic_masks"):
        rows = lake.read(TABLES[name], ["batch", "video_id", "frame"]).to_pylist()
        assert Counter(tuple(r.values()) for r in rows) == dict.fromkeys(every_frame, 1), name
    hands = Counter(
        tuple(r.values()) for r in lake.read(HANDS, ["batch", "video_id", "frame", "handedness"]).to_pylist()
    )
    assert hands and set(hands.values()) == {1}
    status = lake.read(STAGE_STATUS).to_pylist()
    assert Counter((s["batch"], s["stage"], s["status"]) for s in status) == {
        (b, stage, "ok"): 1 for b in batches for stage in STAGES
    }
    for entry in status:
        rows = lake.read(TABLES[entry["stage"]], ["fingerprint"], {"batch": entry["batch"]})
        assert rows["fingerprint"].to_pylist() == [entry["fingerprint"]] * entry["rows"], entry["stage"]
        assert all(o.passed for o in check_stage(lake, TABLES[entry["stage"]], entry["batch"]))
    # Every commit of either run is in the history, and no other.
    for spec in (VIDEOS, POSE, HANDS, *(TABLES[s] for s in STAGES)):
        writers = [h["itryon/run_id"] for h in lake.open(spec).history() if h.get("itryon/run_id")]
        assert sorted(writers) == sorted(runs), spec.name


def test_the_trainer_runs_as_a_job_of_the_cluster(address, store, recipe):
    pipes = TrainerLauncher(backend="ray", python=sys.executable, ray_address=address, ray_gpus=0)
    with dg.DagsterInstance.ephemeral() as instance:
        result = test_training_asset.run(store, instance, pipes, recipe=recipe)
        assert result.success
        (event,) = result.asset_materializations_for_node("itryon_checkpoint")
    (row,) = store.read(CHECKPOINTS).to_pylist()
    assert event.metadata["checkpoint_id"].value == row["checkpoint_id"] and row["steps"] == 3
    assert (Path(store.root) / row["uri"] / "transformer" / "config.json").is_file()
    from ray.job_submission import JobStatus, JobSubmissionClient

    jobs = [j for j in JobSubmissionClient(address).list_jobs() if "models.training" in j.entrypoint]
    assert [j.status for j in jobs] == [JobStatus.SUCCEEDED]
