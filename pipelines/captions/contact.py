"""Runs the contact network over one video: tables and pictures in, probabilities for every frame and hand out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from models.contact.network import CLASSES, REST, as_tensor, load
from pipelines.captions.contact_cells import CHANNELS, UNIT_PX, CellSampler, Look
from pipelines.captions.contact_geometry import FEATURES, GRID_FPS, grid_times, interpolate, measure_geometry, on_grid
from pipelines.captions.features import Hand
from pipelines.captions.settings import SmoothingSettings
from pipelines.captions.spans import runs, smoothed_runs
from pipelines.captions.tracks import GarmentRegion, Tracks
from pipelines.stage import VideoTask
from pipelines.video import VideoReader

SIDES = ("left", "right")
# Pictures from before a hand comes show what the cloth looked like.
_BEFORE_S = 1.0
_PICTURES_AT_ONCE = 64


@dataclass(frozen=True)
class Contact:
    """What one hand does in every frame of a video.

    Attributes:
        touching: Shape (frames,), probability that it touches the garment.
        doing: Shape (frames, len(`CLASSES`)), probability of each class if it does; rows sum to 1.
    """

    touching: np.ndarray
    doing: np.ndarray

    @property
    def acting(self) -> np.ndarray:
        """Shape (frames,), probability that it touches the garment and does something to it."""
        return self.touching * (1 - self.doing[:, REST])


@dataclass(frozen=True)
class ActingSpan:
    """A stretch of frames in which a hand does something to the garment.

    Attributes:
        start: First frame.
        end: Frame after the last.
        action: What it does, by vote of the frames.
        confidence: Mean probability that it does something, 0 to 1.
    """

    start: int
    end: int
    action: str
    confidence: float


@dataclass(frozen=True)
class Observation:
    """What geometry says of both hands at regular times, and when pictures are looked at.

    Attributes:
        grid_s: Shape (T,), seconds.
        features: Side -> shape (T, len(`FEATURES`)), NaN where not known.
        near: Side -> shape (T,), bool: the hand is where a garment can be touched.
    """

    grid_s: np.ndarray
    features: dict[str, np.ndarray]
    near: dict[str, np.ndarray]


class ContactReader:
    """The network with its inputs. Built once in a worker.

    Raises:
        FileNotFoundError, ValueError: The weights are missing or do not fit; see `models.contact.network.load`.
    """

    def __init__(self) -> None:
        self.network = load(features=FEATURES, channels=CHANNELS)

    def read(self, task: VideoTask, tracks: Tracks, region: GarmentRegion) -> dict[str, Contact]:
        """Both hands over a whole video; pictures are not kept."""
        seen = observe(tracks, region)
        count = len(seen.grid_s)
        encoded = torch.zeros(len(SIDES), count, self.network.encoding)
        where: list[tuple[int, int]] = []
        cells: list[np.ndarray] = []

        def encode() -> None:
            if cells:
                with torch.no_grad():
                    encoded[tuple(zip(*where))] = self.network.encode_cells(as_tensor(np.stack(cells)))
                where.clear()
                cells.clear()

        for k, found in look_around(task, tracks, region, seen):
            for side, values in found.items():
                where.append((SIDES.index(side), k))
                cells.append(values)
            if len(cells) >= _PICTURES_AT_ONCE:
                encode()
        encode()
        features = as_tensor(np.stack([seen.features[s] for s in SIDES]))
        touching, doing = np.zeros((2, count)), np.zeros((2, count, len(CLASSES)))
        for start, stop in shots(seen.grid_s, tracks, task.row.get("cut_frames") or ()):
            p, q = self.network.probabilities(features[:, start:stop], encoded[:, start:stop])
            touching[:, start:stop], doing[:, start:stop] = p.numpy(), q.numpy()
        out = {}
        for i, side in enumerate(SIDES):
            values = np.concatenate([touching[i][:, None], doing[i]], 1)
            values = interpolate(values, seen.grid_s, tracks.times_s)
            # Where nothing is known of the hand, nothing is said.
            known = np.isfinite(tracks.hands[side].keypoints).all((1, 2))
            out[side] = Contact(np.where(known, values[:, 0], 0.0), values[:, 1:])
        return out


def acting_spans(
    contact: Contact, fps: float, smoothing: SmoothingSettings, least: float = 0.5, cuts: Iterable[int] = ()
) -> list[ActingSpan]:
    """When a hand does something to the garment, smoothed in time, and what.

    Args:
        contact: The hand over the frames of a video.
        fps: Frames a second.
        smoothing: In time.
        least: Probability of doing something from which a frame counts.
        cuts: First frame of every shot but the first; no span reaches across.
    """
    out = []
    acting = contact.acting
    for start, end in smoothed_runs(acting >= least, fps, smoothing.closing_s, smoothing.opening_s, cuts):
        votes = (contact.touching[start:end, None] * contact.doing[start:end]).sum(0)
        votes[REST] = 0.0
        out.append(ActingSpan(start, end, CLASSES[int(votes.argmax())], float(acting[start:end].mean())))
    return out


def observe(tracks: Tracks, region: GarmentRegion) -> Observation:
    """Geometry of both hands at regular times."""
    lower = region.category == "lower_body"
    near = {side: may_touch(hand, lower) for side, hand in tracks.hands.items()}
    grid = grid_times(tracks.times_s)
    index = _frames_shown(tracks, grid)
    shown = np.zeros(len(tracks.times_s), bool)
    shown[index] = True
    around = region.shares_around(tracks.hands, {side: n & shown for side, n in near.items()})
    measured = measure_geometry(tracks, around)
    features = {s: on_grid(measured[s], tracks.times_s, tracks.body, grid, s) for s in SIDES}
    return Observation(grid, features, {s: near[s][index] for s in SIDES})


def may_touch(hand: Hand, lower: bool = False) -> np.ndarray:
    """Shape (frames,), bool: whether the hand is where, in the picture, the garment can be touched.

    Args:
        hand: The hand.
        lower: Whether the garment is worn below the hips.
    """
    u, v = hand.palm.T
    with np.errstate(invalid="ignore"):
        over = (np.abs(u) < 1.0) & (v > -0.4) & (v < (3.0 if lower else 1.35))
        return over | (hand.from_other_forearm < 0.35)


def look_around(
    task: VideoTask, tracks: Tracks, region: GarmentRegion, seen: Observation
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Cells around the hands that are near the garment, see `CellSampler.step`.

    Only those stretches of the video are decoded, once, at reduced size.

    Yields:
        Sample on the grid, and side -> cells.
    """
    near = np.any([seen.near[s] for s in SIDES], axis=0)
    unit = tracks.body.unit_px
    if not near.any() or not np.isfinite(unit).any():
        return
    before = round(_BEFORE_S * GRID_FPS)
    wanted = near.copy()
    for start, _ in runs(near):
        wanted[max(0, start - before) : start] = True
    scale = min(1.0, UNIT_PX / float(np.nanmedian(unit)))
    cuts = task.row.get("cut_frames") or ()
    sampler = CellSampler()
    with VideoReader(task.path, GRID_FPS, max(16, round(scale * max(tracks.size))), task.threads) as reader:
        for start, stop in runs(wanted):
            sampler.forget()
            shown, cells = -1, {}
            for frame in reader.frames(start, stop):
                index = frame.source_index
                if index >= len(tracks.times_s):
                    break
                # Of a slow video the grid shows pictures twice: nothing new is seen then.
                if index > shown:
                    if shown >= 0 and any(shown < c <= index for c in cuts):
                        sampler.forget()
                    shown = index
                    look = _look(frame.rgb, index, tracks, region)
                    if look is None:
                        sampler.forget()
                    asked = [s for s in SIDES if seen.near[s][frame.index]]
                    cells = {} if look is None else sampler.step(look, asked)
                if cells:
                    yield frame.index, cells


