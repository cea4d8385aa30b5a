"""Kills of the trainer: the run that goes on ends bit for bit as one that nothing disturbs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.faults.lakes import end_processes_of, hold, wait_for_orphans
from tests.faults.suite import Case, Kind, Outcome, Runner, draw
from tests.faults.victims import Victims

STEPS = 8
# Folders that a run writes, in order: checkpoints of steps 2, 4, 6 and 8, then `final`.
MOMENTS = [
    "step:1",
    "step:5",
    "filled:1",
    "filled:3",
    "checkpoint:1",
    "checkpoint:2",
    "checkpointed:1",
    "checkpointed:3",
    "forgotten:1",
    "forgotten:2",
    "checkpointed:4",
    "filled:5",
    "checkpoint:5",
    "checkpointed:5",
]
RANDOM = 7


def cases(seed: int, count: int | None) -> list[Case]:
    """Boundaries of checkpoints, then random moments."""
    rng = random.Random(seed + 1)
    found = [Case(f"trainer {m}", {"moment": m}) for m in MOMENTS]
    for i in range(RANDOM):
        share = rng.uniform(0.05, 0.95)
        found.append(Case(f"trainer random {share:.3f} ({i})", {"moment": "random", "share": share}))
    return draw(found, seed, count)


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """Clips, an undisturbed run, and then runs that are killed and go on."""
    victims = Victims(work / "victims", "trainer")
    try:
        yield _Kills(work, victims)
    finally:
        end_processes_of(str(work))
        victims.close()


class _Kills:
    def __init__(self, work: Path, victims: Victims):
        self.work, self.victims = work, victims
        self.wanted: dict[str, str] = {}

    def _config(self, out: Path) -> str:
        from tests.models.training_runs import settings

        file = out.with_suffix(".json")
        file.write_text(json.dumps(settings(self.work / "clips", out, steps=STEPS)))
        return str(file)

    def _prepare(self) -> None:
        from tests.models.training_clips import make_clip, write_manifest

        shutil.rmtree(self.work / "clips", ignore_errors=True)
        (self.work / "clips").mkdir()
        write_manifest(self.work / "clips", [make_clip(self.work / "clips", f"clip{i}", i) for i in range(5)])
        out = self.work / "undisturbed"
        shutil.rmtree(out, ignore_errors=True)
        status = self.victims("trainer", out, config=self._config(out))
        hold(status == 0, f"the undisturbed run failed: {self.victims.tail()}")
        self.seconds = self.victims.last["seconds"]
        self.wanted = results(out)

    def __call__(self, case: Case) -> Outcome:
        if not self.wanted:
            self._prepare()
        out, moment, share = self.work / "killed", case.values["moment"], case.values.get("share", 0.0)
        for _ in range(6):
            shutil.rmtree(out, ignore_errors=True)
            config = self._config(out)
            status = self.victims("trainer", out, moment, "all", config=config, delay_s=share * self.seconds)
            if status < 0:
                break
            hold(moment == "random", f"the trainer ended with {status} before the moment came: {self.victims.tail()}")
            share *= 0.6
        hold(status < 0, "the trainer was done before each of six tries to kill it")
        hold(not wait_for_orphans(str(out)), "processes of the killed trainer go on")
        there = len(list((out / "checkpoints").glob("step-*")))
        status = self.victims("trainer", out, config=config)
        hold(status == 0, f"the run that goes on failed: {self.victims.tail()}")
        hold(results(out) == self.wanted, "weights, curve or summary differ from those of an undisturbed run")
        left = [p.name for p in out.rglob("*.tmp*")]
        hold(not left, f"temporary files are left: {left}")
        return Outcome("went on from a checkpoint" if there else "began anew")


def results(out: Path) -> dict[str, str]:
    """Digests of the weights, and of the curve and summary without times."""
    import pyarrow.parquet as pq

    found = {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((out / "final").rglob("*.safetensors"))
    }
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    found["curve"] = repr([{k: v for k, v in r.items() if not k.endswith("seconds")} for r in rows])
    summary = json.loads((out / "summary.json").read_text())
    found["summary"] = repr([summary[k] for k in ("steps", "final_loss", "first_loss", "weights_sha256", "num_clips")])
    return found


KIND = Kind(
    "trainer",
    "SIGKILL of the trainer at steps, around and amid its checkpoints and the export, and at random moments",
    "run again, it ends with the weights, the loss of every step and the summary of an undisturbed run, to the bit; no "
    "temporary file is left",
    cases,
    session,
)
