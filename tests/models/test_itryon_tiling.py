"""Tiles of Wan's autoencoder: when they are switched on, and how far they are from the whole frame."""

from __future__ import annotations

import pytest
import torch

from models.itryon.tiling import set_tiling
from models.vae import load_nano_vae
from tests.models.itryon_tiny import tiny_vae


@pytest.mark.parametrize(
    "tiling, height, width, expected",
    [
        ("auto", 832, 480, False),
        ("auto", 480, 832, False),
        ("auto", 848, 480, True),
        ("auto", 1280, 720, True),
        ("on", 64, 64, True),
        ("off", 1280, 720, False),
    ],
)
def test_tiles_are_on_exactly_when_asked_or_needed(tiling, height, width, expected):
    vae = tiny_vae()
    for before in (True, False):  # whatever an earlier video left
        vae.use_tiling = before
        assert set_tiling(vae, tiling, height, width) is vae.use_tiling is expected


def test_the_embedded_autoencoder_has_none():
    vae = load_nano_vae()
    assert not set_tiling(vae, "auto", 1280, 720) and not set_tiling(vae, "off", 64, 64)
    with pytest.raises(ValueError, match="Set vae_tiling to auto or off"):
        set_tiling(vae, "on", 64, 64)
    with pytest.raises(ValueError, match="one of auto, on, off"):
        set_tiling(tiny_vae(), "maybe", 64, 64)


def test_tiles_are_close_to_the_whole_frame():
    vae = tiny_vae()
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 3, 12, 24, generator=generator)
    video = torch.nn.functional.interpolate(coarse, size=(5, 96, 192), mode="trilinear").clamp(-1, 1)
    with torch.no_grad():
        whole = vae.encode(video).latent_dist.mode()
        picture = vae.decode(whole).sample
        assert set_tiling(vae, "on", 96, 192)
        assert torch.equal(vae.encode(video).latent_dist.mode(), whole), "one tile holds all of it"
        vae.enable_tiling(96, 96, 48, 48)
        tiled = vae.encode(video).latent_dist.mode()
        again = vae.decode(whole).sample
        assert not set_tiling(vae, "off", 96, 192)
        assert torch.equal(vae.decode(whole).sample, picture)
    for result, expected in ((tiled, whole), (again, picture)):
        assert result.shape == expected.shape and not torch.equal(result, expected)
        assert (result - expected).abs().mean() / expected.std() < 0.1
        assert torch.corrcoef(torch.stack([result.flatten(), expected.flatten()]))[0, 1] > 0.99
