"""LPIPS against its formula in numpy and against published figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.signal import correlate

from models import weights
from models.features.lpips import LPIPS, MIN_SIDE, load_lpips


@pytest.fixture(scope="module")
def alex() -> LPIPS:
    try:
        return load_lpips("alex")
    except weights.MissingWeights as error:
        pytest.skip(f"LPIPS weights are not in the cache: {error}")


def pictures(count: int, side: int, seed: int) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def conv_numpy(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """Convolution by scipy's correlation, one channel pair at a time."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    out = [sum(correlate(x[i], w[i], "valid") for i in range(len(x))) + b for w, b in zip(weight, bias)]
    return np.maximum(np.stack(out)[:, ::stride, ::stride], 0)


def pool_numpy(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return windows[:, ::stride, ::stride].max((-1, -2))


def test_equals_the_formula_computed_in_numpy(alex: LPIPS) -> None:
    tensors = {k: v.double().numpy() for k, v in load_file(weights.path("lpips_alex.safetensors")).items()}
    plan = [(4, 2, None), (1, 2, (3, 2)), (1, 1, (3, 2)), (1, 1, None), (1, 1, None)]

    def features(picture: np.ndarray) -> list[np.ndarray]:
        shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
        x = (picture - shift[:, None, None]) / scale[:, None, None]
        out = []
        for i, (stride, pad, pool) in enumerate(plan):
            if pool:
                x = pool_numpy(x, *pool)
            x = conv_numpy(x, tensors[f"conv.{i}.weight"], tensors[f"conv.{i}.bias"], stride, pad)
            out.append(x / (np.linalg.norm(x, axis=0) + 1e-10))
        return out

    a, b = pictures(1, 40, 1), pictures(1, 40, 2)
    expected = 0.0
    for i, (x, y) in enumerate(zip(features(a[0].double().numpy()), features(b[0].double().numpy()))):
        expected += np.einsum("c,chw->hw", tensors[f"lin.{i}.weight"][0, :, 0, 0], (x - y) ** 2).mean()
    assert float(alex(a, b)[0]) == pytest.approx(expected, rel=1e-4)


def test_is_zero_for_equal_pictures_and_symmetric(alex: LPIPS) -> None:
    a, b = pictures(2, 64, 3), pictures(2, 64, 4)
    assert alex(a, a).tolist() == [0.0, 0.0]
    torch.testing.assert_close(alex(a, b), alex(b, a))


def test_grows_with_blur(alex: LPIPS) -> None:
    from torch.nn.functional import avg_pool2d

    a = pictures(1, 64, 5)
    distances = [float(alex(a, avg_pool2d(a, k, 1, k // 2, count_include_pad=False))) for k in (3, 5, 9)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_gradient_is_finite_on_flat_pictures(alex: LPIPS) -> None:
    flat = torch.zeros(1, 3, 64, 64, requires_grad=True)
    alex(flat, torch.full_like(flat, 0.5)).sum().backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_smallest_side_is_the_smallest(net: str) -> None:
    model = LPIPS(net)
    side = MIN_SIDE[net]
    assert model(pictures(1, side, 0), pictures(1, side, 1)).shape == (1,)
    with pytest.raises(ValueError, match="too small"):
        model(pictures(1, side - 1, 0), pictures(1, side - 1, 1))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="two batches"):
        LPIPS("alex")(pictures(1, 32, 0), pictures(2, 32, 0))