def shots(grid_s: np.ndarray, tracks: Tracks, cuts: Iterable[int]) -> list[tuple[int, int]]:
    """Half-open ranges of the grid that lie in one shot each."""
    times = [tracks.times_s[c] for c in cuts if 0 < c < len(tracks.times_s)]
    borders = sorted({0, *np.searchsorted(grid_s, np.array(times) - 1e-6).tolist(), len(grid_s)})
    return list(pairwise(borders))


def _frames_shown(tracks: Tracks, grid_s: np.ndarray) -> np.ndarray:
    """Shape (T,), the frame that is on at each time of the grid."""
    return np.maximum(np.searchsorted(tracks.times_s, grid_s + 1e-6, side="right") - 1, 0)


def _look(rgb: np.ndarray, index: int, tracks: Tracks, region: GarmentRegion) -> Look | None:
    body, scale = tracks.body, rgb.shape[1] / tracks.size[1]
    unit, landmarks = float(body.unit_px[index]) * scale, body.landmarks[index, :, :2] * scale
    if not np.isfinite(unit) or not np.isfinite(landmarks).all():
        return None
    hands = {
        side: hand.keypoints[index] * scale
        for side, hand in tracks.hands.items()
        if np.isfinite(hand.keypoints[index]).all()
    }
    mask = region.at(index)
    garment = None if mask is None else (mask, mask.shape[1] / rgb.shape[1])
    origin = body.shoulders[index] * scale
    return Look(
        rgb, float(tracks.times_s[index]), landmarks, hands, origin, body.across[index], body.down[index], unit, garment
    )
