"""What the trainer reads: clips it refuses by name, and the sequence of batches."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from models.training.blobs import Blobs, NotFinite, pack
from models.training.checkpoint import Checkpoints
from models.training.data import BatchSequence, ClipSet, DataError, epoch_batches, make_loader
from models.training.loop import TrainingDiverged, train
from models.training.objective import training_losses
from tests.models.training_clips import TINY, make_clip, make_set, write_manifest
from tests.models.training_runs import assert_same, config, weights, write_config

REPOSITORY = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("grad_clip", [1.0, None])
def test_a_gradient_that_is_not_finite_spoils_no_weights(
    clips_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grad_clip: float | None
):
    from models.training import loop

    calls: list[int] = []

    def poisoned(model: torch.nn.Module, *args: Any):
        losses = training_losses(model, *args)
        calls.append(1)
        # The root's value at 0 is 0, its slope infinite: the loss stays finite.
        spike = (next(model.parameters()).sum() * 0).abs().sqrt()
        return losses._replace(total=losses.total + spike) if len(calls) == 4 else losses

    monkeypatch.setattr(loop, "training_losses", poisoned)
    with pytest.raises(TrainingDiverged, match=r"gradient's norm is nan at step 4 .*step-00000002"):
        train(config(clips_root, tmp_path / "run", grad_clip=grad_clip))
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
