"""The trainer: the loss falls, a killed run resumes to the bit, signals save, bad input is refused with its name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models.itryon.presets import of_stock, preset
from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.blobs import Blobs, NotFinite, pack
from models.training.checkpoint import CheckpointError, Checkpoints, read_state
from models.training.config import CONFIG_FOLDER, TrainConfig, load_config
from models.training.data import BatchSequence, ClipSet, DataError, epoch_batches, make_loader
from models.training.loop import TrainingDiverged, train
from models.training.objective import element_weight, prepare_conditions, sample_sigmas, step_generator, training_losses
from models.training.signals import PARENT_ENV
from models.vae import nano_pixel_energy
from tests.models.training_clips import TINY, make_clip, make_set, write_manifest
from tests.models.training_runs import ENDLESS, assert_same, config, curve, run_to, weights

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    make_set(root)
    return root


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


def write_config(cfg: TrainConfig, folder: Path) -> Path:
    path = folder / "config.json"
    path.write_text(cfg.model_dump_json())
    return path


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


# --- data ---------------------------------------------------------------------------------------------------------


def damaged(root: Path, change) -> Path:
    rows = [make_clip(root, f"c{i}", i) for i in range(3)]
    path = root / "blobs/c1.safetensors"
    tensors = load_file(path)
    change(tensors, rows)
    save_file(tensors, path)
    return write_manifest(root, rows)


def poison(tensors: dict, rows: list) -> None:
    tensors["reactive"][3, 1] = float("nan")


def shrink(tensors: dict, rows: list) -> None:
    tensors["hands"] = tensors["hands"][:, :1].contiguous()


def lose(tensors: dict, rows: list) -> None:
    del tensors["mask"]


def mix(tensors: dict, rows: list) -> None:
    rows[1]["encoder_digest"] = "encoder-b"


def empty(tensors: dict, rows: list) -> None:
    for r in rows:
        r["split"] = "test"


def absent(tensors: dict, rows: list) -> None:
    rows[1]["latents_uri"] = "blobs/gone.safetensors"


def captions(tensors: dict, rows: list) -> None:
    rows[1]["action_mask"] = [1.0]


def widen(tensors: dict, rows: list) -> None:
    for key in ("target", "inactive", "reactive", "hands"):
        tensors[key] = torch.cat([tensors[key], tensors[key]])
    tensors["reference"] = torch.cat([tensors["reference"], tensors["reference"]], 1)


def uncached(tensors: dict, rows: list) -> None:
    rows[1]["latents_uri"] = rows[1]["text_uri"] = ""


def thin(tensors: dict, rows: list) -> None:
    tensors["inactive"] = tensors["inactive"][:8].contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poison, r"Clip c1 \(video video-c1, frame 0\): reactive holds values that are not finite"),
        (shrink, r"Clip c1 .*hands has shape \(32, 1, 4, 4\)"),
        (lose, "Clip c1 .*lacks mask"),
        (mix, "several encoders"),
        (empty, "no clip of split 'train'.*it has test"),
        (absent, "Clip c1 .*materialise clips"),
        (uncached, "Clip c1 .*its tensors were not cached; train with frames encoded on the fly"),
        (captions, "Clip c1 .*captions"),
        (widen, "Clip c1 .*64 latent and 8 text channels, Clip c0 .* has 32 and 8"),
        (thin, r"Clip c1 .*inactive has shape \(8, 3, 4, 4\), its bucket asks for \(32, 3, 4, 4\)"),
    ],
)
def test_bad_data_is_refused_by_name(change, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    damaged(tmp_path, change)
    monkeypatch.setattr("models.training.loop.build_model", lambda *_: pytest.fail("the model was built"))
    with pytest.raises(DataError, match=message):
        train(config(tmp_path, tmp_path / "run", batch_size=3))
    assert not Checkpoints(tmp_path / "run").steps()


@pytest.mark.parametrize(("cut", "message"), [(-1, r"bytes instead of"), (5, "no safetensors file")])
def test_a_damaged_blob_is_refused_before_training(cut: int, message: str, tmp_path: Path):
    manifest = make_set(tmp_path)
    path = tmp_path / "blobs/c1.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"Clip c1 .*{message}"):
        ClipSet(str(manifest), str(tmp_path), "train")


@pytest.mark.parametrize("last", [0, 3])
def test_captions_of_segments_that_do_not_exist_are_refused(last: int, tmp_path: Path):
    make_set(tmp_path)
    text = tmp_path / "blobs/c1-text.safetensors"
    tensors = load_file(text)
    tensors["segment_index"][-1] = last
    text.write_bytes(pack(tensors))
    low, high = min(1, last), max(2, last)
    with pytest.raises(DataError, match=rf"Clip c1 .*segment_index goes from {low} to {high}, .*segments 1 to 2"):
        ClipSet(str(tmp_path / "manifest.parquet"), str(tmp_path), "train")


def test_what_was_checked_when_it_was_written_is_not_read_before_training(tmp_path: Path, monkeypatch):
    """Values that are not finite are refused where they are written; else the trainer looks for them at its start."""
    good = {"target": torch.tensor([-3.5, 2.0]), "count": torch.tensor([1])}
    bad = [good | {"reference": torch.tensor([1.0, v])} for v in (float("nan"), float("inf"), -float("inf"))]
    for tensors in bad:
        with pytest.raises(NotFinite, match="reference holds values that are not finite"):
            pack(tensors)
    (tmp_path / "good.safetensors").write_bytes(pack(good))
    assert_same(Blobs(str(tmp_path)).tensors("good.safetensors"), good)
    save_file(bad[0], tmp_path / "bad.safetensors")
    blobs = Blobs(str(tmp_path))
    assert blobs.header("good.safetensors").finite and not blobs.header("bad.safetensors").finite

    manifest = make_set(tmp_path)
    for path in (tmp_path / "blobs").glob("*.safetensors"):
        path.write_bytes(pack(load_file(path)))
    monkeypatch.setattr(Blobs, "tensors", lambda *_: pytest.fail("a blob was read"))
    assert len(ClipSet(str(manifest), str(tmp_path), "train").rows) == 7


def test_local_tensors_are_views_of_the_file(tmp_path: Path):
    values = torch.arange(6, dtype=torch.float32)
    (tmp_path / "a.safetensors").write_bytes(pack({"x": values}))
    found = Blobs(str(tmp_path)).tensors("a.safetensors")["x"]
    remote = Blobs(f"file://{tmp_path}").tensors("a.safetensors")["x"]
    assert torch.equal(found, values) and torch.equal(remote, values)
    # What is written into the file is seen through the tensor: it was mapped, not read.
    with (tmp_path / "a.safetensors").open("r+b") as f:
        f.seek(-4, os.SEEK_END)
        f.write(np.float32(-1.0).tobytes())
    assert float(found[-1]) == -1.0


@pytest.mark.parametrize("z", [8, 16])
def test_clips_of_another_vae_are_refused_before_the_model_is_built(z: int, tmp_path: Path, monkeypatch):
    write_manifest(tmp_path, [make_clip(tmp_path, f"c{i}", i, z=z) for i in range(2)])
    monkeypatch.setattr("models.training.loop.build_model", lambda *_: pytest.fail("the model was built"))
    message = rf"{z} latent channels.*in_channels 32 instead of {z}.*vace_in_channels 128 instead of {2 * z + 64}"
    with pytest.raises(DataError, match=message):
        train(config(tmp_path, tmp_path / "run"))
    with pytest.raises(DataError, match="text_dim 9 instead of 8"):
        train(config(tmp_path, tmp_path / "run", model=fitting(z) | {"text_dim": 9}))


def fitting(z: int) -> dict[str, Any]:
    return TINY | {"in_channels": z, "out_channels": z, "vace_in_channels": 2 * z + 64}


def test_any_number_of_latent_channels_trains(tmp_path: Path):
    write_manifest(tmp_path, [make_clip(tmp_path, f"c{i}", i, z=32) for i in range(2)])
    summary = train(config(tmp_path, tmp_path / "run", steps=2, model=fitting(32)))
    assert np.isfinite(summary["final_loss"])
    assert weights(tmp_path / "run/final")["guider.patch_embedding.weight"].shape[1] == 32


def test_refusal_ends_the_process_with_code_2(tmp_path: Path, capsys):
    from models.training.__main__ import main

    damaged(tmp_path, empty)
    path = write_config(config(tmp_path, tmp_path / "run"), tmp_path)
    assert main(["--config", str(path)]) == 2
    assert "Training refused: The training set has no clip" in capsys.readouterr().err
    assert main(["--config", str(path), "--set", "steps=none"]) == 2
    assert "steps" in capsys.readouterr().err


def test_diverged_loss_stops_with_the_step(clips_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from models.training import loop

    real, calls = training_losses, []

    def explode(*args):
        losses = real(*args)
        calls.append(1)
        return losses._replace(total=losses.total * float("nan")) if len(calls) == 4 else losses

    monkeypatch.setattr(loop, "training_losses", explode)
    with pytest.raises(TrainingDiverged, match=r"step 4 .*learning_rate.*step-00000002"):
        train(config(clips_root, tmp_path / "run"))
    assert all(torch.isfinite(v).all() for v in weights(Checkpoints(tmp_path / "run").latest()).values())


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    batch=st.integers(1, 5),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 5),
)
def test_an_epoch_visits_every_clip_once_and_mixes_no_buckets(sizes, batch, seed, epoch):
    buckets, first = {}, 0
    for i, size in enumerate(sizes):
        buckets[(f"{i}", 1)] = list(range(first, first + size))
        first += size
    batches = epoch_batches(buckets, batch, seed, epoch)
    assert sorted(i for b in batches for i in b) == list(range(first))
    assert all(any(set(b) <= set(v) for v in buckets.values()) and 0 < len(b) <= batch for b in batches)
    assert batches == epoch_batches(buckets, batch, seed, epoch)


@settings(max_examples=20, deadline=None)
@given(world=st.integers(1, 3), first=st.integers(0, 12), workers=st.just(0))
def test_processes_share_the_sequence_of_one(clips_root: Path, world: int, first: int, workers: int):
    clips = ClipSet(str(clips_root / "manifest.parquet"), str(clips_root), "train")
    batches = BatchSequence(clips, 2, seed=3)
    alone = [batches[i].clip_ids for i in range(first * world, (first + 2) * world)]
    shared = [[b.clip_ids for b in make_loader(batches, first, 2, rank, world, workers)] for rank in range(world)]
    assert [shared[i % world][i // world] for i in range(2 * world)] == alone


def test_loader_processes_give_the_same_batches(clips_root: Path):
    clips = ClipSet(str(clips_root / "manifest.parquet"), str(clips_root), "train")
    batches = BatchSequence(clips, 2, seed=3)
    for here, there in zip(make_loader(batches, 0, 4, 0, 1, 0), make_loader(batches, 0, 4, 0, 1, 2)):
        assert here.clip_ids == there.clip_ids and torch.equal(here.target, there.target)


# --- objective ----------------------------------------------------------------------------------------------------


def one_batch(root: Path, **values: Any):
    cfg = config(root, root / "none", batch_size=8, **values)
    clips = ClipSet(cfg.manifest, cfg.blob_root, "train")
    return clips.collate(clips.buckets[("9x32x32", 1)]), cfg


def test_references_go_in_front_and_belong_to_nothing(clips_root: Path):
    batch, cfg = one_batch(clips_root, caption_dropout=0, action_dropout=0, hand_dropout=0)
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    assert torch.equal(c.target[:, :, 0], batch.reference[:, :, 0]) and torch.equal(c.target[:, :, 1:], batch.target)
    control = c.kwargs["control_hidden_states"]
    assert torch.equal(control[:, :32, 0], batch.reference[:, :, 0]) and not control[:, 32:, 0].any()
    assert torch.equal(control[:, 64:, 1:], batch.mask)
    for key in ("segment_index", "hand_frame_mask"):
        assert not c.kwargs[key][:, 0].any()
    assert not c.action_mask[:, 0].any() and torch.equal(c.action_mask[:, 1:], batch.action_mask)
    assert torch.equal(c.kwargs["action_hidden_states"], batch.actions)


def test_dropout_replaces_conditions_by_what_inference_uses_for_none(clips_root: Path):
    batch, cfg = one_batch(clips_root, caption_dropout=1, action_dropout=1, hand_dropout=1, reference_dropout=1)
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    assert torch.equal(c.kwargs["encoder_hidden_states"], batch.empty_caption)
    assert not c.kwargs["segment_interactive"].any() and not c.kwargs["hand_frame_mask"].any()
    real = batch.actions_mask.any(-1)
    expected = batch.empty_caption[:, None, :4].expand_as(batch.actions)
    assert torch.equal(c.kwargs["action_hidden_states"][real], expected[real])
    # Segments that only pad the batch stay invisible.
    assert not c.kwargs["action_attention_mask"][~real].any() and c.kwargs["action_attention_mask"][real].any(-1).all()
    assert torch.equal(c.target, batch.target) and c.kwargs["control_hidden_states"].shape[2] == batch.target.shape[2]


def test_the_guider_gets_what_it_reads(clips_root: Path):
    batch, cfg = one_batch(clips_root, hand_dropout=0, model=TINY | {"guider_input": "vertices"})
    hands = prepare_conditions(batch, cfg, step_generator(0, 0)).kwargs["hand_hidden_states"]
    stored = load_file(clips_root / f"blobs/{batch.clip_ids[1]}.safetensors")["hand_points"]
    assert hands.shape[1:3] == (64, 4) and not hands[:, :, 0].any()
    assert torch.equal(hands[1, :, 1:], stored.float() / 127)


def test_a_guider_of_vertices_learns_and_keeps_to_its_input(clips_root: Path, tmp_path: Path):
    vertices = TINY | {"guider_input": "vertices"}
    train(config(clips_root, tmp_path / "first", steps=2, hand_dropout=0, model=vertices))
    final = weights(tmp_path / "first/final")
    assert final["guider.patch_embedding.weight"].shape[1] == 64 and final["guider.proj_out.weight"].any()
    parent = str(tmp_path / "first/final")
    with pytest.raises(CheckpointError, match="reads vertices, this run's reads render"):
        train(config(clips_root, tmp_path / "second", init_from=parent))
    train(config(clips_root, tmp_path / "third", steps=1, init_from=parent, model=vertices))
    from diffusers import WanVACETransformer3DModel

    WanVACETransformer3DModel(**of_stock(preset("nano") | TINY)).save_pretrained(tmp_path / "stock/transformer")
    train(config(clips_root, tmp_path / "fourth", steps=1, init_from=str(tmp_path / "stock"), model=vertices))
    assert weights(tmp_path / "fourth/final")["guider.patch_embedding.weight"].shape[1] == 64


def test_stage_1_uses_neither_hands_nor_action_captions(clips_root: Path):
    batch, cfg = one_batch(clips_root, use_hands=False, use_action_captions=False, caption_dropout=0)
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    assert "hand_hidden_states" not in c.kwargs and not c.kwargs["segment_interactive"].any()


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_noise_levels_follow_the_shifted_density(density: str, tmp_path: Path):
    cfg = config(tmp_path, tmp_path, timestep_sampling=density, flow_shift=3.0)
    sigmas = sample_sigmas(cfg, 20_000, step_generator(1, 2)).double().numpy()
    u = np.sort(sigmas / (3 - 2 * sigmas))  # the inverse of the shift
    if density == "logit_normal":
        from scipy.stats import norm

        u = norm.cdf(np.log(u / (1 - u)))
    assert np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max() < 0.015


def test_loss_is_the_paper_s(clips_root: Path):
    """Against loops over elements: L_std + lambda * mean of squared errors times M, on a model that predicts zero."""
    batch, cfg = one_batch(clips_root, lambda_action=0.7, flow_shift=1.0)

    class Zero(torch.nn.Module):
        def forward(self, hidden_states, timestep, **_: Any):
            self.noisy, self.timestep = hidden_states, timestep
            return (torch.zeros_like(hidden_states),)

    model = Zero()
    losses = training_losses(model, batch, cfg, step_generator(5, 6))
    clean = np.concatenate([batch.reference.numpy(), batch.target.numpy()], 2).astype(np.float64)
    sigma = model.timestep.numpy().astype(np.float64).reshape(-1, 1, 1, 1, 1) / 1000
    velocity = (model.noisy.numpy() - clean) / sigma  # (x_sigma - x_0) / sigma = eps - x_0
    squared = velocity**2
    mask = np.pad(batch.action_mask.numpy(), ((0, 0), (1, 0)))
    action = np.mean([[squared[b, :, t].mean() * mask[b, t] for t in range(mask.shape[1])] for b in range(len(mask))])
    assert float(losses.std) == pytest.approx(squared.mean(), rel=1e-3)
    assert float(losses.action) == pytest.approx(action, rel=1e-3)
    assert float(losses.total) == pytest.approx(squared.mean() + 0.7 * action, rel=1e-3)


def test_what_is_kept_and_what_hardly_shows_count_less(clips_root: Path):
    batch, cfg = one_batch(clips_root, unmasked_weight=0.25, loss_space="pixel")
    batch.mask[:, :, 1:, :2] = 0  # these clips are masked all over
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    weight = element_weight(c, cfg)
    assert weight is not None and weight.shape == c.target.shape
    energy = torch.tensor(nano_pixel_energy())
    repainted = batch.mask.numpy().any(1)
    assert 0 < repainted.mean() < 1
    for b, t, y, x in np.ndindex(*repainted.shape):
        expected = energy * (1 if repainted[b, t, y, x] else 0.25)
        assert torch.equal(weight[b, :, t + 1, y, x], expected)
    assert torch.equal(weight[:, :, 0], (0.25 * energy).view(1, -1, 1, 1).expand_as(weight[:, :, 0]))
    assert element_weight(c, cfg.model_copy(update={"unmasked_weight": 1.0, "loss_space": "latent"})) is None
    with pytest.raises(ValueError, match="not for 16"):
        one_batch(clips_root, loss_space="pixel", model=TINY | {"in_channels": 16})


# --- configuration ------------------------------------------------------------------------------------------------


def test_recipes_are_valid_and_hold_the_paper_s_numbers():
    paths = {"manifest": "m", "blob_root": "b", "output_dir": "o"}
    recipes = {p.stem: load_config(p, paths) for p in CONFIG_FOLDER.glob("*.yaml")}
    assert set(recipes) == {"nano", "nano_base", "overfit", "stage1_1.3b", "stage2_1.3b", "lora_1.3b"}
    one, two = recipes["stage1_1.3b"], recipes["stage2_1.3b"]
    assert one.steps == two.steps == 10_000 and two.lambda_action == 0.5
    assert not one.use_action_captions and two.use_action_captions and two.use_hands
    with pytest.raises(FileNotFoundError, match="nano"):
        load_config("unknown")
    with pytest.raises(ValueError, match="extra"):
        load_config("nano", {**paths, "extra": 1})
