"""From a checkpoint folder to a pipeline."""

from __future__ import annotations

import pytest

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


def test_a_transformer_that_minilm_cannot_serve_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path / "transformer")
    with pytest.raises(ValueError, match="20 channels"):
        load_pipeline(tmp_path, TryOnSettings())
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_pipeline(tmp_path / "nothing", TryOnSettings())
