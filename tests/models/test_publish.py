"""Small, portable checkpoints; and the one that comes along."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from models.itryon.embedded import EMBEDDED_DIR, checkpoint_source, embedded_digest, names_folder
from models.itryon.presets import preset
from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.build import build_model
from models.training.loop import train
from models.training.publish import main
from pipelines.clips.encoders import encoder_digest
from pipelines.clips.settings import ClipsSettings
from tests.models.training_clips import make_set
from tests.models.training_runs import config, weights


def test_a_published_checkpoint_starts_another_run_and_names_no_machine(tmp_path, capsys):
    make_set(tmp_path)
    train(config(tmp_path, tmp_path / "run", steps=1, tensorboard=False))
    assert main(["--checkpoint", str(tmp_path / "run" / "final"), "--out", str(tmp_path / "small")]) == 0
    before, after = weights(tmp_path / "run" / "final"), weights(tmp_path / "small")
    for name, value in before.items():
        assert torch.equal(value.half(), after[name]), name
    state = (tmp_path / "small" / "training.json").read_text()
    assert str(tmp_path) not in (tmp_path / "small" / "transformer" / "config.json").read_text()
    assert str(tmp_path) not in state and json.loads(state)["encoder_digest"] == "encoder-a"
    again = config(tmp_path, tmp_path / "second", init_from=str(tmp_path / "small"))
    model = build_model(again, "encoder-a")
    train(again.model_copy(update={"steps": 1, "tensorboard": False}))
    assert main(["--checkpoint", str(tmp_path / "second" / "final"), "--out", str(tmp_path / "next")]) == 0
    assert str(tmp_path) not in (tmp_path / "next" / "training.json").read_text()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # What it went on from may be gone by then, or never have been on this machine.
    shutil.rmtree(tmp_path / "small")
    assert main(["--checkpoint", str(tmp_path / "second" / "final"), "--out", str(tmp_path / "late")]) == 0
    assert str(tmp_path) not in (tmp_path / "late" / "training.json").read_text()
    with pytest.raises(SystemExit):
        main(["--checkpoint", str(tmp_path / "run"), "--out", str(tmp_path / "none")])
    assert "no trainer's export" in capsys.readouterr().err


def test_names_of_folders_are_told_from_those_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not names_folder("embedded") and not names_folder("Wan-AI/Wan2.1-VACE-1.3B-diffusers")
    for name in ("/data/weights", "./final", "../a/b", "runs/a/final", str(tmp_path)):
        assert names_folder(name), name
    assert not names_folder("runs/final")
    (tmp_path / "runs" / "final").mkdir(parents=True)
    assert names_folder("runs/final")


def test_the_embedded_checkpoint_is_the_nano_preset_trained_on_the_default_encoders():
    file = EMBEDDED_DIR / "transformer" / "diffusion_pytorch_model.safetensors"
    assert file.stat().st_size <= 12e6
    state = json.loads((EMBEDDED_DIR / "training.json").read_text())
    assert state["preset"] == "nano" and "/" not in json.dumps(state["config"])
    assert state["encoder_digest"] == encoder_digest(ClipsSettings()), "clips of the default settings must fit it"
    with torch.device("meta"):
        expected = ITryOnTransformer3DModel(**preset("nano")).state_dict()
    found = load_file(file)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    assert all(torch.isfinite(v).all() for v in found.values())
    # Trained, not only initialised: what starts at zero is zero no more.
    assert found["guider.proj_out.weight"].abs().max() > 1e-3
    assert found["blocks.0.attn_action.to_out.0.weight"].abs().max() > 1e-3
    assert checkpoint_source("embedded") == str(EMBEDDED_DIR) and checkpoint_source("a/b") == "a/b"
    assert len(embedded_digest()) == 64
