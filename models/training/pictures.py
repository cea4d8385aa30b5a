"""Writes what validation shows: a video, a contact sheet, and an animation for TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

FPS = 16
_SHEET_WIDTH = 960
_SHEET_FRAMES = 5


def write_video(path: Path, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Write clips one behind the other as H.264, each in the middle of a canvas that fits the largest.

    Args:
        path: mp4 to write.
        parts: Clips, (F, H, W, 3) uint8 RGB, H and W even.

    Returns:
        The frames as written, (F, H, W, 3).
    """
    height, width = (max(p.shape[axis] for p in parts) for axis in (1, 2))
    frames = np.concatenate([_centred(p, height, width) for p in parts])
    temporary = path.with_name(f".{path.name}.tmp")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        # Untagged colours are guessed from the size, by each player differently.
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 1, 1, 1, 1
        for rgb in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    temporary.replace(path)
    return frames


def contact_sheet(path: Path, parts: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Write a JPEG with frames from start to end of every clip, one row a clip, below its name.

    Args:
        path: jpg to write.
        parts: Clips, (F, H, W, 3) uint8 RGB: source, agnostic frame and result side by side.
        names: Captions.
    """
    rows = []
    for part, name in zip(parts, names):
        chosen = part[np.linspace(0, len(part) - 1, min(_SHEET_FRAMES, len(part))).round().astype(int)]
        # Each picture's three panels one below the other, so that a row reads as time.
        columns = [np.concatenate(np.split(f, 3, axis=1), 0) for f in chosen]
        picture = Image.fromarray(np.concatenate(columns, 1))
        scale = min(1.0, _SHEET_WIDTH / picture.width)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BOX)
        row = Image.new("RGB", (picture.width, picture.height + 14), "white")
        ImageDraw.Draw(row).text((2, 1), f"{name}: source, agnostic, result", fill="black")
        row.paste(picture, (0, 14))
        rows.append(row)
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    temporary = path.with_name(f".{path.name}.tmp")
    sheet.save(temporary, format="JPEG", quality=82)
    temporary.replace(path)


def animation(frames: np.ndarray, longest: int = 480) -> bytes:
    """A GIF of frames (F, H, W, 3), at most `longest` pixels wide."""
    pictures = [Image.fromarray(f) for f in frames]
    scale = min(1.0, longest / pictures[0].width)
    size = round(pictures[0].width * scale), round(pictures[0].height * scale)
    pictures = [p.resize(size, Image.Resampling.BOX).quantize(128) for p in pictures]
    out = io.BytesIO()
    pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=1000 // FPS, loop=0)
    return out.getvalue()


def _centred(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    canvas = np.zeros((len(frames), height, width, 3), np.uint8)
    top, left = (height - frames.shape[1]) // 2, (width - frames.shape[2]) // 2
    canvas[:, top : top + frames.shape[1], left : left + frames.shape[2]] = frames
    return canvas
