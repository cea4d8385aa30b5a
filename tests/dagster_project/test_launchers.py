"""Where the trainer runs: what each client is asked for, and what is refused."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest

from dagster_project.build import build_defs
from dagster_project.launchers import TrainerLauncher
from models.training.signals import PARENT_ENV

COMMAND = [sys.executable, "-m", "models.training", "--config", "/lake/training/a b/config.json"]
EXTRAS = {"checkpoint_id": "c", "lake": "/lake"}


class Client:
    """Notes what it is made with and what it is asked to run."""

    def __init__(self, **made: Any):
        self.made = made

    def run(self, **asked: Any) -> str:
        CALLS.append((self.made, asked))
        return "done"


CALLS: list[tuple[dict, dict]] = []


@pytest.fixture(autouse=True)
def clients(monkeypatch: pytest.MonkeyPatch):
    CALLS.clear()
    for module, name in (("dagster_k8s", "PipesK8sClient"), ("dagster_ray", "PipesRayJobClient")):
        fake = ModuleType(module)
        setattr(fake, name, Client)
        monkeypatch.setitem(sys.modules, module, fake)


def launch(context: Any = "context", **config: Any) -> tuple[dict, dict]:
    assert TrainerLauncher(**config).run(context=context, command=COMMAND, extras=EXTRAS) == "done"
    (call,) = CALLS
    return call


def test_a_process_ends_with_this_one_and_has_the_time_that_saving_takes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dg, "PipesSubprocessClient", Client)
    made, asked = launch(env={"A": "1"})
    assert made["forward_termination"] and made["termination_timeout_seconds"] >= 120
    env = {"A": "1", "PATH": asked["env"]["PATH"], PARENT_ENV: str(os.getpid())}
    assert asked == {"context": "context", "command": COMMAND, "env": env, "extras": EXTRAS}


@pytest.mark.parametrize("config", [{}, {"env": {"PATH": "/opt/tools"}}])
def test_a_launcher_beside_this_python_is_found_where_nothing_is_activated(monkeypatch: pytest.MonkeyPatch, config):
    monkeypatch.setattr(dg, "PipesSubprocessClient", Client)
    monkeypatch.setenv("PATH", "/usr/bin")
    _, asked = launch(**config)
    rest = config["env"]["PATH"] if config else "/usr/bin"
    assert asked["env"]["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), rest]


def test_a_pod_gets_its_own_python_and_no_parent():
    spec = {"containers": [{"volumeMounts": [{"name": "lake", "mountPath": "/lake"}]}]}
    made, asked = launch(
        backend="kubernetes", image="itryon:1", namespace="train", pod_spec=spec, env={"A": "1"}, kube_context="gpu"
    )
    assert made == {"kube_context": "gpu"}
    assert asked == {
        "context": "context",
        "image": "itryon:1",
        "command": ["python", *COMMAND[1:]],
        "env": {"A": "1"},
        "namespace": "train",
        "base_pod_spec": spec,
        "extras": EXTRAS,
    }


def test_a_job_of_ray_gets_one_command_line():
    made, asked = launch(
        backend="ray", ray_address="http://head:8265", ray_gpus=2, python="/opt/python", env={"A": "1"}
    )
    assert made == {"address": "http://head:8265"}
    assert asked == {
        "context": "context",
        "submit_job_params": {
            "entrypoint": "/opt/python -m models.training --config '/lake/training/a b/config.json'",
            "runtime_env": {"env_vars": {"A": "1"}},
            "entrypoint_num_gpus": 2.0,
        },
        "extras": EXTRAS,
    }


def test_another_launcher_stays_as_it_is():
    command = ["accelerate", "launch", *COMMAND[1:]]
    TrainerLauncher(backend="kubernetes").run(context=None, command=command, extras=EXTRAS)
    assert CALLS[0][1]["command"] == command


@pytest.mark.parametrize("backend", ["kubernetes", "ray"])
def test_a_lake_that_the_cluster_cannot_see_is_refused(backend: str):
    with pytest.raises(dg.Failure, match=rf"{backend} needs a lake in a folder .*not s3://lake"):
        TrainerLauncher(backend=backend).run(context=None, command=COMMAND, extras=EXTRAS | {"lake": "s3://lake"})
    assert not CALLS


@pytest.mark.parametrize(
    ("backend", "module", "extra"), [("kubernetes", "dagster_k8s", "k8s"), ("ray", "dagster_ray", "ray")]
)
def test_a_client_that_is_not_installed_names_its_extra(backend: str, module: str, extra: str, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(dg.Failure, match=rf"itryon-pipeline\[{extra}\]"):
        TrainerLauncher(backend=backend).run(context=None, command=COMMAND, extras=EXTRAS)


def test_it_is_chosen_in_the_run_configuration():
    seen = []

    @dg.op(required_resource_keys={"pipes"})
    def look(context):
        seen.append(context.resources.pipes)

    @dg.job(resource_defs={"pipes": build_defs().resources["pipes"]})
    def job():
        look()

    spec = {"containers": [{"image": "i"}]}
    job.execute_in_process()
    config = {"backend": "kubernetes", "pod_spec": spec}
    job.execute_in_process(run_config={"resources": {"pipes": {"config": config}}})
    assert seen[0].backend == "process" and (seen[1].backend, seen[1].pod_spec) == ("kubernetes", spec)


@pytest.mark.parametrize(
    ("module", "name", "backend"),
    [("dagster_k8s", "PipesK8sClient", "kubernetes"), ("dagster_ray", "PipesRayJobClient", "ray")],
)
def test_the_real_clients_take_what_they_are_given(module: str, name: str, backend: str, monkeypatch):
    """Where the extras are installed."""
    monkeypatch.delitem(sys.modules, module)
    real = getattr(pytest.importorskip(module), name)
    monkeypatch.setattr(sys.modules[module], name, Client)
    made, asked = launch(backend=backend, image="i", namespace="n", pod_spec={"containers": [{}]})
    inspect.signature(real.__init__).bind(None, **made)
    inspect.signature(real.run).bind(None, **asked)
