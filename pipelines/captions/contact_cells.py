"""What the contact network is told of the picture: the cloth in a grid of cells around each hand.

A cell says how the cloth in it moves, from points tracked one by one, and how its colour differs from what it was
before: a zip that opens shows what is beneath, and a hem that lifts takes the cloth away. Both are measured against
the torso, whose own motion and change of light are taken off. Nothing here keeps more than one picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.captions.features import ELBOW, LEFT_HIP, LEFT_SHOULDER, PALM, RIGHT_HIP, RIGHT_SHOULDER, WRIST

CELLS = 9
"""Cells in a row and in a column."""
SPACING = 0.125
"""Body units between cells, so that the grid reaches half a shoulder width from the middle of the hand."""
CHANNELS = ("flow_x", "flow_y", "tracked", "along", "limb", "garment", "change_slow", "change_now")
"""What a cell says: motion of the cloth in body units a second; whether it could be tracked; the share of the hand's
motion that it goes along with; whether a hand or forearm hides it; whether it is garment; how far its colour is from
its running mean, and from the sample before (CIELAB distance, 1 = black to white)."""
UNIT_PX = 72
"""Pixels of one body unit in the pictures that are looked at."""

_WINDOW, _LEVELS = 9, 2
_MAX_FLOW = 6.0
# Slower hands move less than tracking can tell from noise.
_MOVING = 0.25
_FAR = 0.45
_MEMORY_S = 1.5
_LIMB_MARGIN = 0.05
# The torso's map of colours: cells a body unit, and what it covers, body units from the middle of the shoulders.
_MAP_SCALE = 16
_MAP_LEFT, _MAP_TOP, _MAP_WIDTH, _MAP_HEIGHT = -1.25, -0.6, 2.5, 3.0
_TORSO_CELLS = np.zeros((round(_MAP_HEIGHT * _MAP_SCALE), round(_MAP_WIDTH * _MAP_SCALE)), bool)
_TORSO_CELLS[round(-_MAP_TOP * _MAP_SCALE) :, round((-_MAP_LEFT - 0.5) * _MAP_SCALE) :][:26, :_MAP_SCALE] = True
_SIDES = ("left", "right")


@dataclass(frozen=True)
class Look:
    """One picture and what is in it, at a size where a body unit is about `UNIT_PX` pixels.

    Attributes:
        rgb: Shape (height, width, 3), uint8.
        time_s: When.
        landmarks: Shape (33, 2), pixels of `rgb`.
        hands: Side -> keypoints of shape (21, 2), pixels of `rgb`; hands that are known.
        origin: Shape (2,), middle of the shoulders, pixels.
        across: Shape (2,), unit vector to the person's left.
        down: Shape (2,), unit vector to the hips.
        unit: Pixels of one body unit.
        garment: Mask of the garment's region and the factor from pixels of `rgb` to its own; None where not known.
    """

    rgb: np.ndarray
    time_s: float
    landmarks: np.ndarray
    hands: Mapping[str, np.ndarray]
    origin: np.ndarray
    across: np.ndarray
    down: np.ndarray
    unit: float
    garment: tuple[np.ndarray, float] | None = None

    @property
    def axes(self) -> np.ndarray:
        """Shape (2, 2), rows across and down, pixels a body unit."""
        return np.stack([self.across, self.down]) * self.unit


class _Seen:
    """What is derived from one picture and used twice."""

    def __init__(self, look: Look):
        self.look = look
        self.grey = cv2.cvtColor(look.rgb, cv2.COLOR_RGB2GRAY)
        self.shape = self.grey.shape
        self.limbs = limb_mask(look, self.shape)
        self.to_map = _map_matrix(look)
        size = (round(_MAP_WIDTH * _MAP_SCALE), round(_MAP_HEIGHT * _MAP_SCALE))
        # A cell of the map is the mean of the pixels in it; a finer map would show nothing but jitter of the pose.
        width = 2 * max(1, round(0.5 * look.unit / _MAP_SCALE)) + 1
        soft = cv2.blur(look.rgb, (width, width))
        colours = cv2.warpAffine(soft, self.to_map, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        lab = cv2.cvtColor(colours.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) / 100
        self.colours = lab
        hidden = cv2.warpAffine(self.limbs, self.to_map, size, flags=cv2.INTER_NEAREST, borderValue=1)
        self.open = hidden == 0


class CellSampler:
    """Looks at pictures in order of time and says what the cloth around each hand does."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew: after a cut, or when pictures were left out."""
        self._before: _Seen | None = None
        self._mean: np.ndarray = np.zeros((0, 0, 3), np.float32)
        self._weight: np.ndarray = np.zeros((0, 0), np.float32)

    def step(self, look: Look, sides: Sequence[str]) -> dict[str, np.ndarray]:
        """Cells around hands in the next picture.

        Args:
            look: The picture.
            sides: Which hands; those that are not known are left out.

        Returns:
            Side -> shape (len(`CHANNELS`), `CELLS`, `CELLS`), float32: rows downwards, columns from the outside to the
            inside of a right hand; a left hand is mirrored.
        """
        seen, before = _Seen(look), self._before
        asked = [s for s in sides if s in look.hands]
        if before is not None and before.shape != seen.shape:
            raise ValueError(f"pictures change from {before.shape} to {seen.shape} pixels")
        slow, now = self._changes(seen)
        out = {side: self._cells(side, seen, slow, now) for side in asked}
        if before is not None and look.time_s > before.look.time_s:
            self._track(before, seen, out)
        self._before = seen
        return out

    def _changes(self, seen: _Seen) -> tuple[np.ndarray, np.ndarray]:
        """How far each cell of the torso's map is from its running mean, and from the picture before."""
        before = self._before
        if before is None:
            self._mean, self._weight = seen.colours.copy(), seen.open.astype(np.float32)
            return np.zeros_like(self._weight), np.zeros_like(self._weight)
        known = seen.open & (self._weight > 0)
        slow = _beyond_the_rest(seen.colours - self._mean, known)
        now = _beyond_the_rest(seen.colours - before.colours, seen.open & before.open)
        # The mean is over what was visible: cloth that was hidden keeps the look it had before.
        step = max(seen.look.time_s - before.look.time_s, 0.0) / _MEMORY_S
        rate = np.where(known, 1 - np.exp(-step), 1.0)[..., None]
        visible = seen.open[..., None]
        self._mean = np.where(visible, self._mean + rate * (seen.colours - self._mean), self._mean)
        self._weight = np.maximum(self._weight, seen.open)
        return slow, now

    def _cells(self, side: str, seen: _Seen, slow: np.ndarray, now: np.ndarray) -> np.ndarray:
        look = seen.look
        points = cell_points(look, side)
        cells = np.zeros((len(CHANNELS), CELLS * CELLS), np.float32)
        cells[4] = _read(seen.limbs, points, outside=1)
        if look.garment is not None:
            mask, factor = look.garment
            cells[5] = _read(mask, points * factor, outside=0)
        on_map = points @ seen.to_map[:, :2].T + seen.to_map[:, 2]
        cells[6], cells[7] = _read(slow, on_map, outside=0), _read(now, on_map, outside=0)
        return cells.reshape(len(CHANNELS), CELLS, CELLS)

    def _track(self, before: _Seen, seen: _Seen, out: dict[str, np.ndarray]) -> None:
        """Fill in the motion channels."""
        first, second = before.look, seen.look
        sides = [s for s in out if s in first.hands]
        if not sides:
            return
        grids = [cell_points(first, s) for s in sides]
        torso = _torso_points(first)
        start = np.concatenate([*grids, torso]).astype(np.float32)
        open_ = (_read(before.limbs, start, outside=1) == 0) & (_read(seen.limbs, start, outside=1) == 0)
        flow = np.zeros_like(start)
        tracked = np.zeros(len(start), bool)
        if open_.any():
            flow[open_], tracked[open_] = _tracks(before, seen, start[open_])
        flow[~tracked] = 0
        count = CELLS * CELLS
        steady = tracked.copy()
        steady[: count * len(sides)] = False
        for s in sides:
            away = np.linalg.norm(start - first.hands[s].mean(0), axis=1)
            steady &= away > _FAR * first.unit
        own = np.median(flow[steady], 0) if steady.sum() >= 6 else second.origin - first.origin
        rate = 1 / (first.unit * (second.time_s - first.time_s))
        for i, side in enumerate(sides):
            part = slice(i * count, (i + 1) * count)
            mirror = np.array([-1.0 if side == "left" else 1.0, 1.0])
            turn = np.stack([first.across, first.down]).T
            moved = ((flow[part] - own) * rate) @ turn * mirror
            hand = (second.hands[side] - first.hands[side])[list(PALM)].mean(0)
            goes = ((hand - own) * rate) @ turn * mirror
            speed = float(np.linalg.norm(goes))
            valid = tracked[part]
            moved[~valid] = 0
            cells = out[side].reshape(len(CHANNELS), count)
            cells[:2] = np.clip(moved, -_MAX_FLOW, _MAX_FLOW).T
            cells[2] = valid
            if speed > _MOVING:
                cells[3] = np.clip(moved @ goes / speed**2, -1.0, 1.5)


