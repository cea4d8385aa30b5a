"""What the embedded judge looks at: small pictures that follow the body, before, in and after the span.

For each hand there are two windows. One lies on the torso, around the hand's mean place in the span, so cloth that is
left alone keeps its place in it. The other lies along the other forearm, where sleeves are rolled. Both are in units of
the body, and mirrored for the left hand, so size, place and side do not show. With them come numbers: what the contact
network says of the hand, and where it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from models.contact.network import CLASSES, REST
from models.judges.base import HandContact, JudgeRequest, Sampling

SIDES = ("left", "right")
BODY_PX, SLEEVE_PX = 48, (24, 48)
"""Size of the windows: a square on the torso; height and width of the one along the forearm."""
BEFORE_S, INSIDE, AFTER_S = (-0.8, -0.4, -0.12), (0.08, 0.29, 0.5, 0.71, 0.92), (0.12, 0.4, 0.8)
"""Moments: seconds from the first frame of the span, shares of the span, seconds from its last frame."""
MOMENTS = len(BEFORE_S) + len(INSIDE) + len(AFTER_S)
NUMBERS = ("touching", *CLASSES, "other_acting", "across", "down", "off_forearm", "along_forearm", "seen", "in_phase")
"""What is told of every moment: the contact network's opinion (square roots, to spread small probabilities), the
hand's place on the torso and on the other forearm in body units, whether the hand was found, and whether the video
reaches far enough for the moment to lie before or after the span."""
SUMMARY = (*(f"{who}_{c}" for who in ("own", "other") for c in CLASSES), "across", "down", "forearm", "seconds")
"""What is told of the whole span: probabilities of touching and doing, means of both hands; place; lengths."""
MASKS = ("hands", "forearms", "garment")
"""Masks of a window; the acting hand is 1, the other one a half, forearms alike."""

_BODY_UNITS = 1.6
_SLEEVE_FROM, _SLEEVE_LENGTH = -0.2, 1.6
_ARM_WIDTH = 0.22
_LEAST_FOREARM = 0.6
_TORSO_PER_SHOULDERS = 1.6
_PALM = (0, 5, 9, 13, 17)
_POSE = {"left": (13, 15, (15, 17, 19)), "right": (14, 16, (16, 18, 20))}
"""Elbow, wrist, and wrist with knuckles among MediaPipe's landmarks."""
_SHOULDERS, _HIPS = (11, 12), (23, 24)


