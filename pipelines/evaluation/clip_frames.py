"""Which frames of a video make a clip, and how they are brought to the size that a network takes."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

SIDE = 224
SCRIPT_FRAMES = 10
"""Frames of a clip in the field's published script, and of every VFID."""


def rgb_square(frame: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB to (3, 224, 224) in [0, 1], antialiased, without a crop."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float() / 255
    return interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True)[0]


def bgr_square(frame: np.ndarray) -> Tensor:
    """As `rgb_square`, with blue first: the published script hands over what OpenCV reads."""
    return rgb_square(frame[:, :, ::-1])


def rgb_cropped(frame: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB to (3, 224, 224) in [0, 1] as the package cd-fvd does.

    The shorter side to 256 with antialiasing, the middle 256 x 256 of it in whole numbers, and that to 224 without.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float() / 255
    height, width = frame.shape[:2]
    scale = 256 / min(height, width)
    size = (256, int(np.ceil(width * scale))) if height < width else (int(np.ceil(height * scale)), 256)
    pixels = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - 256) // 2, (size[1] - 256) // 2
    pixels = (pixels[:, :, top : top + 256, left : left + 256] * 255).byte().float() / 255
    return interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)[0]


class ClipWindow:
    """Cuts clips out of a stream of frames, holding no more than one of them.

    Args:
        length: Frames of a clip.
        starts: First frames of the clips, each once; by default the clips lie end to end from frame 0 on, and what is
            left at the end makes none.

    Raises:
        ValueError: A start is named twice: it would give one clip all the same.
    """

    def __init__(self, length: int, starts: Sequence[int] | None = None):
        self.length = length
        self._starts = None if starts is None else frozenset(starts)
        if starts is not None and len(frozenset(starts)) < len(starts):
            raise ValueError(f"Starts come once each, their counts belong to the features: {sorted(starts)}")
        self._held: deque[Tensor] = deque(maxlen=length)
        self._count = 0

    def push(self, frame: Tensor) -> Tensor | None:
        """Take the next frame (3, H, W); the clip (3, length, H, W) that it completes, if any."""
        self._held.append(frame)
        self._count += 1
        start = self._count - self.length
        if start < 0 or (start % self.length if self._starts is None else start not in self._starts):
            return None
        return torch.stack(tuple(self._held), 1)


def script_clip_counts(num_frames: Sequence[int], length: int = SCRIPT_FRAMES) -> np.ndarray:
    """How often the published script takes the first clip of each video of a folder.

    It means to walk through all clips of all videos, but looks a clip's video up one too late and seeks before the
    start. So it reads the first frames of a video again and again: the first video once more than it has clips.

    Args:
        num_frames: Frames of each video, in the order of the folder.
        length: Frames of a clip.

    Returns:
        (V,) int.
    """
    ends = (np.cumsum(num_frames) // length).tolist()
    counts = np.zeros(len(ends), int)
    for clip in range(ends[-1] if ends else 0):
        counts[bisect_left(ends, clip)] += 1
    return counts


def script_random_starts(
    num_frames: Sequence[int], length: int, at_least: int | None = None, seed: int = 42
) -> list[list[int]]:
    """Clips that the package cd-fvd draws from a folder as the published script calls it.

    A random clip of each video a pass, drawn by four loader processes in batches of 16. Real videos get one pass;
    generated ones as many as make 2,048 clips, so that the same clip comes more than once. In place of a video that is
    too short for a clip, the next one that is not gets another draw.

    Args:
        num_frames: Frames of each video, in the order of the folder.
        length: Frames of a clip.
        at_least: Passes go on until there are that many clips, and no more are kept; one pass by default.
        seed: Seed of the package.

    Returns:
        First frames of the clips of each video, in the order they are drawn; nothing where no video is long enough.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw() -> int:
        return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())

    starts: list[list[int]] = [[] for _ in num_frames]
    taken = 0
    long = [i for i, n in enumerate(num_frames) if n >= length]
    while long and (not taken or (at_least is not None and taken < at_least)):
        # The order in which torch's DataLoader draws: the seed of its workers, then that of the shuffle.
        base, shuffle = draw(), torch.Generator().manual_seed(draw())
        order = torch.randperm(len(num_frames), generator=shuffle).tolist()
        workers = [random.Random(base + worker) for worker in range(4)]
        for batch, first in enumerate(range(0, len(order), 16)):
            for chosen in order[first : first + 16]:
                video = next((i for i in long if i >= chosen), long[0])
                start = workers[batch % 4].randint(0, num_frames[video] - length)
                if at_least is None or taken < at_least:
                    starts[video].append(start)
                    taken += 1
    return starts


PREPARE: dict[str, Callable[[np.ndarray], Tensor]] = {f.__name__: f for f in (rgb_square, bgr_square, rgb_cropped)}
"""How a frame becomes what a network takes, by name."""
