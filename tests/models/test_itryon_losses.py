"""Losses and segments against loops and hand-made examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.itryon.losses import (
    ActionSpan,
    action_mask_per_latent,
    add_noise,
    any_per_latent,
    flow_matching_target,
    itryon_loss,
    segments_per_latent,
)


@pytest.mark.parametrize("reduction", ["as_written", "mean_over_mask"])
def test_loss_equals_a_loop(reduction):
    rng = np.random.default_rng(0)
    v_hat, v = rng.normal(size=(2, 2, 3, 4, 2, 3))
    mask = np.array([[0, 1, 1, 0], [0, 0, 1, 0]])
    weight = np.array([0.5, 2.0])
    std = action = 0.0
    inside = 0
    for b, c, t, y, x in np.ndindex(*v.shape):
        error = weight[b] * (v_hat[b, c, t, y, x] - v[b, c, t, y, x]) ** 2
        std += error / v.size
        if mask[b, t]:
            action += error
            inside += 1
    action /= v.size if reduction == "as_written" else inside
    loss = itryon_loss(
        torch.tensor(v_hat),
        torch.tensor(v),
        torch.tensor(mask),
        weight=0.5,
        reduction=reduction,
        sample_weight=torch.tensor(weight),
    )
    assert loss.std.item() == pytest.approx(std, rel=1e-5)
    assert loss.action.item() == pytest.approx(action, rel=1e-5)
    assert loss.total.item() == pytest.approx(std + 0.5 * action, rel=1e-5)


@pytest.mark.parametrize("reduction", ["as_written", "mean_over_mask"])
def test_elements_count_as_much_as_they_weigh(reduction):
    rng = np.random.default_rng(1)
    v_hat, v = rng.normal(size=(2, 2, 3, 4, 2, 3))
    mask = np.array([[0, 1, 1, 0], [0, 0, 1, 0]])
    # An element of weight n counts like n elements.
    position, channel = rng.integers(0, 3, (2, 1, 4, 2, 3)), rng.integers(1, 4, (1, 3, 1, 1, 1))
    weight = position * channel
    errors, acting = [], []
    for b, c, t, y, x in np.ndindex(*v.shape):
        error = [(v_hat[b, c, t, y, x] - v[b, c, t, y, x]) ** 2] * weight[b, c, t, y, x]
        errors += error
        acting += error if mask[b, t] else []
    args = torch.tensor(v_hat), torch.tensor(v), torch.tensor(mask)
    loss = itryon_loss(*args, reduction=reduction, element_weight=torch.tensor(weight))
    assert loss.std.item() == pytest.approx(np.mean(errors), rel=1e-5)
    elements = len(errors) if reduction == "as_written" else 3 * 2 * 3 * mask.sum() * weight.mean()
    assert loss.action.item() == pytest.approx(sum(acting) / elements, rel=1e-5)


def test_loss_without_interaction_is_the_standard_loss():
    a, b = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    for mask in (None, torch.zeros(2, 3)):
        for reduction in ("as_written", "mean_over_mask"):
            loss = itryon_loss(a, b, mask, reduction=reduction)
            assert loss.total == loss.std == ((a - b) ** 2).mean() and loss.action == 0


def test_loss_refuses_what_does_not_fit():
    a = torch.randn(2, 4, 3, 2, 2)
    with pytest.raises(ValueError, match="differ in shape"):
        itryon_loss(a, a[:1], None)
    with pytest.raises(ValueError, match="Action mask"):
        itryon_loss(a, a, torch.ones(2, 4))
    with pytest.raises(ValueError, match="Weights"):
        itryon_loss(a, a, None, element_weight=torch.ones(2, 5, 3, 2, 2))
    with pytest.raises(ValueError, match="reduction"):
        itryon_loss(a, a, torch.ones(2, 3), reduction="sum")


def test_noise_and_velocity_agree():
    clean, noise = torch.randn(2, 3, 2, 2, 2), torch.randn(2, 3, 2, 2, 2)
    sigma = torch.tensor([0.0, 0.7])
    noisy = add_noise(clean, noise, sigma)
    assert torch.equal(noisy[0], clean[0])
    # Walking back along the velocity by sigma ends at the clean latents.
    torch.testing.assert_close(
        noisy - sigma.view(-1, 1, 1, 1, 1) * flow_matching_target(clean, noise), clean, atol=1e-6, rtol=1e-5
    )


def frames_of(latent: int) -> range:
    return range(0, 1) if latent == 0 else range(4 * latent - 3, 4 * latent + 1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(-6, 40), st.integers(1, 20), st.sampled_from("abc")), max_size=4),
    st.integers(0, 2),
)
def test_segments_and_mask_follow_their_definition(n, raw, references):
    frames = 4 * n + 1
    spans = [ActionSpan(s, s + d, t) for s, d, t in raw]
    mask = action_mask_per_latent(spans, frames, references)
    segments = segments_per_latent(spans, frames, references)
    assert mask.shape == segments.index.shape == (n + 1 + references,)
    assert not mask[:references].any() and not segments.index[:references].any()
    labels = []
    for j in range(n + 1):
        covered = {t for f in frames_of(j) for s in spans for t in [s.text] if s.start <= f < s.end}
        assert mask[references + j] == bool(covered)
        label = segments.captions[segments.index[references + j] - 1]
        assert label in covered or (not covered and label == "")
        labels.append(label)
    # Segments are maximal runs, numbered from 1 in time order.
    changes = [i == 0 or a != labels[i - 1] for i, a in enumerate(labels)]
    assert segments.index[references:].tolist() == np.cumsum(changes).tolist()
    assert segments.interactive.tolist() == [c != "" for c in segments.captions]


def test_segments_of_the_papers_window():
    segments = segments_per_latent([ActionSpan(20, 41, "zip up")], 81, 1)
    # Frames 20 to 40 lie in latents 5 (17..20) to 10 (37..40).
    assert segments.captions == ["", "zip up", ""]
    assert segments.index.tolist() == [0] + [1] * 5 + [2] * 6 + [3] * 10


def test_the_longer_cover_names_a_latent_frame():
    spans = [ActionSpan(1, 2, "a"), ActionSpan(2, 5, "b")]
    assert segments_per_latent(spans, 5).captions == ["", "b"]


def test_bad_spans_are_refused():
    with pytest.raises(ValueError, match="caption"):
        segments_per_latent([ActionSpan(0, 3, " ")], 5)
    with pytest.raises(ValueError, match="frames"):
        segments_per_latent([ActionSpan(3, 3, "a")], 5)
    with pytest.raises(ValueError, match="4n"):
        any_per_latent(np.ones(6))
