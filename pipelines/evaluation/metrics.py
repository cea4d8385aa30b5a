"""Quality of try-on videos: folders of anyone's videos, and the rows of `video_metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from pipelines.checkpoints.train import newest_checkpoint
from pipelines.evaluation.cache import ArrayCache, evaluation_cache
from pipelines.evaluation.distribution import DistributionMeter
from pipelines.evaluation.features import Part
from pipelines.evaluation.first_look import harmful_videos
from pipelines.evaluation.measured import set_metrics
from pipelines.evaluation.paired import PairedMeter, mean_over_videos
from pipelines.evaluation.settings import METRICS_VERSION, EvaluationSettings
from pipelines.evaluation.values import UNREADABLE, EvaluationReport, MetricValue, Setting
from pipelines.ingest.settings import IngestSettings
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import TRYON_VIDEOS, VIDEO_METRICS, VIDEOS

_VIDEO_ENDINGS = frozenset({".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v"})


class NothingToEvaluate(LookupError):
    """There is no try-on video; the message says what to do."""


def evaluate_folders(
    results: Path,
    truths: Path,
    settings: EvaluationSettings | None = None,
    *,
    setting: Setting | Literal["auto"] = "auto",
    cache_dir: Path | None = None,
    meter: PairedMeter | None = None,
    limits: IngestSettings | None = None,
    on_video: Callable[[str], None] | None = None,
) -> EvaluationReport:
    """Compares two folders of videos; endings of names do not count.

    Args:
        results: Folder of try-on videos.
        truths: Folder of real videos.
        settings: Mode and the rest.
        setting: `paired` videos have the same names in both folders; `unpaired` ones are compared as sets only,
            whatever their names; `auto` is paired where at least one name is in both.
        cache_dir: Where features are kept; the user's cache by default.
        meter: A loaded meter, in place of one made from the settings.
        limits: Time and memory of the process that decodes a video first, which anybody may have made.
        on_video: Called with the name of each video looked at, and of each done.

    Raises:
        NothingToEvaluate: A folder is missing or holds no videos; or `paired` was asked for and no name is in both.
    """
    settings = settings or EvaluationSettings()
    ours, theirs = _videos_of(results), _videos_of(truths)
    common = sorted(ours.keys() & theirs.keys())
    if setting == "paired" and not common:
        raise NothingToEvaluate(
            f"{results} and {truths} have no file name in common (endings do not count), for example "
            f"{min(ours)} and {min(theirs)}: give pairs the same name, or compare the folders as unpaired sets"
        )
    if setting == "auto":
        setting = "paired" if common else "unpaired"
    cache = _cache(settings, cache_dir)
    report = EvaluationReport("", settings.mode, setting=setting)
    harmful = harmful_videos([*ours.values(), *theirs.values()], limits, cache, on_video)
    if setting == "paired":
        meter = meter or PairedMeter(settings, cache=cache)
        for name in common:
            reason = harmful.get(ours[name]) or harmful.get(theirs[name])
            report.videos[name] = meter.missing(reason) if reason else meter.compare(ours[name], theirs[name])
            if on_video:
                on_video(name)
        for name in sorted(ours.keys() - theirs.keys()):
            report.left_out[name] = f"there is no {name} in {truths}"
        for name in sorted(theirs.keys() - ours.keys()):
            report.left_out[name] = f"there is no {name} in {results}"
        report.left_out |= _not_compared(report.videos)
        report.whole = mean_over_videos(report.videos.values(), settings, meter.missing_network)
    unreadable = {n for n, reason in report.left_out.items() if reason.startswith(UNREADABLE)}
    # The published script compares everything that is in the folders, also where names are paired.
    everything = setting == "unpaired" or settings.mode == "legacy"
    parts = []
    for folder, videos in ((results, ours), (truths, theirs)):
        names = [n for n in (sorted(videos) if everything else common) if n not in unreadable]
        chosen = [Part(f"{folder.name}/{n}", videos[n], pair=n) for n in names]
        report.left_out |= {part.name: harmful[part.path] for part in chosen if part.path in harmful}
        parts.append([part for part in chosen if part.path not in harmful])
    distributions = DistributionMeter(settings, cache)
    report.whole += distributions.measure(parts[0], parts[1], setting, on_video)
    report.left_out |= distributions.left_out
    return report


def _videos_of(folder: Path) -> dict[str, Path]:
    """Stem -> video of a folder.

    Raises:
        NothingToEvaluate: There is no folder, no video in it, or two videos that differ in their ending only.
    """
    if not folder.is_dir():
        raise NothingToEvaluate(f"{folder} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in _VIDEO_ENDINGS and not path.name.startswith("."):
            if path.stem in found:
                raise NothingToEvaluate(f"{folder} holds both {found[path.stem].name} and {path.name}: remove one")
            found[path.stem] = path
    if not found:
        raise NothingToEvaluate(f"{folder} holds no videos ({', '.join(sorted(_VIDEO_ENDINGS))})")
    return found


def _cache(settings: EvaluationSettings, folder: Path | None) -> ArrayCache:
    return ArrayCache((folder or evaluation_cache()) if settings.cache else None)


def _not_compared(videos: dict[str, list[MetricValue]]) -> dict[str, str]:
    """Videos without a single paired value, with the reason."""
    return {n: str(ms[0].reason) for n, ms in videos.items() if ms and all(m.value is None for m in ms)}


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

    Those of the other mode stay as far as they are of try-on videos that are still there.

    Args:
        store: The lake.
        settings: What to measure.
        checkpoint_id: Checkpoint; the newest by default.
        commit: Provenance.
        meter: A loaded meter, in place of one made from the settings.
        on_video: Called with the name of each video done.

    Raises:
        NothingToEvaluate: If there are no try-on videos of that checkpoint.
    """
    settings = settings or EvaluationSettings()
    commit = Commit((commit or Commit()).run_id, METRICS_VERSION)
    checkpoint_id = checkpoint_id or newest_id(store)
    tryons = tryon_rows(store, checkpoint_id)
    sources = source_uris(store, [t["video_id"] for t in tryons])
    cache = _cache(settings, evaluation_cache(store.root))
    meter = meter or PairedMeter(settings, cache=cache)
    report = EvaluationReport(checkpoint_id, settings.mode)
    for tryon in tryons:
        report.videos[tryon["tryon_id"]] = _measure(store, tryon, sources, meter)
        if on_video:
            on_video(tryon["tryon_id"])
    paired = {t["tryon_id"] for t in tryons if t["paired"]}
    report.left_out = {t["tryon_id"]: reason for t in tryons if (reason := _unusable(t, sources))}
    report.left_out |= _not_compared({n: m for n, m in report.videos.items() if n in paired})
    report.whole = mean_over_videos(report.videos.values(), settings, meter.missing_network)
    distributions = DistributionMeter(settings, cache)
    for setting in ("paired", "unpaired"):
        chosen = [t for t in tryons if t["paired"] == (setting == "paired") and not _unusable(t, sources)]
        parts = [_parts(store, t, sources) for t in chosen]
        report.whole += distributions.measure([p[0] for p in parts], [p[1] for p in parts], setting, on_video)
    report.left_out |= distributions.left_out
    report.table_version = _write(store, report, {t["tryon_id"]: t["video_id"] for t in tryons}, commit)
    return report


