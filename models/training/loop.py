"""The training loop: one optimiser step after the other, checkpoints between them, and a clean way out.

What a step computes is in `objective`, what it reads in `data`, what it keeps in `checkpoint`.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from filelock import FileLock, Timeout

from models.training.build import build_model, check_clips, load_weights
from models.training.checkpoint import CheckpointError, Checkpoints, TrainingState, read_state, restore
from models.training.config import TrainConfig
from models.training.data import BatchSequence, ClipReader, ClipSet, make_loader
from models.training.lora import base_digest
from models.training.memory import check_memory, estimate_memory
from models.training.objective import step_generator, training_losses
from models.training.report import Reporter
from models.training.run import Run, finish, finished, manifest_digest, peak_memory_mb
from models.training.sharding import check_sharding, is_sharded
from models.training.signals import StopFlag
from models.training.trackers import Tracker, open_trackers
from models.training.validation import Validator

_WAIT_FOR_OTHER_S = 30


class TrainingDiverged(RuntimeError):
    """The loss is no number any more."""


class Interrupted(RuntimeError):
    """A signal ended the run; its state was saved."""

    def __init__(self, signum: int, step: int, checkpoint: Path):
        super().__init__(
            f"Stopped by {signal.Signals(signum).name} after step {step}; run the same command again to go on "
            f"from {checkpoint}"
        )
        self.signum = signum


def train(
    config: TrainConfig,
    *,
    pipes: Any | None = None,
    resume: bool = True,
    allow_changes: bool = False,
    reader: ClipReader | None = None,
) -> dict[str, Any]:
    """Run, or go on with, the training that `config` describes.

    Args:
        config: The run. A finished run of the same configuration is not repeated: its summary comes back.
        pipes: Dagster Pipes context of the main process.
        resume: Go on from the newest checkpoint in the output folder; otherwise a folder with checkpoints is refused.
        allow_changes: Go on although the configuration differs from that of the checkpoint.
        reader: Where the clips' tensors come from; their cached blobs by default.

    Returns:
        The summary, as in `<output_dir>/summary.json`.

    Raises:
        models.training.data.DataError: The training set must not be trained on.
        models.training.config.TrainingRefused: The run cannot fit into memory, or wants something that is missing.
        CheckpointError: A checkpoint does not fit: other configuration, data, encoder or preset. Or another process
            is training in the same folder.
        TrainingDiverged: The loss is NaN or infinite; the newest checkpoint is from before.
        Interrupted: SIGTERM or SIGINT; the state was saved.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    accelerator = Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no", cpu=config.device == "cpu"
    )
    check_sharding(accelerator, config)
    reporter = Reporter(config.steps, pipes, quiet=not accelerator.is_main_process)
    with reporter, StopFlag() as stop, _alone(config, accelerator.is_main_process):
        clips = ClipSet(config.manifest, config.blob_root, config.split, reader)
        check_clips(config, clips)
        output = Path(config.output_dir)
        if (done := finished(output, config, clips)) is not None:
            reporter.message(f"{output} already holds the finished run")
            reporter.summary(done)
            return done
        sizes = [(name, views, len(rows)) for (name, views), rows in clips.buckets.items()]
        shards = accelerator.num_processes if is_sharded(accelerator) else 1
        estimate = estimate_memory(config, sizes, accelerator.num_processes, shards)
        reporter.message(check_memory(config, estimate, accelerator.device))
        validator = Validator(config, clips) if config.validate_every and accelerator.is_main_process else None
        run = _prepare(config, accelerator, clips, reporter, resume, allow_changes)
        run.estimated_memory_mb = estimate.total / 2**20
        with _trackers(run, reporter) as trackers:
            _steps(run, reporter, stop, trackers, validator)
        summary = finish(run)
        reporter.summary(summary)
        return summary


@contextlib.contextmanager
def _trackers(run: Run, reporter: Reporter) -> Iterator[list[Tracker]]:
    if not run.accelerator.is_main_process:
        yield []
        return
    trackers, remarks = open_trackers(run.config, run.state.step)
    for text in remarks:
        reporter.message(text)
    try:
        yield trackers
    finally:
        for tracker in trackers:
            tracker.close()


