"""Quality of try-on videos against their ground truth: the rows of `video_metrics`.

Mode `corrected`: every frame counts, in RGB, at the size of the result unless told otherwise; each video weighs the
same in the mean of the set.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from models import weights
from models.features.lpips import LPIPS, load_lpips
from pipelines.checkpoints.train import newest_checkpoint
from pipelines.evaluation.settings import CODE_VERSION, EvaluationSettings
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import TRYON_VIDEOS, VIDEO_METRICS, VIDEOS
from pipelines.video import VideoError, VideoReader

MODE = "corrected"
PAIRED_METRICS = ("ssim", "lpips")
SET_METRICS = {
    "vfid_i3d": "needs I3D features, which are not supported yet",
    "vfid_resnext": "needs ResNeXt-101 features of Kinetics, whose weights no package carries",
    "fvd": "needs VideoMAE features, whose weights no package carries",
}
"""Metrics over the features of a whole set, and what is missing for them."""


class NothingToEvaluate(LookupError):
    """There is no try-on video; the message says what to do."""


@dataclass(frozen=True)
class MetricValue:
    """One metric of one video or set.

    Attributes:
        metric: Name.
        value: None where it could not be computed.
        reason: Why None.
        network: Feature network and its digest, empty where none.
        num_samples: Frames (of a video) or videos (of a set) it comes from.
    """

    metric: str
    value: float | None
    reason: str | None = None
    network: str = ""
    num_samples: int = 0


@dataclass
class EvaluationReport:
    """What an evaluation measured.

    Attributes:
        checkpoint_id: Checkpoint; empty for folders.
        videos: Name or tryon_id -> metrics of that video.
        whole: Metrics of the set.
        table_version: Version of `video_metrics`, where it was written.
    """

    checkpoint_id: str
    videos: dict[str, list[MetricValue]] = field(default_factory=dict)
    whole: list[MetricValue] = field(default_factory=list)
    table_version: int | None = None


class PairedMeter:
    """SSIM and LPIPS of a video against its ground truth, streamed: memory does not grow with the video.

    Args:
        settings: Size, network and device.
        lpips: A loaded network, in place of the one from the weights cache.
    """

    def __init__(self, settings: EvaluationSettings | None = None, lpips: LPIPS | None = None):
        self.settings = settings or EvaluationSettings()
        self.network = f"lpips-{self.settings.lpips_network}"
        if lpips is None:
            lpips = load_lpips(self.settings.lpips_network, self.settings.device)
            self.network += f" {weights.digest(f'lpips_{self.settings.lpips_network}.safetensors')}"
        self._lpips = lpips

    def compare(self, result: Path, truth: Path, start: int = 0, count: int | None = None) -> list[MetricValue]:
        """SSIM and LPIPS, each the mean over frames.

        Args:
            result: Try-on video.
            truth: Ground truth.
            start: Frame of `truth` that is the first one of `result`.
            count: Frames of `truth` to compare; to its end by default.

        Returns:
            The metrics in the order of `PAIRED_METRICS`; null with a reason if a video cannot be read or the lengths
            differ.
        """
        try:
            return self._compare(result, truth, start, count)
        except VideoError as error:
            return self.missing(f"cannot be read: {error}")

    def _compare(self, result: Path, truth: Path, start: int, count: int | None) -> list[MetricValue]:
        ssim: list[float] = []
        lpips: list[float] = []
        stop = None if count is None else start + count
        with VideoReader(result) as ours, VideoReader(truth) as theirs:
            pairs = itertools.zip_longest(ours.frames(), theirs.frames(start=start, stop=stop))
            for batch in _batched(pairs, self.settings.batch_frames):
                if any(a is None or b is None for a, b in batch):
                    return self.missing(
                        f"the result has {'fewer' if batch[-1][0] is None else 'more'} frames than its ground truth"
                    )
                height = self.settings.height or batch[0][0].rgb.shape[0]
                width = self.settings.width or batch[0][0].rgb.shape[1]
                a = self._tensor([p[0].rgb for p in batch], height, width)
                b = self._tensor([p[1].rgb for p in batch], height, width)
                similarity = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
                ssim += torch.as_tensor(similarity).reshape(-1).tolist()
                with torch.inference_mode():
                    lpips += self._lpips(2 * a - 1, 2 * b - 1).tolist()
        if not ssim:
            return self.missing("there are no frames to compare")
        return [
            MetricValue("ssim", float(np.mean(ssim)), num_samples=len(ssim)),
            MetricValue("lpips", float(np.mean(lpips)), network=self.network, num_samples=len(lpips)),
        ]

    def missing(self, reason: str) -> list[MetricValue]:
        """Null rows of all paired metrics, with the reason."""
        return [MetricValue("ssim", None, reason), MetricValue("lpips", None, reason, self.network)]

    def _tensor(self, frames: list[np.ndarray], height: int, width: int) -> torch.Tensor:
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


def summarise(videos: Iterable[list[MetricValue]]) -> list[MetricValue]:
    """Metrics of a set: the mean over its videos, and what could not be computed."""
    values: dict[str, list[MetricValue]] = {name: [] for name in PAIRED_METRICS}
    for metrics in videos:
        for m in metrics:
            if m.metric in values and m.value is not None:
                values[m.metric].append(m)
    out = []
    for name, found in values.items():
        if found:
            mean = float(np.mean([m.value for m in found]))
            out.append(MetricValue(name, mean, network=found[0].network, num_samples=len(found)))
        else:
            out.append(MetricValue(name, None, "no video of the set has a ground truth that it could be compared with"))
    out += [
        MetricValue(f"{name}_{kind}", None, reason)
        for name, reason in SET_METRICS.items()
        for kind in ("paired", "unpaired")
    ]
    return out


def evaluate_folders(
    results: Path, truths: Path, settings: EvaluationSettings | None = None, meter: PairedMeter | None = None
) -> EvaluationReport:
    """Compares two folders of videos by file name (without the ending).

    Raises:
        NothingToEvaluate: If no name is in both.
    """

    def by_stem(folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            raise NothingToEvaluate(f"{folder} is not a folder")
        return {p.stem: p for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")}

    ours, theirs = by_stem(results), by_stem(truths)
    if not ours.keys() & theirs.keys():
        raise NothingToEvaluate(f"{results} and {truths} have no file name in common (endings do not count)")
    meter = meter or PairedMeter(settings)
    report = EvaluationReport("")
    for stem, path in ours.items():
        truth = theirs.get(stem)
        missing = f"there is no {stem} in {truths}"
        report.videos[stem] = meter.compare(path, truth) if truth else meter.missing(missing)
    report.whole = summarise(report.videos.values())
    return report


def evaluate_checkpoint(
    store: DeltaStore,
    settings: EvaluationSettings | None = None,
    checkpoint_id: str | None = None,
    *,
    commit: Commit | None = None,
    meter: PairedMeter | None = None,
    on_video: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Measures a checkpoint's try-on videos and replaces its rows of `video_metrics`.

    Args:
        store: The lake.
        settings: What to measure.
        checkpoint_id: Checkpoint; the newest by default.
        commit: Provenance.
        meter: A loaded meter, in place of one made from the settings.
        on_video: Called with the tryon_id of each video done.

    Raises:
        NothingToEvaluate: If there are no try-on videos of that checkpoint.
    """
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    checkpoint_id = checkpoint_id or newest_id(store)
    tryons = tryon_rows(store, checkpoint_id)
    sources = source_uris(store)
    meter = meter or PairedMeter(settings)
    report = EvaluationReport(checkpoint_id)
    for tryon in tryons:
        report.videos[tryon["tryon_id"]] = _measure(store, tryon, sources, meter)
        if on_video:
            on_video(tryon["tryon_id"])
    report.whole = summarise(report.videos.values())
    now = datetime.now(UTC)
    video_ids = {t["tryon_id"]: t["video_id"] for t in tryons}

    def row(tryon_id: str, metric: MetricValue) -> dict[str, Any]:
        return {
            "checkpoint_id": checkpoint_id,
            "tryon_id": tryon_id,
            "video_id": video_ids.get(tryon_id),
            "metric": metric.metric,
            "value": metric.value,
            "reason": metric.reason,
            "mode": MODE,
            "network": metric.network,
            "num_samples": metric.num_samples,
            "created_at": now,
            "run_id": commit.run_id,
        }

    # A metric of the whole set belongs to no single try-on video: its tryon_id is empty.
    rows = [row(tryon_id, m) for tryon_id, metrics in report.videos.items() for m in metrics]
    rows += [row("", m) for m in report.whole]
    table = pa.Table.from_pylist(rows, VIDEO_METRICS.schema)
    report.table_version = store.replace(VIDEO_METRICS, table, {"checkpoint_id": checkpoint_id}, commit)
    return report


