"""Runs what is to be killed: `python -m tests.faults.victims KIND` imports once and forks a child for every request.

A request is a JSON line on standard input: what to run, on which lake, and the moment at which it dies (see
`tests.faults.moments`). The answer is a JSON line with the child's exit status. Workers and the trainer are started by
the child as in any other run; each child is the leader of a process group of its own.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.faults.moments import IN_WORKER, ArmedStage, arm, dying_analysis

KINDS = ("cli", "stages", "trainer")
TIMEOUT_S = 900


class Victims:
    """The server, from the side of who asks.

    Args:
        folder: For its log.
        kind: `cli` for Dagster runs of the command line, `stages` for stages alone, `trainer` for the trainer.
        more: Environment variables of the server.
    """

    def __init__(self, folder: Path, kind: str, **more: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "PASSIVE", **more}
        environment.pop("DAGSTER_HOME", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victims", kind],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, what: str, lake: str | Path, moment: str = "none", whom: str = "all", **more: Any) -> int:
        """Run it to its end; the exit status, negative for a signal. See `serve` for what `more` holds."""
        request = {"what": what, "lake": str(lake), "moment": moment, "whom": whom, "log": str(self.log), **more}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], TIMEOUT_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            raise TimeoutError(f"{what} {moment}: still running after {TIMEOUT_S} s, or its server died\n{self.tail()}")
        self.last = json.loads(line)
        return self.last["status"]

    def tail(self, characters: int = 2000) -> str:
        """The end of what the children printed."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def close(self) -> None:
        """End the server; its children end with their work."""
        self.process.kill()
        self.process.communicate()


def run_stages(request: dict[str, Any]) -> None:
    """One stage, or several, of the batch, in this process and its workers.

    `what` is `ingest`, a stage, or several with commas; `settings` holds those of stages; `fake` asks for the fake pose
    stage. `<module>:<function>` calls a function with the lake instead.
    """
    from pipelines.ingest import batch as ingestion
    from pipelines.ingest.settings import IngestSettings
    from pipelines.registry import STAGES
    from pipelines.stage import WorkerSettings, run_stage
    from pipelines.store import DeltaStore
    from tests.faults.lakes import BATCH

    store = DeltaStore(request["lake"], request.get("storage_options"))
    moment, whom, token = request["moment"], request["whom"], request.get("token", "")
    in_worker = moment.split(":")[0] in IN_WORKER
    workers = request.get("workers", 1)
    for name in request["what"].split(","):
        if ":" in name:
            module, function = name.split(":")
            getattr(importlib.import_module(module), function)(store, **request.get("named", {}))
            continue
        if name == "ingest":
            if in_worker:
                ingestion.analyse_video = functools.partial(dying_analysis, whom, token)  # type: ignore[assignment]
            ingestion.ingest_batch(store, BATCH, IngestSettings(workers=workers))
            continue
        if name == "fake":
            from tests.pipelines.fake_stages import FakePose, FakeSettings

            stage: Any = FakePose(FakeSettings(**request.get("settings", {}).get("fake", {})))
        else:
            entry = STAGES[name]
            stage = entry.build(entry.settings.model_validate(request.get("settings", {}).get(name, {})))
        if in_worker:
            stage = ArmedStage(stage, moment, whom, token)
        run_stage(stage, store, BATCH, settings=WorkerSettings(workers=workers))


def run_cli(request: dict[str, Any]) -> None:
    """The command line with the given `arguments`."""
    os.environ["ITRYON_LAKE"] = request["lake"]
    from dagster_project.cli import app

    app(request["arguments"])


def run_trainer(request: dict[str, Any]) -> None:
    """The trainer with the configuration file `config`."""
    from models.training.__main__ import main

    sys.exit(main(["--config", request["config"]]))


_RUN = {"cli": run_cli, "stages": run_stages, "trainer": run_trainer}


def _child(kind: str, request: dict[str, Any]) -> None:
    os.setsid()
    os.dup2(os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ["ITRYON_LAKE"] = request["lake"]
    os.environ.update(request.get("environment", {}))
    try:
        if request["moment"].split(":")[0] not in IN_WORKER:
            arm(request["moment"], request["whom"], request["lake"])
        _RUN[kind](request)
    except SystemExit as e:
        sys.stdout.flush()
        os._exit(int(e.code or 0))
    except BaseException as e:
        print(f"{type(e).__name__}: {e}", flush=True)
        Path(f"{request['log']}.error").write_text(f"{type(e).__name__}: {e}")
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def _workers_of(pid: int) -> list[int]:
    """Worker processes that the run started, not the helper that counts its semaphores."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, IndexError, ValueError):
            continue
    return sorted(found)


def _kill_later(child: int, delay_s: float, whom: str) -> bool:
    """Wait, then kill; False where the run was over before."""
    deadline = time.monotonic() + delay_s
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.002)
    if whom == "worker":
        workers = _workers_of(child)
        for worker in workers[:1]:
            os.kill(worker, signal.SIGKILL)
        return bool(workers)
    (os.killpg if whom == "all" else os.kill)(child, signal.SIGKILL)
    return True


def serve(kind: str) -> None:
    """Fork a child for every line of standard input."""
    import pipelines.clips.samples
    import pipelines.clips.stage
    import pipelines.ingest.batch

    if kind == "cli":
        import pipelines.evaluation.metrics
        import pipelines.tryon.batch  # noqa: F401
    if kind == "trainer":
        import models.training.loop  # noqa: F401
    for line in sys.stdin:
        request = json.loads(line)
        Path(f"{request['log']}.error").unlink(missing_ok=True)
        started = time.monotonic()
        children = []
        for number in range(request.get("at_once", 1)):
            children.append(os.fork())
            if children[-1] == 0:
                _child(kind, request | {"number": number})
        killed = request["moment"] != "random" or _kill_later(children[0], request["delay_s"], request["whom"])
        statuses = [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children]
        error = Path(f"{request['log']}.error")
        answer = {
            "status": statuses[0],
            "statuses": statuses,
            "killed": killed,
            "error": error.read_text() if error.exists() else "",
            "seconds": time.monotonic() - started,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    serve(parser.parse_args().kind)
