"""The trainer: it learns, resumes to the bit, and starts from other weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from models.itryon.presets import preset
from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.checkpoint import CheckpointError, Checkpoints, read_state
from models.training.config import TrainConfig
from models.training.data import BatchSequence, ClipSet
from models.training.loop import train
from models.training.objective import step_generator, training_losses
from models.training.signals import PARENT_ENV
from tests.models.training_clips import TINY, make_clip, write_manifest
from tests.models.training_runs import ENDLESS, assert_same, config, curve, run_to, weights, write_config

REPOSITORY = Path(__file__).resolve().parents[2]


# --- learning -----------------------------------------------------------------------------------------------------


def test_loss_falls_and_the_run_leaves_what_it_promises(clips_root: Path, tmp_path: Path):
    out = tmp_path / "run"
    summary = train(config(clips_root, out, steps=60, ema_decay=0.9, checkpoint_every=50, keep_last=1))
    assert summary["final_loss"] < 0.8 * summary["first_loss"]
    assert json.loads((out / "summary.json").read_text()) == summary
    rows = pq.read_table(out / "metrics.parquet").to_pylist()
    assert [r["step"] for r in rows] == list(range(1, 61))
    for r in rows:
        assert r["loss"] == pytest.approx(r["loss_std"] + 0.5 * r["loss_action"], rel=1e-5)
        assert 0 <= r["data_seconds"] < r["step_seconds"]
    assert any(r["loss_action"] > 0 for r in rows)
    model = ITryOnTransformer3DModel.from_pretrained(out / "final", subfolder="transformer")
    assert model.config.num_layers == 2
    assert Checkpoints(out).steps() == [60]
    # What is exported is the average, not the last weights.
    last, final = weights(Checkpoints(out).path(60)), weights(out / "final")
    assert any(not torch.equal(last[k], final[k]) for k in last)
    # A finished run is not repeated.
    before = (out / "final/training.json").stat().st_mtime_ns
    assert train(config(clips_root, out, steps=60, ema_decay=0.9, checkpoint_every=50, keep_last=1)) == summary
    assert (out / "final/training.json").stat().st_mtime_ns == before


def test_accumulated_batches_are_averaged(clips_root: Path, tmp_path: Path):
    """The loss of a step is the mean over its batches, each with its own noise."""
    cfg = config(clips_root, tmp_path / "a", steps=1, batch_size=2, gradient_accumulation_steps=2, grad_clip=None)
    summary = train(cfg)
    torch.manual_seed(cfg.seed)
    model = ITryOnTransformer3DModel(**{**preset("nano"), **TINY})
    batches = BatchSequence(ClipSet(cfg.manifest, cfg.blob_root, "train"), 2, cfg.seed)
    losses = [training_losses(model, batches[i], cfg, step_generator(cfg.seed, i)).total for i in range(2)]
    assert summary["final_loss"] == pytest.approx(sum(float(x.detach()) for x in losses) / 2, rel=1e-5)


def test_bf16_runs_in_a_process_of_its_own(clips_root: Path, tmp_path: Path):
    """Also the shape that corrupts memory in other conv3d backward passes: one latent frame, without reference."""
    rows = [make_clip(tmp_path, f"i{i}", i, bucket="1x128x96") for i in range(2)]
    write_manifest(tmp_path, rows)
    cfg = config(tmp_path, tmp_path / "run", precision="bf16", reference_dropout=0.5, steps=8)
    result = run_trainer(cfg, tmp_path)
    assert result.returncode == 0, result.stderr
    assert np.isfinite([r[1] for r in curve(tmp_path / "run")]).all()


# --- resuming -----------------------------------------------------------------------------------------------------


def run_trainer(cfg: TrainConfig, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "models.training", "--config", str(write_config(cfg, folder)), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def start_trainer(cfg: TrainConfig, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "models.training", "--config", str(write_config(cfg, folder))]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_step(process: subprocess.Popen, out: Path, step: int) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the trainer ended early: {process.stdout.read()}")
        if (steps := Checkpoints(out).steps()) and steps[-1] >= step:
            return
        time.sleep(0.02)
    raise AssertionError("the trainer made no checkpoint")


RESUMABLE = {
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "reference_dropout": 0.3,
    "lr_schedule": "cosine",
    "warmup_steps": 2,
    "steps": ENDLESS,
}


def assert_continues_exactly(root: Path, out: Path, stopped: int, whole: Path) -> None:
    """A few more steps of the stopped run give what an undisturbed one gives: weights, optimiser, EMA, RNG, curve."""
    goal = stopped + 3
    for folder in (out, whole):
        run_to(config(root, folder, **RESUMABLE), goal)
    a, b = Checkpoints(out).path(goal), Checkpoints(whole).path(goal)
    assert_same(weights(a), weights(b))
    for name in ("optimizer", "ema", "rng"):
        assert_same(load_file(a / f"{name}.safetensors"), load_file(b / f"{name}.safetensors"))
    assert curve(a) == curve(b) and len(curve(a)) == goal


def test_the_trainer_ends_with_the_process_that_started_it(
    clips_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "run"
    path = write_config(config(clips_root, out, **RESUMABLE), tmp_path)
    parent = subprocess.Popen(["sleep", "300"])
    environment = {**os.environ, PARENT_ENV: str(parent.pid)}
    command = [sys.executable, "-m", "models.training", "--config", str(path)]
    trainer = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_for_step(trainer, out, 2)
        monkeypatch.setattr("models.training.loop._WAIT_FOR_OTHER_S", 0.1)
        with pytest.raises(CheckpointError, match="Another process is training"):
            train(config(clips_root, out, **RESUMABLE))
        parent.kill()
        parent.wait()
        trainer.communicate(timeout=20)
        assert trainer.returncode == 1
    finally:
        parent.kill()
        trainer.kill()


def test_killed_and_resumed_equals_undisturbed(clips_root: Path, tmp_path: Path):
    out = tmp_path / "killed"
    process = start_trainer(config(clips_root, out, **RESUMABLE), tmp_path)
    wait_for_step(process, out, 4)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (out / "checkpoints/.step-99.half.tmp").mkdir()
    assert_continues_exactly(clips_root, out, Checkpoints(out).steps()[-1], tmp_path / "whole")
    assert list((out / "checkpoints").glob(".*")) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_leaves(signum: int, clips_root: Path, tmp_path: Path, monkeypatch, capsys):
    from models.training import __main__, loop

    before = signal.getsignal(signum)  # a shell that started us in the background may have chosen to ignore it

    class Signalling(loop.Reporter):
        def step(self, record: dict[str, float], log_now: bool) -> None:
            if record["step"] == 3:
                os.kill(os.getpid(), signum)
                os.kill(os.getpid(), signum)  # a second one must not end the saving

    monkeypatch.setattr(loop, "Reporter", Signalling)
    out = tmp_path / "stopped"
    path = write_config(config(clips_root, out, **RESUMABLE | {"checkpoint_every": 1000}), tmp_path)
    assert __main__.main(["--config", str(path)]) == 128 + signum
    monkeypatch.undo()
    stopped = Checkpoints(out).steps()[-1]
    assert stopped in (3, 4) and f"after step {stopped}" in capsys.readouterr().err
    assert signal.getsignal(signum) is before
    assert_continues_exactly(clips_root, out, stopped, tmp_path / "whole")


def test_resume_refuses_what_changes_the_result(clips_root: Path, tmp_path: Path):
    out = tmp_path / "run"
    run_to(config(clips_root, out, steps=ENDLESS), 2)
    with pytest.raises(CheckpointError, match=r"learning_rate: 0\.01 -> 0\.02"):
        train(config(clips_root, out, steps=ENDLESS, learning_rate=2e-2))
    with pytest.raises(CheckpointError, match="another run"):
        train(config(clips_root, out, steps=ENDLESS), resume=False)
    rows = pq.read_table(clips_root / "manifest.parquet").to_pylist()
    fewer = write_manifest(clips_root, rows[:-1], "fewer.parquet")
    with pytest.raises(CheckpointError, match="the clips of the manifest"):
        train(config(clips_root, out, steps=ENDLESS, manifest=str(fewer)))
    other = write_manifest(clips_root, [{**r, "encoder_digest": "encoder-b"} for r in rows], "encoder.parquet")
    with pytest.raises(CheckpointError, match="encoder-b"):
        train(config(clips_root, out, steps=ENDLESS, manifest=str(other)))
    summary = train(config(clips_root, out, steps=4, learning_rate=2e-2), allow_changes=True)
    assert summary["steps"] == 4


def test_allowed_changes_take_effect(clips_root: Path, tmp_path: Path):
    out = tmp_path / "run"
    run_to(config(clips_root, out, steps=ENDLESS), 2)
    train(
        config(clips_root, out, steps=4, learning_rate=1e-4, weight_decay=0.3, adam_beta1=0.5, ema_decay=0.9),
        allow_changes=True,
    )
    assert [row[-1] for row in curve(out)] == [1e-2, 1e-2, 1e-4, 1e-4]
    (group,) = read_state(Checkpoints(out).latest()).extra["param_groups"]
    assert (group["lr"], group["weight_decay"], group["betas"][0]) == (1e-4, 0.3, 0.5)
    average = load_file(Checkpoints(out).latest() / "ema.safetensors")
    assert average, "the average begins with the weights of the checkpoint"


def test_a_longer_run_killed_before_its_summary_is_not_taken_for_the_shorter_one(
    clips_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from models.training import run

    out = tmp_path / "run"
    train(config(clips_root, out, steps=2))

    def killed(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(run, "write_metrics", killed)
        train(config(clips_root, out, steps=4), allow_changes=True)
    summary = train(config(clips_root, out, steps=4))
    assert summary["steps"] == 4 and summary["weights_sha256"] == run.weights_sha256(out / "final" / "transformer")


def test_damaged_checkpoint_is_named(clips_root: Path, tmp_path: Path):
    out = tmp_path / "run"
    run_to(config(clips_root, out, steps=ENDLESS), 2)
    path = Checkpoints(out).latest()
    (path / "optimizer.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"step-00000002.*cannot be resumed"):
        train(config(clips_root, out, steps=ENDLESS))
    (path / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        train(config(clips_root, out, steps=ENDLESS))


# --- warm start ---------------------------------------------------------------------------------------------------


def test_warm_start_takes_the_weights_and_names_its_parent(clips_root: Path, tmp_path: Path):
    train(config(clips_root, tmp_path / "first", steps=2))
    parent = str(tmp_path / "first/final")
    train(config(clips_root, tmp_path / "second", steps=1, init_from=parent, learning_rate=1e-12, weight_decay=0))
    a, b = weights(tmp_path / "first/final"), weights(tmp_path / "second/final")
    assert all(torch.allclose(a[k], b[k], atol=1e-9) for k in a)
    assert read_state(tmp_path / "second/final").parent == parent


def test_warm_start_from_a_velocity_network_turns_its_output_round(clips_root: Path, tmp_path: Path):
    train(config(clips_root, tmp_path / "first", steps=2, model={**TINY, "prediction": "velocity"}))
    parent = str(tmp_path / "first/final")
    train(config(clips_root, tmp_path / "second", steps=1, init_from=parent, learning_rate=1e-12, weight_decay=0))
    a, b = weights(tmp_path / "first/final"), weights(tmp_path / "second/final")
    turned = {"proj_out.weight", "proj_out.bias"}
    assert all(torch.allclose(-a[k] if k in turned else a[k], b[k], atol=1e-9) for k in a)
    # Its own kind is taken as it is: see the test above.


def test_warm_start_refusals(clips_root: Path, tmp_path: Path):
    train(config(clips_root, tmp_path / "first", steps=1))
    parent = tmp_path / "first/final"
    out = tmp_path / "second"
    with pytest.raises(CheckpointError, match=r"preset nano, this run is 1\.3b"):
        train(config(clips_root, out, init_from=str(parent), preset="1.3b"))
    with pytest.raises(CheckpointError, match="num_layers 2 instead of 3"):
        train(config(clips_root, out, init_from=str(parent), model={**TINY, "num_layers": 3}))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(config(clips_root, out, init_from=str(tmp_path / "nowhere")))
    state = json.loads((parent / "training.json").read_text())
    (parent / "training.json").write_text(json.dumps({**state, "encoder_digest": "another"}))
    with pytest.raises(CheckpointError, match="encoder another"):
        train(config(clips_root, out, init_from=str(parent)))
    assert not (out / "final").exists()
