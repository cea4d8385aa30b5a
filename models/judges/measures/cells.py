"""What the cloth in a window does, as numbers for a grid of cells: garments' colours do not show, changes of them do.

Each cell of a picture is looked for in the pictures from before the span, at its own place and a little beside it, for
poses are never exact. What is not found again has changed. Source and result show the same pose pixel by pixel, so they
are also compared with each other: whether both have edges of the same direction in the same place (normalised gradient
fields, Haber and Modersitzki 2006, with the structure tensor over colour channels), and where they are of the same
colour, which is skin and other clothes that are laid bare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.judges.base import JudgeRequest
from models.judges.measures.windows import BEFORE_S, MASKS, hand_views, moments

CELL_PX = 4
OWN = ("changed", "changed_here", "across", "down", "texture")
"""Of one video: log of the least difference from before, and of that at the same place; where the cell came from, 1 is
the edge of the search; log of the mean difference between neighbouring pixels."""
PAIR = ("source_edges", "result_edges", "same")
"""Of source and result: share of the source's edges that the result has, too; of the result's that the source has;
share of pixels of the same colour."""
COVER = ("hand", "other_hand", "forearm", "other_forearm", "garment")
"""Share of a cell that each covers."""
CHANNELS = (*(f"result_{n}" for n in OWN), *(f"source_{n}" for n in OWN), *PAIR, *COVER)

_REACH = 2
"""Pixels of the window to each side that a cell is looked for."""
_DRIFT = 0.002
"""What a pixel of distance costs, so that plain cloth stays where it is."""
_LEAST, _EDGE, _SEEN = 0.01, 1.0, 0.15
"""Colour difference that is nothing (CIELAB, 1 is from black to white); gradient (CIELAB units a pixel) below which a
pixel has no direction; share of a cell that must be seen both times."""
_SAME = 20
"""Largest difference of a channel, of 255, at which two pixels are of the same colour."""


def own_cells(videos: Sequence[np.ndarray], masks: np.ndarray, in_phase: np.ndarray) -> np.ndarray:
    """How the cloth of videos that share one view has changed since before the span.

    Args:
        videos: Pictures (T, H, W, 3), uint8 RGB, through a window.
        masks: (T, H, W, len(`MASKS`)), uint8, of the window.
        in_phase: (T,) bool, which moments lie where they should.

    Returns:
        (videos, T, len(`OWN`), H / 4, W / 4), float16; NaN where a hand hides the cloth now or did before.
    """
    lab = _soft(_lab(np.stack(videos)))
    height, width = lab.shape[-2:]
    visible = 1 - _hidden(masks)
    shape = (*lab.shape[:2], height // CELL_PX, width // CELL_PX)
    best, here = torch.full(shape, torch.inf), torch.full(shape, torch.inf)
    way = torch.zeros(2, *shape)
    around = range(-_REACH, _REACH + 1)
    # A span that starts with the video: what comes first is the best there is to compare with.
    for k in [k for k in range(len(BEFORE_S)) if in_phase[k]] or [len(BEFORE_S)]:
        before = functional.pad(lab[:, k], (_REACH,) * 4, mode="replicate")
        seen = functional.pad(visible[None, None, k], (_REACH,) * 4, mode="replicate")[0, 0]
        for y in around:
            for x in around:
                part = (slice(_REACH + y, _REACH + y + height), slice(_REACH + x, _REACH + x + width))
                weight = seen[part] * visible
                there = _around(_pooled(weight))
                apart = (lab - before[:, None, :, *part]).abs_().sum(2) * weight
                cost = (_around(_pooled(apart)) + 0.004) / (there + 0.1) + _DRIFT * float(np.hypot(x, y))
                cost = torch.where(there > _SEEN, cost, torch.inf)
                if x == 0 and y == 0:
                    here = torch.minimum(here, cost)
                nearer = cost < best
                best = torch.where(nearer, cost, best)
                for axis, step in enumerate((x, y)):
                    way[axis] = torch.where(nearer, step / _REACH, way[axis])
    texture = lab.diff(dim=-2, append=lab[..., -1:, :]).abs() + lab.diff(dim=-1, append=lab[..., -1:]).abs()
    # What is seen now but was hidden before at its very own place has at least been found beside it.
    here = torch.where(here.isfinite(), here, best)
    found = [(best + _LEAST).log(), (here + _LEAST).log(), way[0], way[1]]
    known = [torch.where(best.isfinite(), f, torch.nan) for f in found]
    return torch.stack([*known, (_pooled(texture.sum(2)) + _LEAST).log()], 2).half().numpy()


def pair_cells(source: np.ndarray, result: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How alike source and result are.

    Args:
        source: Pictures (T, H, W, 3), uint8 RGB, through a window.
        result: The same of the result.
        masks: (T, H, W, len(`MASKS`)), uint8.

    Returns:
        (T, len(`PAIR`), H / 4, W / 4), float16.
    """
    a, b = (_tensor(_soft(_soft(_lab(v)[None])))[0] for v in (source, result))
    visible = 1 - _hidden(masks)
    strength_a, strength_b = a[:, 0] + a[:, 1], b[:, 0] + b[:, 1]
    common = a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + 2 * a[:, 2] * b[:, 2]
    common = _around(_pooled(common / ((strength_a + _EDGE) * (strength_b + _EDGE)) * visible))
    whole = [_around(_pooled(s / (s + _EDGE) * visible)) for s in (strength_a, strength_b)]
    same = torch.from_numpy(np.abs(source.astype(np.int16) - result).max(-1) < _SAME).float() * visible
    return torch.stack([*(common / (w + 0.05) for w in whole), _pooled(same)], 1).half().numpy()


