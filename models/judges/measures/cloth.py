"""Change of the cloth next to a hand.

Pictures are laid over each other by shoulders and hips, hands are cut out, and the colour of the cloth next to the
hand's path is compared with what it was before the hand came. From that the change of the cloth away from the hand is
taken, which is lighting, breathing and flicker of the generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from models.judges.base import JudgeRequest

_HAND_LENGTH = (0, 12)
"""Wrist and tip of the middle finger."""


@dataclass(frozen=True)
class ClothChange:
    """Change of the cloth against its look before the interaction.

    Attributes:
        profile: Shape (T,), mean change next to the hand's path minus that of the cloth elsewhere; NaN where too
            little cloth is visible.
        change_map: Shape (h, w), mean change from the span on, blurred, 0 off the hand's path.
    """

    profile: np.ndarray
    change_map: np.ndarray

    def amplitude(self, later: np.ndarray) -> float:
        """Upper quartile of the profile over the pictures from the span's start on; NaN where nothing is known."""
        values = self.profile[later]
        values = values[np.isfinite(values)]
        return float(np.quantile(values, 0.75)) if len(values) else float("nan")


def cloth_change(
    pictures: np.ndarray, cloth: np.ndarray, near: np.ndarray, before: np.ndarray, later: np.ndarray, min_px: int
) -> ClothChange:
    """Measures how the cloth changes next to the hand's path.

    Args:
        pictures: Shape (T, h, w, 3), uint8 RGB, laid over each other.
        cloth: Shape (T, h, w), bool, visible cloth.
        near: Shape (h, w), bool, next to the hand's path.
        before: Shape (T,), bool, pictures that show the cloth before the interaction.
        later: Shape (T,), bool, pictures from the span's start on.
        min_px: Fewest cloth pixels of a picture next to the path.
    """
    lab = np.stack([cv2.cvtColor(p.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for p in pictures]) / 100
    lab = np.stack([cv2.GaussianBlur(p, (0, 0), 1.5) for p in lab])
    known = cloth[before]
    weight = known.sum(0)
    base = np.where(known[..., None], lab[before], 0).sum(0) / np.maximum(weight, 1)[..., None]
    profile = np.full(len(pictures), np.nan)
    total, seen = np.zeros(near.shape), np.zeros(near.shape)
    for t, picture in enumerate(lab):
        visible = cloth[t] & (weight > 0)
        delta = np.abs(picture - base).mean(-1)
        close, away = visible & near, visible & ~near
        if close.sum() < min_px:
            continue
        elsewhere = float(delta[away].mean()) if away.sum() >= min_px else 0.0
        profile[t] = float(delta[close].mean()) - elsewhere
        if later[t]:
            total += np.where(close, np.maximum(delta - elsewhere, 0), 0)
            seen += close
    change_map = total / np.maximum(seen, 1)
    return ClothChange(profile, cv2.GaussianBlur(change_map, (0, 0), max(1.0, near.shape[0] / 48)))


def agreement(result: ClothChange, source: ClothChange) -> tuple[float, float, float]:
    """How alike two videos' cloth changes: geometric mean, correlation in time (not below 0), cosine in place."""
    both = np.isfinite(result.profile) & np.isfinite(source.profile)
    a, b = result.profile[both], source.profile[both]
    flat = len(a) < 3 or a.std() < 1e-6 or b.std() < 1e-6
    in_time = 0.0 if flat else max(0.0, float(np.corrcoef(a, b)[0, 1]))
    x, y = result.change_map.ravel(), source.change_map.ravel()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    in_place = float(x @ y) / size if size > 0 else 0.0
    return float(np.sqrt(in_time * in_place)), in_time, in_place


def _transforms(request: JudgeRequest) -> list[np.ndarray]:
    """For each picture the similarity that lays its torso over that of the first picture with one."""
    known = np.isfinite(request.torso).all((1, 2))
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    if not known.any():
        return [identity] * len(known)
    reference = request.torso[np.flatnonzero(known)[0]].astype(np.float32)
    out = []
    last = identity
    for points, ok in zip(request.torso, known):
        if ok:
            found, _ = cv2.estimateAffinePartial2D(points.astype(np.float32), reference, method=cv2.LMEDS)
            last = found if found is not None else last
        out.append(last)
    return out


def aligned(request: JudgeRequest, pictures: np.ndarray) -> np.ndarray:
    """Pictures (T, H, W, 3) of a request, laid over each other."""
    height, width = pictures.shape[1:3]
    return np.stack([cv2.warpAffine(p, m, (width, height)) for p, m in zip(pictures, _transforms(request))])


def cloth_and_neighbourhood(request: JudgeRequest, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Visible cloth of every picture, and what lies next to the hands' path in the span."""
    height, width = request.region.shape[1:]
    inside = request.inside
    lengths = [np.linalg.norm(np.subtract(*k[list(_HAND_LENGTH)])) for h in request.hands for k in h.values()]
    length = float(np.median(lengths))
    grow = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(0.12 * length)) + 1,) * 2)
    cloth = np.zeros(request.region.shape, bool)
    path = np.zeros((height, width), np.uint8)
    for t, matrix in enumerate(_transforms(request)):
        region = cv2.warpAffine(request.region[t].astype(np.uint8), matrix, (width, height), flags=cv2.INTER_NEAREST)
        hand = np.zeros((height, width), np.uint8)
        for keypoints in request.hands[t].values():
            moved = keypoints @ matrix[:, :2].T + matrix[:, 2]
            cv2.fillConvexPoly(hand, cv2.convexHull(moved.astype(np.int32)), 1)
        if inside[t]:
            path |= hand
        cloth[t] = (region > 0) & (cv2.dilate(hand, grow) == 0)
    away = cv2.distanceTransform(1 - path, cv2.DIST_L2, 3)
    return cloth, away <= reach * length
