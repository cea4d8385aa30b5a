"""Pipelines of the large presets' classes, tiny and random, from a folder on disk to a dressed video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from transformers import UMT5EncoderModel

from models.itryon.embedded import EMBEDDED_DIR
from models.itryon.pipeline import ITryOnPipeline
from models.text import umt5
from pipelines.tryon.load import _dtype, load_pipeline, resolved, with_shift
from pipelines.tryon.run import Garment, tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoReader
from tests.models.itryon_tiny import proportions, tiny_model, tiny_vae, trained
from tests.models.test_itryon_diffusers import text_parts
from tests.pipelines.tryon_scene import scene_annotations

GARMENT = Garment(np.full((30, 20, 3), (200, 30, 30), np.uint8), None, "red")


def saved(folder: Path, name: str, dtype: torch.dtype = torch.bfloat16, **window) -> Path:
    """A pipeline with VACE and action layers in the preset's proportion, as it comes out of `save_pretrained`."""
    small = proportions(name)
    encoder, tokenizer = text_parts()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    model = trained(tiny_model(**small))
    pipe = ITryOnPipeline(tiny_vae(), model.to(dtype), scheduler, encoder.to(dtype), tokenizer, **window)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["1.3b", "14b"])
def checkpoint(request, tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("preset") / request.param, request.param, num_frames=9, sizes=[(32, 48)])


def dress(checkpoint, video, out, **changes):
    settings = TryOnSettings(device="cpu", steps=2, overlap_frames=3, **changes)
    loaded = load_pipeline(checkpoint, settings)
    record = tryon_video(loaded, video, [GARMENT], scene_annotations(), out, settings, num_frames=12)
    with VideoReader(out) as reader:
        return np.stack([f.rgb for f in reader.frames()]), record, loaded.pipe


def test_a_video_is_dressed_with_the_checkpoints_own_window_and_schedule(checkpoint, moving_video, tmp_path):
    frames, record, pipe = dress(checkpoint, moving_video, tmp_path / "out.mp4")
    assert type(pipe.vae) is AutoencoderKLWan and type(pipe.text_encoder) is UMT5EncoderModel
    assert frames.shape == (12, 64, 96, 3)
    assert record["model_size"] == [32, 48] and record["windows"] == [[0, 9], [3, 12]]
    used = record["settings"]
    assert (used["num_frames"], used["sizes"], used["flow_shift"], used["dtype"]) == (9, [[32, 48]], 5.0, "fp32")
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.float32
    assert pipe.config.max_text_length == umt5.MAX_LENGTH

    other, record, pipe = dress(
        checkpoint, moving_video, tmp_path / "o.mp4", flow_shift=2.0, num_frames=5, sizes=[(48, 64)]
    )
    assert pipe.scheduler.config.shift == record["settings"]["flow_shift"] == 2.0
    assert record["model_size"] == [48, 64] and record["windows"][0] == [0, 5]
    assert not np.array_equal(other, frames)


def test_weights_in_half_precision_stay_that(checkpoint, moving_video, tmp_path):
    exact, _, _ = dress(checkpoint, moving_video, tmp_path / "fp32.mp4")
    half, record, pipe = dress(checkpoint, moving_video, tmp_path / "bf16.mp4", dtype="bf16")
    assert record["settings"]["dtype"] == "bf16"
    assert record["dtype"] == {"transformer": "bfloat16", "text_encoder": "bfloat16", "vae": "float32"}
    kept = tuple(pipe.transformer._keep_in_fp32_modules)
    for name, parameter in pipe.transformer.named_parameters():
        assert parameter.dtype == (torch.float32 if any(k in name for k in kept) else torch.bfloat16), name
    assert pipe.text_encoder.dtype == torch.bfloat16 and pipe.vae.dtype == torch.float32
    difference = np.abs(half.astype(int) - exact).mean()
    assert 0 < difference < 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_on_a_gpu_weights_keep_the_type_they_are_saved_in(dtype, tmp_path):
    folder = saved(tmp_path, "14b", dtype)
    for part in ("transformer", "text_encoder"):
        assert _dtype(folder / part, TryOnSettings(), "cuda:0") == dtype
        assert _dtype(folder / part, TryOnSettings(), "cpu") == torch.float32
        assert _dtype(folder / part, TryOnSettings(dtype="fp16"), "cpu") == torch.float16


def test_what_a_pipeline_does_not_say_is_480p(tmp_path):
    folder = saved(tmp_path, "1.3b")
    settings = resolved(TryOnSettings(device="cpu"), load_pipeline(folder, TryOnSettings(device="cpu")).pipe)
    assert (settings.num_frames, settings.sizes) == (81, [(832, 480), (480, 832)])
    nano = resolved(TryOnSettings(), load_pipeline(EMBEDDED_DIR, TryOnSettings(device="cpu")).pipe)
    assert (nano.num_frames, nano.sizes, nano.flow_shift) == (17, [(128, 96), (96, 128)], 3.0)


def test_the_shift_of_other_schedulers():
    other = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    shifted = with_shift(other, 7.0)
    assert shifted.config.flow_shift == 7.0 and shifted.config.prediction_type == "flow_prediction"
    with pytest.raises(ValueError, match="leave flow_shift null"):
        with_shift(DDIMScheduler(), 7.0)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_is_switched_on_and_needs_an_accelerator(offload, tmp_path, monkeypatch):
    folder = saved(tmp_path, "1.3b")
    with pytest.raises(ValueError, match="there is none here"):
        load_pipeline(folder, TryOnSettings(device="cpu", offload=offload))
    calls = []
    method = f"enable_{offload}_cpu_offload"
    monkeypatch.setattr(ITryOnPipeline, method, lambda pipe, device: calls.append((method, device, pipe.device.type)))
    pipe = load_pipeline(folder, TryOnSettings(device="cuda:1", offload=offload)).pipe
    assert calls == [(method, "cuda:1", "cpu")] and pipe.transformer.dtype == torch.bfloat16
