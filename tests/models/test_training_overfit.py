"""A model learns its clips by heart; one whose targets do not belong to its conditions cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.itryon.transformer import ITryOnTransformer3DModel
from models.training import data
from models.training.build import build_model
from models.training.data import ClipSet
from models.training.loop import train
from models.training.objective import step_generator
from models.training.reconstruction import reconstruct, reconstruction_error, repainted
from tests.models.training_clips import TINY, make_clip, write_manifest
from tests.models.training_runs import config

CLIPS = 4
CHANNELS = 8
MEMORISE = {
    "model": TINY | {"in_channels": CHANNELS, "out_channels": CHANNELS, "vace_in_channels": 2 * CHANNELS + 64},
    "steps": 80,
    "batch_size": CLIPS,
    "checkpoint_every": 80,
    "weight_decay": 0.0,
    "caption_dropout": 0.0,
    "action_dropout": 0.0,
    "hand_dropout": 0.0,
    "flow_shift": 3.0,
}


def error(model, root: Path) -> float:
    """Of one-step reconstructions from noise that no training saw."""
    cfg = config(root, root / "none", **MEMORISE)
    batch = ClipSet(cfg.manifest, cfg.blob_root, "train").collate([*range(CLIPS)])
    return reconstruction_error(reconstruct(model.eval(), batch, cfg, step_generator(99, 0)), batch)


def trained_error(root: Path, out: Path) -> float:
    train(config(root, out, **MEMORISE))
    return error(ITryOnTransformer3DModel.from_pretrained(out / "final", subfolder="transformer"), root)


def test_clips_are_learned_by_heart_and_shuffled_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_manifest(tmp_path, [make_clip(tmp_path, f"c{i}", i, bucket="5x32x32", z=CHANNELS) for i in range(CLIPS)])
    cfg = config(tmp_path, tmp_path / "none", **MEMORISE)
    torch.manual_seed(cfg.seed)
    untrained = error(build_model(cfg, "encoder-a"), tmp_path)
    learned = trained_error(tmp_path, tmp_path / "learned")
    whole = data.ClipSet.collate

    def shuffled(self: ClipSet, indices: list[int]) -> data.Batch:
        batch = whole(self, indices)
        draws.append(torch.randperm(CLIPS, generator=torch.Generator().manual_seed(len(draws))))
        batch.target = batch.target[draws[-1]]
        return batch

    draws: list[torch.Tensor] = []
    with monkeypatch.context() as patch:
        patch.setattr(data.ClipSet, "collate", shuffled)
        train(config(tmp_path, tmp_path / "shuffled", **MEMORISE))
    assert len(draws) == MEMORISE["steps"]
    other = error(
        ITryOnTransformer3DModel.from_pretrained(tmp_path / "shuffled/final", subfolder="transformer"), tmp_path
    )
    print(untrained, learned, other)
    assert learned < untrained / 3
    assert learned < 0.65 * other


def test_error_counts_what_is_repainted(tmp_path: Path):
    """Against a loop over positions; a model that returns the noise minus the target reconstructs it exactly."""
    write_manifest(tmp_path, [make_clip(tmp_path, f"c{i}", i) for i in range(2)])
    cfg = config(tmp_path, tmp_path / "none")
    batch = ClipSet(cfg.manifest, cfg.blob_root, "train").collate([0, 1])
    batch.mask[:, :, 0] = 0
    batch.mask[1, :, 1, 2:] = 0

    class Knowing(torch.nn.Module):
        def forward(self, hidden_states, timestep, **kwargs):
            assert (timestep == 1000).all() and kwargs["segment_interactive"].any()
            return (hidden_states - torch.cat([batch.reference, batch.target], 2),)

    latents = reconstruct(Knowing(), batch, cfg, step_generator(0, 0))
    torch.testing.assert_close(latents, batch.target, atol=1e-5, rtol=0)
    wrong = batch.target + torch.arange(batch.target.shape[2]).view(1, 1, -1, 1, 1)
    places = [(b, t, y, x) for b in range(2) for t in range(3) for y in range(4) for x in range(4)]
    counted = [t**2 for b, t, y, x in places if batch.mask[b, :, t, y, x].sum() > 0]
    assert len(counted) == 16 * 2 + 8 + 16 and int(repainted(batch).sum()) == len(counted)
    assert reconstruction_error(wrong, batch) == pytest.approx(sum(counted) / len(counted), rel=1e-4)
