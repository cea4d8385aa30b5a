"""Validation videos and trackers: what they show, and that a run with them ends as one without."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from models.itryon.conditioning import mask_channels
from models.itryon.pipeline import ITryOnPipeline
from models.training.build import build_model
from models.training.checkpoint import Checkpoints
from models.training.config import TrainingRefused
from models.training.data import ClipSet, DataError
from models.training.loop import train
from models.training.objective import prepare_conditions, step_generator
from models.training.validation import Validator, _pixel_mask
from models.vae import load_nano_vae
from tests.models.itryon_tiny import tiny_vae
from tests.models.training_clips import make_clip, write_manifest
from tests.models.training_runs import assert_same, config, curve

WATCHED = {"validate_every": 2, "validation_steps": 2, "validation_clips": 2}


@pytest.mark.parametrize("values", [{"ema_decay": 0.9, "reference_dropout": 0.3}, {"lora_rank": 2}])
def test_a_run_with_validation_ends_as_one_without(values: dict, clips_root: Path, tmp_path: Path):
    watched, alone = tmp_path / "watched", tmp_path / "alone"
    summary = train(config(clips_root, watched, steps=5, **values, **WATCHED))
    train(config(clips_root, alone, steps=5, tensorboard=False, **values))
    a, b = Checkpoints(watched).path(5), Checkpoints(alone).path(5)
    files = sorted(p.relative_to(b) for p in b.rglob("*.safetensors"))
    assert files and all((a / f).is_file() for f in files)
    for file in files:
        assert_same(load_file(a / file), load_file(b / file))
    assert curve(watched) == curve(alone)
    names = sorted(p.name for p in (watched / "validation").iterdir())
    assert names == sorted(f"step_{s}.{e}" for s in (2, 4, 5) for e in ("jpg", "mp4"))
    assert [Path(p).name for p in summary["validation"]] == ["step_5.mp4", "step_5.jpg"]
    assert (watched / "final/validation.jpg").read_bytes() == (watched / "validation/step_5.jpg").read_bytes()
    with av.open(str(watched / "final/validation.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    # Two clips of 9 frames, three panels of 32 pixels.
    assert len(frames) == 18 and frames[0].shape == (32, 96, 3)
    assert Image.open(watched / "final/validation.jpg").width >= 96


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_holds_curves_and_videos_once_each_step(clips_root: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    train(config(clips_root, out, steps=4, **WATCHED))
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    names = {"loss/total", "loss/std", "loss/action", "train/learning_rate", "speed/samples_per_second"}
    assert names | {"speed/data_wait_seconds", "memory/peak_mb"} <= set(events.Tags()["scalars"])
    losses = events.Scalars("loss/total")
    assert [e.step for e in losses] == [1, 2, 3, 4]
    assert [e.value for e in losses] == pytest.approx([row[1] for row in curve(out)], rel=1e-5)
    (tag,) = events.Tags()["images"]
    images = events.Images(tag)
    assert [e.step for e in images] == [2, 4] and images[0].encoded_image_string.startswith(b"GIF89a")


def test_sampling_is_the_pipeline_s_euler_loop(clips_root: Path, tmp_path: Path):
    """Against a loop written out here: guidance between captions and none, steps of the shifted schedule."""
    cfg = config(clips_root, tmp_path, validate_every=1, validation_steps=3, validation_guidance=3.0)
    clips = ClipSet(cfg.manifest, cfg.blob_root, "train")
    validator = Validator(cfg, clips)
    torch.manual_seed(1)
    model = build_model(cfg, "").eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    batch = clips.collate([1])
    pipe = ITryOnPipeline(load_nano_vae(), model, FlowMatchEulerDiscreteScheduler(shift=cfg.flow_shift))
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        found = validator._sample(pipe, batch, 7)
        inputs = {}
        for name, dropped in (("with", 0.0), ("without", 1.0)):
            rates = {"caption_dropout": dropped, "action_dropout": dropped, "hand_dropout": 0.0}
            inputs[name] = prepare_conditions(batch, cfg.model_copy(update=rates), step_generator(0, 0)).kwargs
        scheduler = FlowMatchEulerDiscreteScheduler(shift=cfg.flow_shift)
        scheduler.set_timesteps(3)
        expected = torch.randn(1, 32, 4, 4, 4, generator=step_generator(cfg.seed, 7))
        for here, after in pairwise(scheduler.sigmas.tolist()):
            time = torch.tensor([1000 * here])
            v = {n: model(expected, time, return_dict=False, **kw)[0] for n, kw in inputs.items()}
            expected = expected + (after - here) * (v["without"] + 3 * (v["with"] - v["without"]))
    assert torch.allclose(found, expected[:, :, 1:], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_mask_channels_are_read_back(seed: int, latent_frames: int):
    mask = torch.from_numpy(np.random.default_rng(seed).random((1, 1, 1, 16, 24)) > 0.5)
    mask = mask.expand(-1, -1, 4 * latent_frames - 3, -1, -1)
    assert torch.equal(_pixel_mask(mask_channels(mask.float())[0]), mask[0, 0])


def test_clips_of_split_val_are_shown_where_there_are_some(clips_root: Path, tmp_path: Path):
    rows = pq.read_table(clips_root / "manifest.parquet").to_pylist()
    held_back = [make_clip(clips_root, f"v{i}", 20 + i, split="val") for i in range(3)]
    cfg = config(
        clips_root, tmp_path, manifest=str(write_manifest(clips_root, rows + held_back, "v.parquet")), **WATCHED
    )
    clips = ClipSet(cfg.manifest, cfg.blob_root, "train")
    validator = Validator(cfg, clips)
    shown = [validator.clips.rows[i] for i in validator.indices]
    # Interactions first.
    assert [r["clip_id"] for r in shown] == ["v1", "v0"]
    others = [{**r, "encoder_digest": "encoder-b"} for r in held_back]
    manifest = str(write_manifest(clips_root, rows + others, "w.parquet"))
    with pytest.raises(DataError, match="split val were made by encoder encoder-b"):
        Validator(cfg.model_copy(update={"manifest": manifest}), clips)


def test_what_is_missing_is_refused_before_the_first_step(clips_root: Path, tmp_path: Path):
    with pytest.raises(TrainingRefused, match="has no folder vae/"):
        train(config(clips_root, tmp_path / "a", validation_vae=str(tmp_path), **WATCHED))
    tiny_vae().save_pretrained(tmp_path / "wan" / "vae")
    with pytest.raises(TrainingRefused, match=r"decodes latents of 16 channels, the clips have 32"):
        train(config(clips_root, tmp_path / "c", validation_vae=str(tmp_path / "wan"), **WATCHED))
    if importlib.util.find_spec("wandb") is None:
        with pytest.raises(TrainingRefused, match="pip install wandb"):
            train(config(clips_root, tmp_path / "b", wandb_project="p"))
    assert not list(tmp_path.glob("*/checkpoints/step-*"))
