"""The one way this project reads and writes video: streaming, frame-exact, upright, with flat memory.

Only the container and the pixels belong here; what makes a video usable is decided in `pipelines.ingest`.

Damage policy. A file whose container cannot be read, or in which not a single frame decodes, raises `VideoError`.
Otherwise every frame that decodes counts. A frame that is lost in the middle is replaced by the one before it, as a
player does, so that indices and times after it stay right; frames lost at the end are absent.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
import numpy as np

from pipelines.video_container import VideoError, open_container, orientation
from pipelines.video_writer import VideoWriter, written_size

__all__ = ["VideoError", "VideoFrame", "VideoInfo", "VideoReader", "VideoWriter", "probe", "written_size"]

# Codecs whose packets are frames one to one in the containers above. For others the n-th packet need not be the n-th
# frame, so a seek could land on a wrong index: they are decoded from the start.
_SEEKABLE_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mjpeg", "prores", "dnxhd", "ffv1", "mpeg4", "png"})


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, from its packets and its first frame.

    Attributes:
        width: Pixels, upright (rotation applied).
        height: Pixels, upright (rotation applied).
        fps: Average frames a second.
        num_frames: Frames in the file; in a damaged file fewer may decode.
        duration_s: From the start of the first frame to the end of the last, seconds.
        codec: ffmpeg's name of the codec.
        rotation: Degrees clockwise that the stored picture is turned: 0, 90, 180 or 270.
        variable_frame_rate: Whether frame intervals differ by more than half a frame.
        has_audio: Whether there is an audio stream.
        start_s: When the first frame is shown by the file's clock, which its sound goes by too, seconds.
    """

    width: int
    height: int
    fps: float
    num_frames: int
    duration_s: float
    codec: str
    rotation: int
    variable_frame_rate: bool
    has_audio: bool
    start_s: float = 0.0


