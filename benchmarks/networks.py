"""The video networks against those of the field's published script, at random weights.

`python -m benchmarks.networks --script FOLDER`, where the folder is a checkout of github.com/Zheng-Chong/CatV2TON. Its
`modules/fid_metrics/inception3d.py` and `resnext3d.py` are run as they are: look at them first.
"""

from __future__ import annotations

import argparse
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from models.features.i3d import I3D
from models.features.resnext3d import ResNeXt3D

FRAMES, SIDE = 10, 224


def compare(script: Path, seed: int = 0) -> dict[str, float]:
    """Largest differences between pooled features of ours and of the script's networks for one clip of noise.

    Args:
        script: Checkout of the script's repository.
        seed: Of weights and clip.

    Returns:
        By network, as a share of the largest feature.

    Raises:
        FileNotFoundError: The folder does not hold the script's networks.
    """
    torch.manual_seed(seed)
    published: dict[str, nn.Module] = {
        "i3d": _module(script, "inception3d").InceptionI3d(400, in_channels=3),
        "resnext101": _module(script, "resnext3d").resnet101(
            num_classes=400, shortcut_type="B", sample_size=SIDE, sample_duration=FRAMES, last_fc=False
        ),
    }
    clip = torch.rand(1, 3, FRAMES, SIDE, SIDE) * 2 - 1
    found = {}
    for name, theirs in published.items():
        _randomise(theirs.eval())
        ours = I3D(theirs.state_dict()) if name == "i3d" else ResNeXt3D(theirs.state_dict())
        with torch.inference_mode():
            there: Any = theirs.extract_features(clip)  # type: ignore[operator]
            if name == "i3d":  # what the script makes of them
                there = there.squeeze(3).squeeze(3).mean(2)
            here: Tensor = ours(clip)[1] if name == "i3d" else ours(clip)
        found[name] = float((here - there).abs().max() / there.abs().max())
    return found


def _module(script: Path, name: str) -> ModuleType:
    file = script / "modules" / "fid_metrics" / f"{name}.py"
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: name a checkout of the script's repository")
    spec = spec_from_file_location(f"published_{name}", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _randomise(network: nn.Module) -> None:
    """Weights that keep activations at their size, and norms that do something."""
    for part in network.modules():
        if isinstance(part, nn.Conv3d):
            nn.init.kaiming_normal_(part.weight)
        elif isinstance(part, nn.BatchNorm3d):
            assert part.running_mean is not None and part.running_var is not None
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.8, 1.25)
            nn.init.uniform_(part.weight, 0.8, 1.25)
            nn.init.normal_(part.bias, std=0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="checkout of the script's repository")
    for network, difference in compare(parser.parse_args().script).items():
        print(f"{network}: largest difference {difference:.1e} of the largest feature")
