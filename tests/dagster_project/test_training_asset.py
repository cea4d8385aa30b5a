"""`itryon_checkpoint`: what it shows, what a dead trainer leaves (nothing), and what is refused before it starts."""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
import yaml

from assets.training import itryon_checkpoint, training_set
from dagster_project.launchers import TrainerLauncher
from dagster_project.resources import LakeResource, settings_resource
from pipelines.checkpoints.settings import TrainingSettings
from pipelines.checkpoints.train import plan_training
from pipelines.clips.settings import ClipsSettings
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import CHECKPOINTS, CLIPS, TRAINING_METRICS
from pipelines.training_sets.build import build_training_set, manifest_path
from pipelines.training_sets.settings import TrainingSetSettings
from tests.models.training_clips import TINY, make_clip

_DYING = """
import os
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    pipes.report_asset_materialization(metadata={"checkpoint_id": "never"})
os.abort()
"""


@pytest.fixture
def store(lake: DeltaStore, monkeypatch: pytest.MonkeyPatch) -> DeltaStore:
    monkeypatch.setattr("pipelines.clips.encoders.encoder_digest", lambda settings: "encoder-a")
    rows = []
    for i in range(3):
        row = make_clip(Path(lake.root), f"c{i}", i, encoder_digest="encoder-a")
        rest = {"batch": "b1", "num_frames": 9, "actions": [], "global_caption": "A person.", "garment_id": "g"}
        rows.append({**row, **rest, "fingerprint": "f"})
    lake.replace(CLIPS, pa.Table.from_pylist(rows, CLIPS.schema), {"batch": "b1"}, Commit())
    return lake


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    values = {"model": TINY, "steps": 3, "batch_size": 2, "precision": "fp32", "device": "cpu", "threads": 1}
    path.write_text(yaml.safe_dump({**values, "validation_steps": 1, "checkpoint_every": 2}))
    return str(path)


def run(
    store: DeltaStore, instance: dg.DagsterInstance, pipes: TrainerLauncher | None = None, **training
) -> dg.ExecuteInProcessResult:
    resources = {
        "lake": LakeResource(root=store.root),
        "training_set": settings_resource(TrainingSetSettings)(),
        "training": settings_resource(TrainingSettings)(**training),
        "clips": settings_resource(ClipsSettings)(),
        "pipes": pipes or TrainerLauncher(),
    }
    assets = [training_set, itryon_checkpoint]
    return dg.materialize(assets, resources=resources, instance=instance, raise_on_error=False)


@pytest.mark.slow
def test_a_checkpoint_shows_its_curve_and_what_it_makes(store: DeltaStore, recipe: str):
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(store, instance, recipe=recipe, validate_every=2)
        assert result.success
        (event,) = result.asset_materializations_for_node("itryon_checkpoint")
        row = store.read(CHECKPOINTS).to_pylist()[0]
        shown = {k: v.value for k, v in event.metadata.items()}
        assert shown["loss_curve"].startswith("![](data:image/png;base64,")
        assert shown["validation"].startswith("![](data:image/jpeg;base64,")
        assert Path(shown["checkpoint_uri"]) == Path(store.root) / row["uri"]
        assert (Path(shown["checkpoint_uri"]) / "transformer").is_dir()
        assert event.tags["dagster/data_version"] == row["weights_sha256"][:32]
        # Asked again, with what changes no weight: the same checkpoint, not trained once more.
        again = run(store, instance, recipe=recipe)
        assert again.success and store.read(CHECKPOINTS).to_pylist() == [row]


def test_a_trainer_that_dies_materialises_nothing(store: DeltaStore, recipe: str, tmp_path: Path):
    script = tmp_path / "dying.py"
    script.write_text(_DYING)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run(store, instance, recipe=recipe, launcher=[sys.executable, str(script)])
        assert not result.success
        assert result.asset_materializations_for_node("training_set")
        assert not result.asset_materializations_for_node("itryon_checkpoint")
        assert instance.get_latest_materialization_event(dg.AssetKey("itryon_checkpoint")) is None
    assert store.read(CHECKPOINTS).num_rows == store.read(TRAINING_METRICS).num_rows == 0


def test_validation_needs_the_vae_that_made_the_clips(store: DeltaStore, recipe: str, monkeypatch: pytest.MonkeyPatch):
    row = build_training_set(store)
    settings = TrainingSettings(recipe=recipe, validate_every=2)
    plan = plan_training(store, row, settings)
    assert plan.config.validate_every == 2 and plan.config.validation_vae == "nano" and not plan.remark
    monkeypatch.setattr("pipelines.clips.encoders.encoder_digest", lambda settings: "encoder-b")
    other = plan_training(store, row, settings)
    assert other.config.validate_every is None and "encoder-b now" in other.remark
    # Watching a run does not make it another one; training adapters does.
    assert other.checkpoint_id == plan.checkpoint_id
    adapters = plan_training(store, row, settings.model_copy(update={"lora_rank": 2}))
    assert adapters.checkpoint_id != plan.checkpoint_id and adapters.config.lora_rank == 2


def test_encoding_on_the_fly_is_another_program_for_the_same_checkpoint(store: DeltaStore, recipe: str):
    row = build_training_set(store)
    clips = ClipsSettings(frame_stride=2)
    cached = plan_training(store, row, TrainingSettings(recipe=recipe), clips)
    live = plan_training(store, row, TrainingSettings(recipe=recipe, encode="on_the_fly", launcher=["torchrun"]), clips)
    assert live.checkpoint_id == cached.checkpoint_id
    assert cached.command == [sys.executable, "-m", "models.training", "--config", f"{cached.output_dir}/config.json"]
    assert live.command[:4] == ["torchrun", "-m", "pipelines.checkpoints.live", "--clips"]
    assert ClipsSettings.model_validate_json(Path(live.command[4]).read_text()) == clips
    assert live.command[5:] == cached.command[3:]


def test_a_vacuumed_manifest_is_refused_by_name(store: DeltaStore, recipe: str):
    row = build_training_set(store)
    manifest_path(store, row).unlink()
    with pytest.raises(ValueError, match=rf"Training set {row['training_set_id']}.*is gone"):
        plan_training(store, row, TrainingSettings(recipe=recipe))
