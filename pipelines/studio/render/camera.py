"""The studio's camera: where it stands, and what it sees where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.perception.hands.base import Camera


@dataclass(frozen=True)
class StudioCamera:
    """A pinhole camera in the world; its optical axis meets the middle of the picture.

    Attributes:
        position: (3,) metres, world.
        rotation: (3, 3) from world axes to the camera's: x right, y down, z away.
        focal: Pixels.
        width: Pixels.
        height: Pixels.
    """

    position: np.ndarray
    rotation: np.ndarray
    focal: float
    width: int
    height: int

    @property
    def intrinsics(self) -> Camera:
        """The camera as annotators know it; pixels count from the centre of the first one."""
        return Camera(self.focal, self.focal, (self.width - 1) / 2, (self.height - 1) / 2)

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) in the camera frame, metres."""
        return (points - self.position) @ self.rotation.T

    def project(self, points: np.ndarray) -> np.ndarray:
        """World points (..., 3) to pixels (..., 2)."""
        return self.intrinsics.project(self.to_camera(points))
