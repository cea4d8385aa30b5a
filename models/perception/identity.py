"""Whether somebody seen in a frame is the person followed so far: by place, size and the colours on the torso."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

LEFT_SHOULDER, RIGHT_SHOULDER, LEFT_HIP, RIGHT_HIP = 11, 12, 23, 24
TORSO = (LEFT_SHOULDER, RIGHT_SHOULDER, RIGHT_HIP, LEFT_HIP)
"""Landmarks around the torso, in order."""

_NOISE = 0.1  # of the person's size: what landmarks move by themselves
_FAR = 0.65  # of the person's size
_FORGET_S = 1.0
_RENEWAL = 0.05


@dataclass(frozen=True)
class IdentityLimits:
    """How much the same person may change.

    Attributes:
        max_speed: Fastest change of place of the torso, in person sizes (side of the region) a second.
        min_likeness: Overlap of the torso's colours with those remembered, 0 to 1; below it the region has slid onto
            somebody else. In the clips tried one person stays above 0.73, also with arms crossing.
        min_likeness_found: The same for somebody found anew after a loss; a stranger in the clips tried has 0.4 to 0.5.
    """

    max_speed: float = 2.0
    min_likeness: float = 0.5
    min_likeness_found: float = 0.7


class Identity:
    """What is known of the followed person.

    Args:
        limits: How much the same person may change.
    """

    def __init__(self, limits: IdentityLimits):
        self._limits = limits
        self._centre = np.zeros(2)
        self._size = 0.0
        self._colours: np.ndarray | None = None
        self._time: float | None = None

    def accepts(
        self, centre: np.ndarray, size: float, colours: np.ndarray | None, time_s: float, sure: bool = True
    ) -> bool:
        """Whether this can be the same person; anybody can as long as nobody is known.

        Args:
            centre: (2,) torso, pixels.
            size: Size of the person, pixels.
            colours: Of the torso, see `torso_colours`; place and size must do where None.
            time_s: When.
            sure: Whether the person was followed up to here, and not found anew.
        """
        if self._time is None:
            return True
        gap = max(time_s - self._time, 1e-3)
        moved = float(np.hypot(*(centre - self._centre))) / self._size
        grown = abs(np.log(max(size, 1.0) / self._size))
        likeness = None
        if colours is not None and self._colours is not None:
            likeness = float(np.minimum(colours, self._colours).sum())
        reach = _NOISE + min(self._limits.max_speed * gap, _FAR)
        if likeness is not None and gap > _FORGET_S:
            reach = np.inf  # who left the picture may come back anywhere
        if moved > reach or grown > 4 * reach:
            return False
        return likeness is None or likeness >= (self._limits.min_likeness if sure else self._limits.min_likeness_found)

    def distance(self, centre: np.ndarray) -> float:
        """Pixels from where the person was last; 0 as long as nobody is known."""
        return 0.0 if self._time is None else float(np.hypot(*(centre - self._centre)))

    def remember(self, centre: np.ndarray, size: float, colours: np.ndarray | None, time_s: float) -> None:
        """Take this as the person's latest state."""
        if colours is not None:
            # Light changes slowly, and so does an opening jacket.
            known = self._colours
            self._colours = colours if known is None else (1 - _RENEWAL) * known + _RENEWAL * colours
        self._centre, self._size, self._time = centre, max(size, 1.0), time_s


def torso_colours(rgb: np.ndarray, points: np.ndarray, grid: int = 14) -> np.ndarray | None:
    """Colour histogram of the torso, summing to 1: eight bins each of luma, Cr and Cb.

    Args:
        rgb: (H, W, 3) uint8.
        points: (33, 2 or more) landmarks, pixels.
        grid: Samples along each side of the torso.

    Returns:
        (24,) or None if hardly anything of the torso is in the frame.
    """
    u, v = np.meshgrid(np.linspace(0.15, 0.85, grid), np.linspace(0.05, 0.9, grid))
    a, b, c, d = (points[i, :2] for i in TORSO)
    u, v = u[..., None], v[..., None]
    spots = np.rint((1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)).astype(int).reshape(-1, 2)
    height, width = rgb.shape[:2]
    spots = spots[((spots >= 0) & (spots < (width, height))).all(-1)]
    if len(spots) < grid * grid / 5:
        return None
    samples = cv2.cvtColor(rgb[spots[:, 1], spots[:, 0]][None], cv2.COLOR_RGB2YCrCb)[0].astype(np.float64)
    # The chroma of real cloth lies close to neutral, 128: its bins span 48 to both sides. Linear sharing between
    # neighbouring bins keeps a small change of light from moving everything at once.
    position = np.clip((samples - (0, 80, 80)) / (255, 96, 96), 0, 1) * 7
    low = np.minimum(position.astype(int), 6)
    share = position - low
    bins = np.concatenate([low, low + 1]) + np.array([0, 8, 16])
    histogram = np.bincount(bins.ravel(), np.concatenate([1 - share, share]).ravel(), 24)
    return histogram / histogram.sum()
