"""Learned perceptual image patch similarity (LPIPS, Zhang et al. 2018), version 0.1, without torchvision.

`d(x, y) = sum over layers l of mean over positions of  w_l . (f_l(x) - f_l(y))^2`, where `f_l` are the activations of
an ImageNet network, scaled to unit length over channels, and `w_l >= 0` are the published linear heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

Network = Literal["alex", "vgg", "squeeze"]

# Layers in order: a convolution as (in, out, kernel, stride, padding), a max pool as (kernel, stride). `True` ends a
# convolution whose activation is compared.
_ALEX: tuple[tuple[int, ...], ...] = (
    (3, 64, 11, 4, 2, True),
    (3, 2),
    (64, 192, 5, 1, 2, True),
    (3, 2),
    (192, 384, 3, 1, 1, True),
    (384, 256, 3, 1, 1, True),
    (256, 256, 3, 1, 1, True),
)
_VGG: tuple[tuple[int, ...], ...] = (
    (3, 64, 3, 1, 1, False),
    (64, 64, 3, 1, 1, True),
    (2, 2),
    (64, 128, 3, 1, 1, False),
    (128, 128, 3, 1, 1, True),
    (2, 2),
    (128, 256, 3, 1, 1, False),
    (256, 256, 3, 1, 1, False),
    (256, 256, 3, 1, 1, True),
    (2, 2),
    (256, 512, 3, 1, 1, False),
    (512, 512, 3, 1, 1, False),
    (512, 512, 3, 1, 1, True),
    (2, 2),
    (512, 512, 3, 1, 1, False),
    (512, 512, 3, 1, 1, False),
    (512, 512, 3, 1, 1, True),
)

# SqueezeNet 1.1: a max pool, or a fire module as (in, squeezed, out of each of its two branches, compared).
_SQUEEZE: tuple[tuple[int, ...], ...] = (
    (),
    (64, 16, 64, False),
    (128, 16, 64, True),
    (),
    (128, 32, 128, False),
    (256, 32, 128, True),
    (),
    (256, 48, 192, True),
    (384, 48, 192, True),
    (384, 64, 256, True),
    (512, 64, 256, True),
)

MIN_SIDE: dict[Network, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Smallest picture side for which every compared layer has at least one position."""


class _Distance(nn.Module):
    """What all networks share: the published normalisation of pictures, the heads, and the distance.

    Args:
        net: Name of the network.
        channels: Channels of the layers that are compared.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Network, channels: Sequence[int]):
        super().__init__()
        self.net: Network = net
        self.lin = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in channels)
        # The published normalisation for pictures in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """Activations `[N, C_l, H_l, W_l]` of the compared layers for normalised pictures."""
        raise NotImplementedError

    def activations(self, pictures: Tensor) -> list[Tensor]:
        """Unit-length activations of the compared layers.

        Args:
            pictures: `[N, 3, H, W]` in [-1, 1].

        Returns:
            One `[N, C_l, H_l, W_l]` a layer.
        """
        # The root of zero has no finite gradient; flat pictures do give all-zero activations.
        found = self.layers((pictures - self.shift) / self.scale)
        return [x / ((x.square().sum(1, keepdim=True) + 1e-20).sqrt() + 1e-10) for x in found]

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance of each pair of pictures.

        Args:
            first: `[N, 3, H, W]` in [-1, 1].
            second: The same shape.

        Returns:
            `[N]`, 0 for equal pictures.

        Raises:
            ValueError: If the shapes differ, are not pictures, or a side is below `MIN_SIDE`.
        """
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 3:
            raise ValueError(f"expected two batches [N, 3, H, W], got {tuple(first.shape)} and {tuple(second.shape)}")
        if min(first.shape[2:]) < MIN_SIDE[self.net]:
            raise ValueError(f"pictures of {tuple(first.shape[2:])} are too small; LPIPS needs {MIN_SIDE[self.net]} px")
        total = first.new_zeros(len(first))
        for head, a, b in zip(self.lin, self.activations(first), self.activations(second), strict=True):
            total = total + head((a - b).square()).mean((1, 2, 3))
        return total