def cell_points(look: Look, side: str) -> np.ndarray:
    """Shape (`CELLS` * `CELLS`, 2), pixels: the cells around the middle of a hand, row by row."""
    ticks = (np.arange(CELLS) - CELLS // 2) * SPACING
    y, x = np.meshgrid(ticks, ticks if side == "right" else -ticks, indexing="ij")
    return look.hands[side].mean(0) + np.stack([x.ravel(), y.ravel()], -1) @ look.axes


def limb_mask(look: Look, shape: tuple[int, ...]) -> np.ndarray:
    """Shape (height, width), uint8: 1 where hands and forearms are, with a margin."""
    mask = np.zeros(shape[:2], np.uint8)
    for keypoints in look.hands.values():
        cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(keypoints).astype(np.int32)), 1)
    for side in _SIDES:
        a, b = look.landmarks[[ELBOW[side], WRIST[side]]]
        if np.isfinite([a, b]).all():
            ends = [tuple(int(v) for v in np.clip(np.rint(p), -10_000, 10_000)) for p in (a, b)]
            cv2.line(mask, ends[0], ends[1], 1, max(1, round(0.26 * look.unit)))
    margin = 2 * max(1, round(_LIMB_MARGIN * look.unit)) + 1
    return cv2.dilate(mask, np.ones((margin, margin), np.uint8))


