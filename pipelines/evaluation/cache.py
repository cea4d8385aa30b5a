"""Arrays that evaluation computed, by what they were computed from: a second run or a bootstrap computes none again."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path


def evaluation_cache(lake_root: str | None = None) -> Path:
    """Folder of the cache: in a local lake, or in the user's cache for a remote one or none."""
    if lake_root is None or "://" in lake_root:
        return user_cache_path("itryon") / "evaluation"
    return Path(lake_root) / "cache" / "evaluation"


class ArrayCache:
    """Arrays on disk, by a digest of what they depend on.

    Args:
        folder: Where; None keeps nothing.

    Attributes:
        hits: Arrays found.
        misses: Arrays not found.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.hits = self.misses = 0

    @staticmethod
    def key(**depends: Any) -> str:
        """Digest of what an array depends on; values are anything that JSON knows."""
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> np.ndarray | None:
        """The array, or None where there is none or its file is damaged."""
        if self.folder is None:
            return None
        try:
            found = np.load(self._file(key), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            self.misses += 1
            return None
        self.hits += 1
        return found

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep an array; it gets its name when it is whole."""
        if self.folder is None:
            return
        file = self._file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.npy"


def content_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
