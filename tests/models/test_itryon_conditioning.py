"""Conditioning against diffusers' own WanVACEPipeline."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanVACEPipeline, WanVACETransformer3DModel
from PIL import Image

from models.itryon import conditioning
from models.itryon.blend import blend_back, soft_alpha
from models.itryon.windows import Crossfade, plan_windows
from tests.models.itryon_tiny import TINY_STOCK, tiny_vae


@pytest.fixture(scope="module")
def stock():
    vae = tiny_vae()
    vae.register_to_config(latents_mean=np.linspace(-1, 1, 16).tolist(), latents_std=np.linspace(0.5, 2, 16).tolist())
    torch.manual_seed(0)
    transformer = WanVACETransformer3DModel(**TINY_STOCK)
    return WanVACEPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler(), transformer)


@pytest.mark.parametrize("garments", [1, 2])
def test_control_channels_equal_the_stock_pipeline(stock, garments):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 32, 48, 3), np.uint8)
    mask = np.zeros((5, 32, 48), np.uint8)
    for i in range(5):
        mask[i, 4 + i : 20 + i, 8:30] = 1
    photos = [rng.integers(0, 256, s, np.uint8) for s in ((56, 32, 3), (24, 40, 3))[:garments]]

    video, masks, references = stock.preprocess_conditions(
        [Image.fromarray(f) for f in frames],
        [Image.fromarray(m * 255) for m in mask],
        [Image.fromarray(p) for p in photos],
        1,
        32,
        48,
        5,
        torch.float32,
        torch.device("cpu"),
    )
    expected = torch.cat(
        [
            stock.prepare_video_latents(video, masks, references, None, torch.device("cpu")),
            stock.prepare_masks(masks, references),
        ],
        dim=1,
    )

    pictures = [conditioning.reference_image(p, 32, 48, antialias=False) for p in photos]
    ours = conditioning.control_latents(
        stock.vae,
        conditioning.to_model_range(frames),
        conditioning.mask_to_tensor(mask),
        conditioning.encode_references(stock.vae, pictures),
    )
    assert ours.shape == (1, 96, 2 + garments, 4, 6)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_encode_and_decode_invert_the_normalisation(stock):
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    latents = conditioning.encode(stock.vae, video)
    raw = stock.vae.encode(video).latent_dist.mode()
    mean, std = np.array(stock.vae.config.latents_mean), np.array(stock.vae.config.latents_std)
    np.testing.assert_allclose(
        latents.numpy().transpose(0, 2, 3, 4, 1), (raw.numpy().transpose(0, 2, 3, 4, 1) - mean) / std, atol=1e-5
    )
    torch.testing.assert_close(
        conditioning.decode(stock.vae, latents), stock.vae.decode(raw).sample, atol=1e-4, rtol=1e-4
    )


def test_bytes_survive_the_model_range():
    frames = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(conditioning.from_model_range(conditioning.to_model_range(frames)[0]), frames)


def test_mask_channels_hold_every_pixel():
    rng = np.random.default_rng(1)
    mask = rng.integers(0, 2, (9, 16, 24))
    channels = conditioning.mask_channels(conditioning.mask_to_tensor(mask), 1).numpy()[0]
    assert channels.shape == (64, 4, 2, 3) and not channels[:, 0].any()
    # nearest-exact picks the frame under the middle of each third of the nine frames.
    for j, frame in enumerate((1, 4, 7)):
        for y in range(16):
            for x in range(24):
                assert channels[8 * (y % 8) + x % 8, 1 + j, y // 8, x // 8] == mask[frame, y, x]


def test_garment_is_cut_out_cropped_and_centred_on_white():
    photo = np.full((40, 60, 3), 90, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    photo[10:30, 20:30], mask[10:30, 20:30] = (200, 0, 0), 1
    picture = conditioning.from_model_range(conditioning.reference_image(photo, 32, 32, mask)[:, None])[0]
    # The garment is 20 x 10: it fills the height and half the width.
    assert (picture[:, 8:24] == (200, 0, 0)).all() and (picture[:, :8] == 255).all() and (picture[:, 24:] == 255).all()


def test_shrinking_a_garment_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    smooth = conditioning.reference_image(stripes, 16, 16)
    stock_like = conditioning.reference_image(stripes[:, :63], 16, 16, antialias=False)
    assert smooth[:, :, 2:-2].abs().max() < 0.1 and stock_like.std() > 0.2


def test_hand_latents_are_zero_on_reference_frames(stock):
    hands = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    present = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0], bool)
    latents, mask = conditioning.hand_latents(stock.vae, hands, present, 2)
    assert latents.shape == (1, 16, 5, 2, 2) and not latents[:, :, :2].any() and latents[:, :, 2:].any()
    assert mask.tolist() == [[0, 0, 0, 1, 0]]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda v: conditioning.encode(v, torch.zeros(1, 3, 4, 16, 16)), "4n"),
        (lambda v: conditioning.encode(v, torch.zeros(1, 3, 5, 12, 16)), "multiples of 8"),
        (lambda v: conditioning.to_model_range(np.zeros((2, 4, 4, 3))), "uint8"),
        (lambda v: conditioning.reference_image(np.zeros((4, 4, 3), np.uint8), 8, 8, np.zeros((4, 4))), "no garment"),
        (lambda v: conditioning.reference_image(np.zeros((4, 4, 3), np.uint8), 8, 8, np.ones((5, 4))), "mask is"),
    ],
)
def test_bad_input_is_refused(stock, call, message):
    with pytest.raises(ValueError, match=message):
        call(stock.vae)


def test_blend_keeps_every_pixel_outside_the_mask():
    rng = np.random.default_rng(0)
    source, made = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)
    mask = np.zeros((40, 50), np.uint8)
    mask[5:30, 10:50] = 1
    for edge in (0, 1, 4):
        out = blend_back(source, made, mask, edge)
        assert np.array_equal(out[mask == 0], source[mask == 0])
        assert np.array_equal(out[12:23, 20:50], made[12:23, 20:50])  # the picture's border is no edge
    alpha = soft_alpha(mask, 3)
    assert alpha[17, 10] == pytest.approx(0.25) and alpha[17, 13] == 1 and (np.diff(alpha[17, 9:14]) > 0).all()


@pytest.mark.parametrize("total, window, overlap", [(1, 5, 2), (17, 17, 4), (18, 17, 4), (100, 17, 4), (33, 9, 0)])
def test_windows_cover_everything_with_enough_overlap(total, window, overlap):
    windows = plan_windows(total, window, overlap)
    assert all(b - a == window for a, b in windows) and windows[0][0] == 0
    assert windows[-1][1] == max(total, window)
    assert all(nxt[0] <= prev[1] - overlap and nxt[0] > prev[0] for prev, nxt in itertools.pairwise(windows))


def test_crossfade_of_equal_windows_is_the_video():
    video = np.random.default_rng(0).integers(0, 256, (30, 2, 3, 3), np.uint8)
    fade = Crossfade()
    out = [f for a, b in plan_windows(30, 9, 3) for f in fade.add(a, video[a:b])]
    assert np.array_equal(np.stack([*out, *fade.finish()]), video)


def test_crossfade_rises_linearly():
    fade = Crossfade()
    out = list(fade.add(0, np.zeros((5, 1, 1, 3), np.uint8)))
    out += list(fade.add(2, np.full((5, 1, 1, 3), 200, np.uint8)))
    out += list(fade.finish())
    assert [int(f.max()) for f in out] == [0, 0, 50, 100, 150, 200, 200]
    with pytest.raises(ValueError, match="does not continue"):
        gap = Crossfade()
        list(gap.add(0, np.zeros((3, 1, 1, 3), np.uint8)))
        list(gap.add(4, np.zeros((3, 1, 1, 3), np.uint8)))