class LPIPS(_Distance):
    """Perceptual distance of two batches of pictures by AlexNet or VGG-16.

    Args:
        net: `alex` (the usual choice for reporting) or `vgg`.
        weights: File with `conv.<i>.weight|bias` and `lin.<l>.weight`, numbered in the order of use. None builds the
            network with random weights, for tests of its shape only.
    """

    def __init__(self, net: Literal["alex", "vgg"] = "alex", weights: Path | None = None):
        self.plan = _ALEX if net == "alex" else _VGG
        convolutions = [layer for layer in self.plan if len(layer) == 6]
        super().__init__(net, [layer[1] for layer in convolutions if layer[5]])
        self.conv = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p, _ in convolutions)
        if weights is not None:
            self.load_state_dict(load_file(weights), strict=True)
        self.eval().requires_grad_(False)

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """See `_Distance.layers`."""
        convolutions = iter(self.conv)
        for layer in self.plan:
            if len(layer) == 2:
                x = functional.max_pool2d(x, *layer)
                continue
            x = functional.relu(next(convolutions)(x))
            if layer[5]:
                yield x


class _Fire(nn.Module):
    def __init__(self, inputs: int, squeezed: int, outputs: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(squeezed, outputs, 1), nn.Conv2d(squeezed, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.squeeze(x))
        return functional.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeLPIPS(_Distance):
    """Perceptual distance by SqueezeNet 1.1, which the field's published script uses.

    Args:
        backbone: Tensors of torchvision's `squeezenet1_1` (`features.3.squeeze.weight`); None builds random weights.
        heads: The published linear heads (`lin0.model.1.weight`).
    """

    def __init__(self, backbone: Mapping[str, Tensor] | None = None, heads: Mapping[str, Tensor] | None = None):
        fires = [layer for layer in _SQUEEZE if layer]
        super().__init__("squeeze", [64, *(2 * layer[2] for layer in fires if layer[3])])
        self.conv = nn.Conv2d(3, 64, 3, 2)
        self.fires = nn.ModuleList(_Fire(i, s, o) for i, s, o, _ in fires)
        if backbone is not None:
            self.conv.load_state_dict({k: backbone[f"features.0.{k}"] for k in ("weight", "bias")})
            places = [place for place, layer in enumerate(_SQUEEZE, 2) if layer]  # after a convolution and its ReLU
            for place, fire in zip(places, self.fires, strict=True):
                prefix = f"features.{place}."
                fire.load_state_dict({k.removeprefix(prefix): v for k, v in backbone.items() if k.startswith(prefix)})
        if heads is not None:
            self.lin.load_state_dict({f"{i}.weight": heads[f"lin{i}.model.1.weight"] for i in range(len(self.lin))})
        self.eval().requires_grad_(False)

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """See `_Distance.layers`."""
        x = functional.relu(self.conv(x))
        yield x
        fires = iter(self.fires)
        for layer in _SQUEEZE:
            x = next(fires)(x) if layer else functional.max_pool2d(x, 3, 2, ceil_mode=True)
            if layer and layer[3]:
                yield x


def load_lpips(net: Literal["alex", "vgg"] = "alex", device: str | torch.device = "cpu") -> LPIPS:
    """LPIPS with the published weights from the weights cache.

    Raises:
        models.weights.WeightsError: If the weights are not there, with what to do about it.
    """
    from models import weights

    return LPIPS(net, weights.path(f"lpips_{net}.safetensors")).to(device)


def squeeze_heads() -> Path:
    """File of the linear heads for SqueezeNet: torchmetrics ships them."""
    import torchmetrics

    return Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "squeeze.pth"


def load_squeeze_lpips(backbone: Path, device: str | torch.device = "cpu") -> SqueezeLPIPS:
    """LPIPS by SqueezeNet 1.1 from torchvision's checkpoint, which no registry package carries."""
    tensors = [torch.load(f, map_location="cpu", weights_only=True) for f in (backbone, squeeze_heads())]
    return SqueezeLPIPS(*tensors).to(device)
