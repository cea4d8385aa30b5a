"""From the mask in the pose network's square region to a mask of the frame."""

from __future__ import annotations

import cv2
import numpy as np

from models.perception.pose import Pose

_SOFT_LOGIT = 3.0  # beyond it a pixel counts as decided; the network's logits run from -1800 to 270
_MIN_VISIBILITY = 0.5


def person_mask(pose: Pose, height: int, width: int) -> np.ndarray:
    """The main person's pixels.

    Islands that hold no landmark are dropped: they belong to other people in the region.

    Args:
        pose: The person.
        height: Rows of the frame.
        width: Columns of the frame.

    Returns:
        (height, width) uint8 of 0 and 1, in Fortran order: that is what run-length encoding reads without a copy.
    """
    side = pose.mask_logits.shape[0]
    # 0 to 255 with the edge at 127.5.
    levels = cv2.convertScaleAbs(
        np.clip(pose.mask_logits, -_SOFT_LOGIT, _SOFT_LOGIT), alpha=127.5 / _SOFT_LOGIT, beta=127.5
    )
    _drop_islands(levels, pose)
    out = np.zeros((width, height), np.uint8)
    m = pose.region.matrix()
    m[:, :2] /= side
    left, top, columns, rows = cv2.boundingRect(levels)
    corners = np.array([[u, v] for u in (left - 1, left + columns) for v in (top - 1, top + rows)]) @ m[:, :2].T
    low = np.clip(np.floor((corners + m[:, 2]).min(0)).astype(int), 0, (width, height))
    high = np.clip(np.ceil((corners + m[:, 2]).max(0)).astype(int) + 1, 0, (width, height))
    if (high > low).all():
        m[:, 2] -= low
        # Rows and columns are swapped on the way, so that the result's transpose is the frame.
        part = cv2.warpAffine(levels, m[::-1], (high - low)[::-1].tolist(), flags=cv2.INTER_LINEAR)
        out[low[0] : high[0], low[1] : high[1]] = part > 127
    return out.T


def _drop_islands(levels: np.ndarray, pose: Pose) -> None:
    count, labels = cv2.connectedComponents((levels > 127).view(np.uint8), connectivity=8)
    if count <= 2:
        return
    side = levels.shape[0]
    m = pose.region.matrix()
    unit = (pose.points[pose.points[:, 3] > _MIN_VISIBILITY, :2] - m[:, 2]) @ np.linalg.inv(m[:, :2]).T
    cells = np.floor(unit * side).astype(int)
    cells = cells[((cells >= 0) & (cells < side)).all(-1)]
    kept = np.zeros(count, bool)
    kept[labels[cells[:, 1], cells[:, 0]]] = True
    kept[0] = False
    if not kept.any():
        kept[1 + int(np.argmax(np.bincount(labels.ravel())[1:]))] = True
    kept[0] = True  # the background's soft edge
    levels[~kept[labels]] = 0
