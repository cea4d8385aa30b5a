"""Action spans against the truth: found in time, named right, silent where nothing happens, and as sure as they say.

A predicted span matches a true one at a temporal IoU of 0.5; matching is one to one. A clip shows an interaction, or
something that is none: pantomime (the same motion while the cloth stays), a hovering or resting hand, walking, idling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.captions.rows import interactions
from pipelines.captions.spans import Span, fill, match_spans, runs
from pipelines.evaluation.annotators.statistics import BalancedAccuracy, CalibrationError, Figure, Ratio
from pipelines.store.schemas import ACTIONS

MIN_IOU = 0.5
NOTHING = "nothing"
"""Row and column of the confusion for spans without a counterpart."""


@dataclass(frozen=True)
class ActionSpan:
    """A span of frames with an action.

    Attributes:
        action: Interaction category.
        span: Half-open.
        confidence: 0 to 1; 1 in the truth.
    """

    action: str
    span: Span
    confidence: float = 1.0


@dataclass(frozen=True)
class CaptionSamples:
    """One video's spans against the truth; P predicted spans.

    Attributes:
        performance: What the clip shows.
        num_frames: Frames of the clip.
        truth: True spans.
        predicted: Predicted spans.
        match: (P,) index of the true span that a prediction matches whatever its action; -1 without.
        match_named: (P,) the same, among true spans of the prediction's action only.
    """

    performance: str
    num_frames: int
    truth: tuple[ActionSpan, ...]
    predicted: tuple[ActionSpan, ...]
    match: np.ndarray
    match_named: np.ndarray

    def frames(self, spans: Sequence[ActionSpan], action: str | None = None) -> np.ndarray:
        """(F,) bool, frames inside any of the spans, or inside those of one action."""
        return fill([s.span for s in spans if action in (None, s.action)], self.num_frames)


def true_spans(frames: pa.Table) -> list[ActionSpan]:
    """Maximal runs of the same action in a video's rows of `studio_frames`, in order of time."""
    rows = frames.select(["frame", "action"]).to_pylist()
    done = np.array([r["action"] or "" for r in sorted(rows, key=lambda r: r["frame"])])
    found = [ActionSpan(a, span) for a in ACTIONS for span in runs(done == a)] if len(done) else []
    return sorted(found, key=lambda s: s.span)


def measure_captions(truth: pa.Table, predicted: pa.Table, performance: str) -> CaptionSamples:
    """Compare one video.

    Args:
        truth: Its rows of `studio_frames`.
        predicted: Its rows of `captions`.
        performance: What the clip shows, from `studio_clips`.
    """
    spans = [
        ActionSpan(r["action"], (r["start_frame"], r["end_frame"]), r["confidence"]) for r in interactions(predicted)
    ]
    return compare_spans(true_spans(truth), spans, truth.num_rows, performance)


def compare_spans(
    truth: Sequence[ActionSpan], predicted: Sequence[ActionSpan], num_frames: int, performance: str
) -> CaptionSamples:
    """Match spans of one video; see `CaptionSamples`."""
    named = np.full(len(predicted), -1)
    for action in {p.action for p in predicted}:
        mine = [i for i, p in enumerate(predicted) if p.action == action]
        theirs = [i for i, t in enumerate(truth) if t.action == action]
        part = match_spans([predicted[i].span for i in mine], [truth[i].span for i in theirs], MIN_IOU)
        named[mine] = [theirs[m] if m >= 0 else -1 for m in part]
    match = match_spans([p.span for p in predicted], [t.span for t in truth], MIN_IOU)
    return CaptionSamples(performance, num_frames, tuple(truth), tuple(predicted), match, named)


