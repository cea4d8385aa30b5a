"""What is done to a garment in one frame, and the mesh parts that a frame is drawn from.

Only the words that motion, garments and rendering share belong here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np


class Label(IntEnum):
    """What a pixel shows."""

    BACKGROUND = 0
    SKIN = 1
    """Face, neck, arms, hands, legs."""
    HAIR = 2
    GARMENT = 3
    """The garment that is tried on, all of its parts."""
    INNER = 4
    """What is worn beneath it."""
    LOWER = 5
    """Clothes of the other half of the body, shoes too."""
    OTHER = 6
    """Anything else of the person, such as eyes or a lanyard."""


@dataclass(frozen=True)
class Part:
    """One mesh of a frame, ready to be drawn.

    Attributes:
        vertices: (V, 3) metres, world.
        faces: (F, 3) int32, counter-clockwise from outside.
        uv: (V, 2) float32 in 0 to 1, where in `texture` each vertex lies (u right, v down).
        texture: Name of a texture in the scene's set of textures.
        label: What its pixels show.
        two_sided: Whether its inside can be seen; its back is drawn darker.
        gloss: 0 to 1, strength of highlights.
        name: For debugging.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    texture: str
    label: Label
    two_sided: bool = False
    gloss: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class Grab:
    """A spot of the cloth that a hand has hold of.

    Attributes:
        anchor: (3,) the spot on the garment at rest, metres.
        offset: (3,) how far the hand has pulled it from where the body alone would carry it, metres, world.
        kind: `pinch` pulls a tent out of the cloth; `hem` lifts the edge, and the cloth between hem and hand goes
            along; `rub` shears the cloth a little under a palm.
        radius: How far the pull reaches along the cloth, metres.
    """

    anchor: np.ndarray
    offset: np.ndarray
    kind: Literal["pinch", "hem", "rub"]
    radius: float = 0.12


@dataclass(frozen=True)
class ClothState:
    """What is done to the garment in one frame.

    Attributes:
        zip_open: 0 closed to the top, 1 open down to the hem.
        collar_turn: 0 lying on the shoulders, 1 turned up.
        sleeve_roll: left, right -> 0 rolled down, 1 rolled to the elbow.
        grabs: Spots that hands hold.
        time_s: Time of the frame, for folds that drift.
    """

    zip_open: float = 0.0
    collar_turn: float = 0.0
    sleeve_roll: Mapping[str, float] = field(default_factory=dict)
    grabs: tuple[Grab, ...] = ()
    time_s: float = 0.0


@dataclass(frozen=True)
class Anchor:
    """Where a hand can take hold of a garment.

    Attributes:
        rest: (3,) on the outside of the cloth at rest, metres.
        position: (3,) where it is in the asked pose and cloth state, metres, world.
        normal: (3,) unit, out of the cloth there.
        along: (3,) unit, down the garment there (to the hem, to the cuff, down the zip).
    """

    rest: np.ndarray
    position: np.ndarray
    normal: np.ndarray
    along: np.ndarray