def newest_id(store: DeltaStore) -> str:
    """Identity of the newest checkpoint.

    Raises:
        pipelines.checkpoints.train.CheckpointMissing: If none was trained yet.
    """
    return newest_checkpoint(store)["checkpoint_id"]


def tryon_rows(store: DeltaStore, checkpoint_id: str) -> list[dict[str, Any]]:
    """Rows of `tryon_videos` of a checkpoint.

    Raises:
        NothingToEvaluate: If there are none.
    """
    rows = store.read(TRYON_VIDEOS, where={"checkpoint_id": checkpoint_id}).to_pylist()
    if not rows:
        raise NothingToEvaluate(f"Checkpoint {checkpoint_id} has no try-on videos: materialise tryon_videos first")
    return rows


def source_uris(store: DeltaStore) -> dict[str, str]:
    """video_id -> blob of every video that could be read."""
    rows = store.read(VIDEOS, ["video_id", "uri", "status"]).to_pylist()
    return {r["video_id"]: r["uri"] for r in rows if r["status"] == "ok" and r["uri"]}


def _measure(
    store: DeltaStore, tryon: dict[str, Any], sources: dict[str, str], meter: PairedMeter
) -> list[MetricValue]:
    if tryon["status"] != "ok" or not tryon["uri"]:
        return meter.missing(f"there is no try-on video: {tryon['reason']}")
    if not tryon["paired"]:
        return meter.missing("unpaired: nobody has filmed this person in this garment, so there is no ground truth")
    if tryon["video_id"] not in sources:
        return meter.missing(f"the source video {tryon['video_id']} is no longer in the lake")
    result = store.blobs.local_path(tryon["uri"])
    truth = store.blobs.local_path(sources[tryon["video_id"]])
    return meter.compare(result, truth, tryon["start_frame"], tryon["num_frames"])
