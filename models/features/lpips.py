"""Learned perceptual image patch similarity (LPIPS, Zhang et al. 2018), version 0.1, without torchvision.

`d(x, y) = sum over layers l of mean over positions of  w_l . (f_l(x) - f_l(y))^2`, where `f_l` are the activations of
an ImageNet network, scaled to unit length over channels, and `w_l >= 0` are the published linear heads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

Network = Literal["alex", "vgg"]

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

MIN_SIDE: dict[Network, int] = {"alex": 31, "vgg": 16}
"""Smallest picture side for which every compared layer has at least one position."""


class LPIPS(nn.Module):
    """Perceptual distance of two batches of pictures.

    Args:
        net: `alex` (the usual choice for reporting) or `vgg`.
        weights: File with `conv.<i>.weight|bias` and `lin.<l>.weight`, numbered in the order of use. None builds the
            network with random weights, for tests of its shape only.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: Network = "alex", weights: Path | None = None):
        super().__init__()
        self.net: Network = net
        self.plan = _ALEX if net == "alex" else _VGG
        convolutions = [layer for layer in self.plan if len(layer) == 6]
        self.conv = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p, _ in convolutions)
        self.lin = nn.ModuleList(nn.Conv2d(layer[1], 1, 1, bias=False) for layer in convolutions if layer[5])
        # The published normalisation for pictures in [-1, 1].
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        if weights is not None:
            self.load_state_dict(load_file(weights), strict=True)
        self.eval().requires_grad_(False)

    def activations(self, pictures: Tensor) -> list[Tensor]:
        """Unit-length activations of the compared layers.

        Args:
            pictures: `[N, 3, H, W]` in [-1, 1].

        Returns:
            One `[N, C_l, H_l, W_l]` a layer.
        """
        x = (pictures - self.shift) / self.scale
        found = []
        convolutions = iter(self.conv)
        for layer in self.plan:
            if len(layer) == 2:
                x = functional.max_pool2d(x, *layer)
                continue
            x = functional.relu(next(convolutions)(x))
            if layer[5]:
                # The root of zero has no finite gradient; flat pictures do give all-zero activations.
                length = (x.square().sum(1, keepdim=True) + 1e-20).sqrt()
                found.append(x / (length + 1e-10))
        return found

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


def load_lpips(net: Network = "alex", device: str | torch.device = "cpu") -> LPIPS:
    """LPIPS with the published weights from the weights cache.

    Raises:
        models.weights.WeightsError: If the weights are not there, with what to do about it.
    """
    from models import weights

    return LPIPS(net, weights.path(f"lpips_{net}.safetensors")).to(device)
