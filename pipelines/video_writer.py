"""Writes video files; imported from `pipelines.video`, which is the project's one door to video."""

from __future__ import annotations

import contextlib
import os
import uuid
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
import numpy as np


def written_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the video that `VideoWriter` makes of frames of this size: the next even ones."""
    return width + width % 2, height + height % 2


class VideoWriter:
    """Writes an mp4 that every player opens: H.264, yuv420p, BT.709, index in front.

    The file appears under its name only when the writer is closed without an error. Odd sizes are padded by one row
    at the bottom or one column at the right that repeats the border, because yuv420p has no odd sizes.

    Args:
        path: Target, `.mp4`.
        fps: Frames a second.
        width: Pixels of the frames that will be written.
        height: Pixels of the frames that will be written.
        crf: x264 quality, 0 (lossless) to 51; 18 is visually lossless.
        preset: x264 speed preset.
        threads: Encoder threads; 0 lets ffmpeg choose.
        timed: Whether frames come with their times, for a variable frame rate; `fps` is then their average.

    Raises:
        ValueError: A size or the rate is not positive.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float,
        width: int,
        height: int,
        crf: int = 18,
        preset: str = "veryfast",
        threads: int = 1,
        timed: bool = False,
    ):
        if not (fps > 0 and width > 0 and height > 0):
            raise ValueError(f"fps, width and height must be positive, not {fps}, {width}, {height}")
        self.path = Path(path)
        self._shape = (height, width, 3)
        self._temporary = self.path.with_name(f".{uuid.uuid4().hex}.tmp.mp4")
        self._container = av.open(
            f"file:{self._temporary}", "w", format="mp4", container_options={"movflags": "faststart"}
        )
        rate = Fraction(fps).limit_denominator(100_000)
        # With macroblock-tree rate control x264 wrote 3 different files in 60 runs over the same frames, without it 1.
        options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
        stream = self._container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = written_size(width, height)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = threads
        # Untagged colours are guessed from the size, by each player differently.
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
        # Ticks in which times are told; 90 kHz is what mp4 and broadcast use.
        self._tick = Fraction(1, 90_000) if timed else 1 / rate
        if timed:
            context.time_base = stream.time_base = self._tick
        self._timed = timed
        self._stream = stream
        self._count = 0
        self._last = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def _discard(self) -> None:
        # On a full disk the container cannot write its end either; what went wrong first is what is told.
        with contextlib.suppress(av.error.FFmpegError):
            self._container.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, rgb: np.ndarray, time_s: float | None = None) -> None:
        """Append a frame.

        Args:
            rgb: (height, width, 3), uint8, RGB.
            time_s: When it is shown, seconds from the first frame; for writers of timed frames, and for them only.

        Raises:
            ValueError: The frame has another shape or type than announced, or its time is missing or not later than
                that of the frame before.
        """
        if (time_s is not None) != self._timed:
            raise ValueError("Times belong to writers of timed frames, and to all of their frames")
        pts = self._count if time_s is None else round(time_s / self._tick)
        if pts <= self._last:
            raise ValueError(f"Frame {self._count} at {time_s} s is not later than the one before")
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"Expected uint8 frames of shape {self._shape}, not {rgb.dtype} {rgb.shape}")
        height, width = self._shape[:2]
        if width % 2 or height % 2:
            rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG", threads=1)
        frame.pts, frame.time_base = pts, self._tick
        self._count, self._last = self._count + 1, pts
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises:
            ValueError: No frame was written; no file is left.
            OSError: The file cannot be written; none is left.
        """
        if self._count == 0:
            self._discard()
            raise ValueError(f"{self.path.name}: a video needs at least one frame")
        try:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._temporary.replace(self.path)
        except BaseException:
            self._discard()
            raise