@dataclass(frozen=True)
class VideoFrame:
    """One frame.

    Attributes:
        index: Position from 0; with resampling, position on the regular grid.
        time_s: Presentation time in seconds from the first frame; with resampling, `index / fps`.
        rgb: Shape (height, width, 3), uint8, RGB, upright. The caller's own: it is not overwritten.
        source_index: Position of the frame in the file; equals `index` without resampling.
    """

    index: int
    time_s: float
    rgb: np.ndarray
    source_index: int


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Read what a video holds, decoding only its first frame.

    Raises:
        VideoError: The file is missing, empty, not a video, has no video stream, or no frame decodes.
    """
    with VideoReader(path) as reader:
        return reader.info


class VideoReader:
    """Streams a video's frames. One pass at a time: a new call of `frames` ends the one before.

    Args:
        path: Local file.
        fps: Resample to a regular grid of this many frames a second: grid frame k shows the latest frame of the file
            that starts no later than k / fps. Frames are repeated or dropped, never blended.
        max_side: Scale down so that the longer side has at most this many pixels; never scales up.
        threads: Decoder threads; 0 lets ffmpeg choose.

    Attributes:
        path: The file.
        info: What it holds.
        announced_frames: Frames that the container's header speaks of, 0 where it says nothing; more than decode when
            a file is cut off.

    Raises:
        VideoError: The file is missing, empty, not a video, has no video stream, or no frame decodes.
        ValueError: `fps` or `max_side` is not positive.
    """

    def __init__(
        self, path: str | os.PathLike[str], fps: float | None = None, max_side: int | None = None, threads: int = 1
    ):
        if (fps is not None and not (fps > 0 and math.isfinite(fps))) or (max_side is not None and max_side < 1):
            raise ValueError(f"fps and max_side must be positive, not {fps} and {max_side}")
        self.path = Path(path)
        self.fps = fps
        self.threads = threads
        self._container = open_container(self.path)
        self.announced_frames = 0
        try:
            if not self._container.streams.video:
                kind = "audio only" if self._container.streams.audio else "no picture or sound"
                raise VideoError(
                    self.path.name, f"there is no video stream in the file ({kind}); remove it, or export it with video"
                )
            self._stream = self._container.streams.video[0]
            self._stream.codec_context.thread_count = threads
            self._stream.codec_context.thread_type = "AUTO"
            self._examine(max_side)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[VideoFrame]:
        """Frames with start <= index < stop, in order; fewer when the video ends before.

        Seeks to the key frame before `start` where the file allows it and decodes forward, so the frames are the very
        ones a pass from the beginning gives.

        Raises:
            ValueError: `start` is negative.
            VideoError: No frame decodes, or the file's index is broken in a way that makes seeking unsafe.
        """
        if start < 0:
            raise ValueError(f"Frames count from 0, not from {start}")
        if stop is not None and stop <= start:
            return
        if self.fps is None:
            for index, time_s, frame in self._decoded(start):
                if stop is not None and index >= stop:
                    return
                yield VideoFrame(index, time_s, self._rgb(frame), index)
            return
        yield from self._resampled(start, stop)

    def _resampled(self, start: int, stop: int | None) -> Iterator[VideoFrame]:
        fps = float(self.fps or 0)
        k = start

        def shown(until: float, index: int, picture: np.ndarray) -> Iterator[VideoFrame]:
            nonlocal k
            while k / fps + self._tolerance_s < until and (stop is None or k < stop):
                yield VideoFrame(k, k / fps, picture, index)
                k += 1
                picture = picture.copy()

        first = max(0, bisect_right(self._times, start / fps + self._tolerance_s) - 1) if self._seekable else 0
        held: tuple[int, float, av.VideoFrame] | None = None
        for item in self._decoded(first):
            # The picture is converted only for frames that the grid shows.
            if held and k / fps + self._tolerance_s < item[1]:
                yield from shown(item[1], held[0], self._rgb(held[2]))
                if stop is not None and k >= stop:
                    return
            held = item
        if held:
            end = held[1] + 1 / self.info.fps
            # The last frame is shown for one average interval.
            if k / fps + self._tolerance_s < end:
                yield from shown(end, held[0], self._rgb(held[2]))

    def _examine(self, max_side: int | None) -> None:
        """Read all packets' times (not their pictures), and the first frame that decodes."""
        pts: list[int] = []
        # A context is named after its decoder, which is `libdav1d` for AV1.
        codec = self._stream.codec_context.codec.canonical_name
        seekable = codec in _SEEKABLE_CODECS
        started, first_key, last_duration, packets, hidden = False, 0, 0, 0, 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.size == 0 or packet.is_discard:
                    hidden += packet.is_discard
                    continue
                packets += 1
                if packet.pts is None:
                    seekable = False
                elif started or packet.is_keyframe:
                    if not started:
                        started, first_key = True, packet.pts
                    # Leading pictures of an open first group have no reference to decode from.
                    if packet.pts >= first_key:
                        pts.append(packet.pts)
                        last_duration = packet.duration or last_duration
        except (av.error.FFmpegError, OSError):
            seekable = False  # what was read until here is what there is
        if packets == 0:
            raise VideoError(self.path.name, "the video stream is empty, it holds no frames")
        pts.sort()
        seekable = seekable and bool(pts) and all(a < b for a, b in pairwise(pts))
        self._pts = pts if seekable else []
        self._seekable = seekable
        base = self._stream.time_base or Fraction(1, 1000)
        self._times = [float((p - self._pts[0]) * base) for p in self._pts]
        times = self._times or [float((p - pts[0]) * base) for p in pts]

        self._rewind()
        first = next(self._raw_frames(), None)
        if first is None:
            raise VideoError(self.path.name, "not a single frame decodes, the file is damaged or cut off")
        self._turns, self._mirrored = orientation(first)
        stored = (first.width, first.height)
        scale = min(1.0, max_side / max(stored)) if max_side else 1.0
        self._size = (max(1, round(stored[0] * scale)), max(1, round(stored[1] * scale)))
        width, height = stored if self._turns % 2 == 0 else stored[::-1]

        rate = self._stream.average_rate or self._stream.guessed_rate
        fps = float(rate) if rate else 25.0
        steps = np.diff(times)
        if len(steps) and times[-1] > 0:
            measured = len(steps) / times[-1]
            # Container rates are exact where they are right; times may be rounded to milliseconds.
            if not rate or abs(fps / measured - 1) > 0.01:
                fps = measured
        self.announced_frames = max(0, self._stream.frames - hidden)  # an edit list hides frames
        if not self.announced_frames and self._container.duration and not self._container.streams.audio:
            # The header has a duration only; half a second of tolerance for what muxers make of it.
            announced = int((self._container.duration / 1e6 - 0.5) * fps)
            self.announced_frames = max(announced, len(pts)) if announced > len(pts) else 0
        variable = bool(len(steps) and steps.max() - steps.min() > 0.5 * np.median(steps))
        duration = (times[-1] if times else 0.0) + (float(last_duration * base) or 1 / fps)
        # Rounded time stamps may lie up to one tick late.
        self._tolerance_s = min(float(base), 0.25 / fps)
        self.info = VideoInfo(
            width=width,
            height=height,
            fps=fps,
            num_frames=len(pts) or packets,
            duration_s=duration,
            codec=codec,
            rotation=self._turns * 90,
            variable_frame_rate=variable,
            has_audio=bool(self._container.streams.audio),
            start_s=float(self._pts[0] * base) if seekable else float(first.time or 0.0),
        )

    def _rewind(self, pts: int | None = None) -> None:
        # A fresh container, for a pass from the start: some demuxers cannot seek back to frames without an index.
        if pts is None:
            self._container.close()
            self._container = open_container(self.path)
            self._stream = self._container.streams.video[0]
            self._stream.codec_context.thread_count = self.threads
            self._stream.codec_context.thread_type = "AUTO"
        else:
            self._container.seek(pts, stream=self._stream, backward=True, any_frame=False)

    def _raw_frames(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError):  # cut off: what the decoder still holds comes out below
                packet = None
            try:
                yield from packet.decode() if packet is not None else self._stream.codec_context.decode(None)
            except av.error.FFmpegError as e:
                # Damage is anything to ffmpeg: data of no format yet invented, even a lack of permission.
                if isinstance(e, MemoryError):
                    raise
            if packet is None:
                return

    def _decoded(self, start: int) -> Iterator[tuple[int, float, av.VideoFrame]]:
        """(index, time in seconds, frame) from `start` on."""
        if start and self._seekable:
            if start >= len(self._pts):
                return
            self._rewind(self._pts[start])
            frames = self._raw_frames()
            first = next(frames, None)
            # Landing behind the wanted frame means a container without a usable index.
            if first is not None and first.pts in self._rank and first.pts <= self._pts[start]:
                yield from self._by_time(_chain(first, frames), start)
                return
        self._rewind()
        if self._seekable:
            yield from self._by_time(self._raw_frames(), start)
        else:
            yield from self._by_count(self._raw_frames(), start)

    @property
    def _rank(self) -> dict[int, int]:
        if not hasattr(self, "_ranks"):
            self._ranks = {p: i for i, p in enumerate(self._pts)}
        return self._ranks

    def _by_time(self, frames: Iterator[av.VideoFrame], start: int) -> Iterator[tuple[int, float, av.VideoFrame]]:
        due = start
        held: av.VideoFrame | None = None
        for frame in frames:
            index = self._rank.get(frame.pts) if frame.pts is not None else None
            if index is None:
                continue
            while due < index:  # lost in between: hold the frame before
                yield due, self._times[due], held if held is not None else frame
                due += 1
            held = frame
            if index >= due:
                yield index, self._times[index], frame
                due = index + 1

    def _by_count(self, frames: Iterator[av.VideoFrame], start: int) -> Iterator[tuple[int, float, av.VideoFrame]]:
        origin: float | None = None
        last = -math.inf
        for index, frame in enumerate(frames):
            time_s = frame.time
            if time_s is not None:
                origin = time_s if origin is None else origin
                time_s -= origin
            if time_s is None or time_s <= last:
                time_s = 0.0 if index == 0 else last + 1 / self.info.fps
            last = time_s
            if index >= start:
                yield index, time_s, frame

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = self._size
        shrinks = width < frame.width or height < frame.height
        picture = frame.reformat(
            width=width, height=height, format="rgb24", interpolation="AREA" if shrinks else "BILINEAR", threads=1
        ).to_ndarray()
        if self._mirrored:
            picture = picture[:, ::-1]
        if self._turns:
            picture = np.rot90(picture, -self._turns)
        return np.ascontiguousarray(picture)


def _chain(first: av.VideoFrame, rest: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    yield from rest
