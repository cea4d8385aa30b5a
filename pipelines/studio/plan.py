"""Which clip shows what: performances, garments, actions and splits, spread evenly over any run of clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.studio.garments.spec import KINDS, Kind
from pipelines.studio.motion.script import ACTIONS_OF
from pipelines.studio.settings import INTERACTING, StudioSettings

_QUIET = {"hover": 0.3, "rest": 0.16, "walk": 0.14, "idle": 0.14}
"""Weights of what clips show in which nothing is done or mimed."""
_STEPS = 1.2207440846057596 ** -np.arange(1.0, 4.0)
"""Steps of the additive recurrence that fills three dimensions most evenly: powers of the root of x^4 = x + 1. Powers
of the golden ratio would not do: its square is one minus itself, and actions would follow from performances."""


@dataclass(frozen=True)
class Plan:
    """What clip number `index` shows.

    Attributes:
        index: Number of the clip.
        seed: Its own seed, from which all else is drawn.
        performance: See `studio_schemas.PERFORMANCES`.
        garment: Kind of garment.
        action: Action done or mimed.
        split: train, val or test.
    """

    index: int
    seed: int
    performance: str
    garment: Kind
    action: str | None
    split: str

    @property
    def name(self) -> str:
        """Of its files."""
        return f"clip_{self.index:05d}"


def plan_clip(settings: StudioSettings, index: int) -> Plan:
    """What clip number `index` shows. Does not depend on how many clips there are.

    Raises:
        ValueError: None of the wanted actions suits any garment.
    """
    rng = np.random.default_rng([settings.seed, index])
    start = np.random.default_rng([settings.seed]).random(3)
    # Even steps spread performances evenly over any run of clips, where dice would bunch them.
    u, w, s = (start + _STEPS * index) % 1
    acting = min(1.0, settings.interaction_share / INTERACTING)
    if u < acting:
        performance = "interaction"
    else:
        rest = (1 - settings.pantomime_share) / sum(_QUIET.values())
        names = ["pantomime", *_QUIET]
        shares = np.cumsum([settings.pantomime_share, *(rest * w for w in _QUIET.values())])
        performance = names[int(np.searchsorted(shares / shares[-1], (u - acting) / (1 - acting), "right"))]
    pairs = [(g, a) for g, actions in ACTIONS_OF.items() for a in sorted(set(actions)) if a in settings.actions]
    if not pairs:
        raise ValueError(f"none of {', '.join(settings.actions)} can be done to any garment")
    action = None
    if performance in ("interaction", "pantomime"):
        # Even over the actions first: a zip is on one garment only, a hem on nearly all.
        actions = sorted({a for _, a in pairs})
        action = actions[int(w * len(actions))]
        suitable = [kind for kind in KINDS if (kind, action) in pairs]
        garment = suitable[int(rng.integers(len(suitable)))]
    else:
        garment = KINDS[int(rng.integers(len(KINDS)))]
    split = "test" if s < settings.test_share else "val" if s < settings.test_share + settings.val_share else "train"
    return Plan(index, int(rng.integers(2**31)), performance, garment, action, split)
