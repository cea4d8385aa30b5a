"""The training objective and its recipes: conditions, noise levels, loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.itryon.presets import of_stock, preset
from models.training.checkpoint import CheckpointError
from models.training.config import CONFIG_FOLDER, load_config
from models.training.data import ClipSet
from models.training.loop import train
from models.training.objective import element_weight, prepare_conditions, sample_sigmas, step_generator, training_losses
from models.vae import nano_pixel_energy
from tests.models.training_clips import TINY
from tests.models.training_runs import config, weights

REPOSITORY = Path(__file__).resolve().parents[2]


# --- objective ----------------------------------------------------------------------------------------------------


def one_batch(root: Path, **values: Any):
    cfg = config(root, root / "none", batch_size=8, **values)
    clips = ClipSet(cfg.manifest, cfg.blob_root, "train")
    return clips.collate(clips.buckets[("9x32x32", 1)]), cfg


def test_references_go_in_front_and_belong_to_nothing(clips_root: Path):
    batch, cfg = one_batch(clips_root, caption_dropout=0, action_dropout=0, hand_dropout=0)
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    assert torch.equal(c.target[:, :, 0], batch.reference[:, :, 0]) and torch.equal(c.target[:, :, 1:], batch.target)
    control = c.kwargs["control_hidden_states"]
    assert torch.equal(control[:, :32, 0], batch.reference[:, :, 0]) and not control[:, 32:, 0].any()
    assert torch.equal(control[:, 64:, 1:], batch.mask)
    for key in ("segment_index", "hand_frame_mask"):
        assert not c.kwargs[key][:, 0].any()
    assert not c.action_mask[:, 0].any() and torch.equal(c.action_mask[:, 1:], batch.action_mask)
    assert torch.equal(c.kwargs["action_hidden_states"], batch.actions)


def test_dropout_replaces_conditions_by_what_inference_uses_for_none(clips_root: Path):
    batch, cfg = one_batch(clips_root, caption_dropout=1, action_dropout=1, hand_dropout=1, reference_dropout=1)
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    assert torch.equal(c.kwargs["encoder_hidden_states"], batch.empty_caption)
    assert not c.kwargs["segment_interactive"].any() and not c.kwargs["hand_frame_mask"].any()
    real = batch.actions_mask.any(-1)
    expected = batch.empty_caption[:, None, :4].expand_as(batch.actions)
    assert torch.equal(c.kwargs["action_hidden_states"][real], expected[real])
    # Segments that only pad the batch stay invisible.
    assert not c.kwargs["action_attention_mask"][~real].any() and c.kwargs["action_attention_mask"][real].any(-1).all()
    assert torch.equal(c.target, batch.target) and c.kwargs["control_hidden_states"].shape[2] == batch.target.shape[2]


def test_the_guider_gets_what_it_reads(clips_root: Path):
    batch, cfg = one_batch(clips_root, hand_dropout=0, model=TINY | {"guider_input": "vertices"})
    hands = prepare_conditions(batch, cfg, step_generator(0, 0)).kwargs["hand_hidden_states"]
    stored = load_file(clips_root / f"blobs/{batch.clip_ids[1]}.safetensors")["hand_points"]
    assert hands.shape[1:3] == (64, 4) and not hands[:, :, 0].any()
    assert torch.equal(hands[1, :, 1:], stored.float() / 127)


def test_a_guider_of_vertices_learns_and_keeps_to_its_input(clips_root: Path, tmp_path: Path):
    vertices = TINY | {"guider_input": "vertices"}
    train(config(clips_root, tmp_path / "first", steps=2, hand_dropout=0, model=vertices))
    final = weights(tmp_path / "first/final")
    assert final["guider.patch_embedding.weight"].shape[1] == 64 and final["guider.proj_out.weight"].any()
    parent = str(tmp_path / "first/final")
    with pytest.raises(CheckpointError, match="reads vertices, this run's reads render"):
        train(config(clips_root, tmp_path / "second", init_from=parent))
    train(config(clips_root, tmp_path / "third", steps=1, init_from=parent, model=vertices))
    from diffusers import WanVACETransformer3DModel

    WanVACETransformer3DModel(**of_stock(preset("nano") | TINY)).save_pretrained(tmp_path / "stock/transformer")
    train(config(clips_root, tmp_path / "fourth", steps=1, init_from=str(tmp_path / "stock"), model=vertices))
    assert weights(tmp_path / "fourth/final")["guider.patch_embedding.weight"].shape[1] == 64


def test_stage_1_uses_neither_hands_nor_action_captions(clips_root: Path):
    batch, cfg = one_batch(clips_root, use_hands=False, use_action_captions=False, caption_dropout=0)
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    assert "hand_hidden_states" not in c.kwargs and not c.kwargs["segment_interactive"].any()


@pytest.mark.parametrize("density", ["uniform", "logit_normal"])
def test_noise_levels_follow_the_shifted_density(density: str, tmp_path: Path):
    cfg = config(tmp_path, tmp_path, timestep_sampling=density, flow_shift=3.0)
    sigmas = sample_sigmas(cfg, 20_000, step_generator(1, 2)).double().numpy()
    u = np.sort(sigmas / (3 - 2 * sigmas))  # the inverse of the shift
    if density == "logit_normal":
        from scipy.stats import norm

        u = norm.cdf(np.log(u / (1 - u)))
    assert np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max() < 0.015


def test_loss_is_the_paper_s(clips_root: Path):
    """Against loops over elements: L_std + lambda * mean of squared errors times M, on a model that predicts zero."""
    batch, cfg = one_batch(clips_root, lambda_action=0.7, flow_shift=1.0)

    class Zero(torch.nn.Module):
        def forward(self, hidden_states, timestep, **_: Any):
            self.noisy, self.timestep = hidden_states, timestep
            return (torch.zeros_like(hidden_states),)

    model = Zero()
    losses = training_losses(model, batch, cfg, step_generator(5, 6))
    clean = np.concatenate([batch.reference.numpy(), batch.target.numpy()], 2).astype(np.float64)
    sigma = model.timestep.numpy().astype(np.float64).reshape(-1, 1, 1, 1, 1) / 1000
    velocity = (model.noisy.numpy() - clean) / sigma  # (x_sigma - x_0) / sigma = eps - x_0
    squared = velocity**2
    mask = np.pad(batch.action_mask.numpy(), ((0, 0), (1, 0)))
    action = np.mean([[squared[b, :, t].mean() * mask[b, t] for t in range(mask.shape[1])] for b in range(len(mask))])
    assert float(losses.std) == pytest.approx(squared.mean(), rel=1e-3)
    assert float(losses.action) == pytest.approx(action, rel=1e-3)
    assert float(losses.total) == pytest.approx(squared.mean() + 0.7 * action, rel=1e-3)


def test_what_is_kept_and_what_hardly_shows_count_less(clips_root: Path):
    batch, cfg = one_batch(clips_root, unmasked_weight=0.25, loss_space="pixel")
    batch.mask[:, :, 1:, :2] = 0  # these clips are masked all over
    c = prepare_conditions(batch, cfg, step_generator(0, 0))
    weight = element_weight(c, cfg)
    assert weight is not None and weight.shape == c.target.shape
    energy = torch.tensor(nano_pixel_energy())
    repainted = batch.mask.numpy().any(1)
    assert 0 < repainted.mean() < 1
    for b, t, y, x in np.ndindex(*repainted.shape):
        expected = energy * (1 if repainted[b, t, y, x] else 0.25)
        assert torch.equal(weight[b, :, t + 1, y, x], expected)
    assert torch.equal(weight[:, :, 0], (0.25 * energy).view(1, -1, 1, 1).expand_as(weight[:, :, 0]))
    assert element_weight(c, cfg.model_copy(update={"unmasked_weight": 1.0, "loss_space": "latent"})) is None
    with pytest.raises(ValueError, match="not for 16"):
        one_batch(clips_root, loss_space="pixel", model=TINY | {"in_channels": 16})


# --- configuration ------------------------------------------------------------------------------------------------


def test_recipes_are_valid_and_hold_the_paper_s_numbers():
    paths = {"manifest": "m", "blob_root": "b", "output_dir": "o"}
    recipes = {p.stem: load_config(p, paths) for p in CONFIG_FOLDER.glob("*.yaml")}
    assert set(recipes) == {"nano", "nano_base", "overfit", "stage1_1.3b", "stage2_1.3b", "lora_1.3b"}
    one, two = recipes["stage1_1.3b"], recipes["stage2_1.3b"]
    assert one.steps == two.steps == 10_000 and two.lambda_action == 0.5
    assert not one.use_action_captions and two.use_action_captions and two.use_hands
    with pytest.raises(FileNotFoundError, match="nano"):
        load_config("unknown")
    with pytest.raises(ValueError, match="extra"):
        load_config("nano", {**paths, "extra": 1})
