"""Interaction success rate: every captioned interaction of every try-on video before a judge; rows of `isr_scores`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import binomtest

from models.judges.base import Judge, JudgeRequest, Verdict
from pipelines.arrays import decode_mask
from pipelines.captions.rows import interactions
from pipelines.captions.stage import vlm_cache
from pipelines.evaluation.metrics import newest_id, source_uris, tryon_rows
from pipelines.evaluation.settings import CODE_VERSION, IsrSettings
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, HANDS, ISR_SCORES, POSE, VIDEOS
from pipelines.video import VideoReader

OVERALL = "overall"
_TORSO = (11, 12, 23, 24)
"""Left and right shoulder, left and right hip among MediaPipe's landmarks."""


@dataclass(frozen=True)
class Rate:
    """Success rate of one action, or overall.

    Attributes:
        action: Interaction category, or `overall`.
        successes: Interactions judged done.
        judged: Interactions with a verdict.
        unanswered: Interactions without one; they are not in the rate.
        rate: Successes over judged; None where nothing was judged.
        low: Lower end of the Wilson interval.
        high: Upper end.
    """

    action: str
    successes: int
    judged: int
    unanswered: int
    rate: float | None
    low: float | None
    high: float | None


@dataclass
class IsrReport:
    """What a judge found.

    Attributes:
        checkpoint_id: Checkpoint.
        judge: Judge with version or model.
        rates: Overall first, then by action.
        rows: Verdicts, as in the table.
        table_version: Version of `isr_scores` behind the run.
    """

    checkpoint_id: str
    judge: str
    rates: list[Rate] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    table_version: int | None = None


def make_judge(settings: IsrSettings, cache_dir: Path | None = None) -> Judge:
    """The judge that the settings name.

    Args:
        settings: Which judge.
        cache_dir: Folder for a language model's answers.

    Raises:
        models.vlm.client.EndpointError: If the vision-language judge has no endpoint or key.
    """
    if settings.judge == "vlm":
        from models.judges.vlm import VlmJudge
        from models.vlm.client import ChatClient

        return VlmJudge(ChatClient(settings.endpoint, cache_dir), settings.vlm)
    from models.judges.kinematic import KinematicJudge

    return KinematicJudge(settings.kinematic)


def rates(verdicts: Iterable[tuple[str, bool | None]], confidence: float = 0.95) -> list[Rate]:
    """Success rates with Wilson score intervals, overall and by action.

    Interactions are taken as independent; several of one video are not quite, so the interval is a little narrow.

    Args:
        verdicts: Action and verdict of every interaction.
        confidence: Level of the intervals.
    """
    groups: dict[str, list[bool | None]] = {OVERALL: []}
    for action, success in verdicts:
        groups[OVERALL].append(success)
        groups.setdefault(action, []).append(success)
    out = []
    for action in [OVERALL, *sorted(set(groups) - {OVERALL})]:
        answered = [v for v in groups[action] if v is not None]
        unanswered = len(groups[action]) - len(answered)
        if not answered:
            out.append(Rate(action, 0, 0, unanswered, None, None, None))
            continue
        k, n = sum(answered), len(answered)
        interval = binomtest(k, n).proportion_ci(confidence, method="wilson")
        out.append(Rate(action, k, n, unanswered, k / n, float(interval.low), float(interval.high)))
    return out


def judge_checkpoint(
    store: DeltaStore,
    settings: IsrSettings | None = None,
    checkpoint_id: str | None = None,
    *,
    commit: Commit | None = None,
    judge: Judge | None = None,
    cache_dir: Path | None = None,
    on_verdict: Callable[[dict[str, Any]], None] | None = None,
) -> IsrReport:
    """Judges every captioned interaction of a checkpoint's try-on videos and replaces its rows of `isr_scores`.

    What keeps a judge from a verdict is a row with a null verdict and the reason; it does not count as a failure.
    Where no video has a captioned interaction there are no rows, and the rate is None.

    Args:
        store: The lake.
        settings: Judge.
        checkpoint_id: Checkpoint; the newest by default.
        commit: Provenance.
        judge: A judge, in place of the settings'.
        cache_dir: Folder for a language model's answers; by default the one that captions use too.
        on_verdict: Called with every row.

    Raises:
        NothingToEvaluate: If there are no try-on videos of that checkpoint.
    """
    settings = settings or IsrSettings()
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    checkpoint_id = checkpoint_id or newest_id(store)
    tryons = tryon_rows(store, checkpoint_id)
    if judge is None:
        judge = make_judge(settings, cache_dir or vlm_cache(str(store.root)))
    report = IsrReport(checkpoint_id, judge.name)
    sources = source_uris(store)
    batches = {v["video_id"]: v["batch"] for v in store.read(VIDEOS, ["batch", "video_id"]).to_pylist()}
    for tryon in tryons:
        of_video = {"batch": batches.get(tryon["video_id"], ""), "video_id": tryon["video_id"]}
        for caption in _interactions(store, of_video, tryon):
            verdict = _verdict(store, judge, tryon, caption, of_video, sources)
            row = {
                "checkpoint_id": checkpoint_id,
                "tryon_id": tryon["tryon_id"],
                "video_id": tryon["video_id"],
                **{k: caption[k] for k in ("action", "start_frame", "end_frame", "text")},
                "success": verdict.success,
                "score": verdict.score,
                "rationale": verdict.rationale,
                "judge": judge.name,
                "votes": verdict.votes,
                "prompt_tokens": verdict.prompt_tokens,
                "completion_tokens": verdict.completion_tokens,
                "created_at": datetime.now(UTC),
                "run_id": commit.run_id,
            }
            report.rows.append(row)
            if on_verdict:
                on_verdict(row)
    report.rates = rates([(r["action"], r["success"]) for r in report.rows], settings.confidence)
    table = pa.Table.from_pylist(report.rows, ISR_SCORES.schema)
    report.table_version = store.replace(ISR_SCORES, table, {"checkpoint_id": checkpoint_id}, commit)
    return report


