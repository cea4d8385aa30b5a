"""What is printed on the chest: words of a made-up alphabet, numbers, badges, stars, stripes, pictures."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from pipelines.studio.render.noise import mix

PRINT_U = 0.5
"""Where the middle of the chest lies across a texture."""
_LETTERS = "ABCDEFGHJKLMNPRSTUVXYZ"
_FONTS = (cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX, cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
_FINE = 4
"""Prints are drawn this much larger, for clean edges."""


def add_print(rng: np.random.Generator, cloth: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """The cloth (s, s, 3) in 0 to 1 with something printed on the chest, upright and readable from the front."""
    size = cloth.shape[0]
    side = int(size * rng.uniform(0.13, 0.30))
    v = rng.uniform(0.22, 0.34)
    u = PRINT_U
    if rng.random() < 0.25:
        # A small logo on the heart's side, which is the picture's right.
        side, u = int(size * rng.uniform(0.045, 0.07)), PRINT_U + rng.uniform(0.08, 0.11)
    canvas = np.zeros((side * _FINE, side * _FINE), np.uint8)
    second = np.zeros_like(canvas)
    _MOTIFS[int(rng.integers(len(_MOTIFS)))](rng, canvas, second)
    out = cloth
    other = np.clip(1.1 - colour, 0, 1) if rng.random() < 0.5 else colour * 0.5
    for layer, ink in ((canvas, colour), (second, other)):
        alpha = cv2.resize(layer, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        y0, x0 = int(np.clip(v * size - side / 2, 0, size - side)), int(np.clip(u * size - side / 2, 0, size - side))
        whole = np.zeros((size, size), np.float32)
        whole[y0 : y0 + side, x0 : x0 + side] = alpha
        out = mix(out, ink, 0.94 * whole)
    return out


def _fit_text(canvas: np.ndarray, text: str, font: int, bold: float, middle: float, height: float) -> None:
    """Draw text centred, as large as the width and a share of the height allow."""
    n = canvas.shape[0]
    (w, h), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = min(0.9 * n / w, height * n / h)
    thick = max(1, round(bold * scale * 3))
    (w, h), _ = cv2.getTextSize(text, font, scale, thick)
    cv2.putText(canvas, text, ((n - w) // 2, round(middle * n + h / 2)), font, scale, 255, thick, cv2.LINE_AA)


def _word(rng: np.random.Generator, canvas: np.ndarray, second: np.ndarray) -> None:
    font, lines = int(rng.choice(_FONTS)), int(rng.integers(1, 4))
    for i in range(lines):
        text = "".join(rng.choice(list(_LETTERS), int(rng.integers(3, 8))))
        target = second if i == 1 and rng.random() < 0.5 else canvas
        _fit_text(target, text, font, rng.uniform(0.4, 2.2), (i + 0.5) / lines, 0.7 / lines)


def _number(rng: np.random.Generator, canvas: np.ndarray, second: np.ndarray) -> None:
    text = str(int(rng.integers(0, 100)))
    _fit_text(second, text, cv2.FONT_HERSHEY_DUPLEX, 3.4, 0.5, 0.8)
    _fit_text(canvas, text, cv2.FONT_HERSHEY_DUPLEX, 2.0, 0.5, 0.8)
    second[canvas > 0] = 0


def _badge(rng: np.random.Generator, canvas: np.ndarray, second: np.ndarray) -> None:
    n = canvas.shape[0]
    centre, radius = (n // 2, n // 2), n * 0.46
    cv2.circle(canvas, centre, round(radius), 255, -1, cv2.LINE_AA)
    cv2.circle(canvas, centre, round(radius * 0.86), 0, max(1, n // 60), cv2.LINE_AA)
    inner = np.zeros_like(canvas)
    _polygon(inner, int(rng.integers(3, 9)), 0.6, rng.uniform(0.4, 1.0))
    second[:] = np.maximum(second, inner)


def _polygon(canvas: np.ndarray, corners: int, size: float, waist: float) -> None:
    """A star, or with waist 1 a polygon, in the middle."""
    n = canvas.shape[0]
    at = np.arange(2 * corners)
    radius = n * size / 2 * np.where(at % 2, waist, 1.0)
    angle = np.pi * at / corners - np.pi / 2
    points = np.stack([n / 2 + radius * np.cos(angle), n / 2 + radius * np.sin(angle)], -1)
    cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 255, cv2.LINE_AA)


def _star(rng: np.random.Generator, canvas: np.ndarray, second: np.ndarray) -> None:
    corners, waist = int(rng.integers(3, 10)), rng.uniform(0.35, 0.95)
    _polygon(canvas, corners, 0.95, waist)
    if rng.random() < 0.5:
        _polygon(second, corners, 0.6, waist)


def _chevrons(rng: np.random.Generator, canvas: np.ndarray, second: np.ndarray) -> None:
    n, count = canvas.shape[0], int(rng.integers(2, 5))
    for i in range(count):
        y = round(n * (0.15 + 0.6 * i / count))
        points = np.array([[0.08 * n, y], [0.5 * n, y + 0.25 * n], [0.92 * n, y]]).astype(np.int32)
        cv2.polylines(second if i % 2 else canvas, [points], False, 255, max(2, round(0.07 * n)), cv2.LINE_AA)


def _picture(rng: np.random.Generator, canvas: np.ndarray, second: np.ndarray) -> None:
    # Hills under a sun, in a frame.
    n = canvas.shape[0]
    cv2.rectangle(canvas, (round(0.05 * n), round(0.12 * n)), (round(0.95 * n), round(0.88 * n)), 255, -1)
    sun = (round(rng.uniform(0.25, 0.75) * n), round(0.35 * n))
    cv2.circle(second, sun, round(rng.uniform(0.08, 0.17) * n), 255, -1, cv2.LINE_AA)
    x = np.linspace(0.05, 0.95, 24)
    hills = 0.68 + 0.10 * np.sin(x * rng.uniform(5, 14) + rng.uniform(0, 6))
    ridge = np.stack([x, hills], -1)
    outline = np.concatenate([ridge, [[0.95, 0.88], [0.05, 0.88]]]) * n
    cv2.fillPoly(second, [np.rint(outline).astype(np.int32)], 255, cv2.LINE_AA)


def _face(rng: np.random.Generator, canvas: np.ndarray, second: np.ndarray) -> None:
    # Something like an animal's head: two ears, two eyes, a mouth.
    n = canvas.shape[0]
    for side in (-1, 1):
        at = np.array([[0.5 + side * 0.38, 0.04], [0.5 + side * 0.08, 0.32], [0.5 + side * 0.40, 0.45]]) * n
        cv2.fillPoly(canvas, [np.rint(at).astype(np.int32)], 255, cv2.LINE_AA)
    cv2.ellipse(canvas, (n // 2, round(0.58 * n)), (round(0.40 * n), round(0.36 * n)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    for side in (-1, 1):
        eye = (round((0.5 + side * 0.15) * n), round(0.52 * n))
        cv2.ellipse(second, eye, (round(0.05 * n), round(rng.uniform(0.03, 0.09) * n)), 0, 0, 360, 255, -1, cv2.LINE_AA)
    cv2.ellipse(second, (n // 2, round(0.70 * n)), (round(0.14 * n), round(0.09 * n)), 0, 0, 180, 255, n // 40 + 1)


_MOTIFS: tuple[Callable[[np.random.Generator, np.ndarray, np.ndarray], None], ...] = (
    _word,
    _word,
    _number,
    _badge,
    _star,
    _chevrons,
    _picture,
    _face,
)
