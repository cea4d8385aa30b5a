"""Opens video containers for `pipelines.video`, and nothing but video containers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

# A file's name says nothing about its content: without this list, a playlist renamed to .mp4 makes ffmpeg open the
# files and addresses that it names.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,mxf,nut,h264,hevc,m4v,ivf,apng,png_pipe,"
    "jpeg_pipe,mjpeg,webp_pipe,mp3,wav,flac,aac,ac3,aiff,caf,amr"
)


class VideoError(Exception):
    """A file that cannot be read as video; the message says why, for people.

    Attributes:
        reason: The message without the file's name.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.reason = reason[:1].upper() + reason[1:]

    def __reduce__(self):
        name, reason = str(self).split(": ", 1)
        return VideoError, (name, reason)


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local file for reading; raises `VideoError` that says what is wrong with it."""
    try:
        size = path.stat().st_size
    except OSError as e:
        raise VideoError(path.name, f"cannot be opened ({e.strerror})") from e
    if path.is_dir():
        raise VideoError(path.name, "is a folder, not a video file")
    if size == 0:
        raise VideoError(path.name, "the file is empty (zero bytes); copy it again")
    try:
        # The prefix keeps a colon in a file's name from being read as a protocol.
        return av.open(f"file:{path}", container_options={"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"})
    except PermissionError as e:
        raise VideoError(path.name, "cannot be opened (permission denied)") from e
    except (av.error.FFmpegError, OSError, ValueError) as e:
        raise VideoError(
            path.name,
            f"not a readable video file: it is cut off, damaged, or no video at all "
            f"({getattr(e, 'strerror', None) or e}); copy or export it again, or remove it",
        ) from e


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Quarter turns clockwise, and whether the picture is mirrored left to right before them."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    return round(math.degrees(math.atan2(b, a)) / 90) % 4, bool(mirrored)
