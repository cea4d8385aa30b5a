"""ResNeXt-101 over space and time (Hara et al. 2018), cardinality 32, as trained on Kinetics: the network of VFID_R.

Only the network and how its published checkpoint loads belong here; no registry package carries that checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

FEATURES = 2048
LAYERS = (3, 4, 23, 3)
CARDINALITY = 32
MEAN = (114.7748, 107.7354, 99.4750)
"""RGB, 0 to 255: what is subtracted from pictures in training; there is no division."""


class Bottleneck(nn.Module):
    """1x1x1, grouped 3x3x3 and 1x1x1 convolutions beside a shortcut, which is projected where its shape changes."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 2 * width
        self.conv1, self.bn1 = nn.Conv3d(inputs, width, 1, bias=False), nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, 1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3, self.bn3 = nn.Conv3d(width, outputs, 1, bias=False), nn.BatchNorm3d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T, H, W) to (B, 2 * width, T / stride, ...)."""
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu_()


class ResNeXt3D(nn.Module):
    """ResNeXt-101 with random weights, or those of a checkpoint.

    Args:
        state: Tensors as in the published checkpoint (`layer1.0.conv1.weight`), `module.` before them or not.
        layers: Blocks of the four stages.

    Raises:
        RuntimeError: A tensor is missing or has another shape.
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None, layers: Sequence[int] = LAYERS):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        channels = 64
        for stage, blocks in enumerate(layers):
            width, made = 128 * 2**stage, []
            for block in range(blocks):
                made.append(Bottleneck(channels, width, 2 if stage and not block else 1))
                channels = 2 * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        if state is not None:
            named = {k.removeprefix("module."): v for k, v in state.items()}
            # The classifier's head is not a feature.
            self.load_state_dict({k: v for k, v in named.items() if not k.startswith("fc.")}, strict=True)
        self.eval().requires_grad_(False)

    def forward(self, video: Tensor) -> Tensor:
        """Pooled features of clips.

        Args:
            video: (B, 3, T, 224, 224), T from 1 to 16 frames.

        Returns:
            (B, 2048), averaged over space.

        Raises:
            ValueError: The clips have another shape.
        """
        if video.ndim != 5 or video.shape[1] != 3 or video.shape[2] > 16:
            raise ValueError(f"ResNeXt takes clips (B, 3, T, 224, 224) of at most 16 frames, not {tuple(video.shape)}")
        x = self.bn1(self.conv1(video)).relu_()
        x = nn.functional.max_pool3d(x, 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean((2, 3, 4))


def load_resnext3d(file: Path, device: str | torch.device = "cpu") -> ResNeXt3D:
    """ResNeXt-101 with the weights of a published checkpoint (`{"state_dict": ...}` or the tensors themselves)."""
    saved = torch.load(file, map_location="cpu", weights_only=True)
    return ResNeXt3D(saved.get("state_dict", saved)).to(device)
