"""Foreground mask of a garment photo without a segmentation network.

GrabCut (Rother, Kolmogorov, Blake 2004, as in OpenCV) needs to be told roughly where the garment is. That comes from
two facts about product photos: the border of the picture is mostly background, and the garment is around the middle.
It fails where garment and background share their colours; then a mask belongs beside the photo (`<name>_mask.png`).
"""

from __future__ import annotations

import cv2
import numpy as np

_WORK_SIDE = 320
_BORDER = 0.04
_CLUSTERS = 5
_ITERATIONS = 6
_LEAST_CONTRAST = 16


def segment_garment(rgb: np.ndarray) -> np.ndarray:
    """Foreground mask of a photo of one garment.

    Args:
        rgb: Shape (height, width, 3), uint8, RGB.

    Returns:
        Shape (height, width), uint8, 255 where the garment is and 0 elsewhere; all 0 where the photo shows nothing.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, _WORK_SIDE / max(height, width))
    size = (max(8, round(width * scale)), max(8, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    # Texture of a carpet or bed sheet is noise here.
    smooth = cv2.bilateralFilter(small, 7, 40, 5)
    if np.ptp(smooth.reshape(-1, 3).astype(int), axis=0).max() < _LEAST_CONTRAST:
        return np.zeros((height, width), np.uint8)
    labels = _seed(smooth)
    background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(smooth, labels, (0, 0, 1, 1), background, foreground, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    mask = _tidy(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8))
    large = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return ((large > 0.5) * 255).astype(np.uint8)


def _seed(rgb: np.ndarray) -> np.ndarray:
    """GrabCut labels from how unlike the border a pixel is, weighted by how near the middle it lies."""
    height, width = rgb.shape[:2]
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab[..., 0] *= 0.6  # folds and shadows change lightness more than colour
    band = max(2, round(_BORDER * min(height, width)))
    border = np.ones((height, width), bool)
    border[band:-band, band:-band] = False
    unlike = _distance_to_clusters(lab, lab[border])

    y, x = np.mgrid[:height, :width]
    middle = np.exp(-(((x - width / 2) / (0.42 * width)) ** 4) - ((y - height / 2) / (0.46 * height)) ** 4)
    score = unlike * middle
    limit, _ = cv2.threshold(_to_bytes(score), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    likely = _to_bytes(score) > limit
    if likely.mean() < 0.05:  # a garment in the colours of its background: only the middle is left to go by
        likely = middle > 0.6

    labels = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    labels[likely] = cv2.GC_PR_FGD
    sure = likely & (score > np.quantile(score[likely], 0.7)) & (middle > 0.5)
    labels[cv2.erode(sure.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = cv2.GC_FGD
    labels[border & ~likely] = cv2.GC_BGD
    return labels


def _distance_to_clusters(lab: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Distance of every pixel from the nearest of the border's main colours, in units of their spread."""
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.5)
    cv2.setRNGSeed(0)
    labels = np.zeros((len(samples), 1), np.int32)
    count = min(_CLUSTERS, len(samples))
    _, found, centres = cv2.kmeans(samples, count, labels, criteria, 3, cv2.KMEANS_PP_CENTERS)
    which = np.asarray(found).ravel()
    best = np.full(lab.shape[:2], np.inf, np.float32)
    for i, centre in enumerate(centres):
        members = samples[which == i]
        # A colour that covers little of the border may be a sleeve that reaches out of the picture.
        if len(members) < 0.08 * len(samples):
            continue
        spread = max(4.0, float(members.std(axis=0).mean()))
        best = np.minimum(best, np.linalg.norm(lab - centre, axis=-1) / spread)
    return best


def _to_bytes(values: np.ndarray) -> np.ndarray:
    top = float(np.quantile(values, 0.98)) or 1.0
    return np.clip(values / top * 255, 0, 255).astype(np.uint8)


def _tidy(mask: np.ndarray) -> np.ndarray:
    """Whole garment: opened, in its large pieces, with small holes filled."""
    side = max(3, round(min(mask.shape) * 0.012) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count > 1:
        areas = stats[1:, cv2.CC_STAT_AREA]
        mask = np.isin(labels, 1 + np.flatnonzero(areas >= 0.15 * areas.max())).astype(np.uint8)
    # Prints and reflections are holes to fill; what lies between a sleeve and the body is larger and is not.
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    for i in range(1, count):
        x, y, w, h, area = stats[i]
        inside = x > 0 and y > 0 and x + w < mask.shape[1] and y + h < mask.shape[0]
        if inside and area < 0.04 * mask.sum():
            mask[labels == i] = 1
    return mask


def garment_from_worn(rgb: np.ndarray, mask: np.ndarray, margin: float = 0.06) -> tuple[np.ndarray, np.ndarray]:
    """The garment that a person wears, cut out of a frame as if it were a product photo.

    For videos whose garment has no photo: what hides the garment (hair, hands) is missing from the cut-out too.

    Args:
        rgb: Shape (height, width, 3), uint8, RGB: a video frame.
        mask: Shape (height, width), nonzero where the worn garment is.
        margin: White border, as a share of the garment's longer side.

    Returns:
        The picture, garment on white, cropped to the garment and its margin, shape (h, w, 3) uint8; and its mask,
        shape (h, w) uint8, 0 or 255.

    Raises:
        ValueError: The mask is empty or does not have the frame's size.
    """
    if mask.shape != rgb.shape[:2]:
        raise ValueError(f"The mask is {mask.shape}, the frame {rgb.shape[:2]}")
    ys, xs = np.nonzero(mask)
    if not len(ys):
        raise ValueError("The mask is empty: there is no garment to cut out of this frame")
    top, bottom, left, right = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    pad = max(1, round(margin * max(bottom - top, right - left)))
    inside = np.pad((mask[top:bottom, left:right] > 0).astype(np.uint8), pad)
    picture = np.pad(rgb[top:bottom, left:right], ((pad, pad), (pad, pad), (0, 0)), constant_values=255)
    # One pixel of transition: a hard edge would teach a model the jaggies of the mask.
    alpha = np.minimum(cv2.GaussianBlur(inside.astype(np.float32), (3, 3), 0), inside)[..., None]
    cut = picture * alpha + 255.0 * (1 - alpha)
    return np.round(cut).astype(np.uint8), inside * 255
