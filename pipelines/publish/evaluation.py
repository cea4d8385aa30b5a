"""What was measured of a checkpoint, as its model card shows it: figures with their basis, and why some are missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.evaluation.judges.validation import newest_validation
from pipelines.evaluation.leaderboard import titled
from pipelines.evaluation.measured import set_metrics, verdicts_that_count
from pipelines.evaluation.rates import Rate, rates
from pipelines.store import DeltaStore
from pipelines.store.schemas import ISR_SCORES, TRYON_VIDEOS, VIDEO_METRICS

_PATH = re.compile(r"(?<![\w:/.])~?(?:/[^\s/,;:()\"']+)+/([^\s/,;:()\"']+)")
_SHOWN_SETTINGS = ("steps", "guidance_scale", "seed", "flow_shift", "num_frames", "overlap_frames")


@dataclass(frozen=True)
class TryOn:
    """One try-on video of the evaluation set.

    Attributes:
        tryon_id: Its identity.
        video_id: Source.
        paired: Whether the garment is the one that is worn anyway.
        reason: Why it could not be made; None where it was.
        side_by_side_uri: Blob of the side-by-side video, where the lake still holds it.
        start_frame: First source frame.
        num_frames: Frames.
        values: `lpips` and `ssim`, as far as measured, and `interactions`, the share of judged ones that were done.
            A metric that was measured in mode legacy alone is named so, see `leaderboard.titled`.
        judged: Interactions with a verdict.
    """

    tryon_id: str
    video_id: str
    paired: bool
    reason: str | None
    side_by_side_uri: str | None
    start_frame: int
    num_frames: int
    values: dict[str, float] = field(default_factory=dict)
    judged: int = 0


@dataclass(frozen=True)
class Evaluation:
    """All that was measured.

    Attributes:
        videos: Try-on videos, those that could not be made among them.
        settings: How they were made; several values where the videos differ.
        encoders: Part of the model -> digest, as the videos were made with.
        rates: Success rates overall and by action; empty where nothing was judged.
        no_rates: Why there are none; empty where there are.
        judge: What is known of the judge's agreement with truth, one line; empty where nothing was judged.
        notes: What to know about metrics of the set, and which ones.
    """

    videos: list[TryOn]
    settings: dict[str, Any]
    encoders: dict[str, str]
    rates: list[Rate]
    no_rates: str
    judge: str
    notes: dict[str, list[str]]


def without_paths(text: str) -> str:
    """The text with paths of the machine it was written on cut down to their last part."""
    return _PATH.sub(r"…/\1", text)


def evaluation_of(store: DeltaStore, checkpoint_id: str) -> Evaluation:
    """Gather what the lake says of a checkpoint's try-on videos.

    Args:
        store: The lake.
        checkpoint_id: Checkpoint.
    """
    where = {"checkpoint_id": checkpoint_id}
    columns = ["tryon_id", "video_id", "paired", "side_by_side_uri", "start_frame", "num_frames", "record"]
    rows = store.read(TRYON_VIDEOS, [*columns, "status", "reason"], where).to_pylist()
    metrics = store.read(VIDEO_METRICS, ["tryon_id", "metric", "mode", "value", "note"], where).to_pylist()
    of_verdict = ["tryon_id", "action", "success", "judge_digest", "judge_kappa"]
    verdicts = verdicts_that_count(store.read(ISR_SCORES, of_verdict, where).to_pylist(), rows)
    records = [json.loads(r["record"]) for r in rows if r["status"] == "ok"]
    measured = _measured(metrics)
    answered: dict[str, list[bool]] = {}
    for v in verdicts:
        if v["success"] is not None:
            answered.setdefault(v["tryon_id"], []).append(v["success"])
    videos = []
    for row in rows:
        uri, done = row["side_by_side_uri"], answered.get(row["tryon_id"], [])
        values = dict(measured.get(row["tryon_id"], {}))
        if done:
            values["interactions"] = sum(done) / len(done)
        videos.append(
            TryOn(
                **{k: row[k] for k in ("tryon_id", "video_id", "paired", "start_frame", "num_frames")},
                reason=None if row["status"] == "ok" else without_paths(row["reason"] or "no reason given"),
                side_by_side_uri=uri if uri and store.blobs.exists(uri) else None,
                values=values,
                judged=len(done),
            )
        )
    return Evaluation(
        videos=videos,
        settings=_common(r.get("settings", {}) for r in records),
        encoders=_encoders(records),
        rates=rates([(v["action"], v["success"]) for v in verdicts]) if verdicts else [],
        no_rates="" if verdicts else _why_not_judged(records),
        judge=_agreement(store, verdicts[0]) if verdicts else "",
        notes=_notes(set_metrics((m for m in metrics if not m["tryon_id"]), metrics, [r["tryon_id"] for r in rows])),
    )


def _measured(metrics: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """tryon_id -> its LPIPS and SSIM; of mode legacy only where no video has the metric in the other one."""
    known = [m for m in metrics if m["tryon_id"] and m["value"] is not None and m["metric"] in ("lpips", "ssim")]
    corrected = {m["metric"] for m in known if m["mode"] == "corrected"}
    found: dict[str, dict[str, float]] = {}
    for m in known:
        if m["mode"] == "corrected" or m["metric"] not in corrected:
            found.setdefault(m["tryon_id"], {})[titled(m)] = m["value"]
    return found


def _notes(of_set: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Note -> the metrics of the set that have it."""
    found: dict[str, list[str]] = {}
    for m in of_set:
        if m["note"]:
            found.setdefault(m["note"], []).append(titled(m))
    return found


def _agreement(store: DeltaStore, verdict: dict[str, Any]) -> str:
    known = newest_validation(store, verdict["judge_digest"])
    if known.batch is None and verdict["judge_kappa"] is not None:
        return "its kappa is the one known when it judged; the report behind it is no longer in the lake"
    return known.text


def _why_not_judged(records: list[dict[str, Any]]) -> str:
    if not records:
        return "there are no try-on videos: run `itryon tryon`, then `itryon evaluate`"
    if not any(r.get("spans") for r in records):
        return "no interaction is captioned in the videos of the evaluation set"
    return "the interactions of the evaluation set were not judged: run `itryon evaluate`"


def _common(settings: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Setting -> its value, or its values where videos were made in different ways."""
    found: dict[str, list[Any]] = {}
    for s in settings:
        for name in _SHOWN_SETTINGS:
            if name in s and s[name] not in found.setdefault(name, []):
                found[name].append(s[name])
    return {k: v[0] if len(v) == 1 else v for k, v in found.items() if v}


def _encoders(records: list[dict[str, Any]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for record in records:
        for part, sha256 in record.get("digests", {}).items():
            if part != "transformer" and sha256 not in found.setdefault(part, []):
                found[part].append(sha256)
    return {part: ", ".join(digests) for part, digests in sorted(found.items())}
