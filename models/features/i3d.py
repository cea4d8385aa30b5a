"""I3D, the inflated Inception-v1 of Carreira and Zisserman (2017), as trained on the 400 classes of Kinetics.

The network behind the Fréchet video distance (FVD) and VFID_I. Convolutions and pools pad as TensorFlow's `SAME`, that
is to `ceil(size / stride)` outputs with the odd row at the end. Batch norms do not move at inference and are folded
into the convolutions when weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

Size = tuple[int, int, int]

MIN_FRAMES = 9
"""Shortest clip: the last pool spans two of the time steps that are an eighth of the frames."""
SIDE = 224
FEATURES, CLASSES = 1024, 400
_BN_EPSILON = 1e-3

# Channels of an Inception module: 1x1, then reduction and 3x3x3 twice, then the projection behind the pool.
_MIXED: dict[str, tuple[int, int, int, int, int, int]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# A pool before the module, as (kernel, stride).
_POOL_BEFORE: dict[str, tuple[Size, Size]] = {
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after along one axis such that it has `ceil(size / stride)` outputs; the odd one is after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _padded(x: Tensor, kernel: Size, stride: Size, value: float) -> Tensor:
    pads = [p for axis in (2, 1, 0) for p in same_padding(x.shape[2 + axis], kernel[axis], stride[axis])]
    return functional.pad(x, pads, value=value) if any(pads) else x


def same_max_pool(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Max pool of (B, C, T, H, W) with `SAME` padding; what is padded never wins."""
    return functional.max_pool3d(_padded(x, kernel, stride, -torch.inf), kernel, stride)


class Unit(nn.Module):
    """A convolution with `SAME` padding and its folded batch norm, then ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, self.kernel, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) to (B, outputs, ceil(T / stride), ...)."""
        return self.conv3d(_padded(x, self.kernel, self.stride, 0.0)).relu_()


class Mixed(nn.Module):
    """An Inception module: four branches side by side."""

    def __init__(self, inputs: int, channels: tuple[int, int, int, int, int, int]):
        super().__init__()
        one, reduce_a, a, reduce_b, b, pooled = channels
        self.b0 = Unit(inputs, one)
        self.b1a, self.b1b = Unit(inputs, reduce_a), Unit(reduce_a, a, 3)
        self.b2a, self.b2b = Unit(inputs, reduce_b), Unit(reduce_b, b, 3)
        self.b3b = Unit(inputs, pooled)
        self.outputs = one + a + b + pooled

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) to (B, outputs, T, H, W)."""
        pool = same_max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pool)], 1)


class I3D(nn.Module):
    """I3D with random weights, or those of a file.

    Args:
        state: Tensors under the names of the widespread PyTorch port (`Mixed_3b.b1a.conv3d.weight`,
            `....bn.running_mean`), as both the embedded safetensors and the published `i3d.pt` have them.

    Raises:
        RuntimeError: A tensor is missing or has another shape.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        channels = 192
        for name, widths in _MIXED.items():
            self.add_module(name, module := Mixed(channels, widths))
            channels = module.outputs
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, CLASSES, 1)})
        if state is not None:
            self.load_state_dict(fold_batch_norm(state), strict=True)
        self.eval().requires_grad_(False)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and pooled features of clips.

        Args:
            video: (B, 3, T, 224, 224) RGB in [-1, 1], T at least `MIN_FRAMES`.

        Returns:
            Logits (B, 400), and features (B, 1024) averaged over space and time.

        Raises:
            ValueError: The clips have another shape.
        """
        if video.ndim != 5 or video.shape[1] != 3 or tuple(video.shape[3:]) != (SIDE, SIDE):
            raise ValueError(f"I3D takes clips (B, 3, T, {SIDE}, {SIDE}), not {tuple(video.shape)}")
        if video.shape[2] < MIN_FRAMES:
            raise ValueError(f"I3D takes clips of at least {MIN_FRAMES} frames, not {video.shape[2]}")
        x = same_max_pool(self.Conv3d_1a_7x7(video), (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in _MIXED:
            if name in _POOL_BEFORE:
                x = same_max_pool(x, *_POOL_BEFORE[name])
            x = self.get_submodule(name)(x)
        pooled = functional.avg_pool3d(x, (2, SIDE // 32, SIDE // 32), 1)
        return self.logits["conv3d"](pooled).mean((2, 3, 4)), pooled.mean((2, 3, 4))


def fold_batch_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every `.conv3d.weight` with its `.bn.*` (scale optional, 1 where it is not there) as one weight and bias."""
    folded = {}
    for key, weight in state.items():
        if not key.endswith(".conv3d.weight"):
            continue
        unit = key.removesuffix(".conv3d.weight")
        folded[key] = weight.float()
        if f"{unit}.bn.running_var" not in state:
            folded[f"{unit}.conv3d.bias"] = state[f"{unit}.conv3d.bias"].float()
            continue
        scale = (state[f"{unit}.bn.running_var"].double() + _BN_EPSILON).rsqrt()
        scale = scale * state.get(f"{unit}.bn.weight", torch.ones(())).double()
        shift = state[f"{unit}.bn.bias"].double() - state[f"{unit}.bn.running_mean"].double() * scale
        folded[key] = (weight.double() * scale.view(-1, 1, 1, 1, 1)).float()
        folded[f"{unit}.conv3d.bias"] = shift.float()
    return folded


def load_i3d(file: Path | None = None, device: str | torch.device = "cpu") -> I3D:
    """I3D with trained weights.

    Args:
        file: A published PyTorch checkpoint; the embedded Kinetics-400 weights from the weights cache by default.
        device: Torch device.

    Raises:
        models.weights.MissingWeights: The embedded weights are not in the cache, with what to do about it.
    """
    from models import weights

    if file is None:
        state = load_file(weights.path("i3d_kinetics400.safetensors"))
    else:
        state = torch.load(file, map_location="cpu", weights_only=True)
    # torch's stubs leave the memory format out.
    return I3D(state).to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
