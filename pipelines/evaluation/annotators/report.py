"""The annotator report of a rendered batch: all figures, over all videos and split by what they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.evaluation.annotators.captions import (
    CaptionSamples,
    caption_figures,
    measure_captions,
    worst_captions,
)
from pipelines.evaluation.annotators.goals import GOAL_OF, GOALS, Goal
from pipelines.evaluation.annotators.hands import HandSamples, hand_figures, measure_hands
from pipelines.evaluation.annotators.masks import MaskSamples, mask_figures, measure_masks, worst_masks
from pipelines.evaluation.annotators.pose import PoseSamples, measure_pose, pose_figures, worst_pose
from pipelines.evaluation.annotators.read import Annotator, BatchReader, Clip, VideoTables
from pipelines.evaluation.annotators.settings import CODE_VERSION
from pipelines.evaluation.annotators.statistics import Estimate, Figure, estimate
from pipelines.evaluation.shown import interval_shown, shown
from pipelines.store import Commit, DeltaStore
from pipelines.store.studio_schemas import ANNOTATOR_REPORTS, PERFORMANCES

ALL = "all"
_WORST = 12


@dataclass(frozen=True)
class Row:
    """One figure over one split.

    Attributes:
        figure: What was computed.
        split: all, performance=... or action=...
        estimate: Value and interval.
        goal: Bound to keep, for figures over all videos that have one.
        annotator: Whose annotations.
    """

    figure: Figure
    split: str
    estimate: Estimate
    goal: Goal | None
    annotator: Annotator

    @property
    def metric(self) -> str:
        """Name of the figure."""
        return self.figure.metric

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a value."""
        return None if self.goal is None or self.estimate.value is None else self.goal.met(self.estimate.value)


@dataclass(frozen=True)
class Case:
    """A frame, or a whole clip, that went badly.

    Attributes:
        clip: Which video.
        frame: Frame number; the first one for a whole clip.
        badness: Larger is worse; comparable within a family only.
        side: left or right for hands, else None.
    """

    clip: Clip
    frame: int
    badness: float
    side: str | None = None


@dataclass
class AnnotatorReport:
    """What a batch says of its annotators.

    Attributes:
        batch: Batch.
        clips: Its videos.
        rows: Figures.
        pose: Samples of each video, in the order of `clips`; so are the next.
        hands: Backend -> samples.
        masks: Samples.
        captions: Samples.
        worst: Family -> the worst cases, at most one a video, worst first.
        unannotated: Stage -> videos it failed on.
        table_version: Version of `annotator_reports`, where it was written.
    """

    batch: str
    clips: list[Clip]
    rows: list[Row] = field(default_factory=list)
    pose: list[PoseSamples] = field(default_factory=list)
    hands: dict[str, list[HandSamples]] = field(default_factory=dict)
    masks: list[MaskSamples] = field(default_factory=list)
    captions: list[CaptionSamples] = field(default_factory=list)
    worst: dict[str, list[Case]] = field(default_factory=dict)
    unannotated: dict[str, int] = field(default_factory=dict)
    table_version: int | None = None

    @property
    def goals(self) -> list[Row]:
        """The figures that have a goal, in the order of `GOALS`."""
        order = {g.metric: i for i, g in enumerate(GOALS)}
        return sorted((r for r in self.rows if r.goal is not None), key=lambda r: order[r.metric])

    def of(self, metric: str, split: str = ALL, backend: str | None = None) -> Row:
        """One figure.

        Raises:
            KeyError: There is no such figure.
        """
        for row in self.rows:
            if row.metric == metric and row.split == split and backend in (None, row.annotator.backend):
                return row
        raise KeyError(f"{metric} over {split}")


