"""What one frame of a performance holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.studio.body.posing import Trunk
from pipelines.studio.body.rig import Posed
from pipelines.studio.cloth import ClothState


@dataclass(frozen=True)
class Touch:
    """What one hand does in a frame.

    Attributes:
        contact: Whether it touches the garment.
        action: Action that it really does, `rest` where it only lies there, None where it does not touch.
        distance_m: From its skin to the cloth, metres; 0 where it touches.
    """

    contact: bool
    action: str | None
    distance_m: float


@dataclass(frozen=True)
class Moment:
    """One frame of a performance.

    Attributes:
        time_s: Time of the frame.
        trunk: How the trunk is held.
        posed: The skeleton.
        skin: (V, 3) the body's vertices, metres, world.
        state: The cloth as it is.
        untouched: The cloth as it would be if no hand had done anything to it.
        touches: Side -> what the hand does.
        action: What is done to the garment; None where nothing is.
    """

    time_s: float
    trunk: Trunk
    posed: Posed
    skin: np.ndarray
    state: ClothState
    untouched: ClothState
    touches: Mapping[str, Touch]
    action: str | None
