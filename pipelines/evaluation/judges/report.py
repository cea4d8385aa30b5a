"""The judge report of a rendered batch: a judge's verdicts on cases with known truth, and its agreement with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.itryon.presets import NANO_WINDOW
from models.judges.base import Judge, JudgeRequest, Sampling, Verdict
from pipelines.evaluation.evidence import AnnotatedSource
from pipelines.evaluation.isr import contact_reader, make_judge
from pipelines.evaluation.judges.agreement import Answer, figures
from pipelines.evaluation.judges.cases import JudgeCase, read_cases
from pipelines.evaluation.judges.settings import CODE_VERSION, JudgeReportSettings, Pictures
from pipelines.evaluation.settings import IsrSettings
from pipelines.store import Commit, DeltaStore
from pipelines.store.clock import later_than
from pipelines.store.studio_schemas import JUDGE_CASES, JUDGE_REPORTS
from pipelines.video import VideoReader, VideoWriter

ALL = "all"


@dataclass
class JudgeReport:
    """What a batch says of a judge.

    Attributes:
        batch: Batch.
        judge: Name of the judge.
        judge_digest: Its digest.
        held_back: Whether the judge was fitted on none of the batch's clips.
        clips: Number of clips.
        cases: Rows of `judge_cases`.
        rows: Rows of `judge_reports`.
        table_version: Version of `judge_reports`, where it was written.
    """

    batch: str
    judge: str
    judge_digest: str
    held_back: bool
    clips: int
    cases: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    table_version: int | None = None

    def of(self, metric: str, pictures: str, split: str = ALL) -> dict[str, Any] | None:
        """The row of one figure; None where there is none."""
        found = (r for r in self.rows if (r["metric"], r["pictures"], r["split"]) == (metric, pictures, split))
        return next(found, None)

    @property
    def pictures(self) -> list[str]:
        """What results looked like, in the order they were judged."""
        return list(dict.fromkeys(c["pictures"] for c in self.cases))


def evaluate_judge(
    store: DeltaStore,
    batch: str,
    isr: IsrSettings | None = None,
    settings: JudgeReportSettings | None = None,
    *,
    judge: Judge | None = None,
    cache_dir: Path | None = None,
    commit: Commit | None = None,
    on_case: Callable[[str, int, int], None] | None = None,
) -> JudgeReport:
    """Judge the cases of a batch and replace this judge's rows of `judge_cases` and `judge_reports`.

    Args:
        store: The lake.
        batch: A batch rendered with `undone` and annotated up to `agnostic_masks`.
        isr: Which judge, as for `isr_scores`.
        settings: What it is measured on.
        judge: A judge, in place of the settings'.
        cache_dir: Folder for a language model's answers; by default the one that captions use too.
        commit: Provenance.
        on_case: Called with kind, cases done and cases in all.

    Raises:
        NothingToJudge: The batch yields no cases.
    """
    isr, settings = isr or IsrSettings(), settings or JudgeReportSettings()
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    found = read_cases(store, batch, settings.most_clips)
    judge = judge or make_judge(isr, store, cache_dir)
    seeds = {str(c.seed) for _, cases in found for c in cases}
    report = JudgeReport(batch, judge.name, judge.digest, not seeds & judge.fitted_on, len(found))
    total = len(settings.looks) * sum(len(cases) for _, cases in found)
    answers: dict[str, list[Answer]] = {p: [] for p in settings.looks}
    same = {"batch": batch, "judge_digest": judge.digest, "judge": judge.name}
    stamp = {"created_at": later_than(store, JUDGE_REPORTS), "run_id": commit.run_id}
    for clip, pictures, case, request in requests(store, judge, found, settings.looks):
        verdict, frames = _verdict(judge, request)
        answers[pictures].append(Answer(clip, case.kind, case.action, case.expected, verdict.success))
        report.cases.append(
            {
                **same,
                "pictures": pictures,
                "video_id": case.video_id,
                "kind": case.kind,
                "action": case.action,
                "done_action": case.done_action,
                "start_frame": case.span[0],
                "end_frame": case.span[1],
                "text": case.text,
                "expected": case.expected,
                "success": verdict.success,
                "score": verdict.score,
                "rationale": verdict.rationale,
                "votes": verdict.votes,
                "frames": frames,
                "prompt_tokens": verdict.prompt_tokens,
                "completion_tokens": verdict.completion_tokens,
                **stamp,
            }
        )
        if on_case:
            on_case(case.kind, len(report.cases), total)
    for look, mine in answers.items():
        for split, part in splits(mine):
            for metric, e in figures(part, len(found)).items():
                value = {"value": e.value, "low": e.low, "high": e.high, "num_cases": e.num_samples}
                row = {**same, "pictures": look, "metric": metric, "split": split, **value}
                report.rows.append(row | {"num_clips": e.num_videos, "held_back": report.held_back, **stamp})
    where = {"batch": batch, "judge_digest": judge.digest}
    store.replace(JUDGE_CASES, pa.Table.from_pylist(report.cases, JUDGE_CASES.schema), where, commit)
    # Last: figures without the cases they come from could not be looked into.
    table = pa.Table.from_pylist(report.rows, JUDGE_REPORTS.schema)
    report.table_version = store.replace(JUDGE_REPORTS, table, where, commit)
    return report


def requests(
    store: DeltaStore,
    sampling: Sampling,
    found: Sequence[tuple[dict[str, Any], Sequence[JudgeCase]]],
    pictures: Sequence[Pictures],
) -> Iterator[tuple[int, Pictures, JudgeCase, JudgeRequest | Exception]]:
    """What a judge is shown of every case.

    Args:
        store: The lake.
        sampling: What the judge wants to see.
        found: See `read_cases`.
        pictures: What results are to look like.

    Yields:
        Number of the clip, look of the result, case, and the request or what kept it from being made.
    """
    reader = contact_reader(sampling)
    for clip, (video, cases) in enumerate(found):
        source = AnnotatedSource(store, video, reader)
        with tempfile.TemporaryDirectory() as work:
            for look in pictures:
                results: dict[str, Path] = {}
                for case in cases:
                    try:
                        if case.result_uri not in results:
                            path = store.blobs.local_path(case.result_uri)
                            results[case.result_uri] = look_like(path, look, Path(work))
                        yield (
                            clip,
                            look,
                            case,
                            source.request(sampling, results[case.result_uri], case.action, case.text, case.span),
                        )
                    except Exception as error:
                        # One damaged video must not cost the others; the reason becomes the verdict's.
                        yield clip, look, case, error


def splits(answers: Sequence[Answer]) -> Iterator[tuple[str, list[Answer]]]:
    """All cases, those of each kind, and those that ask for each action."""
    yield ALL, list(answers)
    for kind in dict.fromkeys(a.kind for a in answers):
        yield f"case={kind}", [a for a in answers if a.kind == kind]
    for action in sorted({a.action for a in answers}):
        yield f"action={action}", [a for a in answers if a.action == action]


def _verdict(judge: Judge, request: JudgeRequest | Exception) -> tuple[Verdict, list[int]]:
    if isinstance(request, Exception):
        return Verdict(None, None, f"no verdict: {type(request).__name__}: {request}"), []
    try:
        return judge.judge(request), [int(f) for f in request.frames]
    except Exception as error:
        return Verdict(None, None, f"no verdict: {type(error).__name__}: {error}"), [int(f) for f in request.frames]


def look_like(path: Path, look: Pictures, work: Path) -> Path:
    """A video as it is, or through the nano autoencoder at the size that the embedded checkpoint works at.

    Args:
        path: The video.
        look: What it is to look like.
        work: Folder to write another video into.
    """
    if look == "rendered":
        return path
    from models.vae import load_nano_vae
    from pipelines.evaluation.degrade import through_autoencoder

    out = work / path.name
    with VideoReader(path) as reader:
        fps = reader.info.fps
        video = np.stack([f.rgb for f in reader.frames()])
    video = through_autoencoder(load_nano_vae(), video, NANO_WINDOW.sizes)
    with VideoWriter(out, fps=fps, width=video.shape[2], height=video.shape[1]) as writer:
        for frame in video:
            writer.write(frame)
    return out
