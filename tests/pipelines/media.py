"""Makes the media files that the tests need, good and bad, with the real encoders."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from models import weights
from pipelines.video import VideoReader, VideoWriter
from tests.conftest import moving_frames


def dancer_frames(start: int, count: int, max_side: int = 320) -> list[np.ndarray]:
    """Frames of a real person before a blue screen, (h, w, 3) uint8 RGB; from frame 100 on she is in full view."""
    with VideoReader(weights.path("demo/dancer.avi"), max_side=max_side) as reader:
        return [frame.rgb for frame in reader.frames(start, start + count)]


def write_frames(path: Path, frames: Sequence[np.ndarray], fps: float = 25) -> Path:
    """A clip of the given frames, (h, w, 3) uint8 RGB."""
    with VideoWriter(path, fps=fps, width=frames[0].shape[1], height=frames[0].shape[0]) as writer:
        for rgb in frames:
            writer.write(np.ascontiguousarray(rgb))
    return path


def resized(frames: Sequence[np.ndarray], width: int, height: int) -> list[np.ndarray]:
    """Frames at another size."""
    return [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames]


def write_video(
    path: Path, frames: int = 24, width: int = 96, height: int = 64, fps: float = 24, seed: int = 0
) -> Path:
    """A clip of `moving_frames`; another `seed` gives other bytes."""
    with VideoWriter(path, fps=fps, width=width, height=height) as writer:
        for frame in moving_frames(frames, width, height, seed):
            writer.write(frame)
    return path


def write_timed(
    path: Path,
    ticks: list[int],
    base: Fraction = Fraction(1, 1000),
    codec: str = "libx264",
    frames: Sequence[np.ndarray] | None = None,
) -> Path:
    """A clip whose frames (`moving_frames` by default) lie at the given ticks of `base` seconds.

    Sizes are stored as they are, odd ones too.
    """
    pictures = moving_frames(len(ticks), 96, 64) if frames is None else frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = pictures[0].shape[:2]
        odd = stream.width % 2 or stream.height % 2
        formats = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}
        stream.pix_fmt = formats.get(codec, "yuv444p" if odd else "yuv420p")
        stream.codec_context.time_base = base
        for tick, rgb in zip(ticks, pictures):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = tick, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_rotated(
    path: Path, degrees: float, hflip: bool = False, frames: Sequence[np.ndarray] | None = None
) -> tuple[Path, np.ndarray]:
    """A clip as a phone stores it, and its first frame as stored, before the display matrix.

    `frames` are stored frames; by default 12 of the same coloured quarters.
    """
    rgb = np.zeros((48, 80, 3), np.uint8)
    rgb[:24, :40] = (250, 20, 20)  # red in the top left
    rgb[:24, 40:] = (20, 250, 20)
    rgb[24:, :40] = (20, 20, 250)
    pictures = [rgb] * 12 if frames is None else frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv444p"
        stream.set_display_rotation(degrees, hflip=hflip)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path, pictures[0]


def write_audio(path: Path) -> Path:
    """Half a second of a tone, in an mp4 container without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        tone = (np.sin(np.arange(8192) * 0.1) * 8000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_cut_off(path: Path, share: float = 0.6) -> Path:
    """The first part of a whole Matroska or mp4 file (by the suffix)."""
    whole = write_timed(path.with_name(f"whole-{path.name}"), [i * 40 for i in range(60)])
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    whole.unlink()
    return path
