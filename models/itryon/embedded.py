"""The nano checkpoint that comes with this package: what `init_from: embedded` starts from."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

EMBEDDED = "embedded"
"""Name of the embedded checkpoint in training configurations."""
EMBEDDED_DIR = Path(__file__).parent / "nano"
"""Trainer's export: `transformer/` as diffusers saves it, and `training.json`."""


@lru_cache(maxsize=1)
def embedded_digest() -> str:
    """SHA-256 over configuration and weights of the embedded checkpoint, 64 hex digits."""
    digest = hashlib.sha256()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        digest.update((EMBEDDED_DIR / "transformer" / name).read_bytes())
    return digest.hexdigest()


def checkpoint_source(name: str) -> str:
    """Folder or Hub model of a name in `init_from`: the embedded checkpoint's folder, or the name itself."""
    return str(EMBEDDED_DIR) if name == EMBEDDED else name


def names_folder(source: str) -> bool:
    """Whether a name in `init_from` is a folder's, there or gone: not the embedded checkpoint's or a Hub model's."""
    path = Path(source)
    if source == EMBEDDED:
        return False
    return path.is_dir() or path.is_absolute() or source.startswith(".") or source.count("/") != 1
