"""Embedded backend: garment region from person mask, pose and hands, without a further network.

Every person pixel goes to the nearest body part (capsules and polygons around the landmarks); the parts of the
category make the region. It tells neither cloth from skin nor one garment from another: bare arms are repainted too,
as agnostic masks of this field do so that a target garment may have long sleeves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import cv2
import numpy as np

from pipelines.masks.base import MaskBackend, Observation, Region
from pipelines.masks.body import (
    ARMS,
    NOSE,
    Body,
    Part,
    draw_arm,
    draw_feet,
    draw_head,
    draw_legs,
    draw_neck,
    fill,
    torso_outline,
)
from pipelines.masks.settings import MasksSettings

PARTS = {
    "upper_body": (Part.TORSO, Part.ARM),
    "lower_body": (Part.LEG,),
    "dresses": (Part.TORSO, Part.ARM, Part.LEG),
}


def _wanted(category: str) -> np.ndarray:
    return np.array([p in PARTS[category] for p in range(max(Part) + 1)], np.uint8)


class GeometricBackend(MaskBackend):
    """See the module."""

    name: ClassVar[str] = "geometric"
    needs_video: ClassVar[bool] = False

    def __init__(self, settings: MasksSettings):
        self.settings = settings

    def regions(
        self,
        observations: Sequence[Observation],
        frames: Sequence[np.ndarray] | None,
        category: str,
        inference: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> list[Region]:
        """The region of each frame; `frames` and `inference` are not used."""
        return [self.region(o, category) for o in observations]

    def region(self, observation: Observation, category: str) -> Region:
        """The region of one frame."""
        shape = observation.working_size
        nothing = np.zeros(shape, np.uint8)
        person = observation.person if observation.person is not None else nothing
        if observation.landmarks is None:
            # Without a pose nobody knows where the garment ends: the whole person as last or next seen, hands apart.
            return Region(person.copy(), person.copy(), nothing, nothing.copy())
        s = self.settings
        body = Body.of(observation.landmarks, observation.scale, s.min_visibility)
        parts, covered, arms = self._draw(observation, body, category)
        labels, wide = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        radius = s.dilation * body.size
        if (box := around(person, radius + 2)) is not None:
            labels[box] = nearest_part(parts[box])
            wide[box] = within(person[box], radius)
        mine = _wanted(category)[labels] | covered
        cloth = person & mine
        garment = wide & mine
        if category != "upper_body":
            # A skirt hangs between the legs, where a mask that follows trousers has a gap.
            garment |= skirt(body, shape) & (parts != Part.FOOT)
        protect = np.zeros(shape, np.uint8)
        draw_head(protect, body, 1)
        protect &= 1 - arms
        # A hem that is pulled off hangs beside the thigh: person pixels there, outside the thigh itself, may be cloth.
        beside = (labels == Part.HAND) | ((labels == Part.LEG) & (parts == 0))
        unclaimed = person & (1 - mine) & beside
        return Region(garment & (1 - protect), cloth & (1 - protect), unclaimed, protect)

    def _draw(self, o: Observation, body: Body, category: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Part map; pixels where the garment lies below or beside a hand; arms in front of the head."""
        shape, s = o.working_size, self.settings
        parts = np.zeros(shape, np.uint8)
        hem = s.hem if category == "upper_body" else -s.hem if category == "lower_body" else 0.0
        draw_legs(parts, body, Part.LEG, hem)
        draw_feet(parts, body, Part.FOOT)
        fill(parts, torso_outline(body, hem), Part.TORSO)
        draw_neck(parts, body, Part.TORSO)
        arms = np.zeros(shape, np.uint8)
        behind = []
        for side, (_, elbow, wrist) in ARMS.items():
            front = min(body.z[elbow], body.z[wrist]) < body.z[NOSE] + 0.5 * body.size / o.scale
            if front:
                draw_arm(arms, body, side, 1, widen=0.8)
            else:
                behind.append(side)
        for side in behind:
            draw_arm(parts, body, side, Part.ARM)
        draw_head(parts, body, Part.HEAD)
        for side in ARMS:
            if side not in behind:
                draw_arm(parts, body, side, Part.ARM)
        covered = _wanted(category)[parts]
        for silhouette in o.silhouettes:
            parts[silhouette > 0] = Part.HAND
        return parts, covered, arms


def nearest_part(parts: np.ndarray) -> np.ndarray:
    """The part each pixel is nearest to, from a part map with 0 for none; same shape and type."""
    if not parts.any():
        return parts
    _, index = cv2.distanceTransformWithLabels(
        (parts == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    lookup = np.zeros(int(index.max()) + 1, np.uint8)
    inside = parts > 0
    lookup[index[inside]] = parts[inside]
    return lookup[index]


def around(mask: np.ndarray, margin: float) -> tuple[slice, slice] | None:
    """Rows and columns that hold the mask, `margin` pixels wider; None where it is empty."""
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return None
    m = int(np.ceil(margin))
    return slice(max(0, y - m), y + height + m), slice(max(0, x - m), x + width + m)


def within(mask: np.ndarray, radius: float) -> np.ndarray:
    """Pixels at most `radius` from the mask; (height, width) uint8."""
    if radius <= 0 or not mask.any():
        return mask.copy()
    return (cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5) <= radius).astype(np.uint8)


def skirt(body: Body, shape: tuple[int, int]) -> np.ndarray:
    """Hull of hips and knees, (height, width) uint8; empty where the knees are out of sight."""
    out = np.zeros(shape, np.uint8)
    if body.visible[25] and body.visible[26]:
        fill(out, body.points[[23, 24, 25, 26]], 1)
    return out
