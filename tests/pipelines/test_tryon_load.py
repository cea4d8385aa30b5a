"""From a checkpoint folder to a pipeline."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from models.itryon.embedded import EMBEDDED_DIR
from models.text import minilm
from pipelines.tryon.load import load_pipeline
from pipelines.tryon.settings import TryOnSettings
from tests.models.itryon_tiny import tiny_model
from tests.pipelines.tryon_scene import tiny_pipeline


def test_a_saved_pipeline_loads_whole(tmp_path):
    tiny_pipeline().pipe.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, TryOnSettings(device="cpu"))
    assert loaded.pipe.config.num_frames == 5 and loaded.pipe.text_encoder is not None
    states, mask = loaded.pipe.encode_prompt(["zip up", ""], 8)
    assert states.shape == (2, 8, 20) and mask.sum(1).tolist() == [3, 1]


def test_what_is_no_checkpoint_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"holds no checkpoint: there is neither model_index\.json"):
        load_pipeline(tmp_path, TryOnSettings())
    folder = tmp_path / "transformer"
    tiny_model(text_dim=384).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"16 channels; those of the embedded autoencoder have 32: .* another preset"):
        load_pipeline(tmp_path, TryOnSettings())
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="no checkpoint of this model, or a damaged one"):
        load_pipeline(tmp_path, TryOnSettings())
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no checkpoint of this model"):
        load_pipeline(tmp_path, TryOnSettings())


def test_what_a_checkpoint_was_not_trained_with_is_not_fed_to_it(tmp_path):
    shutil.copytree(EMBEDDED_DIR, tmp_path / "whole")
    loaded = load_pipeline(tmp_path / "whole", TryOnSettings(device="cpu"))
    assert loaded.use_hands and loaded.use_actions
    # Padding is read: captions are as long as those of the clips that it was trained on.
    assert loaded.pipe.config.max_text_length == minilm.MAX_LENGTH
    file = tmp_path / "whole" / "training.json"
    state = json.loads(file.read_text())
    state["config"] |= {"use_hands": False, "use_action_captions": False}
    file.write_text(json.dumps(state))
    loaded = load_pipeline(tmp_path / "whole", TryOnSettings(device="cpu"))
    assert not loaded.use_hands and not loaded.use_actions
    file.write_text("{")
    with pytest.raises(ValueError, match=r"whole is no checkpoint of this model"):
        load_pipeline(tmp_path / "whole", TryOnSettings(device="cpu"))


def test_weights_of_another_size_are_refused(tmp_path):
    tiny_model(text_dim=384).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 6}))
    with pytest.raises(ValueError, match="another preset's"):
        load_pipeline(tmp_path, TryOnSettings())


def test_parts_are_known_by_their_digests(tmp_path):
    tiny_pipeline().pipe.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, TryOnSettings(device="cpu"))
    weights = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    assert loaded.digests["transformer"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert set(loaded.digests) == {"transformer", "vae", "text_encoder"} and loaded.source == str(tmp_path)


def test_a_transformer_that_minilm_cannot_serve_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path / "transformer")
    with pytest.raises(ValueError, match="20 channels"):
        load_pipeline(tmp_path, TryOnSettings())
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_pipeline(tmp_path / "nothing", TryOnSettings())


def test_a_step_cache_is_opt_in(tmp_path):
    tiny_pipeline().pipe.save_pretrained(tmp_path)
    assert not load_pipeline(tmp_path, TryOnSettings(device="cpu")).pipe.transformer.is_cache_enabled
    settings = TryOnSettings(device="cpu", cache="first_block", cache_threshold=0.1)
    transformer = load_pipeline(tmp_path, settings).pipe.transformer
    assert transformer.is_cache_enabled and transformer._cache_config.threshold == 0.1
