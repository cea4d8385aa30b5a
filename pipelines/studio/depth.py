"""Depth of a clip as a lossless video of 16-bit grey: millimetres, 0 where nothing is."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np

MILLIMETRES = 1000.0


class DepthWriter:
    """Writes depth to an FFV1 video; the file has its name only once it is whole.

    Args:
        path: Target, `.mkv`.
        fps: Frames a second.
        width: Pixels.
        height: Pixels.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float, width: int, height: int):
        self.path = Path(path)
        self._temporary = self.path.with_name(f".{uuid.uuid4().hex}.tmp.mkv")
        self._container = av.open(f"file:{self._temporary}", "w", format="matroska", options={"fflags": "+bitexact"})
        stream = self._container.add_stream(
            "ffv1", rate=Fraction(fps).limit_denominator(100_000), options={"level": "3", "coder": "0", "slices": "4"}
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "gray16le"
        stream.codec_context.thread_count = 1
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._temporary.replace(self.path)
        else:
            self._container.close()
            self._temporary.unlink(missing_ok=True)

    def write(self, depth: np.ndarray) -> None:
        """Append (H, W) metres, inf where nothing is; what is farther than 65 m counts as nothing."""
        seen = depth < 65.0
        millimetres = np.where(seen, np.where(seen, depth, 0) * MILLIMETRES + 0.5, 0).astype(np.uint16)
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(millimetres, format="gray16le")))


def read_depth(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """Depth of every frame: (H, W) float32 metres, inf where nothing is."""
    with av.open(f"file:{path}") as container:
        for frame in container.decode(video=0):
            millimetres = frame.to_ndarray(format="gray16le")
            yield np.where(millimetres > 0, millimetres / np.float32(MILLIMETRES), np.float32(np.inf))
