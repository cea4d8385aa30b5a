"""Draws the 33-landmark body skeleton."""

from __future__ import annotations

import cv2
import numpy as np

# Left and right differ in blue and orange, which colour-blind people tell apart (Okabe and Ito, 2008).
CENTRE, LEFT, RIGHT = (240, 228, 66), (86, 180, 233), (230, 159, 0)

_CENTRE_BONES = ((11, 12), (23, 24), (9, 10), (0, 2), (0, 5))
_SIDE_BONES = ((11, 13), (13, 15), (15, 17), (15, 19), (15, 21), (17, 19), (11, 23), (23, 25), (25, 27), (27, 29),
               (27, 31), (29, 31))  # fmt: skip
# The other side's landmark is the next one, as every left landmark has an odd number.
BONES = (
    *((a, b, CENTRE) for a, b in _CENTRE_BONES),
    *((a, b, LEFT) for a, b in (*_SIDE_BONES, (2, 7))),
    *((a + 1, b + 1, RIGHT) for a, b in _SIDE_BONES),
    (5, 8, RIGHT),
)


def draw_skeleton(rgb: np.ndarray, landmarks: np.ndarray, min_visibility: float = 0.5, outline: bool = False) -> None:
    """Draw bones and joints into a picture, in place; lines scale with the picture.

    Args:
        rgb: (height, width, 3) uint8.
        landmarks: (33, >= 2) pixels; a fourth column is visibility, and bones with a less visible end are left out.
        min_visibility: Least visibility of both ends.
        outline: Set the bones off from bright clothes by a dark edge; for people, not for models.

    Raises:
        ValueError: There are not 33 landmarks.
    """
    if len(landmarks) != 33:
        raise ValueError(f"{len(landmarks)} landmarks; the skeleton has 33")
    seen = np.isfinite(landmarks[:, :2]).all(1)
    if landmarks.shape[1] > 3:
        seen &= landmarks[:, 3] >= min_visibility
    side = min(rgb.shape[:2])
    thickness = max(1, round(side / 160))
    points = np.round(np.clip(np.nan_to_num(landmarks[:, :2]), -8000, 8000) * 16).astype(int)
    bones = [(points[a].tolist(), points[b].tolist(), colour) for a, b, colour in BONES if seen[a] and seen[b]]
    if outline:
        for a, b, _ in bones:
            cv2.line(rgb, a, b, (20, 20, 20), thickness + 2, cv2.LINE_AA, 4)
    for a, b, colour in bones:
        cv2.line(rgb, a, b, colour, thickness, cv2.LINE_AA, 4)
    for k in np.flatnonzero(seen).tolist():
        colour = CENTRE if k == 0 else LEFT if (k % 2 if k > 6 else k < 4) else RIGHT
        cv2.circle(rgb, points[k].tolist(), round(0.9 * thickness * 16), colour, -1, cv2.LINE_AA, 4)
