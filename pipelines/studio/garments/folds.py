"""Folds and wrinkles: waves along the cloth with seeded places and directions, that drift slowly and follow the pose.

A wave is a pair of fixed fields over the vertices (cosine and sine); its height and phase in a frame are two numbers,
so all folds of a frame cost one small matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.studio.body.rig import Posed, Rig
from pipelines.studio.garments.cut import Cloth
from pipelines.studio.garments.mannequin import SIDES, Mannequin
from pipelines.studio.garments.spec import GarmentSpec


@dataclass(frozen=True)
class Folds:
    """Folds of one garment.

    Attributes:
        fields: (N, 2 W) float32 metres, cosine and sine of each wave.
        phase: (W,) where each starts, radians.
        rate: (W,) radians a second.
        bend: (W,) joints whose bending makes a wave higher, -1 for none.
        depth_m: How far they may go inwards, metres.
    """

    fields: np.ndarray
    phase: np.ndarray
    rate: np.ndarray
    bend: np.ndarray
    depth_m: float

    def height(self, rig: Rig, posed: Posed, time_s: float) -> np.ndarray:
        """(N,) metres outwards."""
        turned = np.einsum("jab,jab->j", posed.rotations[rig.parents[self.bend]], posed.rotations[self.bend])
        # The trace of a rotation by an angle is 1 + 2 cos of it.
        bent = np.arccos(np.clip((turned - 1) / 2, -1, 1))
        strength = np.where(self.bend >= 0, 0.35 + 0.9 * np.minimum(bent, 1.4), 1.0)
        trunk = posed.rotations[rig.index("spine02")]
        lean = 1.5 * (trunk[0, 2] + trunk[1, 2])
        angle = self.phase + self.rate * time_s + lean
        pairs = np.stack([strength * np.cos(angle), strength * np.sin(angle)], -1).ravel().astype(np.float32)
        return self.fields @ pairs


def make_folds(m: Mannequin, spec: GarmentSpec, cloth: Cloth) -> Folds:
    """Draw the folds of a garment."""
    rng = np.random.default_rng([spec.seed, 7])
    v, arm = cloth.vertices, cloth.arm
    z = v[:, 2]
    angle = np.arctan2(v[:, 0], -(v[:, 1] - m.hull.centre(z)))
    hem = z[cloth.torso[-1]].min()
    top = z[cloth.torso[0]].max()
    down = np.clip((top - z) / (top - hem), 0, 1)
    # Neighbouring waves are bent alike, so that folds meander and do not cross.
    warp = 0.9 * np.sin(3.1 * angle + rng.uniform(0, 6)) * np.sin(9 * z + rng.uniform(0, 6)) + 0.7 * np.sin(
        17 * z + 2 * angle + rng.uniform(0, 6)
    )
    torso = arm == 0
    # Where the waves' own height depends on the cloth, a dress's skirt does not set that of its bodice.
    crease_m = min(spec.fold_m, 0.0055)
    waves: list[tuple[np.ndarray, np.ndarray, float, int]] = []
    loose = np.clip(spec.ease_m / 0.016, 0.5, 1.6)
    for count in rng.choice([5, 6, 7, 8, 9, 11, 13], 4, replace=False):
        envelope = torso * down ** (1.3 if spec.kind == "dress" else 1.7) * spec.fold_m * loose * rng.uniform(0.5, 1.0)
        if spec.kind == "dress":
            count = int(count) + 3
        waves.append((envelope, count * angle + rng.uniform(-4, 4) * z + warp, 0.12, -1))
    # Slanting creases at the waist and below the armpits.
    for _ in range(5):
        side = rng.choice([-1.0, 1.0])
        at = np.array(
            [side * rng.uniform(0.05, 0.16), rng.choice([-0.1, 0.06]), rng.uniform(m.waist_z - 0.02, m.armpit_z - 0.05)]
        )
        window = np.exp(-((np.abs(v - at) / np.array([0.13, 0.12, 0.09])) ** 2).sum(1))
        slope = side * rng.uniform(-0.9, 0.9)
        k = 2 * np.pi / rng.uniform(0.08, 0.14)
        waves.append((torso * window * 1.1 * crease_m, k * (z + slope * v[:, 0]) + 0.6 * warp, 0.18, -1))
    for side in SIDES:
        sign, end = (1.0, ".L") if side == "left" else (-1.0, ".R")
        joint = m.rig.index(f"upperarm01{end}")
        pit = np.array([sign * 0.15, -0.07, m.armpit_z + 0.03])
        window = np.exp(-(((v - pit) / np.array([0.07, 0.06, 0.07])) ** 2).sum(1))
        k = 2 * np.pi / rng.uniform(0.05, 0.075)
        waves.append((window * crease_m, k * (0.8 * sign * v[:, 0] + 0.6 * z) + warp, 0.1, joint))
        if side not in cloth.sleeves:
            continue
        mine = arm == sign
        s, around = _on_arm(m, side, v)
        long = m.arms[side].length
        wobble = 0.9 * np.sin(2 * around + rng.uniform(0, 6)) + 0.8 * np.sin(23 * s + around + rng.uniform(0, 6))
        elbow = np.linalg.norm(m.joint(f"lowerarm01{end}") - m.joint(f"upperarm01{end}"))
        edge = cloth.sleeve_s[side].max()
        ends = np.clip((edge - s) / 0.03, 0, 1) if spec.sleeve > 0.7 else 1.0
        for centre, wide, high in ((elbow, 0.085, 1.1), (0.5 * elbow, 0.09, 0.55), (0.5 * (elbow + long), 0.09, 0.6)):
            window = np.exp(-(((s - centre) / wide) ** 2)) * (0.6 + 0.4 * np.cos(around - rng.uniform(-2, 2)))
            k = 2 * np.pi / rng.uniform(0.05, 0.085)
            slant = rng.uniform(0.5, 1.4) * rng.choice([-1, 1])
            bend = m.rig.index(f"lowerarm01{end}") if high > 1 else -1
            waves.append((mine * window * ends * high * crease_m, k * s + slant * around + wobble, 0.15, bend))
    fields = np.stack(
        [f for a, angle, _, _ in waves for f in (a * _creased(np.cos, angle), a * _creased(np.sin, angle))], -1
    )
    rate = np.array([r for _, _, r, _ in waves]) * rng.uniform(-1, 1, len(waves))
    return Folds(
        fields.astype(np.float32),
        rng.uniform(0, 2 * np.pi, len(waves)),
        rate,
        np.array([b for *_, b in waves]),
        0.3 * spec.ease_m,
    )


def _creased(wave, angle: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Cloth has sharper ridges than valleys."""
    return wave(angle) + 0.25 * wave(2 * angle)


def _on_arm(m: Mannequin, side: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metres along an arm and angle around it."""
    arm = m.arms[side]
    nearest = ((points[:, None] - arm.centre[::3]) ** 2).sum(-1).argmin(1) * 3
    local = np.einsum("nx,nyx->ny", points - arm.centre[nearest], arm.frame[nearest])
    return arm.s[nearest] - local[:, 2], np.arctan2(local[:, 0], -local[:, 1])
