"""What a mask backend gets and gives. Smoothing, hands and encoding are shared and live outside of the backends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from pipelines.masks.body import HandOutline, draw_hand


@dataclass(frozen=True)
class Observation:
    """What is known of one frame before its mask is made.

    Attributes:
        frame: Frame number.
        landmarks: Shape (33, 4): x_px, y_px, z, visibility; None where no pose can be had.
        person: (height, width) uint8 person mask at working size; None where there is none.
        size: Full frame (height, width).
        scale: Working pixels for one frame pixel.
        hands: Hands of the frame.
        shot: Number of the shot that the frame belongs to.
    """

    frame: int
    landmarks: np.ndarray | None
    person: np.ndarray | None
    size: tuple[int, int]
    scale: float
    hands: tuple[HandOutline, ...] = ()
    shot: int = 0

    @property
    def working_size(self) -> tuple[int, int]:
        """(height, width) of the arrays of a `Region`."""
        return working_size(self.size, self.scale)

    @cached_property
    def silhouettes(self) -> tuple[np.ndarray, ...]:
        """Each hand's silhouette, (height, width) uint8 at working size."""
        out = tuple(np.zeros(self.working_size, np.uint8) for _ in self.hands)
        for canvas, hand in zip(out, self.hands):
            draw_hand(canvas, hand, self.scale, 1)
        return out


@dataclass
class Region:
    """What a backend found in one frame; (height, width) uint8 of 0 and 1 at working size.

    Attributes:
        garment: To repaint, with room for loose cloth.
        cloth: Where the worn garment surely is; never dropped by smoothing in time.
        unclaimed: Person pixels next to a hand that may be hand or held cloth.
        protect: Never repainted: face, hair and whatever the category keeps.
    """

    garment: np.ndarray
    cloth: np.ndarray
    unclaimed: np.ndarray
    protect: np.ndarray


class MaskBackend(ABC):
    """Finds the garment region of a frame."""

    name: ClassVar[str]
    """Value of the column `source`."""
    needs_video: ClassVar[bool]
    """Whether `regions` wants the decoded frames."""

    def weights(self) -> Mapping[str, str]:
        """Name -> identity of the weights the result depends on."""
        return {}

    def setup(self, threads: int) -> None:  # noqa: B027 - a backend without a network has nothing to load
        """Load models, once in each worker."""

    @abstractmethod
    def regions(
        self,
        observations: Sequence[Observation],
        frames: Sequence[np.ndarray] | None,
        category: str,
        inference: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[Region]:
        """The region of each frame.

        Args:
            observations: A few consecutive frames.
            frames: Their RGB pictures, (height, width, 3) uint8, when `needs_video`.
            category: upper_body, lower_body or dresses.
            inference: Context in which a network runs, for the accounting of its time.
        """


def working_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(height, width) at working scale, at least one pixel each."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
