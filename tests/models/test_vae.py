"""The nano autoencoder: blocks, components and decoder against their definitions, its weights, its command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.features.lpips import LPIPS
from models.vae import NANO_VAE_DIR, fit, load_nano_vae, nano_pixel_energy, nano_vae_digest
from models.vae.data import ClipSampler, ClipShape, NoClipsError, centre_clip, media_files, read_clip
from models.vae.fit import FitSettings, measure
from models.vae.patch_autoencoder import VALUES, PatchAutoencoder, blocks_of, video_of
from tests.conftest import moving_frames


@pytest.fixture(scope="module")
def nano() -> PatchAutoencoder:
    return load_nano_vae()


@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_blocks_hold_every_pixel_once(groups: int, rows: int, columns: int, batch: int) -> None:
    video = torch.rand(batch, 3, 1 + 4 * groups, 8 * rows, 8 * columns)
    blocks = blocks_of(video)
    assert blocks.shape == (batch, groups + 1, rows, columns, VALUES)
    assert torch.equal(video_of(blocks), video)
    if groups:
        # Latent frame j holds frames 4 j - 3 to 4 j.
        one = blocks[0, groups, rows - 1, 0].view(3, 4, 8, 8)
        assert torch.equal(one, video[0, :, 4 * groups - 3 :, 8 * (rows - 1) : 8 * rows, :8])


def test_encoder_and_decoder_equal_their_definition() -> None:
    torch.manual_seed(0)
    vae = PatchAutoencoder(5)
    for parameter in vae.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.1
    video = torch.rand(1, 3, 5, 16, 24) * 2 - 1
    latents = vae.encode(video).latent_dist.mode()
    blocks = blocks_of(video)
    for t, y, x in np.ndindex(2, 2, 3):
        expected = vae.basis @ (blocks[0, t, y, x] - vae.mean)
        torch.testing.assert_close(latents[0, :, t, y, x], expected, atol=1e-5, rtol=1e-4)
    rebuilt = torch.zeros_like(blocks)
    for t, y, x in np.ndindex(2, 2, 3):
        rebuilt[0, t, y, x] = vae.mean
        for i, j in np.ndindex(3, 3):
            if 0 <= y + i - 1 < 2 and 0 <= x + j - 1 < 3:
                rebuilt[0, t, y, x] += vae.decoder[:, :, i, j] @ latents[0, :, t, y + i - 1, x + j - 1]
    torch.testing.assert_close(vae.decode(latents).sample, video_of(rebuilt).clamp(-1, 1), atol=1e-4, rtol=1e-4)
    assert torch.equal(vae.decode(latents, return_dict=False)[0], vae.decode(latents).sample)


@pytest.mark.parametrize("shape, message", [((1, 3, 4, 16, 16), "4n"), ((1, 3, 5, 12, 16), "multiples of 8")])
def test_other_sizes_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchAutoencoder(4).encode(torch.zeros(shape))


def test_committed_weights_are_small_and_orthonormal(nano: PatchAutoencoder) -> None:
    assert (NANO_VAE_DIR / "diffusion_pytorch_model.safetensors").stat().st_size <= 8 * 2**20
    assert nano.config.scale_factor_spatial == 8
    # What diffusers' VACE pipeline derives the compression from.
    assert 2 ** len(nano.temperal_downsample) == 8 and 2 ** sum(nano.temperal_downsample) == 4
    torch.testing.assert_close(nano.basis @ nano.basis.T, torch.eye(nano.config.z_dim), atol=1e-3, rtol=0)
    assert len(nano_vae_digest()) == 64


def test_channels_weighted_by_their_energy_add_up_to_pixels(nano):
    g = torch.Generator().manual_seed(0)
    one, two = (torch.rand(1, 3, 9, 16, 24, generator=g) * 2 - 1 for _ in range(2))
    deviation = torch.tensor(nano.config.latents_std).view(1, -1, 1, 1, 1)
    latents = [nano.encode(v).latent_dist.mode() / deviation for v in (one, two)]
    energy = torch.tensor(nano_pixel_energy()).view(1, -1, 1, 1, 1)
    # The difference of the pixels, as far as the components can hold it.
    difference = blocks_of(one) - blocks_of(two)
    held = difference @ torch.linalg.pinv(nano.basis) @ nano.basis
    expected = held.square().sum().item()
    assert ((latents[0] - latents[1]).square() * energy).sum().item() == pytest.approx(expected, rel=1e-3)


def test_latents_have_the_declared_shape_and_statistics(nano: PatchAutoencoder) -> None:
    clip = centre_clip(moving_frames(17, 96, 64), 17, 64, 96)
    latents = nano.encode(clip).latent_dist.mode()
    assert latents.shape == (1, 32, 5, 8, 12)
    std = torch.tensor(nano.config.latents_std).view(1, 32, 1, 1, 1)
    assert (std > 0).all() and 0.1 < float((latents / std).std()) < 4


def test_reconstruction_of_a_real_clip(nano: PatchAutoencoder, samples: Path) -> None:
    clip = centre_clip(read_clip(samples / "videos" / "intel_asl_thanks.mkv", 200, 100), 17, 128, 96)
    found = measure(nano, LPIPS("alex"), clip)
    assert found["psnr_db"] >= 28


def test_latent_frames_do_not_see_later_frames(nano: PatchAutoencoder) -> None:
    clip = centre_clip(moving_frames(9, 64, 64), 9, 64, 64)
    whole = nano.encode(clip).latent_dist.mode()
    for frames in (1, 5):
        alone = nano.encode(clip[:, :, :frames]).latent_dist.mode()
        torch.testing.assert_close(whole[:, :, : alone.shape[2]], alone, atol=1e-5, rtol=1e-5)


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


def test_components_are_those_of_the_covariance() -> None:
    source = ClipSampler([moving_frames(12, 150, 120)], 0, 0.2)
    settings = FitSettings(clips=3, z_dim=6, first_weight=1.0)
    vae = fit.fit(source, settings)
    clips = [blocks_of(torch.from_numpy(source.batch(i, fit._CLIP))).reshape(-1, VALUES).numpy() for i in range(3)]
    values = np.concatenate(clips).astype(np.float64)
    _, strength, vectors = np.linalg.svd(values - values.mean(0), full_matrices=False)
    for k in range(6):
        if strength[k] > 1.05 * strength[k + 1] and (k == 0 or strength[k - 1] > 1.05 * strength[k]):
            assert abs(vectors[k] @ vae.basis[k].numpy()) > 0.999
    deviation = strength[:6] / np.sqrt(len(values))
    expected = deviation / (deviation / np.median(deviation)) ** settings.contrast
    # torch takes the lower of two middle values as the median.
    ratio = np.array(vae.config.latents_std) / expected
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_the_decoder_has_the_least_error(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ClipSampler([moving_frames(12, 150, 120)], 0, 0.2)
    vae = fit.fit(source, FitSettings(clips=2, z_dim=8, first_weight=1.0, ridge=1e-9))
    videos = [torch.from_numpy(source.batch(i, fit._CLIP)) for i in range(2)]

    def error() -> float:
        return sum(float((_unclamped(vae, v) - blocks_of(v)).square().mean()) for v in videos)

    best, decoder = error(), vae.decoder.data.clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        vae.decoder.data = decoder + 1e-3 * torch.randn(decoder.shape, generator=generator)
        assert error() > best
    vae.decoder.data = torch.zeros_like(decoder)
    vae.decoder.data[:, :, 1, 1] = vae.basis.data.T
    assert error() >= best, "plain components, without neighbours"


def _unclamped(vae: PatchAutoencoder, video: torch.Tensor) -> torch.Tensor:
    latents = vae.encode(video).latent_dist.mode()[0].transpose(0, 1)
    return torch.nn.functional.conv2d(latents, vae.decoder, padding=1).permute(0, 2, 3, 1)[None] + vae.mean


def test_command_fits_measures_and_repeats(
    moving_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "load_lpips", lambda _: LPIPS("alex"))
    arguments = ["--videos", str(moving_video), "--clips", "2", "--short-side", "64", "--z-dim", "8"]
    for name in ("a", "b"):
        assert fit.main([*arguments, "--out", str(tmp_path / name)]) == 0
    weights = [(tmp_path / n / "diffusion_pytorch_model.safetensors").read_bytes() for n in "ab"]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "a" / "config.json").read_text())["z_dim"] == 8
    again = PatchAutoencoder.from_pretrained(tmp_path / "a", local_files_only=True)
    assert all(torch.isfinite(p).all() for p in again.parameters())
    with pytest.raises(SystemExit):
        fit.main([*arguments, "--out", str(tmp_path / "c"), "--held-out", str(tmp_path / "nobody")])
    assert "does not exist" in capsys.readouterr().err