@contextlib.contextmanager
def _alone(config: TrainConfig, main_process: bool) -> Iterator[None]:
    """Hold the output folder's lock, which the system drops when the process dies."""
    if not main_process:
        yield
        return
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output / ".lock")
    try:
        # Long enough for a trainer whose parent was killed to notice.
        lock.acquire(timeout=_WAIT_FOR_OTHER_S)
    except Timeout as e:
        raise CheckpointError(
            f"Another process is training in {output}: wait until it is done, stop it, or name a new folder"
        ) from e
    try:
        yield
    finally:
        lock.release()


def _prepare(
    config: TrainConfig,
    accelerator: Accelerator,
    clips: ClipSet,
    reporter: Reporter,
    resume: bool,
    allow_changes: bool,
) -> Run:
    checkpoints = Checkpoints(config.output_dir, config.keep_last)
    if accelerator.is_main_process:
        checkpoints.clean()
    accelerator.wait_for_everyone()
    found = checkpoints.latest()
    if found and not resume:
        raise CheckpointError(f"{config.output_dir} holds checkpoints of another run: resume it, or name a new folder")
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "accelerate": accelerate.__version__}
    state = TrainingState(
        step=0,
        config=config.model_dump(mode="json"),
        preset=config.preset,
        encoder_digest=clips.encoder_digest,
        training_set_id=config.training_set_id,
        manifest_digest=manifest_digest(clips),
        parent=config.init_from,
        versions=versions,
    )
    torch.manual_seed(config.seed)
    if found:
        before = read_state(found)
        if before is None:
            raise CheckpointError(f"{found} has no training.json: delete it")
        _check_resume(before, state, config, allow_changes)
        state.step, state.seconds = before.step, before.seconds
        state.extra = {k: v for k, v in before.extra.items() if k == "base_sha256"}
        model = load_weights(found, config, before)
    else:
        model = build_model(config, clips.encoder_digest)
        if config.lora_rank is not None:
            state.extra["base_sha256"] = base_digest(model)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    # Only now: sharding replaces the parameters by others.
    trained = [p for p in model.parameters() if p.requires_grad]
    ema = EMAModel(trained, decay=config.ema_decay) if config.ema_decay else None
    schedule = "constant_with_warmup" if config.lr_schedule == "constant" else config.lr_schedule
    scheduler = get_scheduler(
        schedule, optimizer.optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=config.steps
    )
    run = Run(config, accelerator, model, optimizer, scheduler, ema, clips, checkpoints, state, [])
    parameters = sum(p.numel() for p in run.plain_model.parameters())
    share = sum(p.numel() for p in run.trained)
    size = f"{parameters / 1e6:.1f} M parameters" + (f", {share / 1e6:.1f} M trained" if share < parameters else "")
    reporter.message(
        f"{config.preset}: {size}, {len(clips.rows)} clips in {len(clips.buckets)} "
        f"bucket(s), {config.steps} steps of {config.batch_size} x {config.gradient_accumulation_steps} x "
        f"{accelerator.num_processes} on {accelerator.device}, {config.precision}"
    )
    if found:
        assert before is not None
        run.metrics = restore(found, before, optimizer.optimizer, ema)
        scheduler.load_state_dict(before.extra["scheduler"])
        _settings_of_now(run)
        reporter.message(f"going on from step {state.step} ({found})")
    return run


def _settings_of_now(run: Run) -> None:
    """Give optimiser and schedule the configuration's settings again: their saved states hold those of before."""
    config, schedule = run.config, run.scheduler
    schedule.base_lrs = [config.learning_rate] * len(schedule.base_lrs)
    rates = [b * factor(schedule.last_epoch) for b, factor in zip(schedule.base_lrs, schedule.lr_lambdas)]
    schedule._last_lr = rates
    for group, base, rate in zip(run.optimizer.param_groups, schedule.base_lrs, rates):
        betas = (config.adam_beta1, config.adam_beta2)
        group.update(lr=rate, initial_lr=base, betas=betas, weight_decay=config.weight_decay)


def _check_resume(before: TrainingState, now: TrainingState, config: TrainConfig, allow_changes: bool) -> None:
    if before.encoder_digest != now.encoder_digest:
        raise CheckpointError(
            f"The latents were made by encoder {now.encoder_digest[:12]}, the checkpoint was trained on "
            f"{before.encoder_digest[:12]}: encode the clips anew, or start a new run"
        )
    try:
        changes = config.changes(TrainConfig(**before.config))
    except ValueError as e:
        raise CheckpointError(f"The checkpoint's configuration cannot be read ({e}): start a new run") from e
    text = [f"{k}: {theirs!r} -> {mine!r}" for k, (mine, theirs) in changes.items()]
    if before.manifest_digest != now.manifest_digest:
        text.append("the clips of the manifest")
    if text and not allow_changes:
        raise CheckpointError(
            f"The run in {config.output_dir} was started with another configuration ({'; '.join(text)}): use a new "
            "output folder, or allow the change"
        )


