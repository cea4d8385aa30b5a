"""The transformer against the stock model of the same size, and each added module on its own."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from diffusers import ContextParallelConfig, FirstBlockCacheConfig, ParallelConfig, WanVACETransformer3DModel
from peft import LoraConfig

from models.itryon.guider import InteractionGuider
from models.itryon.presets import PRESETS, of_stock, preset
from models.itryon.transformer import ITryOnTransformer3DModel
from tests.models.itryon_tiny import TINY, TINY_STOCK, tiny_conditions, tiny_inputs, tiny_model, trained


def added(name: str) -> bool:
    return name.startswith("guider.") or "_action." in name


@pytest.fixture(scope="module")
def stock() -> WanVACETransformer3DModel:
    torch.manual_seed(0)
    return WanVACETransformer3DModel(**TINY_STOCK)


@pytest.fixture
def model(stock) -> ITryOnTransformer3DModel:
    model = tiny_model(1)
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected and all(added(k) for k in missing)
    return model


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_the_stock_keys_exactly(name):
    with torch.device("meta"):
        ours = ITryOnTransformer3DModel(**preset(name)).state_dict()
        theirs = WanVACETransformer3DModel(**of_stock(preset(name))).state_dict()
    base = {k: v.shape for k, v in ours.items() if not added(k)}
    assert base == {k: v.shape for k, v in theirs.items()}
    extra = sum(v.numel() for k, v in ours.items() if added(k))
    total = sum(v.numel() for v in theirs.values())
    assert 0 < extra / total < 0.1
    reported = {"nano": 5.40e6, "1.3b": 2.154e9, "14b": 17.34e9}
    assert total == pytest.approx(reported[name], rel=2e-3)


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"nano, 1\.3b, 14b"):
        preset("2b")


def test_first_output_at_nano_size_is_the_stock_models():
    torch.manual_seed(0)
    stock = WanVACETransformer3DModel(**of_stock(preset("nano")))
    model = ITryOnTransformer3DModel(**preset("nano") | {"prediction": "velocity"})
    model.load_state_dict(stock.state_dict(), strict=False)
    text = torch.randn(1, 7, 384)
    inputs = tiny_inputs(1, z=32) | {"encoder_hidden_states": text}
    conditions = tiny_conditions(1, z=32) | {"action_hidden_states": torch.randn(1, 3, 5, 384)}
    with torch.no_grad():
        difference = (stock(**inputs).sample - model(**inputs, **conditions).sample).abs().max()
    assert difference == 0


def test_first_output_is_the_stock_models_with_and_without_conditions(stock, model):
    inputs, conditions = tiny_inputs(), tiny_conditions()
    scale = torch.tensor([0.3, 1.7])
    with torch.no_grad():
        expected = stock(**inputs, control_hidden_states_scale=scale).sample
        for extra in ({}, conditions):
            ours = model(**inputs, **extra, control_hidden_states_scale=scale).sample
            assert torch.equal(ours, expected)


def test_clean_latents_become_the_velocity_that_leads_to_them(model):
    inputs = tiny_inputs()
    other = tiny_model(1, prediction="sample")
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        clean = model(**inputs).sample  # what the last layer says, read as clean latents
        velocity = other(**inputs).sample
    sigma = inputs["timestep"].view(-1, 1, 1, 1, 1) / 1000
    # Going back along the velocity, from any noise level, ends at the clean latents: x_0 = x_sigma - sigma v.
    torch.testing.assert_close(inputs["hidden_states"] - sigma * velocity, clean, atol=1e-5, rtol=1e-5)


def test_prediction_near_no_noise_is_finite_and_kept_by_a_checkpoint(model, tmp_path):
    other = tiny_model(1, prediction="sample")
    inputs = tiny_inputs() | {"timestep": torch.zeros(2)}
    with torch.no_grad():
        assert other(**inputs).sample.abs().max() < 1000
    other.save_pretrained(tmp_path)
    assert ITryOnTransformer3DModel.from_pretrained(tmp_path).config.prediction == "sample"
    with pytest.raises(ValueError, match="velocity or sample"):
        tiny_model(prediction="noise")


def test_stock_checkpoint_loads_and_starts_as_stock(stock, tmp_path):
    stock.save_pretrained(tmp_path)
    own = {k: TINY[k] for k in ("guider_dim", "guider_heads", "action_layers")}
    model = ITryOnTransformer3DModel.from_pretrained(tmp_path, **own)
    assert not any(p.is_meta for p in model.parameters()) and model.config.action_layers == [1, 2]
    with torch.no_grad():
        assert torch.equal(model(**tiny_inputs(), **tiny_conditions()).sample, stock(**tiny_inputs()).sample)
    # Not just zero: the inner layers are ready to learn.
    assert model.guider.patch_embedding.weight.std() > 0.01 and (model.blocks[1].attn_action.norm_q.weight == 1).all()
    half = ITryOnTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16, **own)
    assert half.guider.to_qkv.weight.dtype == torch.bfloat16


def test_checkpoint_of_another_size_is_refused(tmp_path):
    small = WanVACETransformer3DModel(**{**TINY_STOCK, "num_layers": 3})
    small.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="another preset"):
        ITryOnTransformer3DModel.from_pretrained(tmp_path, **{**TINY, "num_layers": 4})


def test_vertices_start_as_stock_and_come_back(stock, tmp_path):
    stock.save_pretrained(tmp_path / "stock")
    own = {k: TINY[k] for k in ("guider_dim", "guider_heads", "action_layers")}
    model = ITryOnTransformer3DModel.from_pretrained(tmp_path / "stock", **own, guider_input="vertices")
    points = torch.randn(2, 64, 4, 4, 6)
    conditions = tiny_conditions() | {"hand_hidden_states": points}
    with torch.no_grad():
        assert torch.equal(model(**tiny_inputs(), **conditions).sample, stock(**tiny_inputs()).sample)
    trained(model).save_pretrained(tmp_path / "own")
    again = ITryOnTransformer3DModel.from_pretrained(tmp_path / "own")
    assert again.config.guider_input == "vertices"
    masked = points * conditions["hand_frame_mask"][:, None, :, None, None]
    with torch.no_grad():
        expected = model(**tiny_inputs(), **conditions).sample
        assert torch.equal(again(**tiny_inputs(), **conditions).sample, expected)
        # Frames without a hand give nothing, whatever stands in them.
        assert torch.equal(model(**tiny_inputs(), **conditions | {"hand_hidden_states": masked}).sample, expected)
    with pytest.raises(ValueError, match=r"16 channels, the guider reads 64 \(input: vertices\)"):
        model(**tiny_inputs(), **tiny_conditions())
    with pytest.raises(ValueError, match="render or vertices"):
        tiny_model(guider_input="depth")


def test_a_configuration_without_guider_input_reads_the_render(model, tmp_path):
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["guider_input"]
    file.write_text(json.dumps(config))
    again = ITryOnTransformer3DModel.from_pretrained(tmp_path)
    assert again.config.guider_input == "render" and again.guider.patch_embedding.in_channels == 16


def test_save_and_load_round_trip(model, tmp_path):
    trained(model).save_pretrained(tmp_path)
    again, info = ITryOnTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and dict(again.config)["action_layers"] == [1, 2]
    with torch.no_grad():
        a, b = (m(**tiny_inputs(), **tiny_conditions()).sample for m in (model, again))
    assert torch.equal(a, b)


def test_each_condition_matters_once_trained(model):
    trained(model)
    inputs, conditions = tiny_inputs(), tiny_conditions()
    with torch.no_grad():
        full = model(**inputs, **conditions).sample
        for name in ("hand_hidden_states", "action_hidden_states"):
            changed = conditions | {name: conditions[name] + 1}
            assert not torch.allclose(model(**inputs, **changed).sample, full, atol=1e-4)
        moved = conditions | {"segment_interactive": torch.zeros(2, 3, dtype=torch.bool)}
        assert not torch.allclose(model(**inputs, **moved).sample, full, atol=1e-5)


def test_one_step_reaches_every_added_parameter(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    target = torch.randn(2, 16, 4, 4, 6)
    for step in range(2):
        optimiser.zero_grad()
        (model(**tiny_inputs(), **tiny_conditions()).sample - target).square().mean().backward()
        if step == 0:
            # Zero outputs: only they learn first.
            assert model.guider.proj_out.weight.grad.abs().sum() > 0 and not model.guider.to_qkv.weight.grad.any()
        optimiser.step()
    without = [n for n, p in model.named_parameters() if added(n) and (p.grad is None or not p.grad.any())]
    assert without == []


def test_gradient_checkpointing_changes_nothing(model):
    trained(model)

    def gradients():
        model.zero_grad()
        model(**tiny_inputs(), **tiny_conditions()).sample.square().mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters()}

    plain = gradients()
    model.enable_gradient_checkpointing()
    again = gradients()
    assert all(torch.allclose(plain[n], again[n], atol=1e-7) for n in plain)


def test_lora_reaches_the_action_attention_and_comes_back_from_a_file(model, tmp_path):
    trained(model)
    with torch.no_grad():
        before = model(**tiny_inputs(), **tiny_conditions()).sample
    plain = copy.deepcopy(model)
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert any("attn_action.to_k.lora_A" in n for n in trainable) and all("lora" in n for n in trainable)
    output = model(**tiny_inputs(), **tiny_conditions()).sample
    torch.testing.assert_close(output.detach(), before, atol=1e-5, rtol=1e-5)
    output.square().mean().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
        adapted = model(**tiny_inputs(), **tiny_conditions()).sample
        assert not torch.allclose(adapted, before, atol=1e-3)
        model.save_lora_adapter(tmp_path)
        plain.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
        torch.testing.assert_close(plain(**tiny_inputs(), **tiny_conditions()).sample, adapted, atol=1e-5, rtol=1e-5)
        plain.disable_adapters()
        torch.testing.assert_close(plain(**tiny_inputs(), **tiny_conditions()).sample, before, atol=1e-5, rtol=1e-5)


def test_fused_projections_give_the_same(model):
    trained(model)
    with torch.no_grad():
        before = model(**tiny_inputs(), **tiny_conditions()).sample
        model.fuse_qkv_projections()
        assert hasattr(model.blocks[1].attn_action, "to_kv")
        torch.testing.assert_close(model(**tiny_inputs(), **tiny_conditions()).sample, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["native", "_native_math", "flex"])
def test_attention_backends_agree_and_reach_the_action_attention(model, backend):
    trained(model)
    with torch.no_grad():
        expected = model(**tiny_inputs(), **tiny_conditions()).sample
        try:
            model.set_attention_backend(backend)
            assert model.blocks[1].attn_action.processor._attention_backend == backend
            again = model(**tiny_inputs(), **tiny_conditions()).sample
        finally:  # diffusers makes it the backend of the whole process
            model.set_attention_backend("native")
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_blocks_give_the_same(model, backend):
    trained(model)
    inputs, conditions = tiny_inputs(), tiny_conditions()
    with torch.no_grad():
        expected = model(**inputs, **conditions).sample
        torch.compiler.reset()
        model.compile_repeated_blocks(backend=backend, fullgraph=True)
        compiled = [b for b in (*model.blocks, *model.vace_blocks) if b._compiled_call_impl is not None]
        assert len(compiled) == 6
        torch.testing.assert_close(model(**inputs, **conditions).sample, expected, atol=1e-5, rtol=1e-5)
    torch.compiler.reset()


def test_a_step_cache_that_skips_blocks_is_exact_on_the_same_input(model):
    trained(model)
    inputs, conditions = tiny_inputs(), tiny_conditions()
    with torch.no_grad():
        exact = model(**inputs, **conditions).sample
        model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
        calls = []
        model.blocks[3].ffn.register_forward_hook(lambda *_: calls.append(1))
        with model.cache_context("cond"):
            outputs = [model(**inputs, **conditions).sample for _ in range(3)]
    assert len(calls) == 1  # the later calls came from the cache
    for output in outputs:
        torch.testing.assert_close(output, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: ParallelConfig(context_parallel_config=c)])
def test_context_parallelism_is_refused_with_the_reason(model, wrap):
    # Once the stock model has a plan, ours can have one that splits the action context too.
    assert WanVACETransformer3DModel._cp_plan is None
    with pytest.raises(NotImplementedError, match="A-RoPE's angles"):
        model.enable_parallelism(config=wrap(ContextParallelConfig(ulysses_degree=2)))


def test_modules_can_be_left_out():
    model = tiny_model(guider_dim=None, action_layers=[])
    assert model.added_modules() == {}
    with torch.no_grad():
        assert model(**tiny_inputs()).sample.shape == (2, 16, 4, 4, 6)
    with pytest.raises(ValueError, match="guider"):
        model(**tiny_inputs(), hand_hidden_states=torch.zeros(2, 16, 4, 4, 6))
    with pytest.raises(ValueError, match="action layers"):
        model(**tiny_inputs(), action_hidden_states=torch.zeros(2, 1, 5, 20))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hand_hidden_states": torch.zeros(2, 16, 3, 4, 6)}, "Hand latents"),
        ({"hand_frame_mask": torch.zeros(2, 3)}, "hand_frame_mask"),
        ({"segment_index": None}, "segment_index"),
        ({"segment_index": torch.zeros(2, 3, dtype=torch.long)}, "do not fit"),
        ({"segment_interactive": torch.zeros(2, 2, dtype=torch.bool)}, "do not fit"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(model, change, message):
    with pytest.raises(ValueError, match=message):
        model(**tiny_inputs(), **(tiny_conditions() | change))


def test_temporal_patches_and_unknown_layers_are_refused():
    with pytest.raises(ValueError, match="temporal patch"):
        tiny_model(patch_size=(2, 2, 2))
    with pytest.raises(ValueError, match="exceed"):
        tiny_model(action_layers=[4])


@pytest.fixture
def guider() -> InteractionGuider:
    torch.manual_seed(0)
    guider = InteractionGuider(16, 24, 8, 2, (1, 2, 2))
    torch.nn.init.normal_(guider.proj_out.weight)
    torch.nn.init.normal_(guider.proj_out.bias)
    return guider


def test_guider_frames_without_hand_neither_give_nor_receive(guider):
    latents, mask = torch.randn(2, 16, 4, 4, 6), torch.tensor([[1, 0, 1, 1], [0, 0, 1, 0]])
    out = guider(latents, mask).unflatten(1, (4, 6))
    assert not out[mask == 0].any() and (out[mask == 1].abs().amax((1, 2)) > 0).all()
    other = torch.where(mask[:, None, :, None, None].bool(), latents, torch.full_like(latents, 1e3))
    assert torch.equal(guider(other, mask), guider(latents, mask))


def test_guider_equals_its_definition(guider):
    """Patch, 3x3x3 depthwise and attention within a frame, written with unfold and explicit softmax."""
    latents = torch.randn(1, 16, 3, 4, 6)
    f = torch.nn.functional
    patches = latents.unfold(3, 2, 2).unfold(4, 2, 2).permute(0, 2, 3, 4, 1, 5, 6).flatten(4)
    x = patches @ guider.patch_embedding.weight.flatten(1).T + guider.patch_embedding.bias
    padded = f.pad(f.silu(x), (0, 0, 1, 1, 1, 1, 1, 1))
    local = torch.zeros_like(x) + guider.conv_depthwise.bias
    for t in range(3):
        for i in range(3):
            for j in range(3):
                weight = guider.conv_depthwise.weight[:, 0, t, i, j]
                local = local + padded[:, t : t + 3, i : i + 2, j : j + 3] * weight
    x = (x + guider.conv_pointwise(f.silu(local))).reshape(3, 6, 8)
    q, k, v = guider.to_qkv(guider.norm(x)).chunk(3, -1)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / 2
        heads.append(scores.softmax(-1) @ v[..., part])
    x = x + guider.to_out(torch.cat(heads, -1))
    expected = guider.proj_out(guider.norm_out(x)).reshape(1, 18, 24)
    torch.testing.assert_close(guider(latents), expected, atol=1e-5, rtol=1e-4)
