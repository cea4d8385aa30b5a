"""A drawn person whose right hand opens the front of a garment, or does as if, for tests of the embedded judge."""

from __future__ import annotations

import cv2
import numpy as np

from models.contact.network import CLASSES, REST
from models.judges.base import HandContact, JudgeRequest
from models.judges.measures.windows import MomentSampling

HEIGHT, WIDTH, FRAMES, START, END, FPS = 160, 120, 40, 12, 30, 15.0


def pose(shift: float) -> np.ndarray:
    """33 landmarks: a torso 50 px wide, arms that hang; all moved sideways."""
    out = np.full((33, 2), 60.0)
    out[:, 1] = 20
    out[[11, 12]] = (85, 40), (35, 40)
    out[[23, 24]] = (80, 120), (40, 120)
    out[[13, 14]] = (95, 70), (25, 70)
    out[[15, 17, 19]] = (100, 105)
    out[[16, 18, 20]] = (20, 105)
    return out + np.array([shift, 0])


def hand_at(x: float, y: float) -> np.ndarray:
    """21 keypoints of a hand that points up, 20 px long."""
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(-6, 6, 21), rng.uniform(-20, 0, 21)], 1)
    points[0], points[12] = (0, 0), (0, -20)
    return (points + np.array([x, y])).astype(np.float32)


def video(opens: bool, colour: tuple[int, int, int], seed: int, sway: float = 0.0) -> np.ndarray:
    """A garment whose front opens, or does not, while the right hand goes down it from START to END."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(0, 25, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2)
    pictures = []
    for t in range(FRAMES):
        shift = round(sway * np.sin(t / 4))
        picture = np.full((HEIGHT, WIDTH, 3), (90, 110, 130), np.float32)
        picture[36:130, 25 + shift : 95 + shift] = (np.array(colour, np.float32) + texture[..., None])[36:130, 25:95]
        if opens:
            bottom = round(45 + 70 * np.clip((t - START) / (END - START), 0, 1))
            picture[42:bottom, 53 + shift : 67 + shift] = (235, 230, 220)
        if START - 2 <= t < END + 2:
            points = hand_at(60 + shift, hand_y(t))
            cv2.fillConvexPoly(picture, cv2.convexHull(points.astype(np.int32)), (200, 160, 140))
        picture += rng.normal(0, 2, picture.shape)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def hand_y(t: int) -> float:
    return 60 + 55 * float(np.clip((t - START) / (END - START), 0, 1))


def contact_of(does: str | None) -> dict[str, HandContact]:
    """What a sure contact network says: the right hand does something in the span, the left one nothing."""
    out = {}
    for side in ("left", "right"):
        touching = np.full(FRAMES, 0.02)
        doing = np.full((FRAMES, len(CLASSES)), 0.02)
        doing[:, REST] = 0.88
        if side == "right" and does is not None:
            touching[START:END] = 0.95
            doing[START:END] = 0.02
            doing[START:END, CLASSES.index(does)] = 0.88
        out[side] = HandContact(touching, doing)
    return out


def request(
    result: np.ndarray, source: np.ndarray, sway: float = 0.0, span: tuple[int, int] = (START, END)
) -> JudgeRequest:
    frames = MomentSampling(384).frames(*span, FRAMES, FPS)
    shifts = np.round(sway * np.sin(np.arange(FRAMES) / 4))
    region = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    region[:, 36:130, 20:100] = True
    hands = [{"right": hand_at(60 + shifts[t], hand_y(t))} if START - 2 <= t < END + 2 else {} for t in range(FRAMES)]
    return JudgeRequest(
        "operate_zipper",
        "The person opens the zip with the right hand.",
        FPS,
        *span,
        frames,
        result[frames],
        source[frames],
        region[frames],
        [hands[f] for f in frames],
        np.stack([pose(s) for s in shifts]),
        contact_of("operate_zipper"),
    )


SOURCE, RESULT = (70, 80, 140), (150, 60, 60)
