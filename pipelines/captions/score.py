"""How well predicted action spans agree with labelled ones: temporal IoU, matched one to one.

`python -m pipelines.captions.score --truth FILE.jsonl --batch NAME` scores a batch of the lake against labels in the
manifest's format (one object a video with `video` and `actions`).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.captions.manifest import frame_span
from pipelines.captions.spans import Span, match_spans, temporal_iou
from pipelines.captions.tracks import frame_times
from pipelines.ingest.manifest import parse_manifest
from pipelines.store import TABLES, DeltaStore


@dataclass(frozen=True)
class VideoScore:
    """One video's spans against its labels.

    Attributes:
        truth: Labelled spans.
        predicted: Predicted spans.
        ious: For each labelled span, the largest IoU that any prediction has with it.
        matched: Labelled spans found, one prediction each, with an IoU at or above the threshold.
    """

    truth: tuple[Span, ...]
    predicted: tuple[Span, ...]
    ious: tuple[float, ...]
    matched: int


@dataclass(frozen=True)
class SpanScore:
    """Agreement over a set of videos.

    Attributes:
        iou: Threshold that counted as found.
        matched, predicted, labelled: Numbers of spans.
        false_in_negatives: Predicted spans in videos without any labelled span.
        videos: Each video's part.
    """

    iou: float
    matched: int
    predicted: int
    labelled: int
    false_in_negatives: int
    videos: Mapping[str, VideoScore] = field(default_factory=dict)

    @property
    def precision(self) -> float:
        """Share of predicted spans that match; 1 when nothing was predicted."""
        return self.matched / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of labelled spans that were found; 1 when there are none."""
        return self.matched / self.labelled if self.labelled else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def score_spans(
    predicted: Mapping[str, Sequence[Span]], truth: Mapping[str, Sequence[Span]], iou: float = 0.5
) -> SpanScore:
    """Score spans of many videos.

    Args:
        predicted: Video -> half-open spans; a video that is absent has none.
        truth: Video -> labelled spans; an empty list says that nothing happens there. Only these videos count.
        iou: Smallest temporal IoU at which a labelled span counts as found.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou must lie in (0, 1], not {iou}")
    videos = {}
    for name, labelled in truth.items():
        found = [(int(a), int(b)) for a, b in predicted.get(name, ())]
        ious = tuple(max((temporal_iou(p, t) for p in found), default=0.0) for t in labelled)
        matched = int((match_spans(found, labelled, iou) >= 0).sum())
        videos[name] = VideoScore(tuple((int(a), int(b)) for a, b in labelled), tuple(found), ious, matched)
    return SpanScore(
        iou,
        matched=sum(v.matched for v in videos.values()),
        predicted=sum(len(v.predicted) for v in videos.values()),
        labelled=sum(len(v.truth) for v in videos.values()),
        false_in_negatives=sum(len(v.predicted) for v in videos.values() if not v.truth),
        videos=videos,
    )


def read_truth(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Video name -> labelled spans in seconds, from a file in the manifest's format.

    Raises:
        ValueError: A line is no manifest object; says which and why.
    """
    out: dict[str, list[tuple[float, float]]] = {}
    with path.open("rb") as lines:
        for line in parse_manifest(lines):
            if line.entry is None:
                raise ValueError(f"{path.name}, line {line.number}: {line.error}")
            out[line.entry.video] = [(a.start_s, a.end_s) for a in line.entry.actions]
    return out


def score_batch(
    store: DeltaStore, batch: str, truth: Mapping[str, Sequence[tuple[float, float]]], iou: float = 0.5
) -> SpanScore:
    """Score the `captions` of a batch; a label may name the end of a video's path, as far as that tells it from others.

    Args:
        store: A `DeltaStore`.
        batch: Batch.
        truth: Video -> labelled spans in seconds.
        iou: See `score_spans`.

    Raises:
        LookupError: The batch holds none of the labelled videos.
        ValueError: A label names several videos of the batch.
    """
    columns = ["batch", "video_id", "source_path", "fps", "num_frames"]
    rows = store.read(TABLES["videos"], columns, {"batch": batch}).to_pylist()
    found = {name: _named(name, rows) for name in truth}
    videos = {name: row for name, row in found.items() if row is not None}
    if not videos:
        raise LookupError(f"Batch {batch!r} holds none of the labelled videos: {', '.join(sorted(truth)[:5])}")
    captions = store.read(
        TABLES["captions"], ["batch", "video_id", "kind", "start_frame", "end_frame"], {"batch": batch}
    )
    spans: dict[str, list[Span]] = {}
    for r in captions.to_pylist():
        if r["kind"] == "action":
            spans.setdefault(r["video_id"], []).append((r["start_frame"], r["end_frame"]))
    in_frames = {}
    for name, row in videos.items():
        pose = store.read(TABLES["pose"], ["frame", "time_s"], {"batch": batch, "video_id": row["video_id"]})
        times = frame_times(pose, row["num_frames"], row["fps"])
        in_frames[name] = [frame_span(a, b, times) for a, b in truth[name]]
    return score_spans({n: spans.get(r["video_id"], []) for n, r in videos.items()}, in_frames, iou)


def _named(name: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The video that a label names: by its whole path, or by as much of its end as both tell."""
    parts = PurePosixPath(name).parts

    def shared(row: Mapping[str, Any]) -> bool:
        path = PurePosixPath(row["source_path"]).parts
        length = min(len(path), len(parts))
        return path[-length:] == parts[-length:]

    fitting = [r for r in rows if r["source_path"] == name] or [r for r in rows if shared(r)]
    if len(fitting) > 1:
        paths = ", ".join(sorted(r["source_path"] for r in fitting)[:5])
        raise ValueError(f"The label {name!r} may mean {paths}: name the video by its path in the batch")
    return fitting[0] if fitting else None


def _in_words(spans: Sequence[Span]) -> str:
    return ", ".join(f"{a} to {b - 1}" for a, b in spans) or "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the score of a batch."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m pipelines.captions.score", description=__doc__.split("\n\n")[0])
    parser.add_argument("--truth", type=Path, required=True, help="labels, one JSON object a video")
    parser.add_argument("--batch", default="default", help="batch in the lake at ITRYON_LAKE")
    parser.add_argument("--iou", type=float, default=0.5, help="smallest temporal IoU that counts as found")
    options = parser.parse_args(arguments)
    result = score_batch(DeltaStore(), options.batch, read_truth(options.truth), options.iou)
    table = Table("video", "labelled", "predicted", "IoU", title=f"Action spans of batch {options.batch!r}")
    for name, video in result.videos.items():
        table.add_row(
            name,
            _in_words(video.truth),
            _in_words(video.predicted),
            " ".join(f"{v:.2f}" for v in video.ious) or "-",
        )
    console = Console()
    console.print(table)
    console.print(
        f"IoU >= {result.iou}: {result.matched} of {result.labelled} labelled spans found, "
        f"precision {result.precision:.2f}, recall {result.recall:.2f}, F1 {result.f1:.2f}; "
        f"{result.false_in_negatives} false spans in videos without one"
    )


if __name__ == "__main__":
    main()
