"""How a person and a scene look: drawn from a random generator, kept as JSON beside the clip."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

Rgb = tuple[float, float, float]
"""sRGB, 0 to 1."""

HairStyle = Literal["bald", "buzz", "short", "side_part", "quiff", "curly", "afro", "bob", "long", "ponytail", "bun"]
BackgroundKind = Literal["studio", "room", "wall", "brick", "window", "clutter", "outdoor"]

HAIR_STYLES: tuple[HairStyle, ...] = HairStyle.__args__  # type: ignore[attr-defined]
BACKGROUNDS: tuple[BackgroundKind, ...] = BackgroundKind.__args__  # type: ignore[attr-defined]

# From the lightest to the darkest, after the ten shades of the Monk scale, at the lightness that skin has under even
# light.
_SKIN = (
    (0.945, 0.835, 0.765),
    (0.925, 0.795, 0.705),
    (0.895, 0.745, 0.640),
    (0.850, 0.675, 0.550),
    (0.770, 0.585, 0.450),
    (0.660, 0.475, 0.345),
    (0.545, 0.375, 0.265),
    (0.435, 0.290, 0.205),
    (0.340, 0.225, 0.165),
    (0.265, 0.180, 0.145),
)
_HAIR = {
    "black": (0.075, 0.065, 0.065),
    "dark_brown": (0.165, 0.115, 0.085),
    "brown": (0.290, 0.195, 0.130),
    "auburn": (0.365, 0.180, 0.115),
    "red": (0.560, 0.270, 0.125),
    "dark_blond": (0.480, 0.360, 0.225),
    "blond": (0.720, 0.570, 0.370),
    "grey": (0.560, 0.550, 0.545),
    "white": (0.830, 0.815, 0.790),
    "dyed": (0.450, 0.200, 0.420),
}
_EYES = ((0.22, 0.13, 0.07), (0.31, 0.19, 0.09), (0.38, 0.33, 0.16), (0.28, 0.40, 0.30), (0.33, 0.47, 0.58))


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Face(_Model):
    """Skin and face.

    Attributes:
        skin: Colour under even light.
        lips: Colour of the lips.
        eyes: Colour of the iris.
        brows: How dark and wide the brows are, 0 to 1.
        blush: Redness of cheeks, nose and ears, 0 to 1.
        freckles: 0 to 1.
        stubble: 0 none, 0.5 three days, 1 a full short beard.
        age: 0 to 1, shade in the folds of the face.
        seed: For spots and mottling.
    """

    skin: Rgb
    lips: Rgb
    eyes: Rgb
    brows: float
    blush: float
    freckles: float
    stubble: float
    age: float
    seed: int


class Hair(_Model):
    """Hair of the head.

    Attributes:
        style: Its shape.
        colour: Base colour.
        volume: 0.6 to 1.5, multiplies its thickness.
        length: 0.7 to 1.4, multiplies how far it hangs.
        recession: 0 to 1, how far the hairline has gone back at the temples.
        seed: For its waves.
    """

    style: HairStyle
    colour: Rgb
    volume: float
    length: float
    recession: float
    seed: int


class Lights(_Model):
    """A key light, a fill light and an even light from all around.

    Attributes:
        key_direction: Unit, world, towards the key light.
        key: Its strength.
        key_colour: Its colour, mean 1.
        fill_direction: Unit, world, towards the fill light.
        fill: Its strength.
        ambient: Strength of the light from all around, of which more comes from above.
        ambient_colour: Its colour, mean 1.
        shadow: 0 to 1, how dark the shadow of the key light is; a large light casts a weak one.
    """

    key_direction: Rgb
    key: float
    key_colour: Rgb
    fill_direction: Rgb
    fill: float
    ambient: float
    ambient_colour: Rgb
    shadow: float


class Film(_Model):
    """What the camera does to the picture.

    Attributes:
        exposure: Factor on the light.
        balance: Factor of each channel, mean 1.
        contrast: 0.8 to 1.25, slope in the middle greys.
        noise: Standard deviation of sensor noise in grey levels of 255.
        blur: Standard deviation of a blur, pixels at 640 rows.
        vignette: 0 to 0.35, loss of light in the corners.
    """

    exposure: float
    balance: Rgb
    contrast: float
    noise: float
    blur: float
    vignette: float


class Look(_Model):
    """All that a picture depends on besides shapes, poses, clothes and the camera's place."""

    face: Face
    hair: Hair
    lights: Lights
    film: Film
    background: BackgroundKind
    seed: int


def sample_look(rng: np.random.Generator) -> Look:
    """A person and a scene."""
    tone = rng.beta(1.1, 1.2)
    face = _sample_face(rng, tone)
    hair, beard = _sample_hair(rng, tone)
    if beard is not None:
        # Painted lips and a beard seldom meet.
        lips = _natural_lips(rng, np.array(face.skin), tone) if beard > 0.1 else face.lips
        face = face.model_copy(update={"stubble": beard, "lips": lips})
    return Look(
        face=face,
        hair=hair,
        lights=_sample_lights(rng),
        film=_sample_film(rng),
        background=BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))],
        seed=_seed(rng),
    )


