"""Smooth curves over time: minimum-jerk moves, and noise as slow as a person's sway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def minimum_jerk(x: float) -> float:
    """The smoothest move from 0 to 1 while `x` goes from 0 to 1; constant outside (Flash and Hogan, 1985)."""
    x = min(max(x, 0.0), 1.0)
    return x * x * x * (10 + x * (-15 + 6 * x))


def between(t: float, start: float, end: float) -> float:
    """Minimum-jerk progress of `t` from `start` to `end`."""
    return minimum_jerk((t - start) / max(end - start, 1e-9))


@dataclass(frozen=True)
class Sway:
    """A few slow sine waves: smooth, never repeating within a clip.

    Attributes:
        amplitude: (waves, n).
        frequency: (waves,) hertz.
        phase: (waves, n) radians.
    """

    amplitude: np.ndarray
    frequency: np.ndarray
    phase: np.ndarray

    @classmethod
    def sample(cls, rng: np.random.Generator, scale: np.ndarray | float, size: int, slowest: float = 0.15) -> Sway:
        """Noise of `size` values with standard deviations `scale`, most of it slower than a second."""
        frequency = slowest * np.array([1.0, 2.3, 4.1]) * rng.uniform(0.8, 1.25, 3)
        share = np.sqrt([0.6, 0.3, 0.1])
        amplitude = share[:, None] * np.sqrt(2) * np.broadcast_to(scale, size) * rng.uniform(0.6, 1.4, (3, size))
        return cls(amplitude, frequency, rng.uniform(0, 2 * np.pi, (3, size)))

    def at(self, t: float) -> np.ndarray:
        """(n,) values at `t` seconds."""
        return (self.amplitude * np.sin(2 * np.pi * self.frequency[:, None] * t + self.phase)).sum(0)


@dataclass(frozen=True)
class Phases:
    """When a hand sets out, arrives, leaves and is back, in seconds."""

    set_out: float
    arrive: float
    leave: float
    back: float

    def reach(self, t: float) -> float:
        """How far the hand is on its way: 0 at rest, 1 at its place."""
        return between(t, self.set_out, self.arrive) - between(t, self.leave, self.back)

    def at_place(self, t: float) -> bool:
        """Whether the hand is at its place."""
        return self.arrive <= t < self.leave

    def progress(self, t: float) -> float:
        """0 when the hand arrives, 1 when it leaves; constant outside."""
        return min(max((t - self.arrive) / max(self.leave - self.arrive, 1e-9), 0.0), 1.0)
