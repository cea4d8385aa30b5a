"""Checkpoints of a run: complete folders or none, and enough in each to continue bit by bit.

Layout below the run's output folder:

    checkpoints/step-00000500/transformer/   weights and config as diffusers saves them, or
                              lora/          adapters and added modules, when only those are trained
                              optimizer.safetensors, ema.safetensors, rng.safetensors
                              metrics.parquet    the run's curve so far
                              training.json      step, configuration, digests, versions
    final/transformer/, final/training.json      what a finished run exports (averaged weights where there are any,
                                                 adapters merged)
    final/lora/                                  the adapters by themselves

A checkpoint is written under a temporary name, flushed, and renamed, so a name that exists is whole. Nothing here is
a pickle.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.training.lora import has_lora, save_trained
from models.training.sharding import spread_like, spread_optimizer_state

METRICS = pa.schema(
    [
        ("step", pa.int32()),
        ("loss", pa.float64()),
        ("loss_std", pa.float64()),
        ("loss_action", pa.float64()),
        ("lr", pa.float64()),
        ("step_seconds", pa.float64()),
        ("data_seconds", pa.float64()),
    ]
)
"""One row an optimiser step; `data_seconds` is the part of `step_seconds` spent waiting for the loader."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used for what was asked; the message says why and what to do."""


@dataclass
class TrainingState:
    """What a checkpoint says about the run besides its tensors (`training.json`).

    Attributes:
        step: Optimiser steps done.
        config: The run's `TrainConfig` as JSON values.
        preset: Size of the transformer.
        encoder_digest: Encoder of the latents it was trained on.
        training_set_id: Training set.
        manifest_digest: Digest of the clips it is trained on.
        parent: `init_from` of the run.
        seconds: Training time so far, in seconds.
        versions: Library name -> version.
        extra: Optimiser groups, schedule and EMA counters.
    """

    step: int
    config: dict[str, Any]
    preset: str
    encoder_digest: str
    training_set_id: str
    manifest_digest: str
    parent: str | None = None
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def read_state(folder: Path) -> TrainingState | None:
    """The `training.json` of a checkpoint or export; None where there is none, as in a model from elsewhere.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / "training.json"
    if not path.is_file():
        return None
    try:
        return TrainingState(**json.loads(path.read_text()))
    except (ValueError, TypeError) as e:
        raise CheckpointError(f"{path} is damaged ({e}): delete the checkpoint {folder.name}") from e


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Make `target` by letting `fill` write into a temporary sibling, flushing it to disk, and renaming it."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        fill(temporary)
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb+") as f:
                    os.fsync(f.fileno())
        if target.exists():
            _remove(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove(folder: Path) -> None:
    # Renamed first: a kill during the deletion must not leave a folder that looks like a checkpoint.
    doomed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


class Checkpoints:
    """The step checkpoints of one output folder."""

    def __init__(self, output_dir: str | os.PathLike[str], keep_last: int = 2):
        self.root = Path(output_dir)
        self.folder = self.root / "checkpoints"
        self.keep_last = keep_last

    def clean(self) -> None:
        """Delete what a killed run left half-written."""
        for base in (self.root, self.folder):
            for path in base.glob(".*.tmp"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return sorted(int(p.name.removeprefix("step-")) for p in self.folder.glob("step-*") if p.is_dir())

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def latest(self) -> Path | None:
        """Folder of the newest checkpoint."""
        steps = self.steps()
        return self.path(steps[-1]) if steps else None

    def save(
        self,
        state: TrainingState,
        model: Any,
        optimizer: dict[str, Any],
        average: Sequence[torch.Tensor] | None,
        metrics: list[dict[str, Any]],
    ) -> Path:
        """Write the checkpoint of `state.step` and delete those older than the last `keep_last`.

        Args:
            state: What it says about the run.
            model: The transformer, whole.
            optimizer: State of the optimiser, of whole tensors.
            average: Averaged values of the trained parameters, where the run keeps them.
            metrics: The curve so far.
        """

        def fill(folder: Path) -> None:
            if has_lora(model):
                save_trained(model, folder / "lora")
            else:
                model.save_pretrained(folder / "transformer")
            packed, groups = _pack_optimizer(optimizer)
            save_file(packed, folder / "optimizer.safetensors")
            if average is not None:
                save_file({str(i): p.detach().contiguous() for i, p in enumerate(average)}, folder / "ema.safetensors")
            save_file(_rng_state(), folder / "rng.safetensors")
            write_metrics(metrics, folder / "metrics.parquet")
            extra = {**state.extra, "param_groups": groups}
            text = json.dumps({**asdict(state), "extra": extra}, indent=1, sort_keys=True)
            (folder / "training.json").write_text(text)

        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.path(state.step)
        write_folder(target, fill)
        for step in self.steps()[: -self.keep_last]:
            _remove(self.path(step))
        return target


def restore(
    folder: Path, state: TrainingState, optimizer: torch.optim.Optimizer, ema: EMAModel | None
) -> list[dict[str, Any]]:
    """Put optimiser, EMA and random state of a checkpoint back; returns the metrics so far.

    Call it last: building loaders and models draws random numbers.

    Raises:
        CheckpointError: A file is missing or damaged, or belongs to a model of other parameters.
    """
    try:
        # Cloned, because loaded tensors are views into a file that a later step deletes.
        packed = {k: v.clone() for k, v in load_file(folder / "optimizer.safetensors").items()}
        unpacked = _unpack_optimizer(packed, state.extra["param_groups"])
        optimizer.load_state_dict(spread_optimizer_state(unpacked, optimizer))
        # A run that had no average begins one from its weights.
        if ema is not None and state.extra["ema_steps"] is not None:
            shadow = load_file(folder / "ema.safetensors")
            if len(shadow) != len(ema.shadow_params):
                raise ValueError(f"{len(shadow)} averaged parameters for a model of {len(ema.shadow_params)}")
            for i, parameter in enumerate(ema.shadow_params):
                parameter.copy_(spread_like(shadow[str(i)], parameter))
            ema.optimization_step = state.extra["ema_steps"]
        metrics = pq.ParquetFile(folder / "metrics.parquet").read().to_pylist()
        rng = load_file(folder / "rng.safetensors")
    except (OSError, KeyError, ValueError, SafetensorError, RuntimeError) as e:
        raise CheckpointError(
            f"Checkpoint {folder} cannot be resumed ({e}): delete it to go on from an older one"
        ) from e
    torch.set_rng_state(rng["cpu"])
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            if f"cuda{i}" in rng:
                torch.cuda.set_rng_state(rng[f"cuda{i}"], i)
    return metrics


def write_metrics(metrics: list[dict[str, Any]], path: Path) -> None:
    """Write the curve, one row a step."""
    pq.write_table(pa.Table.from_pylist(metrics, METRICS), path, compression="zstd")


def _rng_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda{i}": torch.cuda.get_rng_state(i) for i in range(torch.cuda.device_count())}
    return state


def _pack_optimizer(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    tensors = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if not torch.is_tensor(value):
                raise TypeError(f"Optimiser state {name} is not a tensor")
            tensors[f"{index}/{name}"] = value.detach().contiguous()
    return tensors, state["param_groups"]


def _unpack_optimizer(tensors: dict[str, torch.Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}
