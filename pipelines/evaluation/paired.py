"""SSIM and LPIPS of a video against its ground truth, frame by frame."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torchmetrics.functional.image import structural_similarity_index_measure

from models.features.lpips import MIN_SIDE, Network
from models.features.networks import NetworkMissing, NetworkName, NetworkSource, find_network
from pipelines.evaluation.annotators.statistics import Ratio, estimate
from pipelines.evaluation.cache import ArrayCache, content_digest
from pipelines.evaluation.settings import EvaluationSettings
from pipelines.evaluation.values import UNREADABLE, MetricValue, level_note
from pipelines.video import VideoError, VideoReader, written_size

PAIRED_METRICS = ("ssim", "lpips")
_VERSION = 3
"""Raise it when the values of frames change, so that kept ones do not count."""

_LEAST_SIDE = 6
"""Pixels from which on a side can be mirrored by half of SSIM's window."""
_NO_VIDEO = "no video of the set has a ground truth that it could be compared with"


class NotComparable(ValueError):
    """Two videos cannot be compared; the message says why."""


class PairedMeter:
    """SSIM and LPIPS, streamed: memory does not grow with the video. Values of frames are kept by content.

    Args:
        settings: Mode, size, network and device.
        lpips: A loaded network, in place of the one that the settings name; nothing is kept then.
        cache: Where values of frames are kept; nowhere by default.

    Attributes:
        network: Network of LPIPS and its digest.
        missing_network: Why there is none, if so.
    """

    def __init__(
        self,
        settings: EvaluationSettings | None = None,
        lpips: nn.Module | None = None,
        cache: ArrayCache | None = None,
    ):
        self.settings = settings or EvaluationSettings()
        self._lpips = lpips
        self._cache = cache if cache is not None and lpips is None else ArrayCache(None)
        self._source: NetworkSource | None = None
        self.missing_network: str | None = None
        kind: Network = "squeeze" if self.settings.mode == "legacy" else self.settings.lpips_network
        self._least_side = MIN_SIDE[kind]
        self.network = f"lpips-{kind}"
        if lpips is None:
            name: NetworkName = f"lpips_{kind}"  # type: ignore[assignment]
            try:
                self._source = find_network(name, self.settings.networks)
                self.network = self._source.label
            except NetworkMissing as e:
                self.missing_network = str(e)

    def compare(self, result: Path, truth: Path, start: int = 0, count: int | None = None) -> list[MetricValue]:
        """SSIM and LPIPS, each the mean over frames.

        Args:
            result: Try-on video.
            truth: Ground truth. Of one with an odd width or height, the result may have one column more at the right or
                one row more at the bottom, as H.264 needs; they are not compared.
            start: Frame of `truth` that is the first one of `result`.
            count: Frames of `truth` to compare; to its end by default.

        Returns:
            The metrics in the order of `PAIRED_METRICS`; null with a reason where a video cannot be read, sizes or
            lengths differ (in mode legacy the longer video is cut, as the published script does), the network is
            missing, or frames are too small for it.
        """
        try:
            return self._values(self._frames(result, truth, start, count))
        except (VideoError, OSError) as error:
            return self.missing(f"{UNREADABLE}: {error}")
        except NotComparable as error:
            return self.missing(str(error))

    def missing(self, reason: str) -> list[MetricValue]:
        """Null values of all paired metrics, with the reason."""
        mode = self.settings.mode
        return [
            MetricValue("ssim", None, reason, mode=mode),
            MetricValue("lpips", None, reason, self.network if self.missing_network is None else "", mode=mode),
        ]

    def _values(self, frames: np.ndarray) -> list[MetricValue]:
        count, mode = frames.shape[1], self.settings.mode
        if not count:
            return self.missing("there are no frames to compare")
        ssim, lpips = frames.mean(1).tolist()
        values = [MetricValue("ssim", ssim, num_samples=count, mode=mode)]
        if self.missing_network is not None:
            return [*values, MetricValue("lpips", None, self.missing_network, mode=mode)]
        if np.isnan(lpips):
            reason = f"the frames are too small: this network needs {self._least_side} px on each side"
            return [*values, MetricValue("lpips", None, reason, self.network, mode=mode)]
        return [*values, MetricValue("lpips", lpips, network=self.network, num_samples=count, mode=mode)]

    def _frames(self, result: Path, truth: Path, start: int, count: int | None) -> np.ndarray:
        """(2, F) SSIM and LPIPS of every frame, from the cache where they are in it."""
        if self._cache.folder is None:
            return self._compare(result, truth, start, count)
        settings = self.settings
        key = ArrayCache.key(
            version=_VERSION,
            contents=[content_digest(result), content_digest(truth)],
            part=[start, count],
            lpips=None if self.missing_network is not None else self.network,
            size=[settings.height, settings.width],
            shorter=settings.mode == "legacy",
        )
        kept = self._cache.get(key)
        if kept is None:
            missing = self.missing_network
            kept = self._compare(result, truth, start, count)
            # Of a network that turned out not to load there are no values to keep under its name.
            if missing == self.missing_network:
                self._cache.put(key, kept)
        return kept

    def _compare(self, result: Path, truth: Path, start: int, count: int | None) -> np.ndarray:
        ssim: list[float] = []
        lpips: list[float] = []
        stop = None if count is None else start + count
        with VideoReader(result) as ours, VideoReader(truth) as theirs:
            height, width = self._common_size(ours, theirs)
            at = self.settings.width or width, self.settings.height or height
            if min(at) < _LEAST_SIDE:
                raise NotComparable(f"frames of {at[0]}x{at[1]} are too small to compare")
            pairs = itertools.zip_longest(ours.frames(), theirs.frames(start=start, stop=stop))
            for whole in _batched(pairs, self.settings.batch_frames):
                batch = [(a, b) for a, b in whole if a is not None and b is not None]
                if len(batch) < len(whole) and self.settings.mode == "corrected":
                    kind = "fewer" if whole[-1][0] is None else "more"
                    raise NotComparable(f"the result has {kind} frames than its ground truth")
                if batch:
                    a = self._tensor([p[0].rgb[:height, :width] for p in batch])
                    b = self._tensor([p[1].rgb for p in batch])
                    similarity = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
                    ssim += torch.as_tensor(similarity).reshape(-1).tolist()
                    lpips += self._distances(2 * a - 1, 2 * b - 1)
                if len(batch) < len(whole):
                    break
        return np.array([ssim, lpips], np.float64)

    def _distances(self, a: torch.Tensor, b: torch.Tensor) -> list[float]:
        if self.missing_network is not None or min(a.shape[2:]) < self._least_side:
            return [float("nan")] * len(a)
        if self._lpips is None:
            assert self._source is not None
            try:
                self._lpips = self._source.load(self.settings.device)
            except NetworkMissing as e:
                self.missing_network = str(e)
                return [float("nan")] * len(a)
        with torch.inference_mode():
            return self._lpips(a, b).tolist()

    def _common_size(self, ours: VideoReader, theirs: VideoReader) -> tuple[int, int]:
        """Height and width of the part of the result that its ground truth has, too."""
        (w, h), (tw, th) = ((r.info.width, r.info.height) for r in (ours, theirs))
        if (w, h) == written_size(tw, th):
            return th, tw
        if (w, h) != (tw, th) and not (self.settings.height and self.settings.width):
            raise NotComparable(
                f"the result is {w}x{h} and its ground truth {tw}x{th}: scale one of them, or set height and width "
                "to compare both at"
            )
        return h, w

    def _tensor(self, frames: list[np.ndarray]) -> torch.Tensor:
        height = self.settings.height or frames[0].shape[0]
        width = self.settings.width or frames[0].shape[1]
        if frames[0].shape[:2] != (height, width):
            shrink = frames[0].shape[0] * frames[0].shape[1] > height * width
            how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
            frames = [cv2.resize(f, (width, height), interpolation=how) for f in frames]
        pixels = torch.from_numpy(np.stack(frames)).to(self.settings.device)
        return pixels.permute(0, 3, 1, 2).float() / 255