def _torso_points(look: Look) -> np.ndarray:
    """Shape (48, 2), points spread over the torso."""
    left, right, right_hip, left_hip = look.landmarks[[LEFT_SHOULDER, RIGHT_SHOULDER, RIGHT_HIP, LEFT_HIP]]
    a, b = np.meshgrid(np.linspace(0.1, 0.9, 6), np.linspace(0.08, 0.95, 8))
    a, b = a.reshape(-1, 1), b.reshape(-1, 1)
    return (1 - b) * ((1 - a) * left + a * right) + b * ((1 - a) * left_hip + a * right_hip)


def _tracks(before: _Seen, seen: _Seen, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Motion (points, 2) in pixels and whether it can be trusted, by tracking forwards and backwards."""
    points = start.reshape(-1, 1, 2)

    def follow(a: np.ndarray, b: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved, ok, _ = cv2.calcOpticalFlowPyrLK(
            a, b, places, places.copy(), winSize=(_WINDOW, _WINDOW), maxLevel=_LEVELS, minEigThreshold=1e-3
        )
        return np.asarray(moved), np.asarray(ok)

    moved, ok = follow(before.grey, seen.grey, points)
    back, ok_back = follow(seen.grey, before.grey, moved)
    error = np.linalg.norm(back - points, axis=-1)[:, 0]
    return (moved - points)[:, 0], (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (error < 0.5)


def _beyond_the_rest(difference: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Length of a colour difference (h, w, 3) without what all known cells share; 0 where not known."""
    if not known.any():
        return np.zeros(known.shape, np.float32)
    # Light that changes, changes everywhere; a change of the cloth is local. Cells off the torso show what is behind.
    torso = known & _TORSO_CELLS
    shared = np.median(difference[torso if torso.any() else known], axis=0)
    return np.where(known, np.linalg.norm(difference - shared, axis=-1), 0).astype(np.float32)


def _map_matrix(look: Look) -> np.ndarray:
    """Shape (2, 3): from pixels of the picture to cells of the torso's map."""
    turn = np.stack([look.across, look.down]) * (_MAP_SCALE / look.unit)
    corner = np.array([-_MAP_LEFT, -_MAP_TOP]) * _MAP_SCALE
    return np.concatenate([turn, (corner - turn @ look.origin)[:, None]], 1)


def _read(values: np.ndarray, points: np.ndarray, outside: float) -> np.ndarray:
    """Values (height, width) at the nearest pixels of points (n, 2)."""
    x, y = np.floor(points + 0.5).astype(int).T
    inside = (x >= 0) & (x < values.shape[1]) & (y >= 0) & (y < values.shape[0])
    out = np.full(len(points), outside, np.float32)
    out[inside] = values[y[inside], x[inside]]
    return out
