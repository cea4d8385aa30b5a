"""Cloth as pictures: weaves, stripes, checks, flowers and so on, drawn from a random generator or cut out of photos.

A texture is a square of cloth, about a metre wide, with the middle of the chest halfway across.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from pipelines.studio.render.noise import mix, smooth_noise, smooth_step, to_bytes
from pipelines.studio.render.prints import add_print

SIZE = 512
_PHOTOS = (".jpg", ".jpeg", ".png", ".webp")
_PRINT_SHARE = {"plain": 0.5, "melange": 0.5, "knit": 0.2, "gradient": 0.4, "panels": 0.4}
# Hue, saturation and value that clothes often have: black, white, greys, navy, khaki, denim, burgundy, beige.
_WARDROBE = (
    (0.62, 0.10, 0.11),
    (0.10, 0.03, 0.94),
    (0.60, 0.03, 0.45),
    (0.60, 0.02, 0.70),
    (0.63, 0.60, 0.26),
    (0.17, 0.30, 0.45),
    (0.59, 0.45, 0.48),
    (0.97, 0.65, 0.36),
    (0.10, 0.25, 0.78),
)


def sample_colours(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) colours in 0 to 1 that people wear together: half of the first ones muted, the others anything.

    Those after the first differ from it in lightness, by little as often as by much.
    """
    out = [_colour(rng)]
    while len(out) < count:
        colour = _colour(rng)
        gap = rng.choice([0.08, 0.2, 0.45])
        if abs(float(colour.mean() - out[0].mean())) + 0.4 * float(np.abs(colour - out[0]).max()) >= gap:
            out.append(colour)
    return np.stack(out)


