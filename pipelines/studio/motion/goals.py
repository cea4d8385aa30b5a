"""Where a hand goes in each performance, as a function of how far it is on its way and of what it does there.

Directions are in the frame of the chest (x to the person's left, y backwards, z up); `m` is +1 for the left hand and
-1 for the right one, so that -m points to the middle of the body.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipelines.studio.motion.script import Script
from pipelines.studio.motion.timeline import between

ANCHOR_OF = {
    "operate_zipper": "zip",
    "adjust_hem": "hem",
    "stretch_fabric": "stretch",
    "adjust_collar": "collar",
    "roll_sleeve": "cuff",
}
"""Where a garment is taken hold of; `other` rubs a place on the front."""

GRIP_OF = {
    "operate_zipper": {"pinch": 1.0},
    "adjust_hem": {"grasp": 0.6, "pinch": 0.4},
    "stretch_fabric": {"pinch": 1.0},
    "adjust_collar": {"pinch": 1.0},
    "roll_sleeve": {"grasp": 1.0},
}

# Share of gestures that are made at the face.
_AT_FACE = 0.3
# Cloth that is rubbed slips once it has gone along this far.
_SLIPS_M = 0.025

# Fingers and palm of the left hand at its place.
_HELD: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "operate_zipper": ((-0.75, 0.5, 0.05), (0.0, 0.6, -0.6)),
    "adjust_hem": ((-0.35, 0.5, -0.7), (-0.3, 0.9, 0.3)),
    "stretch_fabric": ((-0.6, 0.75, 0.05), (-0.1, 0.5, -0.8)),
    "adjust_collar": ((-0.5, 0.35, 0.75), (-0.2, 0.9, -0.3)),
}


def held_directions(action: str, m: float) -> tuple[np.ndarray, np.ndarray]:
    """Fingers and palm of a hand that holds the cloth, chest frame."""
    mirror = np.array([m, 1.0, 1.0])
    fingers, palm = _HELD[action]
    return np.array(fingers) * mirror, np.array(palm) * mirror


def laid_directions(script: Script, m: float) -> np.ndarray:
    """Fingers of a hand laid on the front of the torso: across, or upwards."""
    tilt = 0.1 + 0.9 * script.gesture["turn"]
    return np.array([-m, 0.0, tilt])


def hang(m: float, hips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wrist (from the root), fingers and palm of a hand that hangs beside the thigh, in the frame of the hips."""
    return (
        np.array([m * (hips[0] + 0.14), -0.03, hips[2] - 0.04]),
        np.array([0.1 * m, -0.15, -1.0]),
        np.array([-m, 0.1, 0.0]),
    )


def on_hip(m: float, hips: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Palm, fingers and palm's direction of a hand on the hip, in the frame of the hips."""
    return (
        np.array([m * (hips[0] + 0.09), -0.05, hips[2] + 0.12]),
        np.array([-0.3 * m, -0.8, -0.5]),
        np.array([-m, 0.3, 0.0]),
    )


def gesture(
    script: Script, m: float, t: float, chest: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
    """Palm, fingers, palm's direction and grip of a hand that gestures before the body, chest frame.

    Args:
        script: Plan; its `gesture` numbers choose place, size, speed and hand shape.
        m: +1 for the left hand.
        t: Seconds.
        chest: (3,) middle of the front of the chest, from the root.
    """
    g = script.gesture
    angle = 2 * np.pi * (0.3 + 0.9 * g["rate"]) * t
    size = 0.02 + 0.08 * g["size"]
    swing = np.array(
        [np.cos(angle), 0.4 * np.sin(2 * angle), np.sin(angle) if g["shape"] > 0.4 else 0.2 * np.sin(angle)]
    )
    centre = chest + np.array([m * (0.02 + 0.24 * g["x"]), -script.gap_m - 0.06 - 0.12 * g["y"], -0.22 + 0.42 * g["z"]])
    if g["mirror"] < _AT_FACE:
        # Chin, mouth and cheek: hands are often there, and no garment is.
        centre = chest + np.array([m * 0.14 * g["x"], 0.03 - 0.06 * g["y"], 0.17 + 0.16 * g["z"]])
        size *= 0.4
    shapes = ("flat", "open", "relaxed", "fist", "point", "pinch")
    grip = {shapes[min(int(g["grip"] * len(shapes)), len(shapes) - 1)]: 1.0}
    turns = (
        ((-0.3 * m, -0.2, 1.0), (-m, 0.2, 0.0)),  # blade, as in clapping
        ((-0.8 * m, -0.3, 0.4), (0.0, 1.0, 0.1)),  # palm to the body
        ((-0.6 * m, -0.7, 0.2), (0.0, -0.2, 1.0)),  # palm up
        ((-0.2 * m, -0.2, 1.0), (0.0, -1.0, 0.0)),  # palm to the viewer
        ((-0.5 * m, -0.6, -0.1), (0.0, 0.2, -1.0)),  # palm down
    )
    fingers, palm = turns[min(int(g["turn"] * len(turns)), len(turns) - 1)]
    return centre + size * swing, np.array(fingers), np.array(palm), grip


def lifted(progress: float) -> float:
    """Up, held, and down again, 0 to 1."""
    return between(progress, 0.0, 0.35) - between(progress, 0.65, 1.0)


def pulled(progress: float, cycles: float) -> float:
    """To and fro, starting and ending at 0, up to 1."""
    return float(np.sin(np.pi * cycles * progress) ** 2)


def circled(progress: float, cycles: float) -> np.ndarray:
    """(2,) a circle of radius 1 that starts and ends at its edge, where the offset is 0."""
    angle = 2 * np.pi * cycles * between(progress, -0.1, 1.1)
    start = 2 * np.pi * cycles * between(0.0, -0.1, 1.1)
    return np.array([np.cos(angle) - np.cos(start), np.sin(angle) - np.sin(start)])


def rubbed(script: Script, progress: float) -> np.ndarray:
    """(2,) metres to the left and up by which a palm has moved over the cloth.

    It goes in circles, to and fro, or in one long slide: down from the chest, or up from the belly.
    """
    g, a = script.gesture, script.amount
    if g["shape"] < 0.45:
        return (0.015 + 0.04 * a) * circled(progress, script.cycles)
    if g["shape"] < 0.7:
        angle = 2 * np.pi * g["x"]
        return (0.03 + 0.07 * a) * pulled(progress, script.cycles) * np.array([np.cos(angle), np.sin(angle)])
    way = np.array([0.6 * (g["x"] - 0.5), -1.0 if script.place[1] < 0.5 else 1.0])
    return (0.06 + 0.16 * a) * between(progress, 0.0, 1.0) * way


def dragged(script: Script, moved: np.ndarray) -> np.ndarray:
    """(2,) metres by which cloth under a palm goes along: part of the way or hardly at all, until it slips.

    On real clips of hands that rub a shirt it goes along with 1 to 2 % of the hand's motion, as far as can be seen.

    Args:
        script: Plan.
        moved: (2,) metres, of `rubbed`.
    """
    share = 0.45 * script.gesture["size"] ** 2
    return moved * min(share, _SLIPS_M / max(float(np.linalg.norm(moved)), 1e-9))
