"""Makes the media files that the tests need, good and bad, with the real encoders."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipelines.video import VideoWriter
from tests.conftest import moving_frames


def write_video(
    path: Path, frames: int = 24, width: int = 96, height: int = 64, fps: float = 24, seed: int = 0
) -> Path:
    """A clip of `moving_frames`; another `seed` gives other bytes."""
    with VideoWriter(path, fps=fps, width=width, height=height) as writer:
        for frame in moving_frames(frames, width, height, seed):
            writer.write(frame)
    return path


def write_timed(path: Path, ticks: list[int], base: Fraction = Fraction(1, 1000), codec: str = "libx264") -> Path:
    """A clip whose frames lie at the given ticks of `base` seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = 96, 64
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = base
        for tick, rgb in zip(ticks, moving_frames(len(ticks), 96, 64)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = tick, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_rotated(path: Path, degrees: float, hflip: bool = False) -> tuple[Path, np.ndarray]:
    """A clip as a phone stores it, and its first frame as stored, before the display matrix."""
    rgb = np.zeros((48, 80, 3), np.uint8)
    rgb[:24, :40] = (250, 20, 20)  # red in the top left
    rgb[:24, 40:] = (20, 250, 20)
    rgb[24:, :40] = (20, 20, 250)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv444p"
        stream.set_display_rotation(degrees, hflip=hflip)
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path, rgb


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