def _colour(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.45:
        hue, saturation, value = np.array(_WARDROBE[int(rng.integers(len(_WARDROBE)))]) + rng.normal(0, 0.03, 3)
    else:
        hue, saturation, value = rng.random(), rng.beta(2, 1.8), rng.uniform(0.15, 0.97)
    return np.array(colorsys.hsv_to_rgb(hue % 1, np.clip(saturation, 0, 1), np.clip(value, 0.04, 0.98)), np.float32)


class _Cloth:
    """What a weaver needs: coordinates in 0 to 1, colours, and the dice."""

    def __init__(self, rng: np.random.Generator, size: int):
        self.rng, self.size = rng, size
        self.y, self.x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
        self.colours = sample_colours(rng, 5)
        self.ground = np.broadcast_to(self.colours[0], (size, size, 3)).astype(np.float32)

    def noise(self, rows: float, columns: float, octaves: int = 1) -> np.ndarray:
        return smooth_noise(self.rng, (self.size, self.size), (rows, columns), octaves)

    def wave(self, at: np.ndarray, share: float) -> np.ndarray:
        """1 over `share` of each period of `at`, with edges as soft as a pixel."""
        soft = max(abs(float(at[0, 1] - at[0, 0])), abs(float(at[1, 0] - at[0, 0])))
        return smooth_step(share / 2 + soft, share / 2 - soft, np.abs(at % 1 - 0.5))


def _plain(c: _Cloth) -> np.ndarray:
    return c.ground


def _melange(c: _Cloth) -> np.ndarray:
    flecks = smooth_step(-0.2, 1.8, c.noise(400, 190))
    return mix(c.ground, c.colours[0] * 0.6 + c.colours[1] * 0.4, 0.6 * flecks)


def _stripes(c: _Cloth) -> np.ndarray:
    along = c.y if c.rng.random() < 0.7 else c.x
    if c.rng.random() < 0.15:
        along = (c.x + c.y) / 2
    count, share = c.rng.uniform(9, 60), c.rng.uniform(0.12, 0.6)
    picture = mix(c.ground, c.colours[1], c.wave(along * count, share))
    if c.rng.random() < 0.35:
        picture = mix(picture, c.colours[2], c.wave(along * count + 0.5, 0.5 * (1 - share) * c.rng.uniform(0.3, 0.8)))
    return picture


def _bands(c: _Cloth) -> np.ndarray:
    picture = c.ground
    for colour in c.colours[1 : 2 + int(c.rng.integers(1, 4))]:
        at, wide = c.rng.uniform(0.1, 0.8), c.rng.uniform(0.02, 0.14)
        picture = mix(picture, colour, smooth_step(wide / 2 + 0.003, wide / 2 - 0.003, np.abs(c.y - at)))
    return picture


def _panels(c: _Cloth) -> np.ndarray:
    # Blocks of colour: yoke, sides, one half.
    kind = c.rng.integers(3)
    edge = {0: c.rng.uniform(0.25, 0.45) - c.y, 1: np.abs(c.x - 0.5) - c.rng.uniform(0.1, 0.2), 2: c.x - 0.5}[int(kind)]
    return mix(c.ground, c.colours[1], smooth_step(-0.003, 0.003, edge))


def _checks(c: _Cloth) -> np.ndarray:
    count, share = c.rng.uniform(10, 45), c.rng.uniform(0.4, 0.6)
    return mix(c.ground, c.colours[1], 0.5 * c.wave(c.x * count, share) + 0.5 * c.wave(c.y * count, share))


def _plaid(c: _Cloth) -> np.ndarray:
    count = c.rng.uniform(5, 16)
    # Twill: threads of either way show on every other diagonal.
    twill = 0.5 + 0.5 * c.wave((c.x + c.y) * c.size / 5, 0.5)
    picture = c.ground
    for colour in c.colours[1 : 2 + int(c.rng.integers(1, 4))]:
        phase, share, strength = c.rng.random(), c.rng.uniform(0.06, 0.45), c.rng.uniform(0.45, 0.85)
        for at, over in ((c.x, twill), (c.y, 1.5 - twill)):
            picture = mix(picture, colour, strength * c.wave(at * count + phase, share) * np.clip(over, 0, 1))
    return picture


def _dots(c: _Cloth) -> np.ndarray:
    count, radius = c.rng.uniform(10, 45), c.rng.uniform(0.14, 0.36)
    v = c.y * count
    u = c.x * count + 0.5 * (np.floor(v) % 2)
    soft = count * 1.5 / c.size
    return mix(c.ground, c.colours[1], smooth_step(radius + soft, radius - soft, np.hypot(u % 1 - 0.5, v % 1 - 0.5)))


def _flowers(c: _Cloth) -> np.ndarray:
    picture = np.ascontiguousarray(c.ground)
    leaf = np.array([0.22, 0.36, 0.18]) * c.rng.uniform(0.6, 1.5)
    scale = c.rng.uniform(0.006, 0.022)
    for _ in range(int(np.clip(0.028 / scale**2, 60, 400))):
        at = c.rng.uniform(0, c.size, 2)
        radius, turn = scale * c.size * c.rng.uniform(0.6, 1.4), c.rng.uniform(0, 6.3)
        petals = int(c.rng.integers(4, 8))
        for angle in turn + c.rng.uniform(0, 6.3, 2):
            tip = at + 2.1 * radius * np.array([np.cos(angle), np.sin(angle)])
            axes = (max(1, round(radius)), max(1, round(0.35 * radius)))
            cv2.ellipse(picture, _pixel(tip), axes, np.degrees(angle), 0, 360, _shade(leaf), -1, cv2.LINE_AA)
        colour = c.colours[int(c.rng.integers(1, 4))] * c.rng.uniform(0.85, 1.15)
        for p in range(petals):
            angle = turn + 2 * np.pi * p / petals
            tip = at + radius * np.array([np.cos(angle), np.sin(angle)])
            axes = (max(1, round(0.75 * radius)), max(1, round(0.45 * radius)))
            cv2.ellipse(picture, _pixel(tip), axes, np.degrees(angle), 0, 360, _shade(colour), -1, cv2.LINE_AA)
        cv2.circle(picture, _pixel(at), max(1, round(0.4 * radius)), _shade(c.colours[4]), -1, cv2.LINE_AA)
    return picture


def _pixel(at: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(at).astype(int).tolist()
    return x, y


def _shade(colour: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in np.clip(colour, 0, 1))


def _camouflage(c: _Cloth) -> np.ndarray:
    picture, cells = c.ground, c.rng.uniform(5, 14)
    if c.rng.random() < 0.6:
        greens = np.array([[0.30, 0.32, 0.20], [0.44, 0.42, 0.29], [0.20, 0.21, 0.15], [0.36, 0.28, 0.18]], np.float32)
        colours = greens * c.rng.uniform(0.7, 1.3)
        picture = np.broadcast_to(colours[0], picture.shape)
    else:
        colours = c.colours
    for colour in colours[1:4]:
        picture = mix(picture, colour, smooth_step(0.42, 0.5, c.noise(cells, 0.8 * cells, 2)))
    return picture


def _gradient(c: _Cloth) -> np.ndarray:
    along = c.y if c.rng.random() < 0.75 else c.x
    return mix(c.ground, c.colours[1], smooth_step(c.rng.uniform(0, 0.3), c.rng.uniform(0.6, 0.95), along))


def _tie_dye(c: _Cloth) -> np.ndarray:
    r = np.hypot(c.x - 0.5, c.y - c.rng.uniform(0.25, 0.6))
    angle = np.arctan2(c.y - 0.4, c.x - 0.5)
    rings = r * c.rng.uniform(4, 10) + 0.35 * c.noise(9, 9, 3) + (angle / (2 * np.pi) * c.rng.integers(0, 3))
    picture = mix(c.ground, c.colours[1], 0.5 + 0.5 * np.sin(2 * np.pi * rings))
    return mix(picture, c.colours[2], 0.6 * smooth_step(0.2, 1.0, np.sin(np.pi * rings + 1)))


def _denim(c: _Cloth) -> np.ndarray:
    blue = np.array([0.26, 0.34, 0.48], np.float32) * c.rng.uniform(0.45, 1.6)
    if c.rng.random() < 0.2:
        blue = np.full(3, blue.mean(), np.float32)
    twill = c.wave((c.x + c.y) * c.size / 5, 0.5) - 0.5
    worn = c.noise(5, 3, 3)
    threads = c.noise(70, c.size, 1)
    return blue * (1 + 0.07 * twill + 0.06 * threads + 0.06 * worn)[..., None]


def _knit(c: _Cloth) -> np.ndarray:
    columns, rows = c.rng.uniform(40, 90), c.rng.uniform(50, 110)
    lean = 0.35 * np.abs((c.x * columns) % 1 - 0.5)
    stitch = np.sin(2 * np.pi * (c.y * rows + lean)) * 0.6 + np.cos(2 * np.pi * c.x * columns) * 0.7
    picture = c.ground * (1 + 0.10 * stitch)[..., None]
    if c.rng.random() < 0.3:
        # A row of small figures, as on a Norwegian jumper.
        cell = np.floor(c.x * 60), np.floor(c.y * 60)
        zigzag = np.abs((cell[0] % 8) - 4) == (cell[1] % 5)
        band = (np.abs(c.y - c.rng.uniform(0.25, 0.5)) < 0.06).astype(np.float32)
        picture = mix(picture, c.colours[1] * (1 + 0.1 * stitch)[..., None], zigzag * band)
    return picture


def _rib(c: _Cloth) -> np.ndarray:
    ridge = np.sin(2 * np.pi * c.x * c.rng.uniform(35, 80))
    return c.ground * (1 + 0.13 * ridge)[..., None]


def _herringbone(c: _Cloth) -> np.ndarray:
    count = c.rng.uniform(14, 36)
    fold = np.abs((c.x * count) % 1 - 0.5)
    return mix(c.ground, c.colours[1], 0.7 * c.wave(c.y * count * 2.2 + 2 * fold, 0.5))


_WEAVERS: dict[str, Callable[[_Cloth], np.ndarray]] = {
    "plain": _plain,
    "melange": _melange,
    "stripes": _stripes,
    "bands": _bands,
    "panels": _panels,
    "checks": _checks,
    "plaid": _plaid,
    "dots": _dots,
    "flowers": _flowers,
    "camouflage": _camouflage,
    "gradient": _gradient,
    "tie_dye": _tie_dye,
    "denim": _denim,
    "knit": _knit,
    "rib": _rib,
    "herringbone": _herringbone,
}
KINDS = tuple(_WEAVERS)
# Most clothes have one colour.
_OFTEN = {"plain": 4.0, "melange": 2.0, "stripes": 2.0, "denim": 1.5}


def make_fabric(
    rng: np.random.Generator, kind: str | None = None, size: int = SIZE, printed: bool | None = None
) -> np.ndarray:
    """A square of cloth.

    Args:
        rng: Source of all choices.
        kind: One of `KINDS`; any by default, plain ones more often.
        size: Pixels.
        printed: Whether something is printed on the chest; by chance, by default.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        ValueError: There is no such kind.
    """
    if kind is None:
        weights = np.array([_OFTEN.get(k, 1.0) for k in KINDS])
        kind = str(rng.choice(KINDS, p=weights / weights.sum()))
    if kind not in _WEAVERS:
        raise ValueError(f"unknown fabric {kind!r}; there are {', '.join(KINDS)}")
    cloth = _Cloth(rng, size)
    picture = _WEAVERS[kind](cloth)
    if printed or (printed is None and rng.random() < _PRINT_SHARE.get(kind, 0.08)):
        picture = add_print(rng, picture, cloth.colours[3])
    threads = 0.020 * rng.standard_normal((size, size)).astype(np.float32) + 0.012 * cloth.noise(7, 7, 2)
    return to_bytes(picture * (1 + rng.uniform(0.5, 1.6) * threads)[..., None])


def photo_fabrics(folder: str | Path) -> Sequence[Path]:
    """Photos that fabrics can be cut from, by name.

    Raises:
        FileNotFoundError: There is none.
    """
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in _PHOTOS)
    if not found:
        raise FileNotFoundError(f"{folder} holds no photos ({', '.join(_PHOTOS)}) to take fabrics from")
    return found


def cut_fabric(rng: np.random.Generator, photo: Path, size: int = SIZE) -> np.ndarray:
    """A square of cloth cut out of the middle of a garment's photo; (size, size, 3) uint8 RGB.

    Raises:
        ValueError: The photo cannot be read.
    """
    picture = cv2.imread(str(photo), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise ValueError(f"{photo} cannot be read as a picture; take it out of the folder")
    h, w = picture.shape[:2]
    side = max(8, round(min(h, w) * rng.uniform(0.3, 0.5)))
    top, left = (h - side) // 2, (w - side) // 2
    return cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_CUBIC)
