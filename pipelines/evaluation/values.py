"""What an evaluation measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipelines.evaluation.settings import Mode

Setting = Literal["paired", "unpaired"]
"""paired: the garment is the one worn anyway, so the source is the truth. unpaired: another one; only sets compare."""

UNREADABLE = "cannot be read"
"""How the reason begins where a video is damaged."""


@dataclass(frozen=True)
class MetricValue:
    """One metric of one video or set.

    Attributes:
        metric: Name.
        value: None where it could not be computed.
        reason: Why None.
        network: Feature network and its digest, empty where none.
        num_samples: Frames (of a video), videos (of a mean over them) or clips (of a set's features) it comes from.
        low: Lower end of the bootstrap interval over videos; None for a single video, or too few.
        high: Upper end.
        mode: corrected or legacy.
        note: What to know about the value.
    """

    metric: str
    value: float | None
    reason: str | None = None
    network: str = ""
    num_samples: int = 0
    low: float | None = None
    high: float | None = None
    mode: Mode = "corrected"
    note: str | None = None


def level_note(confidence: float) -> list[str]:
    """What to know about an interval whose level is not the 95 % that readers expect; nothing where it is."""
    return [] if confidence == 0.95 else [f"the interval is of {100 * confidence:g} %"]


@dataclass
class EvaluationReport:
    """What an evaluation measured.

    Attributes:
        checkpoint_id: Checkpoint; empty for folders.
        mode: corrected or legacy.
        videos: Name or tryon_id -> metrics of that video.
        whole: Metrics of the set.
        left_out: Name -> why a video is in no number, or in fewer than the others.
        setting: Of folders: whether names are paired.
        table_version: Version of `video_metrics`, where it was written.
    """

    checkpoint_id: str
    mode: Mode = "corrected"
    videos: dict[str, list[MetricValue]] = field(default_factory=dict)
    whole: list[MetricValue] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    setting: Setting | None = None
    table_version: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`."""
        return {
            "mode": self.mode,
            "setting": self.setting,
            "metrics": [asdict(m) for m in self.whole],
            "videos": {name: [asdict(m) for m in metrics] for name, metrics in self.videos.items()},
            "left_out": self.left_out,
            "num_left_out": len(self.left_out),
        }


def network_shown(label: str | None) -> str:
    """A network with the beginning of its digest; empty where none was used."""
    name, _, digest = (label or "").partition(" ")
    return f"{name} {digest[:12]}".strip()


def markdown_table(report: EvaluationReport) -> str:
    """The metrics of the set that could be computed as a Markdown table; without their notes, which are sentences."""
    computed = [m for m in report.whole if m.value is not None]
    if not computed:
        return "no metric could be computed"
    lines = ["| metric | value | interval | samples | mode | network |", "|---|---|---|---|---|---|"]
    for m in computed:
        interval = "–" if m.low is None or m.high is None else f"{m.low:.4f} to {m.high:.4f}"
        network = network_shown(m.network) or "–"
        lines.append(f"| {m.metric} | {m.value:.4f} | {interval} | {m.num_samples} | {m.mode} | {network} |")
    return "\n".join(lines)
