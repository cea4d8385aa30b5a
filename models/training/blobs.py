"""Tensors of clips as blobs: safetensors files that say of themselves that all their numbers are finite.

What writes a clip and what reads it share this module, so a blob with a NaN is refused where it would be written, and
the trainer knows of every clip before its first step without reading more than headers.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import safetensors.torch
import torch
from pyarrow import fs
from safetensors import SafetensorError

from models.filesystem import open_root

MAX_ABS = "max_abs"
"""Entry of a blob's metadata: its largest absolute value. It is there only if all its values are finite."""
_HEADER_LIMIT = 100_000_000  # that of safetensors itself


class NotFinite(ValueError):
    """A tensor holds NaN or infinity; the message names it."""


def pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors blob of tensors on the CPU.

    Raises:
        NotFinite: A tensor holds NaN or infinity.
    """
    largest = max((_largest(key, value) for key, value in tensors.items()), default=0.0)
    return safetensors.torch.save(dict(tensors), metadata={MAX_ABS: repr(largest)})


def check_finite(tensors: Mapping[str, torch.Tensor]) -> None:
    """Look for values that are no numbers.

    Raises:
        NotFinite: A tensor holds NaN or infinity.
    """
    for key, value in tensors.items():
        _largest(key, value)


def _largest(key: str, value: torch.Tensor) -> float:
    if not value.is_floating_point() or not value.numel():
        return 0.0
    low, high = value.aminmax()  # either is NaN where a value is
    largest = max(abs(float(low)), abs(float(high)))
    if not math.isfinite(largest):
        raise NotFinite(f"{key} holds values that are not finite")
    return largest


@dataclass(frozen=True)
class Header:
    """What a blob says of itself.

    Attributes:
        shapes: Tensor name -> shape.
        finite: Whether its values were found to be finite when it was written; False where that is unknown.
        start: Byte at which the tensors begin.
        entries: Tensor name -> entry of the safetensors header.
    """

    shapes: dict[str, tuple[int, ...]]
    finite: bool
    start: int
    entries: dict[str, dict[str, Any]]


class Blobs:
    """Reads blobs below a folder or a URI; opens its file system lazily, so it pickles into loader processes."""

    def __init__(self, root: str):
        self.root = root
        self._opened: tuple[fs.FileSystem, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_opened": None}

    def _path(self, uri: str) -> tuple[fs.FileSystem, str]:
        if ".." in PurePosixPath(uri).parts or PurePosixPath(uri).is_absolute():
            raise OSError(f"{uri!r} leads out of {self.root}: the manifest was changed; materialise training_set again")
        if self._opened is None:
            self._opened = open_root(self.root)
        system, base = self._opened
        return system, f"{base}/{uri}"

    def open(self, uri: str):
        """Random-access file of the blob."""
        system, path = self._path(uri)
        return system.open_input_file(path)

    def header(self, uri: str) -> Header:
        """The blob's header.

        Raises:
            OSError: There is no such blob, or it cannot be reached.
            ValueError: It is no safetensors file, or not as long as its header says.
        """
        with self.open(uri) as f:
            first = f.read(8)
            size = struct.unpack("<Q", first)[0] if len(first) == 8 else _HEADER_LIMIT + 1
            if size > _HEADER_LIMIT:
                raise ValueError("it is no safetensors file")
            entries = json.loads(f.read(size))
            written = entries.pop("__metadata__", None) or {}
            end = 8 + size + max((e["data_offsets"][1] for e in entries.values()), default=0)
            if f.size() != end:
                raise ValueError(f"it has {f.size()} bytes instead of {end}")
        shapes = {k: tuple(e["shape"]) for k, e in entries.items()}
        return Header(shapes, MAX_ABS in written, 8 + size, entries)

    def integers(self, uri: str, header: Header, key: str) -> np.ndarray:
        """One int64 tensor of a blob, without the others."""
        begin, end = header.entries[key]["data_offsets"]
        if header.entries[key]["dtype"] != "I64":
            raise ValueError(f"{key} is not int64")
        with self.open(uri) as f:
            return np.frombuffer(f.read_at(end - begin, header.start + begin), "<i8").reshape(header.shapes[key])

    def tensors(self, uri: str) -> dict[str, torch.Tensor]:
        """All tensors of a blob; those of a local one are views of the mapped file, nothing is copied.

        Raises:
            OSError: There is no such blob, or it is damaged.
        """
        system, path = self._path(uri)
        try:
            if isinstance(system, fs.LocalFileSystem):
                return safetensors.torch.load_file(path)
            with system.open_input_file(path) as f:
                return safetensors.torch.load(f.read())
        except SafetensorError as e:
            raise OSError(f"{uri} is damaged: {e}") from e
