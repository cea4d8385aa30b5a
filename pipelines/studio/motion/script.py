"""What happens in a clip, drawn from a random generator: who does what with which hand, when, how far and how fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.studio.motion.timeline import Phases

ACTIONS_OF: Mapping[str, tuple[str, ...]] = {
    "t_shirt": ("adjust_hem", "stretch_fabric", "other"),
    "long_sleeve": ("adjust_hem", "stretch_fabric", "roll_sleeve", "other"),
    "collared_shirt": ("adjust_collar", "adjust_hem", "roll_sleeve", "stretch_fabric", "other"),
    "zip_jacket": ("operate_zipper", "operate_zipper", "adjust_collar", "other"),
    "dress": ("stretch_fabric", "adjust_hem", "other"),
}
"""What can be done to a garment; a zip is there to be pulled, so it comes up twice as often."""

# Shortest and longest time of one doing of an action, seconds.
_DURATION = {
    "operate_zipper": (0.8, 2.2),
    "adjust_hem": (0.8, 2.2),
    "stretch_fabric": (0.7, 1.8),
    "adjust_collar": (0.8, 1.8),
    "roll_sleeve": (1.0, 2.4),
    "other": (0.8, 2.6),
    "rest": (1.0, 3.0),
    "hover": (1.0, 3.0),
}


@dataclass(frozen=True)
class Script:
    """The plan of one clip.

    Attributes:
        performance: See `studio_schemas.PERFORMANCES`.
        action: Action done or mimed.
        side: Hand that acts, if one does.
        phases: When.
        amount: 0 to 1, how far the action goes.
        backwards: The other way round: a zip closes, a collar is turned down, a sleeve is rolled down.
        cycles: How often a to-and-fro action is done.
        gap_m: How far a hand that only mimes or hovers stays off the cloth.
        place: (u, v) in 0 to 1 on the front of the torso, for palms that rest or rub.
        gesture: Numbers that a free gesture is made of.
        other_hand: What the other hand does: hang, hip or gesture.
        fist: Whether a rubbing or resting hand is a fist.
        both: Whether both hands act alike (lifting a hem).
    """

    performance: str
    action: str | None
    side: str | None
    phases: Phases
    amount: float = 0.7
    backwards: bool = False
    cycles: float = 1.0
    gap_m: float = 0.0
    place: tuple[float, float] = (0.5, 0.5)
    gesture: Mapping[str, float] = field(default_factory=dict)
    other_hand: str = "hang"
    fist: bool = False
    both: bool = False


def sample_script(
    rng: np.random.Generator, performance: str, garment: str, seconds: float, action: str | None = None
) -> Script:
    """Draw the plan of a clip.

    Args:
        rng: Source of all choices.
        performance: See `studio_schemas.PERFORMANCES`.
        garment: Kind of garment.
        seconds: Length of the clip.
        action: Action to do or mime; any that suits the garment by default.

    Raises:
        ValueError: The action does not suit the garment.
    """
    if action is not None and action not in ACTIONS_OF[garment]:
        raise ValueError(f"{action} cannot be done to a {garment}; it takes {', '.join(ACTIONS_OF[garment])}")
    chosen = action or str(rng.choice(ACTIONS_OF[garment]))
    acts = performance in ("interaction", "pantomime")
    kind = chosen if acts else performance if performance in ("rest", "hover") else "hover"
    shortest, longest = _DURATION[kind]
    reach, back = rng.uniform(0.35, 0.8), rng.uniform(0.35, 0.8)
    stay = rng.uniform(shortest, longest)
    # Whatever its length, a clip has room for the way there and back.
    room = (seconds - 0.2) / (reach + stay + back)
    if room < 1:
        stay, reach, back = (max(x * room, 0.0) for x in (stay, reach, back))
    slack = max(seconds - reach - stay - back, 0.0)
    start = rng.uniform(0.1, 0.9) * slack
    phases = Phases(start, start + reach, start + reach + stay, start + reach + stay + back)
    side = str(rng.choice(["left", "right"], p=[0.4, 0.6])) if performance not in ("walk", "idle") else None
    to_and_fro = chosen in ("stretch_fabric", "other", "adjust_hem")
    return Script(
        performance=performance,
        action=chosen if acts else None,
        side=side,
        phases=phases,
        amount=float(rng.uniform(0.45, 1.0)),
        backwards=bool(rng.random() < 0.45),
        cycles=float(max(1, round(stay / rng.uniform(0.6, 1.4)))) if to_and_fro else 1.0,
        gap_m=float(rng.uniform(0.025, 0.07) if performance == "pantomime" else rng.uniform(0.05, 0.2)),
        place=(float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.1, 0.8))),
        gesture={
            k: float(rng.uniform(0, 1)) for k in ("x", "y", "z", "size", "rate", "shape", "grip", "turn", "mirror")
        },
        # People who gesture often do it with both hands.
        other_hand=str(
            rng.choice(["hang", "hip", "gesture"], p=[0.45, 0.1, 0.45] if performance == "hover" else [0.7, 0.15, 0.15])
        ),
        fist=bool(rng.random() < 0.25),
        both=bool(chosen == "adjust_hem" and rng.random() < 0.3),
    )
