"""Where the networks of the set metrics come from: published files that the user puts into a folder, else the cache.

A network that is in neither place is missing; nothing stands in for it.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from models import weights
from models.features.i3d import load_i3d
from models.features.lpips import load_lpips, load_squeeze_lpips, squeeze_heads
from models.features.resnext3d import load_resnext3d

NetworkName = Literal["i3d", "resnext101", "videomae", "lpips_alex", "lpips_vgg", "lpips_squeeze"]


@dataclass(frozen=True)
class PublishedFile:
    """A checkpoint as its authors publish it.

    Attributes:
        name: File name.
        source: Where it is published.
        sha256_start: First digits of its SHA-256, where the authors give them.
    """

    name: str
    source: str
    sha256_start: str = ""


PUBLISHED: dict[str, PublishedFile] = {
    "i3d": PublishedFile("i3d.pt", "Hugging Face repository zhengchong/VFID"),
    "resnext101": PublishedFile("resnext-101.pth", "Hugging Face repository zhengchong/VFID"),
    "videomae": PublishedFile("vit_g_hybrid_pt_1200e_ssv2_ft.pth", "VideoMAE v2 model zoo, named by package cd-fvd"),
    # torch.hub's convention: the name ends with the beginning of the digest.
    "lpips_squeeze": PublishedFile("squeezenet1_1-b8a52dc0.pth", "torchvision, squeezenet1_1", "b8a52dc0"),
}
"""What the folder of published files may hold, by network. No registry package carries them."""

_EMBEDDED = {
    "i3d": ("i3d-kinetics-400", "i3d_kinetics400.safetensors"),
    "lpips_alex": ("lpips-alex", "lpips_alex.safetensors"),
    "lpips_vgg": ("lpips-vgg", "lpips_vgg.safetensors"),
}
_TITLES = {"i3d": "i3d.pt", "resnext101": "resnext101-kinetics", "videomae": "videomae-vit-g-ssv2"}


class NetworkMissing(LookupError):
    """A network's weights are not there; the message says which file to put where."""


@dataclass(frozen=True)
class NetworkSource:
    """A network that could be loaded.

    Attributes:
        name: Architecture and training data, for reports.
        digest: SHA-256 of its weights.
        load: Makes the module on a device.
    """

    name: str
    digest: str
    load: Callable[[str], nn.Module]

    @property
    def label(self) -> str:
        """Name and digest."""
        return f"{self.name} {self.digest}"


def published_folder(folder: str | Path | None = None) -> Path:
    """Folder of the published files: the argument, else `metrics` in the weights cache."""
    return Path(folder).expanduser() if folder else weights.cache_root() / "metrics"


def find_network(network: NetworkName, folder: str | Path | None = None) -> NetworkSource:
    """A network from its published file or from the weights cache; nothing is loaded yet.

    Args:
        network: Which one.
        folder: Folder of published files; see `published_folder`.

    Raises:
        NetworkMissing: It is in neither place, or a file is not what its authors published.
    """
    if network in PUBLISHED:
        published = PUBLISHED[network]
        file = published_folder(folder) / published.name
        if file.is_file():
            return _published(network, published, file)
        if network not in _EMBEDDED:
            raise NetworkMissing(
                f"needs {published.name}, which no registry package carries: put it into {file.parent} "
                f"({published.source})"
            )
    name, cached = _EMBEDDED[network]
    try:
        weights.path(cached)
    except weights.MissingWeights as e:
        raise NetworkMissing(str(e)) from e
    if network == "i3d":
        return NetworkSource(name, weights.digest(cached), lambda device: load_i3d(None, device))
    kind: Literal["alex", "vgg"] = "alex" if network == "lpips_alex" else "vgg"
    return NetworkSource(name, weights.digest(cached), lambda device: load_lpips(kind, device))


def _published(network: str, published: PublishedFile, file: Path) -> NetworkSource:
    stat = file.stat()
    digest = _digest(str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    if not digest.startswith(published.sha256_start):
        raise NetworkMissing(
            f"{file} is not the published file: its SHA-256 begins with {digest[:8]}, not {published.sha256_start}"
        )
    loaders: dict[str, Callable[[Path, str], nn.Module]] = {
        "i3d": load_i3d,
        "resnext101": load_resnext3d,
        "lpips_squeeze": load_squeeze_lpips,
        "videomae": _load_videomae,
    }
    name = _TITLES.get(network, "lpips-squeeze")
    if network == "lpips_squeeze":
        heads = hashlib.sha256(squeeze_heads().read_bytes()).hexdigest()
        digest = hashlib.sha256(f"{digest} {heads}".encode()).hexdigest()

    def load(device: str) -> nn.Module:
        try:
            return loaders[network](file, device)
        except OSError as e:
            raise NetworkMissing(f"{file} cannot be read: {e}") from e
        except (RuntimeError, KeyError, AttributeError, ValueError, EOFError, pickle.UnpicklingError) as e:
            # torch's own words may advise to load the file in a way that lets it run code.
            raise NetworkMissing(
                f"{file} does not load as {name} on {device} ({type(e).__name__}): it is damaged or another file, "
                f"unless the device lacks memory; get it again ({published.source})"
            ) from e

    return NetworkSource(name, digest, load)


def _load_videomae(file: Path, device: str | torch.device) -> nn.Module:
    from models.features.videomae import load_videomae  # transformers takes a second to import

    return load_videomae(file, device)


@lru_cache(maxsize=16)
def _digest(path: str, size: int, changed_ns: int) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
