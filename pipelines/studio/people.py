"""Who stands before the camera, and where the camera stands: drawn from a random generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from pipelines.studio.body.rig import Rig, Shape
from pipelines.studio.motion.timeline import Sway
from pipelines.studio.render import StudioCamera

# How far down the picture reaches, as a joint and metres below it, with how often.
_FRAMINGS = (
    ("upperleg01.L", 0.05, 0.3),
    ("upperleg01.L", 0.22, 0.35),
    ("lowerleg01.L", 0.05, 0.2),
    ("foot.L", 0.12, 0.15),
)


def sample_shape(rig: Rig, rng: np.random.Generator) -> Shape:
    """An adult's body."""
    return rig.shape(np.clip(rng.normal(0, 1, rig.num_components), -1.8, 1.8))


@dataclass(frozen=True)
class CameraPath:
    """A camera that is held, or stands on something that shakes a little.

    Attributes:
        position: (3,) metres, world.
        target: (3,) point in the middle of the picture.
        roll: Radians about the line of sight.
        focal: Pixels.
        width: Pixels.
        height: Pixels.
        shake: Motion of the line of sight, radians (yaw, pitch, roll).
    """

    position: np.ndarray
    target: np.ndarray
    roll: float
    focal: float
    width: int
    height: int
    shake: Sway

    @classmethod
    def sample(cls, rng: np.random.Generator, shape: Shape, rig: Rig, width: int, height: int) -> CameraPath:
        """A camera before the person that sees from above the head to somewhere between hips and feet."""
        weights = np.array([w for _, _, w in _FRAMINGS])
        joint, below, _ = _FRAMINGS[int(rng.choice(len(_FRAMINGS), p=weights / weights.sum()))]
        top = shape.vertices[:, 2].max() + rng.uniform(0.08, 0.22)
        bottom = shape.joints[rig.index(joint)][2] - below - rng.uniform(0, 0.06)
        tall = top - bottom
        # Arms that stand off need width, too: whichever side of the picture is tighter decides.
        tall = max(tall, 0.95 * height / width)
        # Phones and webcams see 40 to 65 degrees along the longer side.
        angle = np.radians(rng.uniform(38, 64))
        focal = max(height, width) / 2 / np.tan(angle / 2)
        distance = focal * tall / height
        azimuth, elevation = rng.normal(0, 0.12), rng.normal(0.0, 0.07)
        target = np.array([rng.normal(0, 0.04), 0.0, (top + bottom) / 2 + (top - bottom - tall) * 0.1])
        way = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
        held = rng.random() < 0.5
        shake = Sway.sample(rng, np.radians([0.5, 0.4, 0.3] if held else [0.02, 0.02, 0.01]), 3, 0.35)
        return cls(target + distance * way, target, float(rng.normal(0, 0.015)), float(focal), width, height, shake)

    def at(self, t: float) -> StudioCamera:
        """The camera at `t` seconds."""
        forward = self.target - self.position
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right = right / np.linalg.norm(right)
        look = np.stack([right, np.cross(forward, right), forward])
        yaw, pitch, roll = self.shake.at(t)
        rotation = Rotation.from_euler("yxz", [yaw, pitch, self.roll + roll]).as_matrix() @ look
        return StudioCamera(self.position, rotation, self.focal, self.width, self.height)
