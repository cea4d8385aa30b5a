"""Where the trainer runs: a process of this machine, a pod of a Kubernetes cluster, or a job of a Ray cluster.

All speak Dagster Pipes, so the asset sees no difference. The clients for clusters come with the extras `k8s` and `ray`
and are imported when they are asked for. A cluster has to see the lake in the same folder as this machine, such as a
shared volume: configuration and checkpoints of a run lie in there.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from models.training.signals import PARENT_ENV


class TrainerLauncher(dg.ConfigurableResource):
    """Starts the trainer and waits for it."""

    backend: Literal["process", "kubernetes", "ray"] = Field(
        "process", description="Run on this machine, in a pod of a Kubernetes cluster, or as a job of a Ray cluster"
    )
    python: str = Field("python", description="Python on the cluster; on this machine it is this one")
    env: dict[str, str] = Field(
        {},
        description="Further environment variables of the trainer. They are stored in the run's configuration and "
        "shown in the UI: put no secrets here, but into the environment of the machine or the pod",
    )
    image: str = Field("", description="kubernetes: container image with this project; may be in pod_spec instead")
    namespace: str = Field("", description="kubernetes: namespace; the current one if empty")
    pod_spec: dict[str, Any] = Field(
        {}, description="kubernetes: pod spec to start from, with the lake's volume and the GPUs of its container"
    )
    kube_context: str = Field("", description="kubernetes: context of the kubeconfig; the current one if empty")
    ray_address: str = Field("", description="ray: HTTP address of the dashboard; RAY_ADDRESS if empty")
    ray_gpus: float = Field(1.0, ge=0, description="ray: GPUs of the job")

    def run(
        self, *, context: Any, command: Sequence[str], extras: Mapping[str, Any]
    ) -> dg.PipesClientCompletedInvocation:
        """Run the trainer to its end.

        Args:
            context: Of the asset.
            command: Command line, for this machine.
            extras: What Pipes tells the trainer; `lake` is the lake's root.

        Returns:
            What the client returns: results are in it once the trainer succeeded.

        Raises:
            dagster.Failure: A cluster cannot see the lake, or the client is not installed.
            Exception: The client's own, where the trainer failed.
        """
        if self.backend == "process":
            # A launcher such as `accelerate` lies beside this Python, also where no virtual environment is activated.
            search = [str(Path(sys.executable).parent), self.env.get("PATH", os.environ.get("PATH", os.defpath))]
            # It ends when this process is killed.
            env = {**self.env, "PATH": os.pathsep.join(search), PARENT_ENV: str(os.getpid())}
            return self._process().run(context=context, command=list(command), env=env, extras=dict(extras))
        if "://" in extras["lake"]:
            raise dg.Failure(
                f"{self.backend} needs a lake in a folder that the cluster sees too, not {extras['lake']}: mount it as "
                "a file system, or set pipes.backend to process",
                allow_retries=False,
            )
        start = self.python if command[0] == sys.executable else command[0]
        remote = [start, *command[1:]]
        if self.backend == "kubernetes":
            return self._kubernetes().run(
                context=context,
                image=self.image or None,
                command=remote,
                env=dict(self.env),
                namespace=self.namespace or None,
                base_pod_spec=self.pod_spec or None,
                extras=dict(extras),
            )
        return self._ray().run(
            context=context,
            submit_job_params={
                "entrypoint": shlex.join(remote),
                "runtime_env": {"env_vars": dict(self.env)},
                "entrypoint_num_gpus": self.ray_gpus,
            },
            extras=dict(extras),
        )

    def _process(self) -> dg.PipesSubprocessClient:
        return dg.PipesSubprocessClient(
            # Saving a checkpoint takes longer than the 20 seconds a child gets by default.
            forward_termination=True,
            termination_timeout_seconds=180,
        )

    def _kubernetes(self) -> Any:
        try:
            from dagster_k8s import PipesK8sClient
        except ImportError as e:
            raise _missing("kubernetes", "k8s", e) from e
        return PipesK8sClient(kube_context=self.kube_context or None)

    def _ray(self) -> Any:
        try:
            from dagster_ray import PipesRayJobClient
        except ImportError as e:
            raise _missing("ray", "ray", e) from e
        return PipesRayJobClient(address=self.ray_address or None)


def _missing(backend: str, extra: str, error: ImportError) -> dg.Failure:
    return dg.Failure(
        f"The trainer cannot be started on {backend} ({error}): pip install 'itryon-pipeline[{extra}]', or set "
        "pipes.backend to process",
        allow_retries=False,
    )
