"""Text, tiles and rows on a picture, and its encoding within a size that the UI can carry."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours, which people with any colour vision tell apart, in RGB.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    (0, 0, 0),
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
WHITE, PAPER, INK, FAINT = (255, 255, 255), (250, 250, 250), (30, 30, 30), (120, 120, 120)

MAX_BYTES = 100_000
"""Largest encoded sheet: it travels as a data URI in the metadata of an event."""
_GAP = 6


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib brings along: file names are not all ASCII, and OpenCV's fonts are."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size)


def shortened(text: str, limit: int) -> str:
    """The text in at most `limit` characters, with an ellipsis in its middle."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    head = (limit - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def write(
    picture: np.ndarray,
    xy: tuple[int, int],
    text: str,
    size: int = 12,
    colour: tuple[int, int, int] = INK,
    bold: bool = False,
    background: tuple[int, int, int] | None = None,
) -> int:
    """Write one line into a picture, in place; cut off at its right edge.

    Args:
        picture: (height, width, 3) uint8 RGB.
        xy: Upper left corner of the text.
        text: The line.
        size: Font size in pixels.
        colour: RGB.
        bold: Bold face.
        background: RGB of a box behind the text, or None.

    Returns:
        Column where the text ends.
    """
    face = font(size, bold)
    x, y = xy
    end = x + int(face.getlength(text)) + 1
    height = size + size // 2
    x1, y1 = min(end + 3, picture.shape[1]), min(y + height, picture.shape[0])
    x0, y0 = max(0, x - 3), max(0, y)
    if x1 <= x0 or y1 <= y0:
        return end
    area = picture[y0:y1, x0:x1]
    if background is not None:
        area[:] = background
    image = Image.fromarray(np.ascontiguousarray(area))
    ImageDraw.Draw(image).text((x - x0, y - y0), text, colour, face)
    area[:] = np.asarray(image)
    return end


def wrapped(text: str, width: int, size: int = 12, lines: int = 3) -> list[str]:
    """The text in at most `lines` lines of `width` pixels; the last ends in an ellipsis where there is more."""
    face = font(size)
    out: list[str] = [""]
    for word in " ".join(text.split()).split(" "):
        while face.getlength(word) > width and len(word) > 1:
            cut = max(1, int(len(word) * width / face.getlength(word)) - 1)
            out, word = [*out, word[:cut]], word[cut:]
        joined = f"{out[-1]} {word}".strip()
        if face.getlength(joined) <= width:
            out[-1] = joined
        else:
            out.append(word)
    out = [line for line in out if line]
    if len(out) > lines:
        out = [*out[: lines - 1], f"{out[lines - 1]} …"]
    return out


def label(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a small white-on-black label in its upper left corner, in place."""
    write(picture, (4, 2), text, 11, WHITE, background=BLACK)
    return picture


def strip(tiles: list[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Tiles side by side, of one height, `columns` a row; (height, width, 3) uint8."""
    columns = columns or len(tiles)
    height = max(t.shape[0] for t in tiles)
    width = max(t.shape[1] for t in tiles)
    rows = -(-len(tiles) // columns)
    out = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), PAPER, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = (k // columns) * (height + _GAP), (k % columns) * (width + _GAP)
        out[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return out


def stack(blocks: list[np.ndarray], width: int) -> np.ndarray:
    """Blocks below each other on paper with a margin; blocks wider than `width` are cut off."""
    height = sum(b.shape[0] for b in blocks) + _GAP * (len(blocks) + 1)
    out = np.full((height, width + 2 * _GAP, 3), PAPER, np.uint8)
    y = _GAP
    for block in blocks:
        w = min(width, block.shape[1])
        out[y : y + block.shape[0], _GAP : _GAP + w] = block[:, :w]
        y += block.shape[0] + _GAP
    return out


def heading(width: int, title: str, note: str = "", colour: tuple[int, int, int] = INK) -> np.ndarray:
    """A line above a row of tiles: a bold name and a note."""
    out = np.full((20, width, 3), PAPER, np.uint8)
    end = write(out, (3, 1), shortened(title, 48), 13, colour, bold=True)
    write(out, (end + 10, 2), note, 12, FAINT)
    return out


def paragraph(width: int, text: str, colour: tuple[int, int, int] = INK, lines: int = 3) -> np.ndarray:
    """A few lines of text."""
    rows = wrapped(text, width - 8, 12, lines)
    out = np.full((17 * max(1, len(rows)), width, 3), PAPER, np.uint8)
    for k, row in enumerate(rows):
        write(out, (3, 17 * k), row, 12, colour)
    return out


def fitted(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """The picture in a tile of exactly this size, with paper around it where the shape differs."""
    h, w = rgb.shape[:2]
    scale = min(width / w, height / h)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    out = np.full((height, width, 3), PAPER, np.uint8)
    x, y = (width - size[0]) // 2, (height - size[1]) // 2
    out[y : y + size[1], x : x + size[0]] = small
    return out


def encode(picture: np.ndarray, limit: int = MAX_BYTES) -> bytes:
    """JPEG of at most `limit` bytes: quality goes down first, then the size.

    Args:
        picture: (height, width, 3) uint8 RGB.
        limit: Bytes.
    """
    while True:
        for quality in (85, 75, 62, 50):
            out = io.BytesIO()
            Image.fromarray(picture).save(out, "JPEG", quality=quality, optimize=True)
            if out.tell() <= limit:
                return out.getvalue()
        height, width = picture.shape[:2]
        picture = cv2.resize(picture, (max(16, width * 4 // 5), max(16, height * 4 // 5)), interpolation=cv2.INTER_AREA)