def _sample_face(rng: np.random.Generator, tone: float) -> Face:
    scale = np.array(_SKIN)
    skin = np.stack([np.interp(tone * (len(scale) - 1), np.arange(len(scale)), scale[:, c]) for c in range(3)])
    skin = np.clip(skin * rng.normal(1, [0.015, 0.02, 0.03]), 0.05, 0.97)
    lips = _natural_lips(rng, skin, tone)
    if rng.random() < 0.15:
        lips = _rgb([rng.uniform(0.45, 0.75), rng.uniform(0.08, 0.25), rng.uniform(0.12, 0.3)])
    # Light eyes are rare with dark skin.
    eyes = np.array(_EYES[int(rng.integers(len(_EYES) if tone < 0.35 else 2))]) * rng.uniform(0.8, 1.15)
    return Face(
        skin=_rgb(skin),
        lips=lips,
        eyes=_rgb(eyes),
        brows=_number(rng.uniform(0.35, 1)),
        blush=_number(rng.uniform(0.15, 0.9)),
        freckles=_number(max(0.0, rng.uniform(-1.2, 1)) if tone < 0.4 else 0.0),
        stubble=0.0,
        age=_number(rng.random()),
        seed=_seed(rng),
    )


def _natural_lips(rng: np.random.Generator, skin: np.ndarray, tone: float) -> Rgb:
    red = np.array([0.66, 0.27, 0.28]) if tone < 0.6 else np.array([0.45, 0.20, 0.20])
    return _rgb(skin * 0.6 + red * 0.4 + rng.normal(0, 0.015, 3))


def _sample_hair(rng: np.random.Generator, tone: float) -> tuple[Hair, float | None]:
    """Hair, and how much of a beard there is, None where the style says nothing about it."""
    if rng.random() < 0.06:
        name = "dyed"
    elif tone > 0.5:
        name = str(rng.choice(["black", "dark_brown", "grey"], p=[0.7, 0.2, 0.1]))
    else:
        name = str(rng.choice([n for n in _HAIR if n != "dyed"]))
    colour = np.array(_HAIR[name])
    if name == "dyed":
        colour = rng.uniform(0.15, 0.75, 3)
    short = rng.random() < 0.5
    styles = ("bald", "buzz", "short", "side_part", "quiff", "curly") if short else HAIR_STYLES[5:]
    weights = np.array([0.08, 0.16, 0.24, 0.2, 0.18, 0.14]) if short else np.array([0.12, 0.1, 0.24, 0.26, 0.14, 0.14])
    if not short and tone < 0.35:
        weights[1] = 0.02
    style = styles[int(rng.choice(len(styles), p=weights / weights.sum()))]
    beard = _number(float(np.clip(rng.normal(0.35, 0.35), 0, 1))) if short else None
    hair = Hair(
        style=style,
        colour=_rgb(colour * rng.uniform(0.85, 1.15)),
        volume=_number(rng.uniform(0.7, 1.4)),
        length=_number(rng.uniform(0.75, 1.35)),
        recession=_number(rng.random() ** 2 if short else 0.3 * rng.random()),
        seed=_seed(rng),
    )
    return hair, beard


def _sample_lights(rng: np.random.Generator) -> Lights:
    side = rng.choice([-1, 1])
    azimuth, elevation = side * rng.uniform(0.1, 1.15), rng.uniform(0.25, 1.1)
    key = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    other = -side * rng.uniform(0.4, 1.4)
    fill = np.array([np.sin(other), -np.cos(other), rng.uniform(-0.1, 0.5)])
    warmth = rng.normal(0, 0.05)
    ambient = rng.uniform(0.25, 0.6)
    return Lights(
        key_direction=_rgb(key),
        key=_number(rng.uniform(0.55, 1.0)),
        key_colour=_rgb([1 + warmth, 1.0, 1 - warmth]),
        fill_direction=_rgb(fill / np.linalg.norm(fill)),
        fill=_number(rng.uniform(0.05, 0.3)),
        ambient=_number(ambient),
        ambient_colour=_rgb([1 - 0.6 * warmth, 1.0, 1 + 0.6 * warmth]),
        shadow=_number(rng.uniform(0.25, 0.85)),
    )


def _sample_film(rng: np.random.Generator) -> Film:
    balance = 1 + rng.normal(0, [0.03, 0.012, 0.035])
    return Film(
        exposure=_number(float(np.exp(rng.normal(0, 0.13)))),
        balance=_rgb(balance / balance.mean()),
        contrast=_number(rng.uniform(0.9, 1.15)),
        noise=_number(rng.uniform(0.6, 4.0)),
        blur=_number(max(0.0, rng.normal(0.35, 0.3))),
        vignette=_number(max(0.0, rng.uniform(-0.1, 0.3))),
    )


def _number(value: float) -> float:
    # Four digits: what is written beside the clip is what was drawn.
    return round(float(value), 4)


def _rgb(values: np.ndarray | list[float]) -> Rgb:
    r, g, b = (_number(v) for v in values)
    return r, g, b


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