@dataclass(frozen=True)
class HandView:
    """Where one hand's windows lie, and what is known of the hand.

    Attributes:
        body: Shape (`MOMENTS`, 2, 3), from pixels of the window on the torso to pixels of the pictures.
        sleeve: The same of the window along the other forearm.
        body_masks: Shape (`MOMENTS`, `BODY_PX`, `BODY_PX`, len(`MASKS`)), uint8, 255 is 1.
        sleeve_masks: Shape (`MOMENTS`, *`SLEEVE_PX`, len(`MASKS`)).
        numbers: Shape (`MOMENTS`, len(`NUMBERS`)), float32.
        in_phase: Shape (`MOMENTS`,), bool, see `moments`.
        summary: Shape (len(`SUMMARY`),), float32.
    """

    body: np.ndarray
    sleeve: np.ndarray
    body_masks: np.ndarray
    sleeve_masks: np.ndarray
    numbers: np.ndarray
    in_phase: np.ndarray
    summary: np.ndarray

    @property
    def masks(self) -> tuple[np.ndarray, np.ndarray]:
        """Of both windows."""
        return self.body_masks, self.sleeve_masks

    def of(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pictures (`MOMENTS`, H, W, 3), those of `moments`, through both windows.

        Returns:
            (`MOMENTS`, `BODY_PX`, `BODY_PX`, 3) and (`MOMENTS`, *`SLEEVE_PX`, 3), uint8 RGB.
        """
        size = (BODY_PX, BODY_PX)
        return (
            np.stack([_warp(p, m, size) for p, m in zip(pictures, self.body)]),
            np.stack([_warp(p, m, SLEEVE_PX) for p, m in zip(pictures, self.sleeve)]),
        )


class MomentSampling(Sampling):
    """The frames nearest to the moments, and the contact network's reading.

    Args:
        picture_height: See `Sampling`.
    """

    needs_contact = True

    def __init__(self, picture_height: int):
        self.picture_height = picture_height

    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        """See `Sampling.frames`."""
        return np.unique(_wanted(start, end, num_frames, fps))


def moments(request: JudgeRequest) -> tuple[np.ndarray, np.ndarray]:
    """Which picture of a request of `MomentSampling` shows each moment, and whether that lies where the moment should.

    Returns:
        (`MOMENTS`,) int, and (`MOMENTS`,) bool: False where a video begins or ends too early for one before or after
        the span.
    """
    wanted = _wanted(request.start, request.end, len(request.landmarks), request.fps)
    index = np.searchsorted(request.frames, wanted)
    before, after = wanted[: len(BEFORE_S)] < request.start, wanted[-len(AFTER_S) :] >= request.end
    return index, np.concatenate([before, np.ones(len(INSIDE), bool), after])


def hand_views(request: JudgeRequest) -> dict[str, HandView]:
    """Windows and numbers of both hands; empty where no person is known.

    Raises:
        ValueError: The request brings no reading of the contact network.
    """
    if request.contact is None:
        raise ValueError("the request brings no reading of the contact network")
    known = np.isfinite(request.landmarks).all((1, 2))
    if not known.any():
        return {}
    points = _filled(request.landmarks)
    index, in_phase = moments(request)
    frames = request.frames[index]
    torso = _torso(points)
    return {side: _view(request, side, points, torso, index, frames, in_phase) for side in SIDES}


@dataclass(frozen=True)
class _Torso:
    """Middle of the shoulders (F, 2), unit vectors to the person's left and down (F, 2), pixels of a body unit."""

    origin: np.ndarray
    across: np.ndarray
    down: np.ndarray
    unit: float


def _wanted(start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
    last = end - 1
    wanted = [start + s * fps for s in BEFORE_S]
    wanted += [start + share * (last - start) for share in INSIDE]
    wanted += [last + s * fps for s in AFTER_S]
    return np.clip(np.rint(wanted), 0, num_frames - 1).astype(int)


def _filled(values: np.ndarray) -> np.ndarray:
    """Unknown coordinates (F, ...) interpolated in time, and each steadied by its neighbours."""
    flat = values.reshape(len(values), -1).astype(float)
    at = np.arange(len(flat))
    for column in flat.T:
        known = np.isfinite(column)
        column[~known] = np.interp(at[~known], at[known], column[known])
    padded = np.pad(flat, ((1, 1), (0, 0)), mode="edge")
    return ((padded[:-2] + padded[1:-1] + padded[2:]) / 3).reshape(values.shape)


def _torso(points: np.ndarray) -> _Torso:
    shoulders, hips = points[:, _SHOULDERS].mean(1), points[:, _HIPS].mean(1)
    spine = hips - shoulders
    length = np.maximum(np.linalg.norm(spine, axis=-1), 1.0)
    wide = points[:, _SHOULDERS[0]] - points[:, _SHOULDERS[1]]
    # Who turns sideways keeps the torso's height, not the width between the shoulders.
    unit = float(np.median(np.maximum(np.linalg.norm(wide, axis=-1), length / _TORSO_PER_SHOULDERS)))
    down = spine / length[:, None]
    across = np.stack([down[:, 1], -down[:, 0]], -1)
    # Seen from behind, the person's left is on the left of the picture.
    across *= np.where((across * wide).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    return _Torso(shoulders, across, down, unit)


def _view(
    request: JudgeRequest,
    side: str,
    points: np.ndarray,
    torso: _Torso,
    index: np.ndarray,
    frames: np.ndarray,
    in_phase: np.ndarray,
) -> HandView:
    assert request.contact is not None
    away = SIDES[1 - SIDES.index(side)]
    mirror = 1.0 if side == "right" else -1.0
    elbow, wrist = points[frames][:, _POSE[away][0]], points[frames][:, _POSE[away][1]]
    forearm = wrist - elbow
    length = np.maximum(np.linalg.norm(forearm, axis=-1), 1.0)
    usual = max(float(np.median(length)), _LEAST_FOREARM * torso.unit)
    hand = points[frames][:, _POSE[side][2]].mean(1)
    seen = np.array([side in request.hands[i] for i in index])
    for k in np.flatnonzero(seen):
        hand[k] = request.hands[index[k]][side][list(_PALM)].mean(0)
    offset = hand - torso.origin[frames]
    axes = np.stack([torso.across[frames] * mirror, torso.down[frames]], 1)
    place = np.einsum("tij,tj->ti", axes, offset) / torso.unit
    inside = slice(len(BEFORE_S), len(BEFORE_S) + len(INSIDE))
    centre = place[inside].mean(0)
    along = ((hand - elbow) * forearm).sum(-1) / length**2
    off = np.linalg.norm(hand - elbow - np.clip(along, 0, 1)[:, None] * forearm, axis=-1) / torso.unit

    middle = torso.origin[frames] + torso.unit * np.einsum("i,tij->tj", centre, axes)
    right, down = -axes[:, 0] * torso.unit, axes[:, 1] * torso.unit
    body = _maps(middle, right, down, (BODY_PX, BODY_PX), BODY_PX / _BODY_UNITS, BODY_PX / 2)
    ahead = forearm / length[:, None] * usual
    beside = np.stack([-ahead[:, 1], ahead[:, 0]], -1) * mirror
    scale = SLEEVE_PX[1] / _SLEEVE_LENGTH
    sleeve = _maps(elbow, ahead, beside, SLEEVE_PX, scale, -_SLEEVE_FROM * scale)
    masks = [_masks(request, side, points[f], i, torso.unit) for f, i in zip(frames, index)]

    own, other = request.contact[side], request.contact[away]
    numbers = np.column_stack(
        [
            np.sqrt(np.column_stack([own.touching[frames], own.doing[frames], _acting(other)[frames]])),
            np.clip(np.column_stack([place, off, along]), -2, 3),
            seen,
            in_phase,
        ]
    )
    span = slice(request.start, request.end)
    doing = [np.sqrt((h.touching[span, None] * h.doing[span]).mean(0)) for h in (own, other)]
    seconds = (request.end - request.start) / request.fps
    summary = np.concatenate([*doing, centre, [usual / torso.unit, seconds]])
    return HandView(
        body,
        sleeve,
        np.stack([_warp(m, t, (BODY_PX, BODY_PX)) for m, t in zip(masks, body)]),
        np.stack([_warp(m, t, SLEEVE_PX) for m, t in zip(masks, sleeve)]),
        numbers.astype(np.float32),
        in_phase,
        summary.astype(np.float32),
    )


def _acting(hand: HandContact) -> np.ndarray:
    return hand.touching * (1 - hand.doing[:, REST])


def _maps(
    origin: np.ndarray, right: np.ndarray, down: np.ndarray, size: tuple[int, int], scale: float, at: float
) -> np.ndarray:
    """(T, 2, 3) maps; the origin lies `at` pixels from the left edge, half way down, and vectors are body units."""
    out = np.zeros((len(origin), 2, 3))
    out[:, :, 0], out[:, :, 1] = right / scale, down / scale
    out[:, :, 2] = origin - out[:, :, :2] @ np.array([at - 0.5, size[0] / 2 - 0.5])
    return out


def _masks(request: JudgeRequest, side: str, points: np.ndarray, picture: int, unit: float) -> np.ndarray:
    """(H, W, len(`MASKS`)) uint8 of one picture."""
    out = np.zeros((*request.region.shape[1:], len(MASKS)), np.uint8)
    hands, arms = np.zeros(out.shape[:2], np.uint8), np.zeros(out.shape[:2], np.uint8)
    for other in sorted(SIDES, key=lambda s: s == side):
        value = 255 if other == side else 128
        elbow, wrist = (tuple(int(v) for v in np.clip(points[j], -9999, 9999)) for j in _POSE[other][:2])
        cv2.line(arms, elbow, wrist, value, max(1, round(_ARM_WIDTH * unit)))
        if (found := request.hands[picture].get(other)) is not None:
            cv2.fillConvexPoly(hands, cv2.convexHull(found.astype(np.int32)), value)
    out[..., 0], out[..., 1], out[..., 2] = hands, arms, request.region[picture] * 255
    return out


def _warp(picture: np.ndarray, window: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture through a window of (height, width), smoothed first where the window is coarser."""
    step = float(np.hypot(*window[:, 0]))
    if step > 1.3:
        picture = cv2.GaussianBlur(picture, (0, 0), 0.35 * step)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, window, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