def _batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def mean_over_videos(
    videos: Iterable[list[MetricValue]], settings: EvaluationSettings, missing_network: str | None = None
) -> list[MetricValue]:
    """SSIM and LPIPS of a set: each video weighs the same; the interval is a bootstrap over videos.

    Args:
        videos: Metrics of each video.
        settings: Mode and intervals.
        missing_network: Why there is no LPIPS, if so.
    """
    values: dict[str, list[MetricValue]] = {name: [] for name in PAIRED_METRICS}
    for m in itertools.chain.from_iterable(videos):
        if m.metric in values and m.value is not None:
            values[m.metric].append(m)
    out = []
    for name, found in values.items():
        if not found:
            reason = missing_network if name == "lpips" and missing_network else _NO_VIDEO
            out.append(MetricValue(name, None, reason, mode=settings.mode))
            continue
        mean = Ratio(np.array([m.value for m in found], float), np.ones(len(found)))
        of_all = estimate(mean, resamples=settings.resamples, level=settings.confidence)
        notes = level_note(settings.confidence) if of_all.low is not None else []
        if settings.height or settings.width:
            size = [str(side or "own") for side in (settings.width, settings.height)]
            notes = [f"frames were compared at {' x '.join(size)} pixels (width x height)", *notes]
        out.append(
            MetricValue(
                name,
                of_all.value,
                network=found[0].network,
                num_samples=len(found),
                low=of_all.low,
                high=of_all.high,
                mode=settings.mode,
                note="; ".join(notes) or None,
            )
        )
    return out
