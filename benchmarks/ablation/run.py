"""Trains and measures the jobs, a few at a time, each in processes of its own; what is done is not done again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.ablation.data import training_manifest
from benchmarks.ablation.plan import BASE, AblationSettings, Job, Row
from pipelines.store import DeltaStore

RESULTS = Path(__file__).parent / "results"


class JobFailed(RuntimeError):
    """A training or a measurement ended with an error; the message names its log."""


def result_file(job: Job, folder: Path = RESULTS) -> Path:
    """Where the figures of a job lie."""
    return folder / f"{job.name}.json"


def read_result(job: Job, settings: AblationSettings, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The figures of a job; None where there are none, or of other settings."""
    file = result_file(job, folder)
    if not file.is_file():
        return None
    result = json.loads(file.read_text())
    return result if result["settings"] == settings.digest else None


def run_jobs(
    wanted: Sequence[Job],
    settings: AblationSettings,
    store: DeltaStore,
    work: Path,
    workers: int,
    stop_after_s: float | None = None,
    console: Console | None = None,
) -> list[Job]:
    """Train and measure what has no figures yet.

    Args:
        wanted: In order.
        settings: Size.
        store: The ablation's lake.
        work: Folder for checkpoints and logs.
        workers: Jobs at a time, one core each.
        stop_after_s: Start no job after this time; what runs is finished.
        console: Where to say what is done.

    Returns:
        Jobs that were not started.

    Raises:
        JobFailed: A job failed. The others go on until they are done.
    """
    console = console or Console()
    todo = [job for job in wanted if read_result(job, settings) is None]
    if len(todo) < len(wanted):
        console.print(f"{len(wanted) - len(todo)} of {len(wanted)} are done already")
    manifests = {batches: training_manifest(store, batches) for batches in {job.row.batches for job in todo}}
    started, left = time.monotonic(), []
    failures = []
    base = train_base(settings, store, work) if todo else None

    def one(job: Job) -> Job | None:
        if stop_after_s is not None and time.monotonic() - started > stop_after_s:
            return job
        _run(job, settings, store, work, base, *manifests[job.row.batches])
        return None

    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(one, job): job for job in todo}
        for future in as_completed(futures):
            try:
                if (skipped := future.result()) is not None:
                    left.append(skipped)
                else:
                    console.print(f"{futures[future].name} done after {(time.monotonic() - started) / 60:.0f} min")
            except JobFailed as error:
                console.print(str(error), style="red", highlight=False)
                failures.append(error)
    if failures:
        raise failures[0]
    return left


def train_base(settings: AblationSettings, store: DeltaStore, work: Path) -> Path:
    """Train what all rows start from, unless it is there.

    Args:
        settings: Size.
        store: The ablation's lake.
        work: Folder for checkpoints and logs.

    Returns:
        Folder of its checkpoint.

    Raises:
        JobFailed: The training failed.
    """
    manifest, training_set = training_manifest(store, BASE.batches)
    of = [training_set, settings.model, settings.base_steps, settings.batch_size, settings.learning_rate]
    folder = work / "bases" / hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]
    return _train(folder, BASE, 0, settings.base_steps, None, settings, store, manifest, training_set)


def _train(
    folder: Path,
    row: Row,
    seed: int,
    steps: int,
    base: Path | None,
    settings: AblationSettings,
    store: DeltaStore,
    manifest: Path,
    training_set: str,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "preset": "nano",
        "init_from": None if base is None else str(base),
        "model": settings.model | row.model,
        "manifest": str(manifest),
        "blob_root": store.root,
        "training_set_id": training_set,
        "output_dir": str(folder / "training"),
        "steps": steps,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "lr_schedule": "cosine",
        "warmup_steps": steps // 20,
        "ema_decay": 0.99,
        "precision": "fp32",
        "flow_shift": 3.0,
        "unmasked_weight": 0.1,
        "loss_space": "pixel",
        "seed": seed,
        "threads": 1,
        "log_every": 50,
        "checkpoint_every": 250,
        "keep_last": 1,
        "tensorboard": False,
        **row.training,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _call(folder / "training.log", "-m", "models.training", "--config", str(folder / "config.json"))
    return folder / "training" / "final"


def _run(
    job: Job,
    settings: AblationSettings,
    store: DeltaStore,
    work: Path,
    base: Path | None,
    manifest: Path,
    training_set: str,
) -> None:
    folder = work / "runs" / settings.training_digest / job.name
    checkpoint = _train(folder, job.row, job.seed, settings.steps, base, settings, store, manifest, training_set)
    measured, asked = (folder / f"{name}-{settings.digest}.json" for name in ("measured", "settings"))
    asked.write_text(settings.model_dump_json())
    if not measured.is_file():
        options = {
            "--checkpoint": checkpoint,
            "--work": work,
            "--settings": asked,
            "--out": measured,
        }
        _call(
            folder / "evaluate.log", "-m", "benchmarks.ablation.evaluate", *(str(v) for o in options.items() for v in o)
        )
    summary = json.loads((folder / "training" / "summary.json").read_text())
    result = {
        "row": job.row.name,
        "title": job.row.title,
        "seed": job.seed,
        "settings": settings.digest,
        "training_set": training_set,
        "weights_sha256": summary["weights_sha256"],
        "final_loss": summary["final_loss"],
        "seconds": summary["seconds"],
        "clips": json.loads(measured.read_text()),
    }
    RESULTS.mkdir(exist_ok=True)
    partial = result_file(job).with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(result_file(job))


def _call(log: Path, *arguments: str) -> None:
    with log.open("w") as file:
        done = subprocess.run([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise JobFailed(f"{' '.join(arguments[:2])} ended with {done.returncode}; see {log}")
