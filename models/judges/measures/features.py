"""Measures of one interaction, in two groups.

`asked` measures look at the source alone: is the captioned action what is done there, in that span? `follows` measures
compare the result with the source: does its cloth do what the source's does? Unknown measures are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.contact.network import CLASSES, REST
from models.judges.base import HandContact, JudgeRequest
from models.judges.measures.cloth import ClothChange, agreement, aligned, cloth_and_neighbourhood, cloth_change
from models.judges.measures.structure import structure_measures
from models.judges.settings import KinematicJudgeSettings

_SURE = 1e-3
_LEAST_CHANGE = 3e-3


def contact_measures(request: JudgeRequest) -> dict[str, float]:
    """What the contact network's reading says of span and action.

    Raises:
        ValueError: The request came without a reading.
    """
    if request.contact is None:
        raise ValueError("the request brings no reading of the contact network")
    source = request.contact
    span = slice(request.start, request.end)
    acting = {s: _acting(h) for s, h in source.items()}
    side = max(acting, key=lambda s: float(acting[s][span].sum()))
    mine = acting[side]
    outside = np.ones(len(mine), bool)
    outside[span] = False
    mass = sum((h.touching[span, None] * h.doing[span]).sum(0) for h in source.values())
    named = np.delete(mass, REST) + _SURE
    named = named / named.sum()
    classes = [c for c in CLASSES if c != CLASSES[REST]]
    own = named[classes.index(request.action)] if request.action in classes else _SURE
    rival = max(v for c, v in zip(classes, named) if c != request.action)
    return {
        "acting": _logit(float(mine[span].mean())),
        "acting_peak": _logit(float(np.quantile(mine[span], 0.8))),
        "touching": _logit(float(source[side].touching[span].mean())),
        "acting_outside": _logit(float(mine[outside].mean()) if outside.any() else 0.0),
        "acting_share": float(mine[span].sum() / (mine.sum() + 0.5)),
        "named": float(np.log(own)),
        "margin": float(np.log(own) - np.log(rival)),
    }


def cloth_measures(request: JudgeRequest, settings: KinematicJudgeSettings) -> dict[str, float]:
    """How the cloth next to the hand changes in both videos, and how alike; all NaN where it cannot be seen."""
    names = ("source_change", "result_change", "change_kept", "in_time", "in_place", "slope")
    nothing = dict.fromkeys(names, float("nan"))
    inside = request.inside
    before = request.frames < request.start
    if not any(request.hands) or not inside.any():
        return nothing
    if not before.any():
        # A span that starts with the video: what comes first is the best there is to compare with.
        before[np.flatnonzero(inside)[0]] = True
    later = (request.frames >= request.start) & ~before
    if later.sum() < 2:
        return nothing
    cloth, near = cloth_and_neighbourhood(request, settings.near_hand)
    found = {
        name: cloth_change(aligned(request, pictures), cloth, near, before, later, settings.min_cloth_px)
        for name, pictures in (("source", request.source), ("result", request.result))
    }
    amplitude = {name: change.amplitude(later) for name, change in found.items()}
    if any(np.isnan(v) for v in amplitude.values()):
        return nothing
    _, in_time, in_place = agreement(found["result"], found["source"])
    log = {name: float(np.log(max(v, 0.0) + _LEAST_CHANGE)) for name, v in amplitude.items()}
    return {
        "source_change": log["source"],
        "result_change": log["result"],
        "change_kept": log["result"] - log["source"],
        "in_time": in_time,
        "in_place": in_place,
        "slope": _slope(found["result"], found["source"]),
    }


def measure(request: JudgeRequest, settings: KinematicJudgeSettings) -> Mapping[str, float]:
    """All measures of a request that brings the contact network's reading."""
    return contact_measures(request) | cloth_measures(request, settings) | structure_measures(request)


def _slope(result: ClothChange, source: ClothChange) -> float:
    """How much the result's cloth changes where and when the source's does, in units of the source's change."""
    x, y = source.change_map.ravel(), result.change_map.ravel()
    size = float(x @ x)
    return float(np.clip(x @ y / size, 0, 3)) if size > 1e-8 else float("nan")


def _acting(hand: HandContact) -> np.ndarray:
    return hand.touching * (1 - hand.doing[:, REST])


def _logit(p: float) -> float:
    p = min(max(p, _SURE), 1 - _SURE)
    return float(np.log(p / (1 - p)))