def caption_figures(videos: Sequence[CaptionSamples]) -> list[Figure]:
    """Figures of many videos."""
    predicted = np.array([len(v.predicted) for v in videos], float)
    labelled = np.array([len(v.truth) for v in videos], float)
    hits = np.array([(v.match >= 0).sum() for v in videos], float)
    named = np.array([(v.match_named >= 0).sum() for v in videos], float)
    both = predicted + labelled
    out = [
        Figure("captions.span_f1", Ratio(2 * named, both)),
        Figure("captions.span_precision", Ratio(named, predicted)),
        Figure("captions.span_recall", Ratio(named, labelled)),
        Figure("captions.span_f1_any_action", Ratio(2 * hits, both)),
        Figure("captions.span_precision_any_action", Ratio(hits, predicted)),
        Figure("captions.span_recall_any_action", Ratio(hits, labelled)),
        Figure("captions.false_spans", Ratio(predicted - hits, np.ones(len(videos))), "spans", "lower"),
        Figure("captions.clips_with_false_span", Ratio(predicted > hits, np.ones(len(videos))), "share", "lower"),
        *_frame_figures(videos),
        *_told_apart(videos),
    ]
    for name, attribute in (("ece", "match_named"), ("ece_any_action", "match")):
        confidence = [np.array([p.confidence for p in v.predicted]) for v in videos]
        correct = [getattr(v, attribute) >= 0 for v in videos]
        out.append(Figure(f"captions.{name}", CalibrationError(confidence, correct), "share", "lower"))
    return out


def _frame_figures(videos: Sequence[CaptionSamples]) -> list[Figure]:
    """Precision and recall of frames, of each action and of any (contact that does something)."""
    out = []
    for action in (None, *ACTIONS):
        true = [v.frames(v.truth, action) for v in videos]
        told = [v.frames(v.predicted, action) for v in videos]
        right = [(a & b).sum() for a, b in zip(true, told)]
        suffix = f"/{action}" if action else ""
        for name, of in (("precision", told), ("recall", true)):
            ratio = Ratio(right, [f.sum() for f in of])
            out.append(Figure(f"captions.frame_{name}{suffix}", ratio, split=action is None))
    return out


def _told_apart(videos: Sequence[CaptionSamples]) -> list[Figure]:
    """Interaction clips with a matching span, pantomime clips without any span, and the mean of both rates."""
    acted = np.array([v.performance == "interaction" for v in videos], float)
    mimed = np.array([v.performance == "pantomime" for v in videos], float)
    found = np.array([(v.match >= 0).any() for v in videos], float)
    silent = np.array([not v.predicted for v in videos], float)
    right, total = np.stack([acted * found, mimed * silent], 1), np.stack([acted, mimed], 1)
    return [
        Figure("captions.told_from_pantomime", BalancedAccuracy(right, total)),
        Figure("captions.interaction_found", Ratio(right[:, 0], acted)),
        Figure("captions.pantomime_silent", Ratio(right[:, 1], mimed)),
    ]


def confusion(videos: Sequence[CaptionSamples]) -> np.ndarray:
    """Spans by true action (rows) and predicted action (columns), each of `ACTIONS` and then nothing: (7, 7) int."""
    out = np.zeros((len(ACTIONS) + 1,) * 2, int)
    for v in videos:
        missed = np.ones(len(v.truth), bool)
        for p, match in zip(v.predicted, v.match):
            true = len(ACTIONS) if match < 0 else ACTIONS.index(v.truth[match].action)
            out[true, ACTIONS.index(p.action)] += 1
            if match >= 0:
                missed[match] = False
        for t in np.flatnonzero(missed):
            out[ACTIONS.index(v.truth[t].action), len(ACTIONS)] += 1
    return out


def worst_captions(samples: CaptionSamples) -> float:
    """How bad a clip's spans are: true spans missed, false ones, and half for a wrong name."""
    matched = int((samples.match >= 0).sum())
    misnamed = matched - int((samples.match_named >= 0).sum())
    return len(samples.truth) + len(samples.predicted) - 2 * matched + 0.5 * max(0, misnamed)
