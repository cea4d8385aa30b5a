"""A lake that retrains by itself, made for real: rendered, annotated, trained, and then left to sensors and daemon.

Everything is small (clips of 25 frames, six steps of training) and nothing is made up: what the UI shows is what the
commands of the README made. Work on these tests goes faster on a lake that is kept: `ITRYON_UI_TEST_LAKE` names a
folder for it; what is there already is not made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pipelines.checkpoints.current import decisions
from pipelines.store import DeltaStore
from pipelines.store.schemas import CHECKPOINTS

KEEP_ENV = "ITRYON_UI_TEST_LAKE"
EVALUATED, FIRST, SECOND = "held-back", "first", "second"
SETTINGS = {
    "workers": {"workers": 1},
    # Six steps at the recipe's rate would only spoil the weights they go on from.
    "training": {"steps": 6, "batch_size": 2, "learning_rate": 2e-5, "validate_every": 6},
    # What suits the nano checkpoint, see its README.
    "tryon": {"steps": 3, "guidance_scale": 1.0, "max_videos": 3, "max_frames": 17},
    "retraining": {"evaluation_batches": [EVALUATED], "min_new_clips": 2, "replay_share": 0.3},
}
_CLIP = ("--frames", "25", "--fps", "16", "--size", "240x320", "--interaction-share", "0.5", "--workers", "1")
_DECISION_S = 3600.0
"""How long a batch may take to its decision, on a machine that is busy with much else."""
_START_S = 1800.0
"""How long a server may take to its first answer there."""


@dataclass
class LiveLake:
    """A lake, and the UI that looks at it.

    Attributes:
        root: Folder of the lake.
        store: Its tables.
        url: Where the UI answers.
        landed_at: When the second batch was put into the landing zone, seconds since 1970.
    """

    root: Path
    store: DeltaStore
    url: str = ""
    landed_at: float = 0.0

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Dagster's history of the lake."""
        with dg.DagsterInstance.from_config(str(self.root / "dagster")) as instance:
            yield instance


def command(lake: Path, *arguments: str) -> None:
    """Run `itryon` as a user would."""
    line = [sys.executable, "-m", "dagster_project.cli", *arguments]
    done = subprocess.run(line, env=_environment(lake), capture_output=True, text=True, timeout=_DECISION_S)
    assert done.returncode == 0, f"itryon {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _environment(lake: Path) -> dict[str, str]:
    values = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "ITRYON_CONFIG", "ITRYON_LANDING")}
    return values | {"ITRYON_LAKE": str(lake), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def lake_before(folder: Path) -> LiveLake:
    """Make what a user has before turning the loop on: a batch held back, and a checkpoint trained on another one."""
    lake, config = folder / "lake", folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(SETTINGS, sort_keys=False))
    live = LiveLake(lake, DeltaStore(lake))
    done = folder / "before.done"
    if not done.exists():
        shared = ("--config", str(config))
        command(lake, "studio", "--clips", "3", "--seed", "9", "--batch", EVALUATED, "--undone", *_CLIP)
        command(lake, "materialize", "--batch", EVALUATED, "--to", "clips", *shared)
        command(lake, "evaluate", "judge", "--batch", EVALUATED)
        plain = ("--no-labels", "--no-counterfactual", "--split", "0,0")
        command(lake, "studio", "--clips", "3", "--seed", "3", "--batch", FIRST, *plain, *_CLIP)
        command(lake, "materialize", "--batch", FIRST, "--to", "clips", *shared)
        command(lake, "evaluate", "annotators", "--batch", FIRST)
        command(lake, "retrain", *shared)
        done.touch()
    return live


@contextlib.contextmanager
def served(live: LiveLake, config: Path) -> Iterator[None]:
    """The UI and the daemon as `itryon ui` starts them, ended with all that they started."""
    with serving(live.root, config.parent / "ui.log", _answers, "ui", "--config", str(config)) as live.url:
        yield


@contextlib.contextmanager
def serving(lake: Path, log: Path, answers: Callable[[str], bool], *arguments: str) -> Iterator[str]:
    """A command that serves pages, with `--port` of its own; its address, once it answers there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    line = [sys.executable, "-m", "dagster_project.cli", *arguments, "--port", str(port)]
    with log.open("ab") as out:
        server = subprocess.Popen(
            line, env=_environment(lake), stdout=out, stderr=out, cwd=log.parent, start_new_session=True
        )
    try:
        until(lambda: server.poll() is not None or answers(url), f"itryon {arguments[0]} answers", _START_S)
        assert server.poll() is None, log.read_text()[-3000:]
        yield url
    finally:
        _end(server)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=10) as answer:
            return "dagster_webserver_version" in json.load(answer)
    except OSError:
        return False


def _end(server: subprocess.Popen) -> None:
    # Asked to stop as by Ctrl+C, and then the session that was started above, and nothing else.
    for stop in (lambda: server.send_signal(signal.SIGINT), lambda: os.killpg(server.pid, signal.SIGKILL)):
        with contextlib.suppress(ProcessLookupError):
            stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(60)


def land_second(live: LiveLake, folder: Path) -> None:
    """Put a second batch into the landing zone, as a person who copies a folder would; the last thing done by hand."""
    landing = live.root / "landing" / SECOND
    if not landing.exists():
        rendered = folder / "rendered"
        if not rendered.exists():
            line = ("studio", "--clips", "3", "--seed", "17", "--out", str(rendered), "--no-counterfactual")
            command(live.root, *line, "--split", "0,0", *_CLIP)
        shutil.rmtree(rendered / "truth", ignore_errors=True)
        shutil.copytree(rendered, landing)
        (folder / "landed").write_text(str(time.time()))
    live.landed_at = float((folder / "landed").read_text())


def wait_for_decision(live: LiveLake) -> None:
    """Wait for the decision on a second checkpoint."""

    def decided() -> bool:
        return len(decisions(live.store)) >= 2 and live.store.read(CHECKPOINTS).num_rows >= 2

    def failed() -> list[str]:
        with live.instance() as instance:
            wanted = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
            return [f"{r.job_name} {r.run_id}" for r in instance.get_runs(wanted)]

    until(lambda: decided() or failed(), "a decision on the second checkpoint", _DECISION_S, every=5)
    # A refused candidate fails its check and so its run: with a decision, that is no error.
    assert decided(), f"runs failed: {failed()}"

    def finished() -> bool:
        with live.instance() as instance:
            return all(r.is_finished for r in instance.get_runs())

    until(finished, "all runs end", 600, every=2)


def until(condition: Callable[[], Any], what: str, seconds: float, every: float = 1) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


def timeline(live: LiveLake) -> list[dict[str, Any]]:
    """What happened to the second batch: seconds after it landed, and what was made then, in order."""
    with live.instance() as instance:
        out = []
        for record in instance.get_run_records():
            run = record.dagster_run
            if record.start_time and record.start_time > live.landed_at and run.tags.get("dagster/sensor_name"):
                by = f"{run.job_name}, by sensor {run.tags['dagster/sensor_name']}"
                out.append({"s": record.start_time - live.landed_at, "what": f"run starts: {by}"})
                logs = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
                for event in logs.records:
                    key = event.event_log_entry.asset_materialization.asset_key.to_user_string()
                    out.append({"s": event.timestamp - live.landed_at, "what": key})
                out.append({"s": (record.end_time or 0) - live.landed_at, "what": f"run ends: {run.job_name}"})
    return sorted(out, key=lambda e: e["s"])
