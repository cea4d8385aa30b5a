"""Sentences: how to say what a hand does, from the name of the action and how the hand moves and where.

Rules on measurements only; nothing here decides whether a hand does something, or what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.captions.features import Body, Hand

# Where things are, in the torso's frame (see features): v 0 is the line of the shoulder joints, 1 that of the hips.
COLLAR_V, CHEST_V, HEM_V = 0.0, 0.45, 0.85
COLLAR_U, SIDE_U = 0.40, 0.30
# Body units a second; resting hands tremble and landmarks jitter by about this much.
STILL = 0.3
# A caption is one or two sentences; a long video has more contacts than those can name.
_MAX_CLAUSES = 4


@dataclass(frozen=True)
class Movement:
    """What a hand does during a span.

    Attributes:
        u, v: Median position of the tips of thumb and index, torso's frame.
        speed: Median speed, body units a second.
        travel_u, travel_v: Signed way from the first to the last tenth of the span; to the person's left, down.
        path: Length of the way, body units.
    """

    u: float
    v: float
    speed: float
    travel_u: float
    travel_v: float
    path: float


def measure_movement(hand: Hand, start: int, end: int, fps: float) -> Movement:
    """What `hand` does in frames [start, end); frames where it is not known do not count."""
    span = slice(start, end)
    known = np.flatnonzero(np.isfinite(hand.palm[span]).all(-1)) + start
    if not len(known):
        nan = float("nan")
        return Movement(nan, nan, nan, nan, nan, nan)
    reach = hand.reach[known]
    tenth = max(1, len(known) // 10)
    travel = np.median(reach[-tenth:], 0) - np.median(reach[:tenth], 0)
    speed = hand.speed[known]
    speed = speed[np.isfinite(speed)]
    return Movement(
        u=float(np.median(reach[:, 0])),
        v=float(np.median(reach[:, 1])),
        speed=float(np.median(speed)) if len(speed) else 0.0,
        travel_u=float(travel[0]),
        travel_v=float(travel[1]),
        path=float(speed.sum() / fps),
    )


def place_of(u: float, v: float) -> str:
    """Part of the garment at a position in the torso's frame, from the wearer's point of view."""
    if v < COLLAR_V:
        return "collar" if abs(u) < COLLAR_U else f"{'left' if u > 0 else 'right'} shoulder"
    part = "chest" if v < CHEST_V else "middle" if v < HEM_V else "hem"
    return part if abs(u) < SIDE_U else f"{'left' if u > 0 else 'right'} side of the {part}"


def sentence(action: str, hand: str, m: Movement) -> str:
    """What happens, as a clause in the third person without a full stop, for a hand `left`, `right` or `both`.

    Of a hand whose movement is not known (NaN) neither way nor place is said.
    """
    who, s = ("both hands", "") if hand == "both" else (f"the {hand} hand", "s")
    if action == "adjust_collar":
        return f"{who} adjust{s} the collar of the garment"
    if action == "adjust_hem":
        return f"{who} adjust{s} the hem of the garment"
    if action == "roll_sleeve":
        other = {"left": "right ", "right": "left "}.get(hand, "")
        return f"{who} roll{s} the {other}sleeve of the garment"
    if action == "operate_zipper":
        way = " down" if m.travel_v > 0 else " up" if m.travel_v <= 0 else ""
        return f"{who} pull{s} the zipper of the garment{way}"
    known = np.isfinite(m.v)
    if action == "stretch_fabric":
        place = f" at the {place_of(m.u, m.v)}" if known else ""
        return f"{who} stretch{'es' if s else ''} the fabric{place} of the garment"
    if not known:
        return f"{who} touch{'es' if s else ''} the garment"
    place = f"the {place_of(m.u, m.v)} of the garment"
    if m.speed < STILL and m.path < 0.5:
        return f"{who} rest{s} on {place}"
    # The torso's frame measures v in torso lengths, which are 1.6 body units.
    net = float(np.hypot(m.travel_u, 1.6 * m.travel_v))
    if net > 0.3 and net > 0.5 * m.path:
        way = ("down" if m.travel_v > 0 else "up") if abs(1.6 * m.travel_v) > abs(m.travel_u) else "across"
        return f"{who} slide{s} {way} {place}"
    return f"{who} rub{s} {place}"


def _framing(body: Body, height: int) -> str:
    points = body.landmarks
    inside = (points[..., 1] > 0) & (points[..., 1] < height) & (points[..., 3] > 0.5)
    with np.errstate(invalid="ignore"):
        seen = inside.mean(0) > 0.5
    head = bool(seen[0])
    for name, joints in (("feet", (27, 28)), ("knees", (25, 26)), ("hips", (23, 24))):
        if seen[list(joints)].any():
            return f"visible from {'head' if head else 'shoulders'} to {name}"
    return "visible from the chest up" if head else "partly visible"


def _turn(body: Body) -> str:
    depth = float(np.nanmedian(body.inward[:, 2]))
    if depth > 0.7:
        return "faces the camera"
    return "turns the back to the camera" if depth < -0.7 else "stands sideways to the camera"


def _stance(body: Body) -> str:
    unit = float(np.nanmedian(body.unit_px))
    centre = body.shoulders[np.isfinite(body.shoulders).all(-1)] / unit
    if len(centre) < 2:
        return "is seen only for an instant"
    reach = np.percentile(centre, 95, axis=0) - np.percentile(centre, 5, axis=0)
    if reach.max() > 1.0:
        return "moves through the picture"
    return "sways a little" if reach.max() > 0.25 else "stands still"


def _hand_clause(hand: Hand, fps: float) -> str | None:
    known = np.isfinite(hand.palm).all(-1)
    raised = known & (hand.palm[:, 1] < 0.9) & (hand.elbow_flexion < 150)
    if raised.sum() < 0.2 * fps:
        return f"the {hand.side} hand stays low" if known.any() else None
    moving = raised & (np.nan_to_num(hand.speed) > STILL)
    u, v = np.median(hand.palm[raised], 0)
    if v < -0.15:
        where = "at the head" if abs(u) < 0.45 else "beside the head"
    elif abs(u) < 0.6:
        where = "in front of the " + ("neck" if v < COLLAR_V else "chest" if v < CHEST_V else "belly")
    else:
        where = "beside the body"
    return f"the {hand.side} hand {'moves' if moving.sum() > 0.5 * raised.sum() else 'is held'} {where}"


def describe(body: Body, hands: list[Hand], actions: list[str], height: int, fps: float) -> str:
    """A caption of the whole video that says only what was measured.

    Args:
        body: The torso in every frame.
        hands: Both hands.
        actions: Clauses of the contacts found, in order of time.
        height: Picture height, pixels.
        fps: Frames a second.
    """
    if not np.isfinite(body.unit_px).any():
        return "No person is found in the video."
    first = f"A person, {_framing(body, height)}, {_turn(body)} and {_stance(body)}"
    rest = list(dict.fromkeys(a.strip().rstrip(".") for a in actions))
    if len(rest) > _MAX_CLAUSES:
        rest = [*rest[:_MAX_CLAUSES], "the garment is touched again in other ways"]
    rest = rest or [c for c in (_hand_clause(h, fps) for h in hands) if c]
    if not rest:
        return f"{first}; the hands are not visible."
    text = ", then ".join(rest) if actions else ", ".join(rest)
    return f"{first}. {text[0].upper()}{text[1:]}."
