"""What a garment is like: kind, cut and fabric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

Kind = Literal["t_shirt", "long_sleeve", "collared_shirt", "zip_jacket", "dress"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Neck = Literal["crew", "v", "scoop", "collar", "band"]


@dataclass(frozen=True)
class GarmentSpec:
    """One garment.

    Attributes:
        kind: What it is.
        ease_m: How far the cloth stands off the torso, metres.
        hem: Where the body of it ends: 0 at the waist, 1 at mid-thigh (a dress goes on from there: 2 at mid-calf).
        sleeve: Where the sleeves end: 0 at the shoulder, 1 at the wrist.
        sleeve_ease_m: How far the cloth stands off the arms, metres.
        neck: Shape of the neckline; `band` is the stand-up collar of a jacket.
        neck_gap_m: How far the neckline stays off the neck at its sides, metres.
        neck_drop_m: How far it lies below the pit of the neck at the front, metres.
        collar_m: Width of a collar's flap, or height of a band, metres.
        flare: A dress's widening below the waist, metres of radius a metre of length.
        fold_m: Height of its folds, metres.
        seed: For folds and fabric.
        fabric: Kind of fabric (`pipelines.studio.render.fabrics.KINDS`); the seed chooses if it is not given.
        gloss: 0 to 1, strength of highlights.
    """

    kind: Kind
    ease_m: float = 0.015
    hem: float = 0.5
    sleeve: float = 0.3
    sleeve_ease_m: float = 0.012
    neck: Neck = "crew"
    neck_gap_m: float = 0.02
    neck_drop_m: float = 0.01
    collar_m: float = 0.055
    flare: float = 0.0
    fold_m: float = 0.004
    seed: int = 0
    fabric: str | None = None
    gloss: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of garment {self.kind!r}; there are {', '.join(KINDS)}")
        if not (0 < self.ease_m <= 0.08 and 0 < self.sleeve_ease_m <= 0.06):
            raise ValueError("cloth stands off the torso by 0 to 0.08 m and off the arms by 0 to 0.06 m")
        if not (0.12 <= self.sleeve <= 1 and 0 <= self.hem <= 2):
            raise ValueError("a sleeve is 0.12 to 1 long and a hem 0 to 2")

    @property
    def category(self) -> str:
        """Category of the garment in try-on data sets."""
        return "dresses" if self.kind == "dress" else "upper_body"

    @property
    def opens(self) -> bool:
        """Whether a zip opens it."""
        return self.kind == "zip_jacket"


def sample_spec(kind: Kind, rng: np.random.Generator, like: GarmentSpec | None = None) -> GarmentSpec:
    """Draw a garment.

    Args:
        kind: What it is.
        rng: Source of all choices.
        like: With it, draw a garment that the same actions can be done to in the same places: hem, sleeves and opening
            stay where they are, and fabric, neckline, collar and looseness change.

    Raises:
        ValueError: `like` is of another kind, or there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of garment {kind!r}; there are {', '.join(KINDS)}")
    loose = float(rng.uniform(0.008, 0.026))
    seed = int(rng.integers(2**31))
    gap, drop = float(rng.uniform(0.012, 0.035)), float(rng.uniform(0.0, 0.035))
    fold, gloss = float(rng.uniform(0.003, 0.006)), float(rng.choice([0.0, 0.05, 0.15, 0.3], p=[0.4, 0.35, 0.15, 0.1]))
    hem, sleeve = float(rng.uniform(0.45, 0.75)), float(rng.uniform(0.32, 0.46))
    neck: Neck = "crew"
    collar, flare = 0.055, 0.0
    sleeve_loose = loose
    match kind:
        case "t_shirt":
            neck = ("crew", "v", "scoop")[int(rng.choice(3, p=[0.6, 0.22, 0.18]))]
            sleeve_loose = float(rng.uniform(0.010, 0.022))
        case "long_sleeve":
            sleeve, sleeve_loose = float(rng.uniform(0.94, 0.99)), float(rng.uniform(0.008, 0.016))
        case "collared_shirt":
            neck, gap, drop = "collar", float(rng.uniform(0.006, 0.010)), float(rng.uniform(0.0, 0.012))
            collar, hem = float(rng.uniform(0.045, 0.065)), float(rng.uniform(0.5, 0.8))
            sleeve, sleeve_loose = float(rng.uniform(0.95, 0.99)), float(rng.uniform(0.012, 0.02))
        case "zip_jacket":
            neck, gap, drop = "band", float(rng.uniform(0.010, 0.016)), float(rng.uniform(0.0, 0.01))
            loose, sleeve_loose = float(rng.uniform(0.018, 0.032)), float(rng.uniform(0.016, 0.026))
            collar, hem, sleeve = (
                float(rng.uniform(0.045, 0.06)),
                float(rng.uniform(0.4, 0.65)),
                float(rng.uniform(0.96, 1.0)),
            )
        case "dress":
            neck = ("crew", "v", "scoop")[int(rng.choice(3, p=[0.4, 0.25, 0.35]))]
            loose, hem = float(rng.uniform(0.006, 0.014)), float(rng.uniform(1.0, 1.45))
            flare, fold = float(rng.uniform(0.15, 0.4)), float(rng.uniform(0.008, 0.016))
    fresh = GarmentSpec(kind, loose, hem, sleeve, sleeve_loose, neck, gap, drop, collar, flare, fold, seed, None, gloss)
    if like is None:
        return fresh
    if like.kind != kind:
        raise ValueError(f"a {kind} cannot be the counterpart of a {like.kind}")
    # A hand holds the very spot in both: what it holds may not be elsewhere in the other garment.
    ease = float(np.clip(fresh.ease_m, like.ease_m - 0.004, like.ease_m + 0.004))
    sleeve_ease = float(np.clip(fresh.sleeve_ease_m, like.sleeve_ease_m - 0.003, like.sleeve_ease_m + 0.003))
    collar = float(np.clip(fresh.collar_m, like.collar_m - 0.006, like.collar_m + 0.006))
    same = {"hem": like.hem, "sleeve": like.sleeve, "flare": like.flare}
    if kind in ("collared_shirt", "zip_jacket"):
        same |= {"neck_gap_m": like.neck_gap_m, "neck_drop_m": like.neck_drop_m}
    return replace(fresh, ease_m=max(ease, 0.005), sleeve_ease_m=max(sleeve_ease, 0.006), collar_m=collar, **same)  # type: ignore[arg-type]