def splits(clips: Sequence[Clip]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and members (V,) bool of every split: all, each performance and each action that occurs.

    An action's clips are those in which it is performed or mimed.
    """
    yield ALL, np.ones(len(clips), bool)
    known = Counter(c.performance for c in clips)
    for name in [p for p in PERFORMANCES if p in known] + sorted(set(known) - set(PERFORMANCES)):
        yield f"performance={name}", np.array([c.performance == name for c in clips])
    for action in sorted({c.action for c in clips if c.action}):
        yield f"action={action}", np.array([c.action == action for c in clips])


def summarise(clips: Sequence[Clip], figures: Iterable[Figure], annotator: Annotator) -> list[Row]:
    """Every figure over every split that it is worth; intervals where people look: no figure of a single landmark."""
    rows = []
    parts = list(splits(clips))
    for figure in figures:
        for split, members in parts if figure.split else parts[:1]:
            value = estimate(figure.statistic, members) if figure.split else estimate(figure.statistic, members, 0)
            goal = GOAL_OF.get(figure.metric) if split == ALL else None
            rows.append(Row(figure, split, value, goal, annotator))
    return rows


def measure(reader: BatchReader, on_video: Callable[[str, int, int], None] | None = None) -> AnnotatorReport:
    """Measure all annotators of a batch.

    Args:
        reader: The batch.
        on_video: Called with file, videos done and videos in all.
    """
    report = AnnotatorReport(reader.batch, reader.clips, unannotated=dict(reader.unannotated))
    report.hands = {a.backend: [] for a in reader.annotators["hands"]}
    for done, video in enumerate(reader, 1):
        _measure(video, report)
        if on_video:
            on_video(video.clip.source_path, done, len(reader.clips))
    clips, annotators = report.clips, reader.annotators
    report.rows = summarise(clips, pose_figures(report.pose), annotators["pose"][0])
    for annotator in annotators["hands"]:
        report.rows += summarise(clips, hand_figures(report.hands[annotator.backend]), annotator)
    report.rows += summarise(clips, mask_figures(report.masks), annotators["agnostic_masks"][0])
    report.rows += summarise(clips, caption_figures(report.captions), annotators["captions"][0])
    report.worst = _worst(report)
    return report


def _measure(video: VideoTables, report: AnnotatorReport) -> None:
    size = (0, 0)
    if video.frames.num_rows:
        size = (video.frames["height"][0].as_py(), video.frames["width"][0].as_py())
    report.pose.append(measure_pose(video.frames, video.pose))
    for backend, samples in report.hands.items():
        samples.append(measure_hands(video.true_hands, video.hands[backend], size))
    report.masks.append(measure_masks(video.frames, video.true_hands, video.masks))
    report.captions.append(measure_captions(video.frames, video.captions, video.clip.performance))


def _worst(report: AnnotatorReport) -> dict[str, list[Case]]:
    out: dict[str, list[Case]] = {"pose": [], "missed hands": [], "hands": [], "masks": [], "captions": []}
    first = next(iter(report.hands.values()))
    for i, clip in enumerate(report.clips):
        pose, masks, hands, captions = report.pose[i], report.masks[i], first[i], report.captions[i]
        for family, frames, badness in (
            ("pose", pose.frames, worst_pose(pose)),
            ("missed hands", hands.frame, np.where(hands.found, np.nan, 1.0)),
            ("hands", hands.frame, hands.mpjpe),
            ("masks", masks.frames, worst_masks(masks)),
        ):
            if np.isfinite(badness).any():
                k = int(np.nanargmax(badness))
                side = ("left", "right")[hands.side[k]] if "hands" in family else None
                # A clip in which more hands were missed is worse.
                score = np.nansum(badness) if family == "missed hands" else badness[k]
                out[family].append(Case(clip, int(frames[k]), float(score), side))
        if (badness_of_clip := worst_captions(captions)) > 0:
            out["captions"].append(Case(clip, 0, float(badness_of_clip)))
    return {family: sorted(cases, key=lambda c: -c.badness)[:_WORST] for family, cases in out.items()}


def evaluate_batch(
    store: DeltaStore,
    batch: str,
    *,
    commit: Commit | None = None,
    on_video: Callable[[str, int, int], None] | None = None,
) -> AnnotatorReport:
    """Measure the annotators of a batch and replace its rows of `annotator_reports`.

    Args:
        store: The lake.
        batch: A rendered, annotated batch.
        commit: Provenance.
        on_video: Called with file, videos done and videos in all.

    Raises:
        NothingToMeasure: The batch has no truth, was not annotated, or its captions are the manifest's labels.
    """
    report = measure(BatchReader(store, batch), on_video)
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    table = as_table(report, commit.run_id)
    report.table_version = store.replace(ANNOTATOR_REPORTS, table, {"batch": batch}, commit)
    return report


def goals_markdown(report: AnnotatorReport) -> str:
    """The goals as a table in Markdown."""
    lines = ["| goal | annotator | bound | value | 95 % interval | samples | |", "|---|---|---|---|---|---|---|"]
    for row in report.goals:
        assert row.goal is not None
        e, unit = row.estimate, row.figure.unit
        verdict = {None: "not measured", True: "met", False: "missed"}[row.met]
        cells = [row.goal.title, row.annotator.backend, f"{row.goal.sign} {shown(row.goal.limit, unit=unit)}"]
        cells += [shown(e.value, unit=unit), interval_shown(e.low, e.high, unit=unit), f"{e.num_samples:,}", verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_table(report: AnnotatorReport, run_id: str = "") -> pa.Table:
    """The figures as rows of `annotator_reports`."""
    now = datetime.now(UTC)

    def values(row: Row) -> dict[str, Any]:
        e = row.estimate
        return {
            "batch": report.batch,
            "metric": row.metric,
            "split": row.split,
            "value": e.value,
            "low": e.low,
            "high": e.high,
            "num_samples": e.num_samples,
            "num_videos": e.num_videos,
            "unit": row.figure.unit,
            "better": row.figure.better,
            "goal": row.goal.limit if row.goal else None,
            "met": row.met,
            "annotator": row.annotator.backend,
            "annotator_digest": row.annotator.digest,
            "created_at": now,
            "run_id": run_id,
        }

    return pa.Table.from_pylist([values(r) for r in report.rows], ANNOTATOR_REPORTS.schema)
