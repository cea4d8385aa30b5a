"""Features of the clips of a video: decoded once, streamed, and kept by content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from models.features.networks import NetworkMissing, NetworkName, NetworkSource
from models.features.resnext3d import MEAN
from pipelines.evaluation.cache import ArrayCache, content_digest
from pipelines.evaluation.clip_frames import PREPARE, ClipWindow
from pipelines.evaluation.settings import EvaluationSettings
from pipelines.evaluation.values import UNREADABLE
from pipelines.video import VideoError, VideoReader

_VERSION = 1
"""Raise it when the features of a video change, so that kept ones do not count."""


@dataclass(frozen=True)
class SetMetric:
    """A Fréchet distance of clips' features.

    Attributes:
        name: Metric.
        network: Whose features.
        output: `pooled` before the classifier, or its `logits`.
        frames: Frames of a clip.
    """

    name: str
    network: NetworkName
    output: Literal["pooled", "logits"]
    frames: int


@dataclass(frozen=True)
class Part:
    """A video, or some frames of it.

    Attributes:
        name: Name for people.
        path: File.
        start: First frame.
        count: Frames; to the end by default.
        pair: What it shares with its counterpart in the other set.
    """

    name: str
    path: Path
    start: int = 0
    count: int | None = None
    pair: str = ""


@dataclass
class _Work:
    """What is still to be computed of one video for one metric."""

    metric: SetMetric
    source: NetworkSource
    key: str
    recipe: str
    window: ClipWindow
    last: int | None
    waiting: list[Tensor] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)


class FeatureExtractor:
    """Features of videos. Networks are loaded when the first clip needs them: kept features need none.

    Args:
        settings: Mode, device and batch size.
        cache: Where features are kept.

    Attributes:
        left_out: Videos that could not be read or are too short, with the reason.
        missing: Networks whose published file does not load, with the reason. Nothing is computed by them.
    """

    def __init__(self, settings: EvaluationSettings, cache: ArrayCache):
        self.settings, self.cache = settings, cache
        self.left_out: dict[str, str] = {}
        self.missing: dict[NetworkName, str] = {}
        self._modules: dict[str, nn.Module] = {}
        self._digests: dict[tuple[Path, int, int], str] = {}

    def num_frames(self, part: Part) -> int:
        """Frames of a part; 0 where the video cannot be read."""
        try:
            with VideoReader(part.path) as reader:
                rest = max(0, reader.info.num_frames - part.start)
        except VideoError:
            return 0
        return rest if part.count is None else min(rest, part.count)

    def of_video(
        self,
        part: Part,
        sources: Mapping[SetMetric, NetworkSource],
        starts: Mapping[SetMetric, Sequence[int] | None],
    ) -> dict[SetMetric, np.ndarray]:
        """Features (clips, D) float32 of one video by metric; a metric without clips or without its network is absent.

        Args:
            part: Video.
            sources: Network of each metric.
            starts: First frames of each metric's clips; None for clips that lie end to end.
        """
        found: dict[SetMetric, np.ndarray] = {}
        work: list[_Work] = []
        try:
            content = self._content(part.path)
        except OSError as error:
            self.left_out[part.name] = f"{UNREADABLE}: {error}"
            return found
        for metric, source in sources.items():
            first = starts[metric]
            key = ArrayCache.key(
                version=_VERSION,
                content=content,
                part=[part.start, part.count],
                network=source.label,
                output=metric.output,
                frames=metric.frames,
                recipe=self._recipe(metric),
                scale=self.settings.mode if metric.network == "resnext101" else "",
                starts=None if first is None else list(first),
            )
            kept = self.cache.get(key)
            if kept is not None:
                found[metric] = kept
                continue
            last = None if first is None else max(first, default=-metric.frames) + metric.frames
            window = ClipWindow(metric.frames, first)
            work.append(_Work(metric, source, key, self._recipe(metric), window, last))
        if work:
            try:
                self._compute(part, work)
            except VideoError as error:
                self.left_out[part.name] = f"{UNREADABLE}: {error}"
                return {}
        for item in work:
            if item.found:
                found[item.metric] = np.concatenate(item.found)
                self.cache.put(item.key, found[item.metric])
        for metric in sources:
            if metric not in found and metric.network not in self.missing:
                self.left_out.setdefault(part.name, f"{metric.name}: shorter than a clip of {metric.frames} frames")
        return found

    def _compute(self, part: Part, work: list[_Work]) -> None:
        ends = [w.last for w in work]
        count = None if None in ends else max(e for e in ends if e is not None)
        if part.count is not None:
            count = part.count if count is None else min(count, part.count)
        recipes = {w.recipe for w in work}
        with VideoReader(part.path) as reader:
            for frame in reader.frames(part.start, None if count is None else part.start + count):
                pictures = {r: PREPARE[r](frame.rgb) for r in recipes}
                for item in [w for w in work if w.metric.network not in self.missing]:
                    clip = item.window.push(pictures[item.recipe])
                    if clip is not None:
                        item.waiting.append(clip)
                    if len(item.waiting) == self.settings.batch_clips:
                        self._run(item)
        for item in work:
            if item.waiting:
                self._run(item)

    def _run(self, item: _Work) -> None:
        network, waiting = item.metric.network, item.waiting
        item.waiting = []
        if network not in self._modules and network not in self.missing:
            try:
                self._modules[network] = item.source.load(self.settings.device)
            except NetworkMissing as e:
                self.missing[network] = str(e)
        if network in self.missing:
            return
        clips = torch.stack(waiting).to(self.settings.device)
        with torch.inference_mode():
            features = self._features(item.metric, self._modules[network], clips)
        item.found.append(features.float().cpu().numpy())

    def _features(self, metric: SetMetric, module: nn.Module, clips: Tensor) -> Tensor:
        """Features (B, D) of clips (B, 3, T, 224, 224) in [0, 1], on the scale that the network was trained with."""
        if metric.network == "i3d":
            logits, pooled = module(2 * clips - 1)
            return logits if metric.output == "logits" else pooled
        if metric.network == "resnext101" and self.settings.mode == "legacy":
            return module(2 * clips - 1)  # as the published script does; the network was trained on 0 to 255
        if metric.network == "resnext101":
            return module(255 * clips - torch.tensor(MEAN, device=clips.device).view(1, 3, 1, 1, 1))
        return module(clips)

    def _recipe(self, metric: SetMetric) -> str:
        if metric.network == "videomae":
            return "rgb_cropped"
        return "bgr_square" if self.settings.mode == "legacy" else "rgb_square"

    def _content(self, path: Path) -> str:
        stat = path.stat()
        place = (path, stat.st_size, stat.st_mtime_ns)
        if place not in self._digests:
            self._digests[place] = content_digest(path)
        return self._digests[place]
