"""The 1-euro filter on arrays: little jitter when still, little lag when fast (Casiez, Roussel, Vogel, CHI 2012)."""

from __future__ import annotations

import numpy as np


class OneEuroFilter:
    """Low-pass filter whose cutoff rises with speed, as in MediaPipe's `OneEuroFilter`.

    Args:
        min_cutoff: Cutoff at rest, Hz.
        beta: Cutoff gained per unit of speed.
        derivative_cutoff: Cutoff of the speed estimate, Hz.
    """

    def __init__(self, min_cutoff: float, beta: float, derivative_cutoff: float = 1.0):
        self.min_cutoff = min_cutoff
        self.beta = beta
        self.derivative_cutoff = derivative_cutoff
        self._time: float | None = None
        self._raw = self._value = self._speed = np.zeros(0)

    def __call__(self, values: np.ndarray, time_s: float, scale: float = 1.0) -> np.ndarray:
        """Filtered values, any fixed shape.

        Args:
            values: Measurement.
            time_s: When; must grow from call to call.
            scale: Multiplies the speed, to measure it in sizes of the object and not in pixels.
        """
        if self._time is None or time_s <= self._time:
            self._raw = self._value = np.asarray(values, np.float64)
            self._speed = np.zeros_like(self._value)
        else:
            step = time_s - self._time
            self._speed = _mix(self._speed, (values - self._raw) * scale / step, self.derivative_cutoff, step)
            cutoff = self.min_cutoff + self.beta * np.abs(self._speed)
            self._value = _mix(self._value, values, cutoff, step)
            self._raw = np.asarray(values, np.float64)
        self._time = time_s
        return self._value


def _mix(before: np.ndarray, now: np.ndarray, cutoff: np.ndarray | float, step: float) -> np.ndarray:
    weight = 1 / (1 + 1 / (2 * np.pi * cutoff * step))
    return weight * now + (1 - weight) * before
