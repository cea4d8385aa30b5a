"""Where Dagster keeps its history of runs, and how the command line runs jobs in its own process."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.utils import make_new_run_id
from filelock import FileLock, Timeout

from assets.partitions import BATCHES
from pipelines.store.delta import lake_root

CONFIGURATION = Path(__file__).parent / "dagster.yaml"
"""What the instance of a lake starts with."""
WORKSPACE = "workspace.yaml"
"""Where Dagster finds the code location: beside the packages of a checkout, among the files of an installed package."""


def workspace() -> Path:
    """The file that names the code location."""
    packaged = Path(__file__).parent / WORKSPACE
    return packaged if packaged.is_file() else packaged.parent.parent / WORKSPACE


def dagster_home() -> Path:
    """`DAGSTER_HOME`, or `<lake>/dagster`, so that each lake has its own history; created and configured on demand.

    A lake at a URI cannot hold it: then it is `.dagster_home` in the current folder.
    """
    lake = lake_root()
    chosen = os.environ.get("DAGSTER_HOME") or (".dagster_home" if "://" in lake else f"{lake}/dagster")
    home = Path(chosen).expanduser().resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        # Whole or not there: another process may be about to read it.
        partial = home / f".dagster.yaml.{os.getpid()}"
        shutil.copyfile(CONFIGURATION, partial)
        partial.replace(home / "dagster.yaml")
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def run_job(
    job: str,
    *,
    batch: str | None = None,
    assets: Sequence[str] | None = None,
    resources: Mapping[str, Mapping[str, Any]] | None = None,
    verbose: bool = False,
) -> dg.ExecuteInProcessResult:
    """Run a job in this process, recorded like any other run: the UI shows it.

    Args:
        job: Name of the job.
        batch: Partition to run, added when new.
        assets: Assets of the job to run; all by default.
        resources: Resource name -> settings that differ from the defaults.
        verbose: Print Dagster's own log.
    """
    from dagster_project.build import build_defs

    home = dagster_home()
    with open_instance(home) as instance, _alive(instance, home / "running") as run_id:
        if batch is not None:
            instance.add_dynamic_partitions(BATCHES, [batch])
        # Dagster's own use of its preview functions; nothing that who runs a job could change.
        warnings.filterwarnings("ignore", category=dg.PreviewWarning)
        definition = build_defs().resolve_job_def(job)
        return definition.execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=batch,
            asset_selection=[dg.AssetKey(a) for a in assets] if assets else None,
            run_config={
                "loggers": {"console": {"config": {"log_level": "INFO" if verbose else "CRITICAL"}}},
                **({"resources": {k: {"config": dict(v)} for k, v in resources.items()}} if resources else {}),
            },
            raise_on_error=False,
        )


def open_instance(home: Path) -> dg.DagsterInstance:
    """The instance of `dagster_home()`; processes that open a new one at once make its tables in turn."""
    with FileLock(home / ".setting-up.lock"):
        # Dagster looks for its tables and then makes them: two first runs at once failed on "table already exists".
        return _instance(home)


def _instance(home: Path) -> dg.DagsterInstance:
    """The instance of `home`; on a terminal its steps write there instead of into captured logs.

    Dagster sends what a step prints to a file, also in this process, and then no progress bar, neither of an asset nor
    of the trainer it starts, can be drawn.
    """
    if not sys.stderr.isatty():
        return dg.DagsterInstance.get()
    capture_nothing = {
        "compute_logs": {
            "module": "dagster._core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        }
    }
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=capture_nothing))


@contextlib.contextmanager
def _alive(instance: dg.DagsterInstance, folder: Path) -> Iterator[str]:
    """A new run's id; while the context lasts, a lock that the system drops when the process dies says it is alive."""
    folder.mkdir(exist_ok=True)
    _end_killed_runs(instance, folder)
    run_id = make_new_run_id()
    lock = folder / f"{run_id}.lock"
    with FileLock(lock):
        try:
            yield run_id
        finally:
            lock.unlink(missing_ok=True)


def _end_killed_runs(instance: dg.DagsterInstance, folder: Path) -> None:
    # A killed run keeps its place in the pool of training and try-on: the next one would wait for it for ever, since
    # only a daemon clears such places, and the command line has none.
    for lock in folder.glob("*.lock"):
        try:
            with FileLock(lock, timeout=0):
                run = instance.get_run_by_id(lock.stem)
                if run is None:
                    continue
                if not run.is_finished:
                    instance.report_run_failed(run, "The process of this run was killed; run it again to go on")
                instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
                lock.unlink(missing_ok=True)
        except Timeout:
            continue
