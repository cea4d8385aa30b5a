"""Where one shot ends and the next begins.

PySceneDetect would be the library for this, but it depends on `opencv-python`, whose files would overwrite those of the
`opencv-contrib-python` that MediaPipe needs. What is used here of the same family of methods: the colour histogram,
which does not move with the person, must jump, and the picture must change several times more than in the frames
around it, which a fast hand or a turning camera does all along. Where the picture changes much more than around it,
half the jump is enough: the same person before the same wall after a jump cut.
"""

from __future__ import annotations

import cv2
import numpy as np

_SIDE = 48
_REACH = 4
_BINS = (8, 8, 8)
# Luma says most; hue and saturation tell shots of equal brightness apart.
_RANGES = [0, 180, 0, 256, 0, 256]
# In the dark, noise alone turns hues about; a new shot changes the picture too (mean over pixels, 0 to 1).
_LEAST_CHANGE = 0.012


class CutDetector:
    """Collects what changes from frame to frame of one video, in memory of a few numbers a frame."""

    def __init__(self) -> None:
        self._thumbs: list[np.ndarray] = []
        self._histograms: list[np.ndarray] = []
        self._jump: list[float] = []
        self._change: list[float] = []
        self._jump_over: list[float] = []

    def add(self, rgb: np.ndarray) -> None:
        """Take the next frame; shape (height, width, 3), uint8, RGB."""
        thumb = cv2.resize(rgb, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        hsv = cv2.cvtColor(thumb, cv2.COLOR_RGB2HSV)
        histogram = cv2.calcHist([hsv], [0, 1, 2], None, list(_BINS), _RANGES) / (_SIDE * _SIDE)
        # Neighbouring bins are blurred together: noise at a bin's edge is no change of colour.
        histogram = np.asarray(cv2.GaussianBlur(histogram.reshape(-1, _BINS[2]), (3, 1), 0), float).reshape(_BINS)
        thumb = thumb.astype(np.int16)
        if self._thumbs:
            self._jump.append(_variation(histogram, self._histograms[-1]))
            self._change.append(float(np.abs(thumb - self._thumbs[-1]).mean() / 255))
            # What the change would be with the frame before left out: small where that one was a flash.
            self._jump_over.append(_variation(histogram, self._histograms[0]) if len(self._thumbs) == 2 else 1.0)
        self._thumbs = [*self._thumbs[-1:], thumb]
        self._histograms = [*self._histograms[-1:], histogram]

    def cuts(self, threshold: float, ratio: float) -> list[int]:
        """First frame of every shot but the first.

        Args:
            threshold: Least total variation distance of the colour histograms, 0 to 1.
            ratio: Least ratio of the picture's change to the mean change in the frames around.
        """
        change = np.asarray(self._change)
        found: list[int] = []
        after_flash = -1
        for i, jump in enumerate(self._jump):
            frame = i + 1
            if jump < threshold / 2 or change[i] < _LEAST_CHANGE or frame == after_flash:
                continue
            if i + 1 < len(self._jump_over) and self._jump_over[i + 1] < 0.5 * jump:
                after_flash = frame + 1
                continue
            around = np.concatenate([change[max(0, i - _REACH) : i], change[i + 1 : i + 1 + _REACH]])
            least = ratio if jump >= threshold else 2 * ratio
            if not len(around) or change[i] >= least * max(float(around.mean()), 1e-3):
                found.append(frame)
        return found


def _variation(a: np.ndarray, b: np.ndarray) -> float:
    return 0.5 * float(np.abs(a - b).sum())
