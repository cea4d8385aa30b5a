"""Interaction success rate: every captioned interaction of every try-on video before a judge; rows of `isr_scores`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from models.judges.base import Judge, JudgeRequest, Sampling, Verdict
from pipelines.captions.contact import ContactReader
from pipelines.captions.rows import interactions
from pipelines.captions.stage import vlm_cache
from pipelines.evaluation.evidence import AnnotatedSource
from pipelines.evaluation.judges.validation import Validation, newest_validation
from pipelines.evaluation.measured import in_part
from pipelines.evaluation.metrics import newest_id, tryon_rows
from pipelines.evaluation.rates import Rate, clip_rates, rates
from pipelines.evaluation.settings import ISR_VERSION, IsrSettings
from pipelines.previews.evidence import evidence_sheet
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import CAPTIONS, ISR_SCORES, VIDEOS


@dataclass
class IsrReport:
    """What a judge found.

    Attributes:
        checkpoint_id: Checkpoint.
        judge: Judge with version or model.
        validation: What is known of its agreement with known truth.
        rates: Overall first, then by action.
        clips: tryon_id -> rate of its interactions.
        rows: Verdicts, as in the table.
        table_version: Version of `isr_scores` behind the run.
    """

    checkpoint_id: str
    judge: str
    validation: Validation
    rates: list[Rate] = field(default_factory=list)
    clips: dict[str, Rate] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    table_version: int | None = None


def make_judge(settings: IsrSettings, store: DeltaStore, cache_dir: Path | None = None) -> Judge:
    """The judge that the settings name: `make` of the module of that name in `models.judges`.

    Args:
        settings: Which judge, and its settings.
        store: The lake, for where answers of language models are kept.
        cache_dir: Folder for these answers; by default the one that captions use too.

    Raises:
        models.judges.base.JudgeError: The judge lacks something; the message says what to do.
        pydantic.ValidationError: Its settings are wrong.
    """
    module = import_module(f"models.judges.{settings.judge}")
    values = getattr(settings, settings.judge, None)
    return module.make(settings.options if values is None else values, cache_dir or vlm_cache(str(store.root)))


def contact_reader(sampling: Sampling) -> ContactReader | None:
    """The contact network, for judges that need its reading."""
    return ContactReader() if sampling.needs_contact else None


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
    commit = Commit((commit or Commit()).run_id, ISR_VERSION)
    checkpoint_id = checkpoint_id or newest_id(store)
    tryons = tryon_rows(store, checkpoint_id)
    judge = judge or make_judge(settings, store, cache_dir)
    report = IsrReport(checkpoint_id, judge.name, newest_validation(store, judge.digest))
    reader = contact_reader(judge)
    sources = _Sources(store, tryons)
    for tryon in tryons:
        video = sources.of(tryon)
        source = AnnotatedSource(store, video, reader) if video else None
        for caption in _interactions(store, tryon, sources.batch_of(tryon), video):
            request, verdict = _verdict(store, judge, tryon, caption, source)
            row = {
                "checkpoint_id": checkpoint_id,
                "tryon_id": tryon["tryon_id"],
                "video_id": tryon["video_id"],
                **{k: caption[k] for k in ("action", "start_frame", "end_frame", "text")},
                "success": verdict.success,
                "score": verdict.score,
                "rationale": verdict.rationale,
                "judge": judge.name,
                "judge_digest": judge.digest,
                "judge_kappa": report.validation.kappa,
                "frames": [] if request is None else [int(f) for f in request.frames],
                "evidence_uri": _evidence(store, request, verdict),
                "votes": verdict.votes,
                "prompt_tokens": verdict.prompt_tokens,
                "completion_tokens": verdict.completion_tokens,
                "cost": verdict.cost,
                "created_at": datetime.now(UTC),
                "run_id": commit.run_id,
            }
            report.rows.append(row)
            if on_verdict:
                on_verdict(row)
    report.rates = rates([(r["action"], r["success"]) for r in report.rows], settings.confidence)
    report.clips = clip_rates([(r["tryon_id"], r["success"]) for r in report.rows], settings.confidence)
    table = pa.Table.from_pylist(report.rows, ISR_SCORES.schema)
    report.table_version = store.replace(ISR_SCORES, table, {"checkpoint_id": checkpoint_id}, commit)
    return report


def _evidence(store: DeltaStore, request: JudgeRequest | None, verdict: Verdict) -> str | None:
    return None if request is None else store.blobs.put_bytes(evidence_sheet(request, verdict), ".jpg")


class _Sources:
    """Source videos of try-ons. The same bytes have one video_id in all batches, and captions of their own in each."""

    def __init__(self, store: DeltaStore, tryons: list[dict[str, Any]]):
        wanted = {"video_id": sorted({t["video_id"] for t in tryons}), "status": "ok"}
        rows = [v for v in store.read(VIDEOS, where=wanted).to_pylist() if v["uri"]]
        self._rows = {(v["batch"], v["video_id"]): v for v in rows}

    def batch_of(self, tryon: dict[str, Any]) -> str | None:
        """The batch that was dressed; of a row that does not say, the first one with the video, None without."""
        recorded = json.loads(tryon["record"]).get("video", {}).get("batch")
        return recorded or min((b for b, v in self._rows if v == tryon["video_id"]), default=None)

    def of(self, tryon: dict[str, Any]) -> dict[str, Any] | None:
        """Row of `videos`; None where it is gone or cannot be used."""
        return self._rows.get((self.batch_of(tryon) or "", tryon["video_id"]))


def _interactions(
    store: DeltaStore, tryon: dict[str, Any], batch: str | None, video: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Captioned interactions of which the middle lies in the part of the source that was dressed."""
    where = {"video_id": tryon["video_id"]}
    found = interactions(store.read(CAPTIONS, where=where | ({"batch": batch} if video else {})))
    # Without its source nothing can be judged; that something was to be judged is told by any batch's captions.
    batches = {r["batch"] for r in found}
    one = batch if batch in batches else min(batches, default=None)
    found = [r for r in found if r["batch"] == one]
    if tryon["status"] != "ok":
        return found
    first, end = tryon["start_frame"], tryon["start_frame"] + tryon["num_frames"]
    return [r for r in found if in_part(r["start_frame"], r["end_frame"], first, end)]


def _verdict(
    store: DeltaStore, judge: Judge, tryon: dict[str, Any], caption: dict[str, Any], source: AnnotatedSource | None
) -> tuple[JudgeRequest | None, Verdict]:
    if tryon["status"] != "ok" or not tryon["uri"]:
        return None, Verdict(None, None, f"no verdict: there is no try-on video ({tryon['reason']})")
    if source is None:
        return None, Verdict(None, None, "no verdict: the source video is no longer a usable one of its batch")
    request = None
    try:
        request = source.request(
            judge,
            store.blobs.local_path(tryon["uri"]),
            caption["action"],
            caption["text"],
            (caption["start_frame"], caption["end_frame"]),
            offset=tryon["start_frame"],
            count=tryon["num_frames"],
        )
        return request, judge.judge(request)
    except Exception as error:
        # One damaged video must not cost the verdicts on the others.
        return request, Verdict(None, None, f"no verdict: {type(error).__name__}: {error}")