def cover_cells(masks: np.ndarray) -> np.ndarray:
    """(T, len(`COVER`), H / 4, W / 4), float16, of masks (T, H, W, len(`MASKS`))."""
    hands, arms, garment = (torch.from_numpy(masks[..., k].astype(np.float32) / 255) for k in range(len(MASKS)))
    parts = [hands > 0.7, (hands > 0.3) & (hands < 0.7), arms > 0.7, (arms > 0.3) & (arms < 0.7)]
    return _pooled(torch.stack([*(p.float() for p in parts), garment], 1)).half().numpy()


def moved_cells(done: np.ndarray, undone: np.ndarray) -> np.ndarray:
    """Where an interaction changes what is seen: mean difference, 1 is from black to white.

    Args:
        done: Pictures (T, H, W, 3), uint8 RGB, through a window.
        undone: The same with the interaction left undone.

    Returns:
        (T, H / 4, W / 4), float16.
    """
    apart = np.abs(done.astype(np.int16) - undone).max(-1).astype(np.float32) / 255
    return _pooled(torch.from_numpy(apart)).half().numpy()


@dataclass(frozen=True)
class HandCells:
    """All that the network is told of one hand in one pair of source and result.

    Attributes:
        body: Shape (`MOMENTS`, len(`CHANNELS`), rows, columns), float16, cells of the window on the torso.
        sleeve: The same of the window along the other forearm.
        numbers: See `HandView`.
        summary: See `HandView`.
    """

    body: np.ndarray
    sleeve: np.ndarray
    numbers: np.ndarray
    summary: np.ndarray


def hand_cells(request: JudgeRequest) -> dict[str, HandCells]:
    """What a request of `MomentSampling` shows of each hand; empty where no person is known.

    Raises:
        ValueError: The request brings no reading of the contact network.
    """
    index, _ = moments(request)
    out = {}
    for side, view in hand_views(request).items():
        windows = []
        pairs = zip(view.of(request.source[index]), view.of(request.result[index]), view.masks)
        for source, result, masks in pairs:
            of_result, of_source = own_cells([result, source], masks, view.in_phase)
            windows.append(joined(of_result, of_source, pair_cells(source, result, masks), cover_cells(masks)))
        out[side] = HandCells(windows[0], windows[1], view.numbers, view.summary)
    return out


def joined(result: np.ndarray, source: np.ndarray, pair: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Channels in the order of `CHANNELS`, from those of result, source, both, and what covers them."""
    return np.concatenate([result, source, pair, cover], 1)


def _lab(pictures: np.ndarray) -> Tensor:
    """(..., H, W, 3) uint8 RGB to (..., 3, H, W) CIELAB over 100."""
    flat = pictures.reshape(-1, pictures.shape[-2], 3).astype(np.float32) / 255
    return torch.from_numpy(cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(pictures.shape) / 100).movedim(-1, -3)


def _soft(x: Tensor) -> Tensor:
    """Binomial blur over the last two dimensions."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    y = functional.pad(x.reshape(-1, 1, *x.shape[-2:]), (1, 1, 1, 1), mode="replicate")
    y = functional.conv2d(functional.conv2d(y, kernel.view(1, 1, 1, 3)), kernel.view(1, 1, 3, 1))
    return y.reshape(x.shape)


def _pooled(x: Tensor) -> Tensor:
    """Means over cells."""
    flat = functional.avg_pool2d(x.reshape(-1, 1, *x.shape[-2:]), CELL_PX)
    return flat.reshape(*x.shape[:-2], *flat.shape[-2:])


def _around(x: Tensor) -> Tensor:
    """Means over a cell and its neighbours."""
    flat = functional.avg_pool2d(x.reshape(-1, 1, *x.shape[-2:]), 3, 1, 1, count_include_pad=False)
    return flat.reshape(x.shape)


def _tensor(lab: Tensor) -> Tensor:
    """Structure tensor (xx, yy, xy) of each pixel, summed over the colours: (..., 3, H, W)."""
    flat = functional.pad(lab.reshape(-1, 3, *lab.shape[-2:]), (1, 1, 1, 1), mode="replicate") * 100
    x, y = (flat[..., 1:-1, 2:] - flat[..., 1:-1, :-2]) / 2, (flat[..., 2:, 1:-1] - flat[..., :-2, 1:-1]) / 2
    return torch.stack([(x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], 1).reshape(lab.shape)


def _hidden(masks: np.ndarray) -> Tensor:
    """(T, H, W) 1 where a hand is, or next to it."""
    grown = [cv2.dilate((m > 60).astype(np.float32), np.ones((3, 3), np.uint8)) for m in masks[..., 0]]
    return torch.from_numpy(np.stack(grown))
