"""Low-rank adapters: what is trained, exact resuming, and an export that try-on and diffusers can load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanVACEPipeline, WanVACETransformer3DModel
from safetensors.torch import load_file

from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.build import build_model
from models.training.checkpoint import CheckpointError, Checkpoints
from models.training.config import TrainingRefused
from models.training.data import ClipSet
from models.training.loop import train
from models.training.lora import ADAPTER_FILE, ADDED_FILE, add_lora, merged_model
from models.training.objective import prepare_conditions, step_generator
from tests.models.training_clips import TINY
from tests.models.training_runs import ENDLESS, assert_same, config, curve, run_to, weights

LORA = {"lora_rank": 4, "ema_decay": 0.9, "gradient_accumulation_steps": 2, "reference_dropout": 0.3}


@pytest.fixture(autouse=True)
def several_precisions():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def predict(model: torch.nn.Module, root: Path) -> torch.Tensor:
    cfg = config(root, root / "none")
    clips = ClipSet(cfg.manifest, cfg.blob_root, "train")
    conditions = prepare_conditions(clips.collate(clips.buckets[("9x32x32", 1)][:2]), cfg, step_generator(0, 0))
    timestep = torch.full((2,), 500.0)
    with torch.no_grad():
        return model.eval()(conditions.target, timestep, return_dict=False, **conditions.kwargs)[0]


def test_stock_projections_get_adapters_and_added_modules_are_trained(tmp_path: Path):
    model = build_model(config(tmp_path, tmp_path, lora_rank=4), "")
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    adapters = {n for n in trained if ".lora_" in n}
    assert not any("attn_action" in n or n.startswith("guider") for n in adapters)
    added = {f"{name}.{k}" for name, m in model.added_modules().items() for k, _ in m.named_parameters()}
    assert trained - adapters == added and added
    layers = {n.split(".lora_")[0] for n in adapters}
    ends = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    assert all(n.endswith(ends) for n in layers)
    # Two blocks and one VACE block: two attentions of four projections, and two layers of the feed-forward network.
    assert len(layers) == 3 * 10


def test_loss_falls_and_the_base_stays(clips_root: Path, tmp_path: Path):
    out = tmp_path / "run"
    # Of a velocity all noise levels weigh alike: the loss of a few steps tells more.
    cfg = config(clips_root, out, steps=60, lora_rank=4, model={**TINY, "prediction": "velocity"})
    summary = train(cfg)
    assert summary["final_loss"] < 0.9 * summary["first_loss"]
    assert summary["trained_parameters"] < summary["parameters"]
    torch.manual_seed(cfg.seed)
    base = build_model(cfg.model_copy(update={"lora_rank": None}), "").state_dict()
    merged = weights(out / "final")
    assert merged.keys() == base.keys()
    moved = {k for k in base if not torch.equal(base[k], merged[k])}
    assert any("to_q" in k for k in moved) and any(k.startswith("guider") for k in moved)
    assert not any(k.startswith(("patch_embedding", "condition_embedder", "proj_out")) for k in moved)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_run_equals_an_undisturbed_one(precision: str, clips_root: Path, tmp_path: Path):
    out, whole = tmp_path / "stopped", tmp_path / "whole"
    values = LORA | {"steps": ENDLESS, "precision": precision}
    run_to(config(clips_root, out, **values), 3)
    for folder in (out, whole):
        run_to(config(clips_root, folder, **values), 6)
    a, b = Checkpoints(out).path(6), Checkpoints(whole).path(6)
    assert not (a / "transformer").exists()
    for name in (f"lora/{ADAPTER_FILE}", f"lora/{ADDED_FILE}", "optimizer.safetensors", "ema.safetensors"):
        assert_same(load_file(a / name), load_file(b / name))
    assert curve(a) == curve(b) and len(curve(a)) == 6


def test_export_is_read_by_try_on_and_by_diffusers(clips_root: Path, tmp_path: Path):
    train(config(clips_root, tmp_path / "base", steps=2))
    parent = str(tmp_path / "base/final")
    out = tmp_path / "run"
    cfg = config(clips_root, out, steps=4, init_from=parent, **LORA)
    train(cfg)
    merged = ITryOnTransformer3DModel.from_pretrained(out / "final", subfolder="transformer")
    expected = predict(merged, clips_root)
    # The adapter and the added modules, on the parent.
    other = ITryOnTransformer3DModel.from_pretrained(parent, subfolder="transformer")
    before = predict(other, clips_root)
    other.load_lora_adapter(str(out / "final/lora"), weight_name=ADAPTER_FILE)
    other.load_state_dict(load_file(out / "final/lora" / ADDED_FILE), strict=False)
    assert torch.allclose(predict(other, clips_root), expected, atol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-4)
    # The adapter alone, on the stock pipeline.
    stock = {
        k: v
        for k, v in dict(merged.config).items()
        if k in WanVACETransformer3DModel._get_init_keys(WanVACETransformer3DModel)
    }
    pipe = WanVACEPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=32,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 32,
            latents_std=[1.0] * 32,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=WanVACETransformer3DModel(**stock),
    )
    pipe.load_lora_weights(str(out / "final/lora"))
    (name,) = pipe.transformer.peft_config
    assert pipe.transformer.peft_config[name].r == 4


def test_bf16_keeps_frozen_weights_in_bf16_and_loses_nothing_that_is_trained(clips_root: Path, tmp_path: Path):
    model = build_model(config(clips_root, tmp_path, lora_rank=2, lora_alpha=8, precision="bf16"), "")
    kinds = {p.requires_grad: set() for p in model.parameters()}
    for p in model.parameters():
        kinds[p.requires_grad].add(p.dtype)
    assert kinds[True] == {torch.float32} and torch.bfloat16 in kinds[False]
    assert model.scale_shift_table.dtype == torch.float32
    layer = model.blocks[0].attn1.to_q
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(std=1e-6)
    merged = merged_model(model)
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    delta = merged.blocks[0].attn1.to_q.weight - layer.base_layer.weight.float()
    # alpha / rank = 4; in bf16 so small a correction would vanish.
    expected = 4 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert delta.abs().max() > 0 and torch.allclose(delta, expected, atol=1e-8)


def test_refusals(clips_root: Path, tmp_path: Path):
    with pytest.raises(TrainingRefused, match="no linear layer of the transformer is called to_z"):
        train(config(clips_root, tmp_path / "a", lora_rank=2, lora_targets=["to_z"]))
    out = tmp_path / "b"
    run_to(config(clips_root, out, lora_rank=2, steps=ENDLESS), 2)
    with pytest.raises(CheckpointError, match=r"lora_rank: 2 -> 3"):
        train(config(clips_root, out, lora_rank=3, steps=ENDLESS))
    latest = Checkpoints(out).latest()
    state = json.loads((latest / "training.json").read_text())
    (latest / "training.json").write_text(json.dumps(state | {"extra": state["extra"] | {"base_sha256": "other"}}))
    with pytest.raises(CheckpointError, match="below the adapters"):
        train(config(clips_root, out, lora_rank=2, steps=ENDLESS))
    (latest / "training.json").write_text(json.dumps(state))
    (latest / "lora" / ADDED_FILE).write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"step-00000002 cannot be resumed"):
        train(config(clips_root, out, lora_rank=2, steps=ENDLESS))


def test_targets_can_be_chosen(tmp_path: Path):
    model = ITryOnTransformer3DModel(**TINY)
    add_lora(model, config(tmp_path, tmp_path, lora_rank=1, lora_targets=["attn1.to_q"]))
    assert sum("lora_A" in n for n, _ in model.named_parameters()) == 3
