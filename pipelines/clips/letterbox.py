"""Fitting frames into the model's fixed size without changing their shape, and exactly back.

The frame is scaled to touch two sides of the canvas and the rest is filled by repeating its border, so that the VAE
sees no hard edge there. The filled border is never shown and never repainted.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Letterbox:
    """Where a source frame lies on the model's canvas.

    Attributes:
        source_height: Rows of the source frame.
        source_width: Columns of the source frame.
        height: Rows of the canvas.
        width: Columns of the canvas.
        top: First canvas row of the picture.
        left: First canvas column of the picture.
        inner_height: Rows of the picture on the canvas.
        inner_width: Columns of the picture on the canvas.
    """

    source_height: int
    source_width: int
    height: int
    width: int
    top: int
    left: int
    inner_height: int
    inner_width: int

    @classmethod
    def fit(cls, source_height: int, source_width: int, height: int, width: int) -> Letterbox:
        """The largest centred placement that keeps the aspect ratio (to the rounding of one pixel)."""
        if min(source_height, source_width, height, width) < 1:
            raise ValueError(f"Cannot fit {source_width}x{source_height} into {width}x{height}")
        scale = min(height / source_height, width / source_width)
        inner_height = min(height, max(1, round(source_height * scale)))
        inner_width = min(width, max(1, round(source_width * scale)))
        return cls(
            source_height,
            source_width,
            height,
            width,
            (height - inner_height) // 2,
            (width - inner_width) // 2,
            inner_height,
            inner_width,
        )

    @property
    def scale_x(self) -> float:
        """Canvas pixels per source pixel, horizontally."""
        return self.inner_width / self.source_width

    @property
    def scale_y(self) -> float:
        """Canvas pixels per source pixel, vertically."""
        return self.inner_height / self.source_height

    def scaled(self, factor: int) -> Letterbox:
        """The same placement on a canvas `factor` times as large."""
        return Letterbox(
            self.source_height,
            self.source_width,
            *(factor * v for v in (self.height, self.width, self.top, self.left, self.inner_height, self.inner_width)),
        )

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Source pixel coordinates (..., 2) on the canvas; the centre of pixel (0, 0) is at (0, 0)."""
        scale = np.array([self.scale_x, self.scale_y])
        return (np.asarray(xy, np.float64) + 0.5) * scale - 0.5 + np.array([self.left, self.top])

    def frame(self, image: np.ndarray) -> np.ndarray:
        """Place a source frame (H, W, 3) uint8 on the canvas; the border repeats the picture's edge."""
        self._check(image)
        small = self.inner_height < self.source_height or self.inner_width < self.source_width
        inner = cv2.resize(
            image, (self.inner_width, self.inner_height), interpolation=cv2.INTER_AREA if small else cv2.INTER_CUBIC
        )
        return cv2.copyMakeBorder(inner, *self._border(), cv2.BORDER_REPLICATE)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Place a source mask (H, W) on the canvas, uint8 of 0 and 1; a pixel half covered counts, the border is 0.

        A thin region of the source that covers less than half of a canvas pixel disappears.
        """
        self._check(mask)
        coverage = cv2.resize(
            (np.asarray(mask) > 0).astype(np.float32),
            (self.inner_width, self.inner_height),
            interpolation=cv2.INTER_AREA if self.scale_x < 1 or self.scale_y < 1 else cv2.INTER_LINEAR,
        )
        return cv2.copyMakeBorder((coverage >= 0.5).astype(np.uint8), *self._border(), cv2.BORDER_CONSTANT, value=0)

    def restore(self, canvas: np.ndarray) -> np.ndarray:
        """A canvas' picture (height, width[, 3]) at the source's size; inverts `frame` up to resampling."""
        if canvas.shape[:2] != (self.height, self.width):
            raise ValueError(f"Canvas is {canvas.shape[1]}x{canvas.shape[0]}, not {self.width}x{self.height}")
        inner = canvas[self.top : self.top + self.inner_height, self.left : self.left + self.inner_width]
        small = self.inner_height < self.source_height or self.inner_width < self.source_width
        return cv2.resize(
            inner, (self.source_width, self.source_height), interpolation=cv2.INTER_CUBIC if small else cv2.INTER_AREA
        )

    def _border(self) -> tuple[int, int, int, int]:
        return (
            self.top,
            self.height - self.inner_height - self.top,
            self.left,
            self.width - self.inner_width - self.left,
        )

    def _check(self, image: np.ndarray) -> None:
        if image.shape[:2] != (self.source_height, self.source_width):
            raise ValueError(
                f"Frame is {image.shape[1]}x{image.shape[0]}, placement is for {self.source_width}x{self.source_height}"
            )
