"""A-RoPE against complex rotations and a loop over single queries in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.itryon.a_rope import ActionAttention, action_context

DIM, HEADS, THETA = 24, 2, 10000.0


def naive(layer, tokens, captions, tokens_mask, index, interactive, per_frame, k, hard):
    """Attention of one clip, query by query, with rotations as complex numbers."""
    w = {n: p.detach().double().numpy() for n, p in layer.named_parameters()}
    head = DIM // HEADS

    def project(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def rms(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]

    def turn(x, position):
        z = x[0::2] + 1j * x[1::2]
        z = z * np.exp(1j * position * THETA ** (-2 * np.arange(head // 2) / head))
        return np.stack([z.real, z.imag], -1).reshape(-1)

    keys, values, owners = [], [], []
    for s, caption in enumerate(captions):
        for t, token in enumerate(caption):
            if tokens_mask[s, t]:
                keys.append((rms(project(token, "to_k"), "norm_k"), (s + 1) * k if interactive[s] else 0.0))
                values.append(project(token, "to_v"))
                owners.append(s + 1)
    out = np.zeros_like(tokens)
    for n, token in enumerate(tokens):
        segment = index[n // per_frame]
        seen = [i for i, o in enumerate(owners) if not hard or o == segment]
        if segment == 0 or not seen:
            continue
        query = rms(project(token, "to_q"), "norm_q")
        joined = np.zeros(DIM)
        for h in range(HEADS):
            part = np.s_[h * head : (h + 1) * head]
            q = turn(query[part], segment * k)
            scores = np.array([q @ turn(keys[i][0][part], keys[i][1]) for i in seen]) / np.sqrt(head)
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            joined[part] = sum(a * values[i][part] for a, i in zip(weights, seen))
        out[n] = project(joined, "to_out.0")
    return out


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = ActionAttention(DIM, HEADS)
    torch.nn.init.normal_(layer.to_out[0].weight)
    torch.nn.init.normal_(layer.to_out[0].bias)
    torch.nn.init.normal_(layer.norm_q.weight)
    return layer


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("k", [0.0, 4.0])
def test_attention_equals_a_loop_over_queries(layer, k, hard):
    rng = np.random.default_rng(0)
    per_frame, index = 3, [0, 1, 1, 2, 3]
    captions = rng.normal(size=(4, 5, DIM))
    mask = rng.random((4, 5)) < 0.7
    mask[3] = False  # a segment that pads the batch
    interactive = np.array([False, True, True, False])
    tokens = rng.normal(size=(per_frame * len(index), DIM))
    context = action_context(
        torch.tensor(captions, dtype=torch.float32)[None],
        torch.tensor(mask)[None],
        torch.tensor([index]),
        torch.tensor(interactive)[None],
        tokens_per_frame=per_frame,
        head_dim=DIM // HEADS,
        separation=k,
        theta=THETA,
        hard_mask=hard,
    )
    ours = layer(torch.tensor(tokens, dtype=torch.float32)[None], context)[0].detach().numpy()
    expected = naive(layer, tokens, captions, mask, index, interactive, per_frame, k, hard)
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    assert np.abs(expected).max() > 0.1


def context_of(captions, index, interactive, mask=None, hard=False, k=4.0):
    return action_context(
        captions,
        mask,
        torch.tensor([index]),
        torch.tensor([interactive]),
        tokens_per_frame=1,
        head_dim=DIM // HEADS,
        separation=k,
        theta=THETA,
        hard_mask=hard,
    )


def test_only_keys_of_interactive_segments_are_rotated():
    context = context_of(torch.randn(1, 3, 2, DIM), [0, 1, 2, 3], [False, True, False])
    turned = np.exp(1j * np.array([0, 0, 8, 8, 0, 0]))
    np.testing.assert_allclose(context.key_rotary[0, :, 0, 0], turned, atol=1e-6)
    np.testing.assert_allclose(context.query_rotary[0, :, 0, 0], np.exp(1j * np.array([0, 4, 8, 12])), atol=1e-6)


def test_hard_mask_hides_other_segments(layer):
    tokens, captions = torch.randn(1, 4, DIM), torch.randn(1, 3, 2, DIM)
    other = captions.clone()
    other[:, 1] += 1
    for hard, same in ((True, [True, True, False, True]), (False, [True, False, False, False])):
        a = layer(tokens, context_of(captions, [0, 1, 2, 3], [False, True, True], hard=hard))
        b = layer(tokens, context_of(other, [0, 1, 2, 3], [False, True, True], hard=hard))
        assert [torch.equal(x, y) for x, y in zip(a[0], b[0])] == same


def test_nothing_visible_gives_zero_and_no_nan(layer):
    mask = torch.zeros(1, 2, 3)
    context = context_of(torch.randn(1, 2, 3, DIM), [0, 1, 2], [True, False], mask)
    assert torch.equal(layer(torch.randn(1, 3, DIM), context), torch.zeros(1, 3, DIM))


def test_padding_segments_change_nothing(layer):
    tokens, captions = torch.randn(1, 3, DIM), torch.randn(1, 2, 4, DIM)
    mask = torch.ones(1, 2, 4)
    short = layer(tokens, context_of(captions, [1, 1, 2], [False, True], mask))
    padded = torch.cat([captions, torch.randn(1, 3, 4, DIM)], 1)
    padded_mask = torch.cat([mask, torch.zeros(1, 3, 4)], 1)
    long = layer(tokens, context_of(padded, [1, 1, 2], [False, True, False, False, False], padded_mask))
    torch.testing.assert_close(short, long, atol=1e-6, rtol=1e-5)


def test_starts_at_zero_and_rotation_prefers_the_own_segment():
    layer = ActionAttention(DIM, HEADS)
    context = context_of(torch.randn(1, 2, 3, DIM), [1, 2], [True, True])
    assert layer(torch.randn(1, 2, DIM), context).abs().max() == 0
    # With equal content, cos of the position difference is the whole score: the own segment wins.
    rates = THETA ** (-2 * np.arange(6) / 12)
    gain = [np.cos(4 * d * rates).mean() for d in (0, 1, 2, 4)]
    assert gain[0] == 1 and max(gain[1:]) < 0.9