def _steps(run: Run, reporter: Reporter, stop: StopFlag, trackers: list[Tracker], validator: Validator | None) -> None:
    config, accelerator, state = run.config, run.accelerator, run.state
    accumulation, world = config.gradient_accumulation_steps, accelerator.num_processes
    first = state.step * accumulation
    count = (config.steps - state.step) * accumulation
    batches = BatchSequence(run.clips, config.batch_size, config.seed)
    loader = iter(make_loader(batches, first, count, accelerator.process_index, world, config.num_workers))
    parameters = run.trained
    while state.step < config.steps:
        started = time.perf_counter()
        waited, samples, clip_ids = 0.0, 0, []
        sums = torch.zeros(4, device=accelerator.device)
        for micro in range(accumulation):
            before = time.perf_counter()
            batch = next(loader).to(accelerator.device)
            waited += time.perf_counter() - before
            number = (state.step * accumulation + micro) * world + accelerator.process_index
            last = micro == accumulation - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(run.model):
                losses = training_losses(run.model, batch, config, step_generator(config.seed, number))
                accelerator.backward(losses.total / accumulation)
            sums[:3] += torch.stack([losses.total, losses.std, losses.action]).detach() / accumulation
            samples += len(batch.clip_ids)
            clip_ids += batch.clip_ids
        sums[3] = float(stop.signum or 0)
        total, standard, action, signum = _mean_over_processes(accelerator, sums)
        if not math.isfinite(total):
            raise TrainingDiverged(_diverged(run, f"The loss is {total}", clip_ids))
        # Without a limit too: one gradient that is not finite makes all weights so, and the loss tells it a step late.
        norm = float(accelerator.clip_grad_norm_(parameters, config.grad_clip or math.inf))
        if not math.isfinite(norm):
            raise TrainingDiverged(_diverged(run, f"The gradient's norm is {norm}", clip_ids))
        lr = run.scheduler.get_last_lr()[0]
        run.optimizer.step()
        run.scheduler.step()
        run.optimizer.zero_grad(set_to_none=True)
        if run.ema is not None:
            run.ema.step(parameters)
        state.step += 1
        seconds = time.perf_counter() - started
        state.seconds += seconds
        record = {
            "step": state.step,
            "loss": total,
            "loss_std": standard,
            "loss_action": action,
            "lr": lr,
            "step_seconds": seconds,
            "data_seconds": waited,
        }
        run.metrics.append(record)
        shown = {**record, "samples_per_second": samples * world / seconds, "peak_memory_mb": peak_memory_mb()}
        log_now = state.step % config.log_every == 0 or state.step in (1, config.steps)
        reporter.step(shown, log_now)
        for tracker in trackers if log_now else ():
            tracker.step(shown)
        if signum and state.step < config.steps:
            raise Interrupted(stop.signum or signal.SIGTERM, state.step, run.save())
        if state.step % config.checkpoint_every == 0 or state.step == config.steps:
            run.save()
        if config.validate_every and (state.step % config.validate_every == 0 or state.step == config.steps):
            _validate(run, reporter, trackers, validator)


def _validate(run: Run, reporter: Reporter, trackers: list[Tracker], validator: Validator | None) -> None:
    if validator is not None:
        started = time.perf_counter()
        made = validator(run)
        for tracker in trackers:
            tracker.validation(made)
        reporter.message(f"try-on after step {made.step}: {made.video} ({time.perf_counter() - started:.1f} s)")
    run.accelerator.wait_for_everyone()


def _mean_over_processes(accelerator: Accelerator, sums: torch.Tensor) -> list[float]:
    # One reduction for the figures and for the wish to stop, so that all processes leave at the same step.
    return accelerator.reduce(sums, reduction="mean").tolist()


def _diverged(run: Run, what: str, clip_ids: list[str]) -> str:
    latest = run.checkpoints.latest()
    return (
        f"{what} at step {run.state.step + 1} (clips {', '.join(clip_ids)}). Lower learning_rate, or lower "
        "grad_clip; with bf16 try fp32. " + (f"The last good checkpoint is {latest}" if latest else "Nothing was saved")
    )
