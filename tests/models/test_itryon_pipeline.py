"""The try-on pipeline with tiny random models of the real classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanVACEPipeline
from PIL import Image

from models.itryon import conditioning
from models.itryon.losses import ActionSpan
from models.itryon.pipeline import ITryOnPipeline
from tests.models.itryon_tiny import tiny_model, tiny_vae, trained

H, W = 16, 32


@pytest.fixture(scope="module")
def pipe() -> ITryOnPipeline:
    pipe = ITryOnPipeline(tiny_vae(), trained(tiny_model()), FlowMatchEulerDiscreteScheduler(shift=3.0), num_frames=5)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text(seed: int, length: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(length, 20, generator=generator), torch.ones(length, dtype=torch.long)


def inputs(frames: int = 5) -> dict:
    rng = np.random.default_rng(0)
    mask = np.zeros((frames, H, W), np.uint8)
    mask[:, 4:14, 8:24] = 1
    video = rng.integers(0, 256, (frames, H, W, 3), np.uint8)
    hands = np.zeros_like(video)
    hands[frames // 2 :, 8:12, 16:20] = 200
    return {
        "video": video,
        "mask": mask,
        "agnostic_video": np.where(mask[..., None], np.uint8(128), video),
        "garments": [rng.integers(0, 256, (40, 24, 3), np.uint8)],
        "hand_video": hands,
        "actions": [ActionSpan(3, 5, "zip up")],
        "prompt_embeds": text(0)[0][None],
        "negative_prompt_embeds": text(1)[0][None],
        "action_embeds": {"": text(2), "zip up": text(3)},
        "num_inference_steps": 2,
        "guidance_scale": 2.0,
        "generator": torch.Generator().manual_seed(0),
    }


def test_output_keeps_the_source_outside_the_mask(pipe):
    call = inputs()
    frames = pipe(**call).frames
    assert frames.shape == (5, H, W, 3) and frames.dtype == np.uint8
    outside = call["mask"] == 0
    assert np.array_equal(frames[outside], call["video"][outside])
    assert (frames[~outside] != call["video"][~outside]).mean() > 0.5


def test_same_generator_same_result_and_every_condition_is_used(pipe):
    def latents(**changes):
        return pipe(**(inputs() | {"output_type": "latent"} | changes)).frames[0]

    base = latents()
    assert torch.equal(latents(), base)
    rng = np.random.default_rng(5)
    changes = {
        "generator": torch.Generator().manual_seed(1),
        "garments": [rng.integers(0, 256, (40, 24, 3), np.uint8)],
        "hand_video": None,
        "actions": [ActionSpan(0, 5, "zip up")],
        "agnostic_video": inputs()["video"],
        "prompt_embeds": text(9)[0][None],
        "guidance_scale": 1.0,
        "num_inference_steps": 3,
    }
    for name, value in changes.items():
        assert (latents(**{name: value}) - base).abs().max() > 1e-5, name


def test_a_guider_of_vertices_takes_points_and_the_same_window_gives_the_same():
    model = trained(tiny_model(guider_input="vertices"))
    pipe = ITryOnPipeline(tiny_vae(), model, FlowMatchEulerDiscreteScheduler(shift=3.0), num_frames=5)
    pipe.set_progress_bar_config(disable=True)
    points = np.zeros((5, 16, H // 8, W // 8), np.float32)
    points[3:] = np.random.default_rng(0).uniform(-1, 1, points[3:].shape)
    seen = []
    model.guider.register_forward_pre_hook(lambda _, args: seen.append(args))

    def latents(**changes):
        call = inputs() | {"output_type": "latent", "num_inference_steps": 1, "hand_points": points} | changes
        return pipe(**call).frames[0]

    base = latents()
    hands, present = seen[0]
    assert present[0].tolist() == [0, 0, 1] and not hands[:, :, :2].any()
    assert np.array_equal(hands[0, :, 2].numpy(), points[1:].reshape(64, H // 8, W // 8))
    assert torch.equal(latents(hand_video=None), base)  # the render is not looked at
    without = latents(hand_points=None, hand_video=None)
    assert (without - base).abs().max() > 1e-5
    assert torch.equal(latents(hand_present=np.zeros(5, bool)), without)
    with pytest.raises(ValueError, match="reads vertices: pass hand_points"):
        latents(hand_points=None)
    with pytest.raises(ValueError, match="hand_points is"):
        latents(hand_points=points[:, :8])


def test_without_our_conditions_it_is_the_stock_pipeline():
    model = tiny_model(guider_dim=None, action_layers=[])
    vae, scheduler = tiny_vae(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    call = inputs()
    noise = torch.randn(1, 16, 3, 2, 4, generator=torch.Generator().manual_seed(3))
    ours = ITryOnPipeline(vae, model, scheduler, num_frames=5)
    stock = WanVACEPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler(shift=3.0), model)
    for p in (ours, stock):
        p.set_progress_bar_config(disable=True)
    garment = conditioning.reference_image(call["garments"][0], H, W, antialias=False)
    latents = ours(
        **{k: v for k, v in call.items() if k not in ("hand_video", "actions", "action_embeds", "garments")},
        garments=[garment],
        latents=noise,
        output_type="latent",
    ).frames[0]
    expected = stock(
        video=[Image.fromarray(f) for f in call["agnostic_video"]],
        mask=[Image.fromarray(m * 255) for m in call["mask"]],
        reference_images=[Image.fromarray(call["garments"][0])],
        height=H,
        width=W,
        num_frames=5,
        num_inference_steps=2,
        guidance_scale=2.0,
        prompt_embeds=call["prompt_embeds"],
        negative_prompt_embeds=call["negative_prompt_embeds"],
        latents=noise.clone(),
        output_type="latent",
    ).frames[:, :, 1:]
    torch.testing.assert_close(latents, expected, atol=2e-5, rtol=1e-4)


def first_prediction(pipe: ITryOnPipeline, **changes) -> torch.Tensor:
    """What the network predicts in the only step of a call with these inputs."""
    predictions = []

    def keep(_, step, timestep, tensors):
        predictions.append(tensors["noise_pred"])
        return {}

    call = inputs() | {"num_inference_steps": 1, "output_type": "latent"} | changes
    pipe(**call, callback_on_step_end=keep, callback_on_step_end_tensor_inputs=["noise_pred"])
    return predictions[0]


def test_guidance_extrapolates_from_the_unconditional_pass(pipe):
    # Without spans the empty caption is all that both passes read of the actions.
    conditional = first_prediction(pipe, guidance_scale=1.0, actions=[])
    unconditional = first_prediction(pipe, guidance_scale=1.0, actions=[], prompt_embeds=text(1)[0][None])
    guided = first_prediction(pipe, guidance_scale=3.0, actions=[])
    guided_span = first_prediction(pipe, guidance_scale=3.0, actions=[ActionSpan(1, 5, "zip up")])
    expected = unconditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(guided_span, expected, atol=1e-2)


def test_where_nothing_is_asked_guidance_leads_away_from_the_negative_action(pipe):
    def predicted(**changes) -> torch.Tensor:
        return first_prediction(pipe, negative_prompt_embeds=inputs()["prompt_embeds"], **changes)

    done = predicted(actions=[ActionSpan(0, 5, "zip up")], guidance_scale=1.0)
    quiet = predicted(actions=[], guidance_scale=1.0)
    away = predicted(actions=[], guidance_scale=3.0, negative_action="zip up")
    assert torch.allclose(away, done + 3 * (quiet - done), atol=1e-5)
    assert not torch.allclose(done, quiet, atol=1e-4)
    assert torch.equal(predicted(actions=[], guidance_scale=1.0, negative_action="zip up"), quiet)
    asked = {"actions": [ActionSpan(3, 5, "zip up")], "guidance_scale": 3.0}
    assert torch.equal(predicted(**asked, negative_action="zip up"), predicted(**asked))


@pytest.mark.parametrize("frames", [1, 4, 12])
def test_any_length(pipe, frames):
    result = pipe(**(inputs(frames) | {"num_inference_steps": 1, "actions": []})).frames
    assert result.shape == (frames, H, W, 3)


def test_callback_can_stop(pipe):
    calls = []

    def stop(p, step, timestep, tensors):
        calls.append((step, float(timestep), tensors["latents"].shape))
        p.interrupt = True
        return {}

    pipe(**(inputs() | {"num_inference_steps": 5}), callback_on_step_end=stop)
    assert calls == [(0, 1000.0, (1, 16, 3, 2, 4))]


def test_output_types(pipe):
    images = pipe(**inputs(), output_type="pil").frames
    assert len(images) == 5 and images[0].size == (W, H)
    latents = pipe(**inputs(), output_type="latent", return_dict=False)[0]
    assert latents[0].shape == (1, 16, 2, 2, 4)


def test_save_and_load_round_trip(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = ITryOnPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.config.num_frames == 5 and again.text_encoder is None
    assert type(again.transformer) is type(pipe.transformer)
    assert np.array_equal(again(**inputs()).frames, pipe(**inputs()).frames)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"video": np.zeros((5, H, W - 1, 3), np.uint8)}, "video is"),
        ({"mask": np.zeros((5, H), np.uint8)}, "mask must be"),
        ({"garments": []}, "No garment"),
        ({"output_type": "gif"}, "output type"),
        ({"action_embeds": {"zip up": text(3)}}, "lacks"),
        ({"prompt_embeds": None}, "no text encoder"),
        ({"num_frames": 8}, "4n"),
        ({"latents": torch.zeros(1, 16, 2, 2, 4)}, "Latents are"),
    ],
)
def test_bad_input_is_refused(pipe, change, message):
    with pytest.raises(ValueError, match=message):
        pipe(**(inputs() | change))


def test_callback_tensors_are_checked(pipe):
    with pytest.raises(ValueError, match="Callback tensors"):
        pipe(**inputs(), callback_on_step_end_tensor_inputs=["secrets"])