def _interactions(store: DeltaStore, of_video: dict[str, str], tryon: dict[str, Any]) -> list[dict[str, Any]]:
    """Captioned interactions of which the middle lies in the part of the source that was dressed."""
    first, end = tryon["start_frame"], tryon["start_frame"] + tryon["num_frames"]
    found = interactions(store.read(CAPTIONS, where=of_video))
    if tryon["status"] != "ok":
        return found
    return [r for r in found if first <= (r["start_frame"] + r["end_frame"]) / 2 < end]


def _verdict(
    store: DeltaStore,
    judge: Judge,
    tryon: dict[str, Any],
    caption: dict[str, Any],
    of_video: dict[str, str],
    sources: dict[str, str],
) -> Verdict:
    if tryon["status"] != "ok" or not tryon["uri"]:
        return Verdict(None, None, f"no verdict: there is no try-on video ({tryon['reason']})")
    if tryon["video_id"] not in sources:
        return Verdict(None, None, "no verdict: the source video is no longer in the lake")
    try:
        result = store.blobs.local_path(tryon["uri"])
        source = store.blobs.local_path(sources[tryon["video_id"]])
        return judge.judge(request_of(store, judge, result, source, tryon, caption, of_video))
    except Exception as error:
        # One damaged video must not cost the verdicts on the others.
        return Verdict(None, None, f"no verdict: {type(error).__name__}: {error}")


def request_of(
    store: DeltaStore,
    judge: Judge,
    result: Path,
    source: Path,
    tryon: dict[str, Any],
    caption: dict[str, Any],
    of_video: dict[str, str],
) -> JudgeRequest:
    """Gathers what a judge sees of one interaction: sampled pictures, region, hands and torso, all at one size."""
    offset, count = tryon["start_frame"], tryon["num_frames"]
    with VideoReader(source) as reader:
        info = reader.info
    start = max(0, caption["start_frame"] - offset)
    end = min(count, caption["end_frame"] - offset)
    frames = judge.frames(start, end, count, info.fps)
    height = min(judge.picture_height, info.height)
    width = max(1, round(info.width * height / info.height))
    scale = height / info.height
    wanted = [int(f) + offset for f in frames]
    return JudgeRequest(
        action=caption["action"],
        caption=caption["text"],
        fps=info.fps,
        start=start,
        end=end,
        frames=frames,
        result=_pictures(result, [int(f) for f in frames], width, height),
        source=_pictures(source, wanted, width, height),
        region=_regions(store, of_video, wanted, width, height),
        hands=_hands(store, of_video, wanted, scale),
        torso=_torsos(store, of_video, wanted, scale),
    )


def _pictures(path: Path, frames: Sequence[int], width: int, height: int) -> np.ndarray:
    out = []
    wanted = set(frames)
    with VideoReader(path) as reader:
        for frame in reader.frames(start=frames[0], stop=frames[-1] + 1):
            if frame.index in wanted:
                out.append(cv2.resize(frame.rgb, (width, height), interpolation=cv2.INTER_AREA))
    if len(out) != len(frames):
        raise ValueError(f"{len(frames) - len(out)} of the frames to judge are missing in {path.name}")
    return np.stack(out)


def _rows(store: DeltaStore, table: Any, of_video: dict[str, str], frames: Sequence[int]) -> list[dict[str, Any]]:
    wanted = set(frames)
    return [
        row
        for batch in store.batches(table, where=of_video)
        for row in batch.filter(pc.is_in(batch.column("frame"), pa.array(sorted(wanted), pa.int32()))).to_pylist()
    ]


def _regions(store: DeltaStore, of_video: dict[str, str], frames: Sequence[int], width: int, height: int) -> np.ndarray:
    rows = {r["frame"]: r for r in _rows(store, AGNOSTIC_MASKS, of_video, frames)}
    out = np.zeros((len(frames), height, width), bool)
    for i, frame in enumerate(frames):
        if row := rows.get(frame):
            mask = decode_mask(row["mask"], row["height"], row["width"])
            out[i] = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0
    return out


def _hands(
    store: DeltaStore, of_video: dict[str, str], frames: Sequence[int], scale: float
) -> list[dict[str, np.ndarray]]:
    found: dict[int, dict[str, np.ndarray]] = {}
    for row in _rows(store, HANDS, of_video, frames):
        points = np.array([[p["x_px"], p["y_px"]] for p in row["keypoints_2d"]], np.float32) * scale
        found.setdefault(row["frame"], {})[row["handedness"]] = points
    return [found.get(f, {}) for f in frames]


def _torsos(store: DeltaStore, of_video: dict[str, str], frames: Sequence[int], scale: float) -> np.ndarray:
    out = np.full((len(frames), 4, 2), np.nan, np.float32)
    rows = {r["frame"]: r for r in _rows(store, POSE, of_video, frames) if r["detected"]}
    for i, frame in enumerate(frames):
        if (row := rows.get(frame)) and row["landmarks"]:
            out[i] = [[row["landmarks"][j]["x_px"] * scale, row["landmarks"][j]["y_px"] * scale] for j in _TORSO]
    return out