def _unusable(tryon: dict[str, Any], sources: dict[str, str]) -> str | None:
    """Why a try-on video or its source is not there; None where both are."""
    if tryon["status"] != "ok" or not tryon["uri"]:
        return f"there is no try-on video: {tryon['reason']}"
    if tryon["video_id"] not in sources:
        return f"the source video {tryon['video_id']} is no longer in the lake"
    return None


def _parts(store: DeltaStore, tryon: dict[str, Any], sources: dict[str, str]) -> tuple[Part, Part]:
    """A try-on video, and the frames of its source that it is made from."""
    name = tryon["tryon_id"]
    result = Part(name, store.blobs.local_path(tryon["uri"]), pair=name)
    source = store.blobs.local_path(sources[tryon["video_id"]])
    return result, Part(f"source of {name}", source, tryon["start_frame"], tryon["num_frames"], pair=name)


def _write(store: DeltaStore, report: EvaluationReport, video_ids: dict[str, str], commit: Commit) -> int:
    now = datetime.now(UTC)

    def row(tryon_id: str, metric: MetricValue) -> dict[str, Any]:
        about = {"checkpoint_id": report.checkpoint_id, "tryon_id": tryon_id, "video_id": video_ids.get(tryon_id)}
        return about | asdict(metric) | {"created_at": now, "run_id": commit.run_id}

    # A metric of the whole set belongs to no single try-on video: its tryon_id is empty.
    rows = [row(tryon_id, m) for tryon_id, metrics in report.videos.items() for m in metrics]
    rows += [row("", m) for m in report.whole]
    where = {"checkpoint_id": report.checkpoint_id}
    others = [r for r in store.read(VIDEO_METRICS, where=where).to_pylist() if r["mode"] != report.mode]
    of_set = [r for r in others if not r["tryon_id"]]
    rows += set_metrics(of_set, others, video_ids)
    rows += [r for r in others if r["tryon_id"] in video_ids]
    return store.replace(VIDEO_METRICS, pa.Table.from_pylist(rows, VIDEO_METRICS.schema), where, commit)


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


def source_uris(store: DeltaStore, video_ids: list[str]) -> dict[str, str]:
    """video_id -> blob of those of the videos that could be read."""
    rows = store.read(VIDEOS, ["video_id", "uri"], {"video_id": sorted(set(video_ids)), "status": "ok"}).to_pylist()
    return {r["video_id"]: r["uri"] for r in rows if r["uri"]}


def _measure(
    store: DeltaStore, tryon: dict[str, Any], sources: dict[str, str], meter: PairedMeter
) -> list[MetricValue]:
    if reason := _unusable(tryon, sources):
        return meter.missing(reason)
    if not tryon["paired"]:
        return meter.missing("unpaired: nobody has filmed this person in this garment, so there is no ground truth")
    result = store.blobs.local_path(tryon["uri"])
    truth = store.blobs.local_path(sources[tryon["video_id"]])
    return meter.compare(result, truth, tryon["start_frame"], tryon["num_frames"])
