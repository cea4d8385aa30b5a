"""Metrics over the features of a whole set of videos: VFID by I3D and ResNeXt-101, FVD by I3D and VideoMAE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from models.features.networks import NetworkMissing, NetworkSource, find_network
from pipelines.evaluation.cache import ArrayCache
from pipelines.evaluation.clip_frames import SCRIPT_FRAMES, script_clip_counts, script_random_starts
from pipelines.evaluation.features import FeatureExtractor, Part, SetMetric
from pipelines.evaluation.frechet import FeatureSet, bootstrap_interval, frechet_distance
from pipelines.evaluation.settings import EvaluationSettings, Mode
from pipelines.evaluation.values import MetricValue, Setting, level_note

_GENERATED_CLIPS = 2048
"""Clips of generated videos that cd-fvd goes on for."""

_VFID_I3D = SetMetric("vfid_i3d", "i3d", "pooled", SCRIPT_FRAMES)
_VFID_RESNEXT = SetMetric("vfid_resnext", "resnext101", "pooled", SCRIPT_FRAMES)
_FVD_I3D = SetMetric("fvd_i3d", "i3d", "logits", 16)
_FVD_VIDEOMAE = SetMetric("fvd_videomae", "videomae", "pooled", 16)

SET_METRICS: dict[Mode, tuple[SetMetric, ...]] = {
    "corrected": (_VFID_I3D, _VFID_RESNEXT, _FVD_I3D, _FVD_VIDEOMAE),
    "legacy": (_VFID_I3D, _VFID_RESNEXT, _FVD_VIDEOMAE),
}
"""The published script's FVD is VideoMAE's; the original FVD, by logits of I3D, is another number with another name."""


class DistributionMeter:
    """Fréchet distances of two sets of videos.

    Args:
        settings: Mode, networks, device, intervals.
        cache: Where features are kept; nowhere by default.

    Attributes:
        left_out: Videos that could not be read or are too short, with the reason.
    """

    def __init__(self, settings: EvaluationSettings | None = None, cache: ArrayCache | None = None):
        self.settings = settings or EvaluationSettings()
        self._extractor = FeatureExtractor(self.settings, cache or ArrayCache(None))
        self.left_out = self._extractor.left_out

    def measure(
        self,
        results: Sequence[Part],
        truths: Sequence[Part],
        setting: Setting,
        on_video: Callable[[str], None] | None = None,
    ) -> list[MetricValue]:
        """All set metrics of the mode.

        Args:
            results: Generated videos.
            truths: Real videos.
            setting: Ending of the metrics' names; where paired parts come in the same order, intervals draw pairs.
            on_video: Called with the name of each video done.

        Returns:
            One value a metric; null with the reason where its network or its clips are missing.
        """
        sources: dict[SetMetric, NetworkSource] = {}
        reasons: dict[SetMetric, str] = {}
        for metric in SET_METRICS[self.settings.mode]:
            try:
                sources[metric] = find_network(metric.network, self.settings.networks)
            except NetworkMissing as e:
                reasons[metric] = str(e)
        sets = [self._sets(parts, sources, i == 0, on_video) for i, parts in enumerate((results, truths))]
        missing = self._extractor.missing
        reasons |= {m: missing[m.network] for m in sources if m.network in missing}
        together = setting == "paired" and [p.pair for p in results] == [p.pair for p in truths]
        values = []
        for metric in SET_METRICS[self.settings.mode]:
            label = sources[metric].label if metric in sources else ""
            value = MetricValue(f"{metric.name}_{setting}", None, reasons.get(metric), label, mode=self.settings.mode)
            values.append(value if metric in reasons else self._distance(value, metric, sets[0], sets[1], together))
        return values

    def _distance(
        self,
        empty: MetricValue,
        metric: SetMetric,
        results: dict[SetMetric, FeatureSet],
        truths: dict[SetMetric, FeatureSet],
        together: bool,
    ) -> MetricValue:
        a, b = results[metric], truths[metric]
        if min(a.num_clips, b.num_clips) < 2:
            needs = f"needs two clips of {metric.frames} frames on each side"
            return replace(empty, reason=f"{needs}, there are {a.num_clips} and {b.num_clips}")
        settings = self.settings
        # With a video left out on one side only, pairs no longer match up.
        together = together and set(a.video) == set(b.video)
        # cd-fvd's covariances are those of the clips themselves, not an estimate of where they come from.
        lost = 0 if settings.mode == "legacy" and metric == _FVD_VIDEOMAE else 1
        interval = bootstrap_interval(a, b, together, settings.resamples, settings.confidence, lost)
        note = f"{a.num_clips} clips of {a.num_videos} videos against {b.num_clips} of {b.num_videos}"
        distinct, dimensions = min(a.num_distinct, b.num_distinct), a.values.shape[1]
        if distinct <= dimensions:
            note += (
                f"; {distinct} distinct clips cannot span {dimensions} dimensions: the covariances lack rank and the "
                "value is too high, compare it with sets of the same size only"
            )
        if interval is None and settings.resamples:
            note += "; an interval needs three videos on each side"
        if interval is not None:
            note = "; ".join([note, *level_note(settings.confidence)])
        low, high = interval or (None, None)
        distance = frechet_distance(a.values, b.values, a.weights, b.weights, lost)
        return replace(empty, value=distance, num_samples=a.num_clips, low=low, high=high, note=note)

    def _sets(
        self,
        parts: Sequence[Part],
        sources: dict[SetMetric, NetworkSource],
        generated: bool,
        on_video: Callable[[str], None] | None,
    ) -> dict[SetMetric, FeatureSet]:
        starts: dict[SetMetric, list[Sequence[int] | None]] = {m: [None] * len(parts) for m in sources}
        often: dict[SetMetric, list[Sequence[int]]] = {}
        if self.settings.mode == "legacy" and sources:
            lengths = [self._extractor.num_frames(p) for p in parts]
            for metric in sources:
                starts[metric], often[metric] = _script_clips(metric, lengths, generated)
        rows: dict[SetMetric, list[np.ndarray]] = {m: [] for m in sources}
        of: dict[SetMetric, list[int]] = {m: [] for m in sources}
        counts: dict[SetMetric, list[int]] = {m: [] for m in sources}
        for index, part in enumerate(parts):
            found = self._extractor.of_video(part, sources, {m: starts[m][index] for m in sources})
            for metric, features in found.items():
                rows[metric].append(features)
                of[metric] += [index] * len(features)
                # Where a damaged video ends too early, its last clips are missing.
                counts[metric] += often[metric][index][: len(features)] if metric in often else [1] * len(features)
            if on_video:
                on_video(part.name)
        sets = {}
        for metric in sources:
            values = np.concatenate(rows[metric]) if rows[metric] else np.zeros((0, 1), np.float32)
            sets[metric] = FeatureSet(values, np.array(of[metric], int), np.array(counts[metric], int))
        return sets


def _script_clips(
    metric: SetMetric, lengths: Sequence[int], generated: bool
) -> tuple[list[Sequence[int] | None], list[Sequence[int]]]:
    """First frames of the clips that the published script takes of each video, and how often it takes each of them.

    Videos that are too short for VFID's clips are left out beforehand: the script breaks off at them.
    """
    used = [i for i, n in enumerate(lengths) if n >= SCRIPT_FRAMES]
    starts: list[Sequence[int] | None] = [() for _ in lengths]
    often: list[Sequence[int]] = [() for _ in lengths]
    if metric.network == "videomae":
        drawn = script_random_starts([lengths[i] for i in used], metric.frames, _GENERATED_CLIPS if generated else None)
        for i, chosen in zip(used, drawn):
            times = Counter(chosen)
            starts[i] = sorted(times)
            often[i] = [times[start] for start in sorted(times)]
    else:
        for i, count in zip(used, script_clip_counts([lengths[i] for i in used], metric.frames)):
            starts[i], often[i] = (0,), (int(count),)
    return starts, often
