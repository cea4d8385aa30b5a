"""Hand policy: the hand itself stays visible, the cloth it holds or covers is repainted.

Agnostic masks of this field protect a generous region around each hand. In interaction video that region is full of
the old garment - cloth between the fingers, a pulled hem, a zip under the thumb - and the result shows it. Here
1. only a tight silhouette of the hand is kept (palm and each finger by itself, exact in every frame, never smoothed);
2. a ring around it is repainted where garment is at least as near, so gaps between fingers over a garment are inside;
3. person pixels next to a hand, too far from its silhouette to be hand, are held cloth: inside as well, as far as a
   hand pulls it off;
4. away from the garment there is no ring: background around a lifted hand is left alone.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.masks.base import Observation, Region
from pipelines.masks.body import ARMS, Body, draw_arm, draw_hand
from pipelines.masks.settings import MasksSettings


def held_cloth(observation: Observation, region: Region, settings: MasksSettings) -> np.ndarray:
    """Rules 2 and 3: what is repainted around the hands, (height, width) uint8 at working size."""
    out = np.zeros(observation.working_size, np.uint8)
    policy = settings.hands
    body = None
    if observation.landmarks is not None:
        body = Body.of(observation.landmarks, observation.scale, settings.min_visibility)
    for hand, silhouette in zip(observation.hands, observation.silhouettes):
        length = hand.length_px * observation.scale
        window = _window(hand.keypoints * observation.scale, (policy.reach + 0.3) * length, out.shape)
        if window is None or not region.unclaimed[window].any():
            continue
        cloth = region.cloth[window].copy()
        if body is not None and hand.side in ARMS:
            # A hand is always next to its own sleeve; that alone does not mean that it touches the garment.
            sleeve = np.zeros(out.shape, np.uint8)
            draw_arm(sleeve, body, hand.side, 1, widen=1.5, upper=False)
            cloth &= 1 - sleeve[window]
        if not cloth.any():
            continue
        from_hand = _distance(silhouette[window])
        from_cloth = _distance(cloth)
        unclaimed = region.unclaimed[window] > 0
        if hand.precise:  # the fingers of a guessed hand are not in its silhouette, and must not pass for cloth
            near = (from_hand <= policy.reach * length) & (from_cloth <= policy.reach * length)
            away = unclaimed & near & (from_hand > policy.tolerance * length)
            held = _joined(away.astype(np.uint8), cloth)
            if held.any():
                out[window] |= held
                from_cloth = _distance(cloth | held)
        ring = (from_hand <= policy.ring * length) & (from_cloth <= from_hand + 1.0)
        out[window] |= (unclaimed & ring).astype(np.uint8)
    return out


def _joined(candidates: np.ndarray, cloth: np.ndarray) -> np.ndarray:
    """Those candidates that hang together with the cloth; slivers of a rough person mask do not."""
    candidates = cv2.morphologyEx(candidates, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    if not candidates.any():
        return candidates
    _, labels = cv2.connectedComponents(candidates | cloth, connectivity=8)
    return candidates & np.isin(labels, np.unique(labels[cloth > 0])).astype(np.uint8)


def keep_hands_visible(mask: np.ndarray, observation: Observation, settings: MasksSettings) -> None:
    """Rule 1: clear the hands' silhouettes in a full-size mask, in place."""
    for hand in observation.hands:
        draw_hand(mask, hand, 1.0, 0, settings.hands.silhouette_margin)


def _window(points: np.ndarray, margin: float, shape: tuple[int, ...]) -> tuple[slice, slice] | None:
    low = np.floor(points.min(0) - margin).astype(int)
    high = np.ceil(points.max(0) + margin).astype(int) + 1
    x0, y0 = max(0, low[0]), max(0, low[1])
    x1, y1 = min(shape[1], high[0]), min(shape[0], high[1])
    return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


def _distance(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5)
