"""What one run holds while it lasts, and what is left of it when it is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from models.training.checkpoint import Checkpoints, TrainingState, read_state, write_folder, write_metrics
from models.training.config import TrainConfig
from models.training.data import ClipSet
from models.training.lora import has_lora, merged_model, save_trained
from models.training.sharding import is_sharded, whole, whole_model, whole_optimizer_state


def manifest_digest(clips: ClipSet) -> str:
    """Digest of what the clips are: their identities and the content addresses of their tensors."""
    rows = [(r["clip_id"], r["bucket"], r["latents_uri"], r["text_uri"], list(r["action_mask"])) for r in clips.rows]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


@dataclass
class Run:
    """A run in progress: its configuration, the prepared objects, and how far it is."""

    config: TrainConfig
    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: Any
    scheduler: Any
    ema: EMAModel | None
    clips: ClipSet
    checkpoints: Checkpoints
    state: TrainingState
    metrics: list[dict[str, Any]]
    estimated_memory_mb: float = 0.0

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimiser changes, in the order of the averaged ones."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def plain_model(self) -> Any:
        """The transformer without the wrappers of accelerate."""
        return self.accelerator.unwrap_model(self.model)

    def save(self) -> Path:
        """Write a checkpoint of the current step; returns its folder."""
        self.state.extra |= {
            "scheduler": plain_schedule(self.scheduler.state_dict()),
            "ema_steps": self.ema.optimization_step if self.ema else None,
        }
        target = self.checkpoints.path(self.state.step)
        # Every process has a part in putting sharded tensors together; one of them keeps and writes them.
        writes = self.accelerator.is_main_process
        model = whole_model(self.plain_model, writes)
        optimizer = whole_optimizer_state(self.optimizer.optimizer, writes)
        average = [whole(p, writes) for p in self.ema.shadow_params] if self.ema else None
        if writes:
            self.checkpoints.save(self.state, model, optimizer, average, self.metrics)
        self.accelerator.wait_for_everyone()
        return target


def plain_schedule(state: dict[str, Any]) -> dict[str, Any]:
    """State of a LambdaLR without its functions, which are rebuilt from the configuration."""
    return {k: v for k, v in state.items() if k != "lr_lambdas"} | {"lr_lambdas": [None] * len(state["lr_lambdas"])}


def finished(output: Path, config: TrainConfig, clips: ClipSet) -> dict[str, Any] | None:
    """Summary of the finished run in `output` when it is the run that is asked for, else None."""
    path = output / "summary.json"
    state = read_state(output / "final")
    if not path.is_file() or state is None:
        return None
    try:
        before = TrainConfig(**state.config)
    except ValueError:  # written by a version with other fields
        return None
    same = not config.changes(before) and state.manifest_digest == manifest_digest(clips)
    return json.loads(path.read_text()) if same else None


@contextlib.contextmanager
def averaged(run: Run) -> Iterator[None]:
    """The model with its averaged weights, where the run keeps an average; the trained ones come back bit by bit."""
    if run.ema is None:
        yield
        return
    parameters = run.trained
    run.ema.store(parameters)
    run.ema.copy_to(parameters)
    try:
        yield
    finally:
        run.ema.restore(parameters)


def finish(run: Run) -> dict[str, Any]:
    """Export the final model, the curve and the summary; returns the summary."""
    config, state, root = run.config, run.state, run.checkpoints.root
    final = root / "final"
    seconds = [m["step_seconds"] for m in run.metrics]
    tail = run.metrics[-max(1, len(run.metrics) // 10) :]
    weights: contextlib.AbstractContextManager[None]
    if is_sharded(run.accelerator):
        average = run.ema.shadow_params if run.ema else None
        model = whole_model(run.plain_model, run.accelerator.is_main_process, average)
        weights = contextlib.nullcontext()
    else:
        model = run.plain_model
        weights = averaged(run)
    if run.accelerator.is_main_process:

        def fill(folder: Path) -> None:
            with weights:
                if has_lora(model):
                    save_trained(model, folder / "lora")
                    merged_model(model).save_pretrained(folder / "transformer")
                else:
                    model.save_pretrained(folder / "transformer")
            (folder / "training.json").write_text(json.dumps(asdict(state), indent=1, sort_keys=True))
            for path in _last_validation(run):
                shutil.copyfile(path, folder / f"validation{path.suffix}")

        # It would speak of another run's weights, were this one killed between them and its own summary.
        (root / "summary.json").unlink(missing_ok=True)
        write_folder(final, fill)
        temporary = root / ".metrics.parquet.tmp"
        write_metrics(run.metrics, temporary)
        temporary.rename(root / "metrics.parquet")
    run.accelerator.wait_for_everyone()
    summary = {
        "status": "complete",
        "checkpoint": str(final),
        "weights_sha256": weights_sha256(final / "transformer"),
        "preset": config.preset,
        "parameters": sum(p.numel() for p in run.plain_model.parameters()),
        "trained_parameters": sum(p.numel() for p in run.trained),
        "training_set_id": config.training_set_id,
        "encoder_digest": state.encoder_digest,
        "parent": config.init_from,
        "num_clips": len(run.clips.rows),
        "steps": state.step,
        "final_loss": statistics.fmean(m["loss"] for m in tail),
        "first_loss": statistics.fmean(m["loss"] for m in run.metrics[: len(tail)]),
        "seconds": state.seconds,
        "step_seconds_median": statistics.median(seconds),
        "data_wait_share": sum(m["data_seconds"] for m in run.metrics) / sum(seconds),
        "samples_per_second": config.batch_size
        * config.gradient_accumulation_steps
        * run.accelerator.num_processes
        / statistics.median(seconds),
        "peak_memory_mb": peak_memory_mb(),
        "estimated_memory_mb": run.estimated_memory_mb,
        "validation": [str(path) for path in _last_validation(run)],
        "config": config.model_dump(mode="json"),
        "versions": state.versions,
    }
    if run.accelerator.is_main_process:
        temporary = root / ".summary.json.tmp"
        temporary.write_text(json.dumps(summary, indent=1, sort_keys=True))
        temporary.rename(root / "summary.json")
    return summary


def _last_validation(run: Run) -> list[Path]:
    folder = run.checkpoints.root / "validation"
    return [p for s in ("mp4", "jpg") if (p := folder / f"step_{run.state.step}.{s}").is_file()]


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the safetensors files of a model folder, in name order."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as f:
            while chunk := f.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def peak_memory_mb() -> float:
    """Peak memory so far in MB: of the accelerator where there is one, else resident memory of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
