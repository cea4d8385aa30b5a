"""Step caches through the whole pipeline, with conditions that are prepared once and guidance in one batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig, TaylorSeerCacheConfig

from models.itryon.pipeline import ITryOnPipeline
from tests.models.test_itryon_diffusers import make_pipe
from tests.models.test_itryon_pipeline import inputs

STEPS = 6


def run(pipe: ITryOnPipeline) -> tuple[torch.Tensor, list[int]]:
    """Latents of three windows, and in which steps all blocks were computed."""
    steps: list[int] = []
    at = [-1]
    before = pipe.transformer.register_forward_pre_hook(lambda *_: at.__setitem__(0, at[0] + 1))
    last = pipe.transformer.blocks[-1].ffn.register_forward_hook(lambda *_: steps.append(at[0]))
    call = inputs(11) | {"output_type": "latent", "num_inference_steps": STEPS, "overlap": 1}
    latents = torch.cat(pipe(**call).frames, 2)
    before.remove()
    last.remove()
    return latents, steps


def test_first_block_cache_is_exact_at_threshold_0():
    pipe = make_pipe()
    expected, steps = run(pipe)
    assert steps == list(range(3 * STEPS))
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    cached, steps = run(pipe)
    assert steps == list(range(3 * STEPS)) and torch.equal(cached, expected)


def test_a_lossy_threshold_skips_steps_and_begins_every_window_anew():
    pipe = make_pipe()
    expected, _ = run(pipe)
    errors = []
    for threshold in (0.1, 1e9):
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        cached, steps = run(pipe)
        assert torch.equal(run(pipe)[0], cached), "nothing is left over from the call before"
        pipe.transformer.disable_cache()
        errors.append(float((cached - expected).abs().mean() / expected.std()))
        # What the window before left must not be taken for this one's: its first step is computed.
        assert {0, STEPS, 2 * STEPS} <= set(steps) and len(steps) < 3 * STEPS
    assert steps == [0, STEPS, 2 * STEPS]
    assert 0 < errors[0] < 0.1 and errors[0] < errors[1]
    assert torch.equal(run(pipe)[0], expected), "switched off, it is as before"


@pytest.mark.parametrize(
    "config",
    [
        PyramidAttentionBroadcastConfig(current_timestep_callback=lambda: 500),
        TaylorSeerCacheConfig(),
        MagCacheConfig(mag_ratios=np.ones(STEPS), num_inference_steps=STEPS),
    ],
)
def test_other_caches_are_refused(config):
    model = make_pipe().transformer
    with pytest.raises(ValueError, match="use FirstBlockCacheConfig"):
        model.enable_cache(config)
    assert not model.is_cache_enabled
