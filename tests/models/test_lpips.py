"""LPIPS of every network against its formula in numpy, and its heads against the published ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from models import weights
from models.features.lpips import LPIPS, MIN_SIDE, SqueezeLPIPS, load_lpips, squeeze_heads


@pytest.fixture(scope="module")
def alex() -> LPIPS:
    return published("alex")


def pictures(count: int, side: int, seed: int) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def conv_numpy(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int = 1, pad: int = 0) -> np.ndarray:
    """Convolution with its ReLU, as products of the windows of (C, H, W) with the kernels (O, C, k, k)."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.maximum(np.tensordot(weight, windows, ((1, 2, 3), (0, 3, 4))) + bias[:, None, None], 0)


def pool_numpy(x: np.ndarray, size: int, stride: int, ceil: bool = False) -> np.ndarray:
    if ceil:
        rest = [-(n - size) % stride for n in x.shape[1:]]
        x = np.pad(x, ((0, 0), (0, rest[0]), (0, rest[1])), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return windows[:, ::stride, ::stride].max((-1, -2))


def alex_numpy(x: np.ndarray, t: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """AlexNet's five convolutions; a pool of 3 by 2 comes before the second and the third."""
    for i, (stride, pad) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        if i in (1, 2):
            x = pool_numpy(x, 3, 2)
        yield (x := conv_numpy(x, t[f"conv.{i}.weight"], t[f"conv.{i}.bias"], stride, pad))


def vgg_numpy(x: np.ndarray, t: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """VGG-16: the last convolutions of its five blocks, relu1_2 to relu5_3, with a pool of 2 by 2 between blocks."""
    i = 0
    for block, convolutions in enumerate((2, 2, 3, 3, 3)):
        if block:
            x = pool_numpy(x, 2, 2)
        for _ in range(convolutions):
            x = conv_numpy(x, t[f"conv.{i}.weight"], t[f"conv.{i}.bias"], 1, 1)
            i += 1
        yield x


def squeeze_numpy(x: np.ndarray, t: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """SqueezeNet 1.1: behind the convolution, before the second and third pool, and behind the last five fires."""
    yield (x := conv_numpy(x, t["conv.weight"], t["conv.bias"], 2))
    for i in range(8):
        if i in (0, 2, 4):
            x = pool_numpy(x, 3, 2, ceil=True)
        s = conv_numpy(x, t[f"fires.{i}.squeeze.weight"], t[f"fires.{i}.squeeze.bias"])
        one = conv_numpy(s, t[f"fires.{i}.expand1x1.weight"], t[f"fires.{i}.expand1x1.bias"])
        three = conv_numpy(s, t[f"fires.{i}.expand3x3.weight"], t[f"fires.{i}.expand3x3.bias"], 1, 1)
        x = np.concatenate([one, three])
        if i in (1, 3, 4, 5, 6, 7):
            yield x


LAYERS = {"alex": alex_numpy, "vgg": vgg_numpy, "squeeze": squeeze_numpy}


def drawn(net: str) -> LPIPS | SqueezeLPIPS:
    """The network with random weights that keep activations at the size of pictures, and the published heads."""
    torch.manual_seed(7)
    model = SqueezeLPIPS() if net == "squeeze" else LPIPS(net)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.kaiming_normal_(module.weight)
            torch.nn.init.normal_(module.bias, std=0.1)
    heads = torch.load(squeeze_heads().with_name(f"{net}.pth"), map_location="cpu", weights_only=True)
    model.lin.load_state_dict({f"{i}.weight": heads[f"lin{i}.model.1.weight"] for i in range(len(model.lin))})
    return model


def published(net: str) -> LPIPS:
    try:
        return load_lpips(net)
    except weights.MissingWeights as error:
        pytest.skip(f"LPIPS weights are not in the cache: {error}")


@pytest.mark.parametrize(
    ("make", "net"), [(drawn, "alex"), (drawn, "vgg"), (drawn, "squeeze"), (published, "alex"), (published, "vgg")]
)
def test_equals_the_formula_computed_in_numpy(make: Callable[[str], LPIPS], net: str) -> None:
    model = make(net)
    tensors = {k: v.double().numpy() for k, v in model.state_dict().items()}
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    a, b = pictures(2, 42, 1), pictures(2, 42, 2)
    a[1] = b[1] + 0.01 * a[1]  # near each other, as results and their truths are
    expected = []
    for pair in zip(a.double().numpy(), b.double().numpy()):
        layers = [list(LAYERS[net]((p - shift[:, None, None]) / scale[:, None, None], tensors)) for p in pair]
        # Norms of activations are far above the 1e-10 that the published code adds to them.
        units = [[x / (np.linalg.norm(x, axis=0) + 1e-10) for x in of_one] for of_one in layers]
        heads = [tensors[f"lin.{i}.weight"][0, :, 0, 0] for i in range(len(layers[0]))]
        expected.append(sum(np.einsum("c,chw->hw", w, (x - y) ** 2).mean() for w, x, y in zip(heads, *units)))
    assert f"lin.{len(layers[0])}.weight" not in tensors
    np.testing.assert_allclose(model(a, b).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_embedded_heads_are_the_published_ones(net: str) -> None:
    heads = torch.load(squeeze_heads().with_name(f"{net}.pth"), map_location="cpu", weights_only=True)
    for i, head in enumerate(published(net).lin):
        torch.testing.assert_close(head.weight, heads[f"lin{i}.model.1.weight"])


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
