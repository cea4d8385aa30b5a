"""Conditions prepared once against the plain forward pass, and what they save."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanVACETransformer3DModel
from torch.nn import functional

from models.itryon.attention import ITryOnAttnProcessor, complex_rotary, fold_padding, turn
from models.itryon.block import modulated
from models.itryon.transformer import ITryOnTransformer3DModel
from tests.models.itryon_tiny import TINY_STOCK, tiny_conditions, tiny_inputs, tiny_model, trained

ACTIONS = ("action_hidden_states", "action_attention_mask", "segment_index", "segment_interactive")


@pytest.fixture
def model() -> ITryOnTransformer3DModel:
    return trained(tiny_model()).eval()


def guided() -> tuple[dict, dict, torch.Tensor, torch.Tensor]:
    """Inputs of two captions of one clip for the plain pass, and the same for `prepare_conditions`."""
    inputs, conditions = tiny_inputs(), tiny_conditions()
    inputs["encoder_hidden_states"][:, 3:] = 0  # padding
    one = {k: v[:1] for k, v in inputs.items()} | {k: v[:1] for k, v in conditions.items() if k not in ACTIONS}
    latents, timestep = one.pop("hidden_states"), one.pop("timestep")
    plain = {k: v.expand(2, *v.shape[1:]) for k, v in one.items()}
    both = {"encoder_hidden_states": inputs["encoder_hidden_states"], **{k: conditions[k] for k in ACTIONS}}
    return plain | both, one | both, latents, timestep


@torch.no_grad()
def test_prepared_conditions_give_the_plain_result_at_every_step(model):
    plain, once, latents, _ = guided()
    invariants = model.prepare_conditions(**once)
    scale = torch.tensor([0.7, 1.2])
    for step in (900.0, 500.0, 20.0):
        timestep = torch.tensor([step])
        expected = model(
            latents.expand(2, -1, -1, -1, -1), timestep.expand(2), control_hidden_states_scale=scale, **plain
        )
        found = model(latents, timestep, control_hidden_states_scale=scale, invariants=invariants)
        torch.testing.assert_close(found.sample, expected.sample, atol=2e-5, rtol=1e-5)
        latents = latents * 0.9 + 0.01 * found.sample[:1]


@torch.no_grad()
def test_with_stock_weights_it_is_the_stock_model():
    torch.manual_seed(0)
    stock = WanVACETransformer3DModel(**TINY_STOCK)
    model = tiny_model(1)
    model.load_state_dict(stock.state_dict(), strict=False)
    plain, once, latents, timestep = guided()
    inputs = {k: plain[k] for k in ("encoder_hidden_states", "control_hidden_states")}
    expected = stock(latents.expand(2, -1, -1, -1, -1), timestep.expand(2), **inputs).sample
    found = model(latents, timestep, invariants=model.prepare_conditions(**once)).sample
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_steps_do_no_work_of_the_conditions(model):
    _, once, latents, timestep = guided()
    calls: list[str] = []
    watched = {
        "guider": model.guider,
        "control": model.vace_patch_embedding,
        "text": model.condition_embedder.text_embedder,
        "action key": model.blocks[1].attn_action.to_k,
        **{f"key {i}": b.attn2.to_k for i, b in enumerate(model.blocks)},
        **{f"vace value {i}": b.attn2.to_v for i, b in enumerate(model.vace_blocks)},
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    invariants = model.prepare_conditions(**once)
    assert set(calls) == set(watched)
    calls.clear()
    rows = []
    for branch in (model.blocks, model.vace_blocks):
        for block in branch:
            block.attn1.to_q.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    model(latents, timestep, invariants=invariants)
    assert calls == []
    # Until the first caption is read, both halves of guidance are the same tokens: in the first block of each branch.
    assert sorted(rows) == [1, 1, 2, 2, 2, 2]


def test_training_keeps_its_gradients_and_preparing_gives_none(model):
    plain, once, latents, timestep = guided()
    assert not model.prepare_conditions(**once).text[0].key.requires_grad
    model(latents.expand(2, -1, -1, -1, -1), timestep.expand(2), **plain).sample.square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_conditions_are_given_once(model):
    plain, once, latents, timestep = guided()
    invariants = model.prepare_conditions(**once)
    for extra in (
        {"encoder_hidden_states": plain["encoder_hidden_states"]},
        {"control_hidden_states": plain["control_hidden_states"]},
        {"hand_hidden_states": plain["hand_hidden_states"]},
        {"timestep": timestep.expand(2)},
    ):
        with pytest.raises(ValueError, match="With invariants"):
            model(**{"hidden_states": latents, "timestep": timestep, "invariants": invariants} | extra)
    with pytest.raises(ValueError, match="is missing"):
        model(latents, timestep)


@torch.no_grad()
def test_hard_masks_lora_and_fused_projections_reach_prepared_conditions(model):
    model.config.action_hard_mask = True
    plain, once, latents, timestep = guided()
    expected = model(latents.expand(2, -1, -1, -1, -1), timestep.expand(2), **plain).sample
    model.fuse_qkv_projections()
    found = model(latents, timestep, invariants=model.prepare_conditions(**once)).sample
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_backend_without_bias_reads_the_padding(model):
    _, once, latents, timestep = guided()
    expected = model(latents, timestep, invariants=model.prepare_conditions(**once)).sample
    try:
        model.set_attention_backend("_native_math")
        invariants = model.prepare_conditions(**once)
        assert invariants.text[0].bias is None and invariants.text[0].key.shape[1] == 5
        found = model(latents, timestep, invariants=invariants).sample
    finally:
        model.set_attention_backend("native")
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_folded_padding_weighs_what_the_padding_did():
    g = torch.Generator().manual_seed(0)
    query, states = torch.randn(2, 1, 3, 8, generator=g), torch.randn(2, 9, 8, generator=g)
    states[0, 4:], states[1, 6:] = 0, states[1, 6].clone()
    folded, bias = fold_padding(states)
    assert folded.shape == (2, 7, 8) and bias.shape == (2, 1, 1, 7)
    expected = functional.scaled_dot_product_attention(query, states[:, None], states[:, None])
    found = functional.scaled_dot_product_attention(query, folded[:, None], folded[:, None], attn_mask=bias)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    whole, nothing = fold_padding(torch.randn(2, 5, 8, generator=g))
    assert whole.shape == (2, 5, 8) and nothing is None


def test_complex_angles_and_fused_modulation_are_the_stock_ones():
    g = torch.Generator().manual_seed(0)
    angles, states = torch.randn(1, 6, 1, 4, generator=g), torch.randn(2, 6, 3, 8, generator=g)
    cos, sin = (f(angles).repeat_interleave(2, -1) for f in (torch.cos, torch.sin))
    expected = torch.empty_like(states)
    expected[..., 0::2] = states[..., 0::2] * cos[..., 0::2] - states[..., 1::2] * sin[..., 1::2]
    expected[..., 1::2] = states[..., 0::2] * sin[..., 1::2] + states[..., 1::2] * cos[..., 0::2]
    torch.testing.assert_close(turn(states, complex_rotary(cos, sin)), expected)
    norm = torch.nn.LayerNorm(8, elementwise_affine=False)
    tokens, scale, shift = (torch.randn(s, generator=g) for s in ((2, 6, 8), (1, 1, 8), (1, 1, 8)))
    expected = modulated(norm, tokens, scale, shift, fused=False)
    torch.testing.assert_close(modulated(norm, tokens, scale, shift, fused=True), expected, atol=1e-6, rtol=1e-5)


def test_every_attention_of_both_branches_reads_prepared_conditions(model):
    for block in (*model.blocks, *model.vace_blocks):
        assert isinstance(block.attn1.processor, ITryOnAttnProcessor)
        assert isinstance(block.attn2.processor, ITryOnAttnProcessor)
