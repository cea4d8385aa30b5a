"""Whether the result's cloth has its edges and folds where the source's has them, next to the hand that acts.

Both videos show the same pose pixel by pixel, so limbs need no alignment; colours of the garments do not matter, since
only directions of gradients are compared (normalised gradient fields, Haber and Modersitzki 2006, with the structure
tensor over colour channels). Garments of other cut agree less from the start; what counts is how the agreement changes
once the hand acts: it falls where the source's cloth is moved and the result's is not.
"""

from __future__ import annotations

import cv2
import numpy as np

from models.contact.network import REST
from models.judges.base import JudgeRequest

_HAND_LENGTH = (0, 12)
"""Wrist and tip of the middle finger."""
_REACH, _SMOOTH, _GROW = 0.6, 0.05, 0.12
"""In hand lengths: how far from the hand's path to look, how much pictures are blurred, how much more than the hand is
left out."""
_NOISE = 1.0
"""Gradient (units of CIELAB a pixel) below which a pixel has no direction."""
_SAME = 0.08
"""Largest difference of a channel, 1 is from black to white, at which two pixels are of the same colour."""
_LEAST_PX = 60
NAMES = ("edges", "edges_kept", "own_edges", "own_edges_kept", "same", "same_kept")


def structure_measures(request: JudgeRequest) -> dict[str, float]:
    """Agreement in the later two thirds of the span and after it, and its change against before; NaN where unknown.

    `edges` is the share of the source's edges that the result has too, `own_edges` that of the result's edges that the
    source has too, `same` the share of pixels of the same colour (skin and other clothes that are laid bare).
    """
    nothing = dict.fromkeys(NAMES, float("nan"))
    side = _acting_side(request)
    if side is None:
        return nothing
    lengths = [np.linalg.norm(np.subtract(*h[side][list(_HAND_LENGTH)])) for h in request.hands if side in h]
    length = float(np.median(lengths))
    shape = request.region.shape[1:]
    path = np.zeros(shape, np.uint8)
    for hands, inside in zip(request.hands, request.inside):
        if inside and side in hands:
            cv2.fillConvexPoly(path, cv2.convexHull(hands[side].astype(np.int32)), 1)
    near = cv2.distanceTransform(1 - path, cv2.DIST_L2, 3) <= _REACH * length
    x, y, w, h = cv2.boundingRect(near.astype(np.uint8))
    window = (slice(max(0, y - 8), y + h + 8), slice(max(0, x - 8), x + w + 8))
    grow = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * max(1, round(_GROW * length)) + 1,) * 2)
    found = np.full((len(request.frames), 3), np.nan)
    for t, hands in enumerate(request.hands):
        covered = np.zeros(shape, np.uint8)
        for keypoints in hands.values():
            cv2.fillConvexPoly(covered, cv2.convexHull(keypoints.astype(np.int32)), 1)
        seen = (near & (cv2.dilate(covered, grow) == 0))[window]
        if seen.sum() >= _LEAST_PX:
            pair = request.source[t][window], request.result[t][window]
            found[t] = _agreement(*pair, seen, max(1.0, _SMOOTH * length))
    inside = np.flatnonzero(request.inside)
    later = request.frames >= request.frames[inside[len(inside) // 3]]
    before = request.frames < request.start
    out = dict(nothing)
    for k, name in enumerate(("edges", "own_edges", "same")):
        out[name] = _mean(found[later, k])
        out[f"{name}_kept"] = out[name] - _mean(found[before, k])
    return out


def _agreement(source: np.ndarray, result: np.ndarray, seen: np.ndarray, blur: float) -> tuple[float, float, float]:
    """Shares of the source's and of the result's edges that the other has too, and of pixels of the same colour."""
    a, b = _tensor(source, blur), _tensor(result, blur)
    strength_a, strength_b = a[0] + a[1], b[0] + b[1]
    common = a[0] * b[0] + a[1] * b[1] + 2 * a[2] * b[2]
    common /= (strength_a + _NOISE**2) * (strength_b + _NOISE**2)
    whole = [float((s / (s + _NOISE**2))[seen].sum()) for s in (strength_a, strength_b)]
    both = float(common[seen].sum())
    apart = np.abs(cv2.blur(source, (3, 3)).astype(np.int16) - cv2.blur(result, (3, 3))).max(-1) / 255
    return both / max(whole[0], 1e-6), both / max(whole[1], 1e-6), float((apart[seen] < _SAME).mean())


def _tensor(picture: np.ndarray, blur: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Structure tensor (xx, yy, xy) of each pixel, summed over the channels of CIELAB."""
    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = cv2.GaussianBlur(lab, (0, 0), blur)
    x, y = (cv2.Sobel(lab, cv2.CV_32F, *d, ksize=3) / 8 for d in ((1, 0), (0, 1)))
    return (x * x).sum(-1), (y * y).sum(-1), (x * y).sum(-1)


def _acting_side(request: JudgeRequest) -> str | None:
    """The hand that, by the contact network, does most to the garment in the span, among those known in it."""
    if request.contact is None:
        raise ValueError("the request brings no reading of the contact network")
    span = slice(request.start, request.end)
    known = {s for h, inside in zip(request.hands, request.inside) if inside for s in h}
    acting = {s: float((h.touching * (1 - h.doing[:, REST]))[span].sum()) for s, h in request.contact.items()}
    return max(known, key=lambda s: acting.get(s, 0.0)) if known else None


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
