"""Frozen text encoders: MiniLM from the weights cache, UMT5's absence."""

from __future__ import annotations

import pytest
import torch

from models import weights
from models.text.minilm import ACTION_MAX_LENGTH, TextEncoder
from models.text.umt5 import load_umt5

CAPTIONS = ["A person zips up the jacket.", "", "fingers close the zipper of a coat", "a dog runs on the beach"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    try:
        return TextEncoder()
    except weights.MissingWeights as error:
        pytest.skip(str(error))


def test_embeddings_equal_the_plain_model(encoder):
    states, mask = encoder.encode(CAPTIONS)
    assert states.shape == (4, 64, 384) and states.dtype == torch.float32
    for caption, state, tokens in zip(CAPTIONS, states, mask.sum(1).tolist()):
        ids = torch.tensor([encoder.tokenizer(caption)["input_ids"]])
        assert ids.shape[1] == tokens
        with torch.no_grad():
            expected = encoder.model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(state[:tokens], expected, atol=1e-4, rtol=1e-4)
        assert not state[tokens:].any()
    assert mask.sum(1)[1] == 2  # the empty caption still has its two marks


def test_meaning_is_there(encoder):
    states, mask = encoder.encode(CAPTIONS)
    mean = torch.nn.functional.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
    likeness = mean @ mean.T
    assert likeness[0, 2] > 0.5 > 0.2 > likeness[0, 3]


def test_long_captions_are_cut_and_space_is_normalised(encoder):
    states, mask = encoder.encode(["zip " * 100, " zip\n up ", "zip up"], ACTION_MAX_LENGTH)
    assert states.shape[1] == ACTION_MAX_LENGTH and mask[0].all()
    torch.testing.assert_close(states[1], states[2])


def test_encoder_is_frozen_and_has_a_digest(encoder):
    assert not encoder.model.training and not any(p.requires_grad for p in encoder.model.parameters())
    assert encoder.digest == weights.digest("minilm") and len(encoder.digest) == 64


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path))
    with pytest.raises(weights.MissingWeights, match="itryon weights"):
        TextEncoder()
    with pytest.raises(FileNotFoundError, match=r"Wan2\.1"):
        load_umt5(tmp_path, local_files_only=True)
