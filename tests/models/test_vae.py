"""The nano autoencoder: the one-pass form against the class, its committed weights, and its trainer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from models.features.lpips import LPIPS
from models.vae import NANO_VAE_DIR, data, load_nano_vae, nano_vae_digest, train
from models.vae.data import ClipSampler, ClipShape, NoClipsError, media_files, read_clip
from models.vae.train import NANO_ARCHITECTURE, Trainer, VaeTrainingSettings, centre_clip, measure
from models.vae.whole_clip import decode_latents, encode_moments
from tests.conftest import moving_frames


@pytest.fixture(scope="module")
def nano() -> AutoencoderKLWan:
    return load_nano_vae()


@pytest.mark.parametrize(
    "architecture",
    [
        NANO_ARCHITECTURE,
        {"base_dim": 8, "dim_mult": [1, 1, 2, 2]},
        {
            "base_dim": 16,
            "dim_mult": [1, 2, 2],
            "temperal_downsample": [True, True],
            "is_residual": True,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
        },
    ],
    ids=["nano", "wan 2.1", "wan 2.2"],
)
@pytest.mark.parametrize("frames", [1, 5, 13])
def test_one_pass_equals_the_streaming_class(architecture: dict, frames: int) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**architecture).eval()
    video = torch.rand(2, 3, frames, 16, 32) * 2 - 1
    with torch.no_grad():
        moments = vae._encode(video)
        torch.testing.assert_close(encode_moments(vae, video), moments, atol=2e-5, rtol=1e-4)
        latents = moments[:, :16]
        expected = vae.decode(latents).sample
        torch.testing.assert_close(decode_latents(vae, latents).clamp(-1, 1), expected, atol=2e-5, rtol=1e-4)


def test_one_pass_refuses_other_lengths() -> None:
    with pytest.raises(ValueError, match="4n"):
        encode_moments(AutoencoderKLWan(**NANO_ARCHITECTURE), torch.zeros(1, 3, 4, 16, 16))


def test_committed_weights_are_small_and_of_the_declared_architecture(nano: AutoencoderKLWan) -> None:
    weights = NANO_VAE_DIR / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size <= 8 * 2**20
    for key, value in NANO_ARCHITECTURE.items():
        assert nano.config[key] == value
    # What diffusers' VACE pipeline derives the compression from.
    assert 2 ** len(nano.temperal_downsample) == 8 and 2 ** sum(nano.temperal_downsample) == 4
    assert all(torch.isfinite(p).all() for p in nano.parameters())
    assert len(nano_vae_digest()) == 64


def test_latents_have_the_declared_shape_and_statistics(nano: AutoencoderKLWan) -> None:
    frames = moving_frames(17, 96, 64)
    clip = centre_clip(frames, 17, 64, 96)
    with torch.no_grad():
        latents = nano.encode(clip).latent_dist.mode()
    assert latents.shape == (1, 16, 5, 8, 12)
    mean, std = (torch.tensor(v).view(1, 16, 1, 1, 1) for v in (nano.config.latents_mean, nano.config.latents_std))
    assert (std > 0).all()
    standard = (latents - mean) / std
    assert standard.abs().mean() < 5


def test_reconstruction_is_far_better_than_the_mean_picture(nano: AutoencoderKLWan) -> None:
    clip = centre_clip(moving_frames(9, 96, 64), 9, 64, 96)
    torch.manual_seed(0)
    found = measure(nano, LPIPS("alex"), clip)["psnr_db"]
    flat = clip.mean((2, 3, 4), keepdim=True).expand_as(clip)
    flat_db = float(-10 * ((flat - clip) / 2).square().mean().log10())
    assert found > flat_db + 3


def test_causal_first_frame_does_not_see_the_others(nano: AutoencoderKLWan) -> None:
    clip = centre_clip(moving_frames(9, 64, 64), 9, 64, 64)
    with torch.no_grad():
        whole = nano.encode(clip).latent_dist.mode()[:, :, :1]
        alone = nano.encode(clip[:, :, :1]).latent_dist.mode()
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)


def sampler(seed: int = 0) -> ClipSampler:
    return ClipSampler([moving_frames(12, 80, 72), moving_frames(1, 90, 70)], seed, 0.3)


def test_batches_depend_on_seed_and_step_alone() -> None:
    shape = ClipShape(2, 5, 32, 40)
    first = sampler().batch(3, shape)
    assert first.shape == (2, 3, 5, 32, 40) and first.dtype == np.float32
    assert first.min() >= -1 and first.max() <= 1
    np.testing.assert_array_equal(first, sampler().batch(3, shape))
    assert not np.array_equal(first, sampler().batch(4, shape))
    assert not np.array_equal(first, sampler(1).batch(3, shape))


@pytest.mark.parametrize("synthetic", [0.0, 1.0])
def test_clips_move_and_vary(synthetic: float) -> None:
    source = ClipSampler([moving_frames(1, 120, 100)], 0, synthetic)
    batch = np.concatenate([source.batch(i, ClipShape(1, 5, 32, 32)) for i in range(12)])
    moving = np.abs(np.diff(batch, axis=2)).mean((1, 2, 3, 4)) > 1e-3
    assert moving.mean() > 0.5
    assert batch.std((2, 3, 4)).mean() > 0.05


def test_sources_smaller_than_the_clip_are_magnified() -> None:
    tiny = ClipSampler([moving_frames(9, 20, 16), moving_frames(1, 20, 16)], 0, 0.0)
    assert tiny.batch(0, ClipShape(4, 5, 64, 64)).shape == (4, 3, 5, 64, 64)


def test_sources_are_found_and_read(moving_video: Path, tmp_path: Path) -> None:
    assert media_files([moving_video.parent]) == [moving_video]
    clip = read_clip(moving_video, short_side=32, max_frames=7)
    assert clip.shape == (7, 32, 48, 3)
    with pytest.raises(NoClipsError, match="does not exist"):
        media_files([tmp_path / "nowhere"])
    with pytest.raises(NoClipsError, match="no clips"):
        ClipSampler([], 0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> VaeTrainingSettings:
    architecture = {**NANO_ARCHITECTURE, "base_dim": 8, "dim_mult": [1, 1, 1, 1]}
    monkeypatch.setattr(train, "NANO_ARCHITECTURE", architecture)
    monkeypatch.setattr(train, "_FIRST_SHAPES", (ClipShape(1, 5, 16, 16),))
    monkeypatch.setattr(train, "_SHAPES", (ClipShape(1, 5, 32, 32),))
    return VaeTrainingSettings(steps=8, first_steps=3, warmup_steps=1, learning_rate=2e-3, lpips_frames=2)


def trainer(settings: VaeTrainingSettings) -> Trainer:
    torch.manual_seed(7)
    return Trainer(settings, sampler(), LPIPS("alex"))


def test_killed_and_resumed_training_is_bit_identical(small: VaeTrainingSettings, tmp_path: Path) -> None:
    whole = trainer(small)
    for _ in range(6):
        whole.train_step()
    first = trainer(small)
    for _ in range(4):
        first.train_step()
    first.save(tmp_path / "state.pt")
    second = trainer(small)
    second.load(tmp_path / "state.pt")
    for _ in range(2):
        second.train_step()
    assert second.step == 6
    for name, value in whole.vae.state_dict().items():
        assert torch.equal(value, second.vae.state_dict()[name]), name
        assert torch.equal(whole.ema[name], second.ema[name]), name
    with pytest.raises(ValueError, match="other settings"):
        trainer(small.model_copy(update={"seed": 1})).load(tmp_path / "state.pt")


def test_loss_falls_on_one_clip(small: VaeTrainingSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = sampler().batch(0, ClipShape(1, 5, 32, 32))
    monkeypatch.setattr(data.ClipSampler, "batch", lambda *_: fixed)
    run = trainer(small.model_copy(update={"steps": 1000, "first_steps": 1000}))
    losses = [run.train_step()["l1"] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:3])


def test_command_trains_exports_and_goes_on(
    small: VaeTrainingSettings, moving_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "load_lpips", lambda _: LPIPS("alex"))
    arguments = ["--videos", str(moving_video), "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    arguments += ["--minutes", "5", "--threads", "1", "--first-steps", "1", "--short-side", "64", "--seed", "3"]
    assert train.main([*arguments, "--steps", "2"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKLWan" and len(config["latents_std"]) == 16
    vae = AutoencoderKLWan.from_pretrained(tmp_path / "out", local_files_only=True)
    assert vae.dtype in (torch.float16, torch.float32)
    assert train.main([*arguments, "--steps", "3"]) == 0
    state = torch.load(tmp_path / "work" / "state.pt", weights_only=True)
    assert state["step"] == 3
    with pytest.raises(SystemExit):
        train.main([*arguments, "--steps", "3", "--held-out", "nobody"])
