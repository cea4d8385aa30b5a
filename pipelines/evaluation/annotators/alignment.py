"""Alignment of predicted to true points before their distance is taken, as the field does for hands."""

from __future__ import annotations

import numpy as np


def root_aligned(predicted: np.ndarray, true: np.ndarray, root: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Both point sets (N, P, 3) with the root point at the origin."""
    return predicted - predicted[:, root, None], true - true[:, root, None]


def scale_aligned(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root-aligned points scaled to fit best: sum of squares least about the origin.

    Args:
        predicted: (N, P, 3).
        true: (N, P, 3).

    Returns:
        Scaled points (N, P, 3) and scales (N,); a point set without extent keeps its scale.
    """
    own = (predicted**2).sum((1, 2))
    scale = np.where(own > 0, (predicted * true).sum((1, 2)) / np.maximum(own, 1e-30), 1.0)
    return predicted * scale[:, None, None], scale


def procrustes_aligned(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points moved, turned and scaled onto the true ones: the similarity of least squares, without reflection.

    Args:
        predicted: (N, P, 3).
        true: (N, P, 3).

    Returns:
        Aligned points (N, P, 3) and the angles (N,) they had to be turned by, degrees.
    """
    centre = true.mean(1, keepdims=True)
    a, b = predicted - predicted.mean(1, keepdims=True), true - centre
    u, s, vt = np.linalg.svd(np.einsum("npi,npj->nij", a, b))
    # A reflection is no rotation: turn the weakest axis round.
    flip = np.sign(np.linalg.det(u @ vt))
    s = s * np.stack([np.ones_like(flip), np.ones_like(flip), flip], 1)
    u[:, :, 2] *= flip[:, None]
    scale = s.sum(1) / np.maximum((a**2).sum((1, 2)), 1e-30)
    turn = u @ vt
    cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
    return scale[:, None, None] * (a @ turn) + centre, np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances (N, P) of points (N, P, 3)."""
    return np.linalg.norm(a - b, axis=-1)
