"""The try-on pipeline as diffusers' users know pipelines: adapters, schedulers, offloading, callbacks, progress."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from models.itryon import conditioning
from models.itryon.losses import ActionSpan
from models.itryon.pipeline import ITryOnPipeline
from models.itryon.presets import preset
from tests.models.itryon_tiny import TINY, proportions, tiny_model, tiny_vae, trained
from tests.models.test_itryon_pipeline import H, W, inputs


def make_pipe(**overrides) -> ITryOnPipeline:
    pipe = ITryOnPipeline(tiny_vae(), trained(tiny_model(**overrides)), FlowMatchEulerDiscreteScheduler(), num_frames=5)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe() -> ITryOnPipeline:
    return make_pipe()


def latents(pipe: ITryOnPipeline, **changes) -> torch.Tensor:
    return pipe(**(inputs() | {"output_type": "latent"} | changes)).frames[0]


def test_adapters_load_weigh_and_unload(pipe, tmp_path):
    base = latents(pipe)
    donor = copy.deepcopy(pipe.transformer)
    donor.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    state = {f"transformer.{k}": v.contiguous() for k, v in get_peft_model_state_dict(donor).items()}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    expected = latents(ITryOnPipeline(pipe.vae, donor, pipe.scheduler, num_frames=5))

    pipe.load_lora_weights(tmp_path)
    adapted = latents(pipe)
    assert (adapted - base).abs().max() > 1e-3
    torch.testing.assert_close(adapted, expected, atol=1e-4, rtol=1e-4)
    # Also what is prepared once goes by the adapter's weight: keys of captions are projected before the first step.
    torch.testing.assert_close(latents(pipe, attention_kwargs={"scale": 0.0}), base, atol=1e-4, rtol=1e-4)
    pipe.unload_lora_weights()
    torch.testing.assert_close(latents(pipe), base, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_scheduler_can_be_replaced(pipe, steps):
    euler = latents(pipe, num_inference_steps=steps)
    pipe.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    multistep = latents(pipe, num_inference_steps=steps)
    assert multistep.isfinite().all() and (multistep - euler).abs().max() > 1e-5
    assert torch.equal(latents(pipe, num_inference_steps=steps), multistep)


def test_progress_counts_every_step_of_every_window(pipe, capsys):
    pipe.set_progress_bar_config(disable=False)
    call = inputs(12) | {"num_inference_steps": 2, "actions": [], "overlap": 1}
    pipe(**call)
    assert "6/6" in capsys.readouterr().err


def test_a_callback_may_change_latents(pipe):
    def zero(_, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    assert not latents(pipe, callback_on_step_end=zero).any()


def text_parts() -> tuple[UMT5EncoderModel, PreTrainedTokenizerFast]:
    torch.manual_seed(0)
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "zip": 3, "up": 4}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    config = UMT5Config(vocab_size=5, d_model=20, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return UMT5EncoderModel(config).eval(), PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>")


@pytest.mark.parametrize("name", ["1.3b", "14b"])
def test_the_large_presets_classes_save_load_and_run(name, tmp_path):
    """The layout of the preset (its VACE and action layers in proportion) with Wan's VAE and UMT5, tiny and random."""
    arguments = preset(name)
    small = proportions(name)
    assert arguments["in_channels"] == TINY["in_channels"] and arguments["patch_size"] == TINY["patch_size"]
    encoder, tokenizer = text_parts()
    pipe = ITryOnPipeline(
        tiny_vae(),
        trained(tiny_model(**small)),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        encoder,
        tokenizer,
        num_frames=5,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path)
    again = ITryOnPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.text_encoder) is UMT5EncoderModel and again.transformer.config.vace_layers == small["vace_layers"]
    call = {k: v for k, v in inputs().items() if not k.endswith("embeds")} | {"prompt": "zip up"}
    frames = pipe(**call).frames
    assert frames.shape == (5, H, W, 3)
    assert np.array_equal(again(**(call | {"generator": torch.Generator().manual_seed(0)})).frames, frames)
    other = again(
        **(call | {"generator": torch.Generator().manual_seed(0), "actions": [ActionSpan(0, 2, "up")]})
    ).frames
    assert not np.array_equal(other, frames)


def test_a_video_in_parts_continues_what_is_made():
    pipe = make_pipe()
    pipe.register_to_config(num_frames=9)
    call = inputs(9) | {"output_type": "latent", "actions": [], "num_inference_steps": 4}
    begun = np.random.default_rng(1).integers(0, 256, (6, H, W, 3), np.uint8)
    known = pipe(**call, previous_frames=begun).frames[0]
    expected = conditioning.encode(pipe.vae, conditioning.to_model_range(begun[:5]))
    # The frames that are made come out as they went in; what follows depends on them.
    torch.testing.assert_close(known[:, :, :2], expected, atol=1e-5, rtol=1e-5)
    free = pipe(**(call | {"generator": torch.Generator().manual_seed(0)})).frames[0]
    assert (free[:, :, 2] - known[:, :, 2]).abs().max() > 2e-5
    with pytest.raises(ValueError, match="previous_frames"):
        pipe(**call, previous_frames=begun[:, :8])
    with pytest.raises(ValueError, match="6 previous_frames do not fit a window of 5"):
        pipe(**call, previous_frames=begun, num_frames=5)


def test_windows_continue_the_one_before():
    pipe = make_pipe()
    seen = []
    encode = pipe.vae.encode
    pipe.vae.encode = lambda x, *a, **k: seen.append(x.shape[2]) or encode(x, *a, **k)
    pipe(**(inputs(8) | {"num_frames": 5, "overlap": 1, "num_inference_steps": 1, "actions": []}))
    # The garment, then inactive, reactive, hands of each window, and in the second window the frame it continues.
    assert seen == [1, 5, 5, 5, 5, 5, 5, 1]
