"""Plots of an annotator report as PNG bytes: goals, splits, landmarks, hands, actions, confidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipelines.evaluation.annotators.captions import NOTHING, confusion
from pipelines.evaluation.annotators.goals import GOAL_OF, GOALS
from pipelines.evaluation.annotators.pose import LANDMARKS
from pipelines.evaluation.annotators.report import ALL, AnnotatorReport, Row
from pipelines.evaluation.annotators.statistics import bin_of
from pipelines.evaluation.shown import shown
from pipelines.previews.plots import BLUE, GREEN, GREY, ORANGE, as_png, new_figure
from pipelines.store.schemas import ACTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RED = "#D55E00"
_STYLES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))
_BINS = 10


def goals_picture(report: AnnotatorReport) -> bytes:
    """A table of the goals: value with its interval as a bar, the bound as a line, met or not."""
    rows = report.goals
    figure = new_figure(9.6, 0.75 + 0.3 * len(rows))
    axes = figure.subplots()
    axes.set(xlim=(0, 10.1), ylim=(len(rows) - 0.4, -1.1))
    axes.axis("off")
    for x, text in ((0, "goal"), (3.9, "annotator"), (5.0, "bound"), (8.1, "value"), (10.0, "samples")):
        axes.text(x, -0.75, text, fontsize=8, color=GREY, ha="right" if x > 9 else "left")
    for y, row in enumerate(rows):
        assert row.goal is not None
        colour = GREY if row.met is None else GREEN if row.met else _RED
        unit = row.figure.unit
        mark = {None: "not measured", True: "met", False: "missed"}[row.met]
        axes.text(0, y, row.goal.title, fontsize=9, va="center")
        axes.text(3.9, y, row.annotator.backend, fontsize=8, va="center", color=GREY)
        axes.text(5.0, y, f"{row.goal.sign} {shown(row.goal.limit, unit=unit)}", fontsize=8, va="center")
        axes.text(8.1, y, f"{shown(row.estimate.value, unit=unit)}  {mark}", fontsize=8, va="center", color=colour)
        axes.text(10.0, y, f"{row.estimate.num_samples:,}", fontsize=8, va="center", ha="right", color=GREY)
        _bar(axes, y, row, colour)
    axes.set_title(f"{report.batch}: {sum(r.met is True for r in rows)} of {len(rows)} goals met", loc="left")
    return as_png(figure)


def _bar(axes: Axes, y: int, row: Row, colour: str) -> None:
    """Value, interval and bound on a scale from 0 to 1, or to twice the bound where that says more."""
    assert row.goal is not None
    start, length = 5.95, 2.0
    whole = 1.0 if row.goal.limit >= 0.7 and row.goal.better == "higher" else 2 * row.goal.limit

    def at(value: float) -> float:
        return start + length * min(value / whole, 1.0)

    axes.barh(y, length, left=start, height=0.5, color="#eeeeee")
    e = row.estimate
    if e.value is not None:
        axes.barh(y, at(e.value) - start, left=start, height=0.5, color=colour, alpha=0.75)
    if e.low is not None and e.high is not None:
        axes.plot([at(e.low), at(e.high)], [y, y], color="black", linewidth=1)
    axes.plot([at(row.goal.limit)] * 2, [y - 0.36, y + 0.36], color="black", linewidth=1.6)


def splits_picture(report: AnnotatorReport) -> bytes:
    """Every figure that has a goal, by what the videos show, with intervals."""
    names = list(dict.fromkeys(r.split for r in report.rows))
    panels = [(g, a) for g in GOALS for a in _backends(report, g.metric)]
    columns = 4
    lines = -(-len(panels) // columns)
    figure = new_figure(10.5, lines * (0.6 + 0.14 * len(names)))
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (goal, backend) in zip(grid.flat, panels):
        for y, split in enumerate(names):
            row = report.of(goal.metric, split, backend)
            e = row.estimate
            if e.value is None:
                continue
            colour = GREEN if goal.met(e.value) else _RED
            if e.low is not None and e.high is not None:
                axes.plot([e.low, e.high], [y, y], color=colour, linewidth=1.2)
            axes.plot(e.value, y, "o", color=colour, markersize=4)
        axes.axvline(goal.limit, color="black", linewidth=0.8, linestyle="--")
        several = len(_backends(report, goal.metric)) > 1
        axes.set_title(f"{goal.metric}{f' ({backend})' if several else ''}", fontsize=8, loc="left")
        axes.set_yticks(range(len(names)), [n.split("=")[-1] for n in names], fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(alpha=0.25)
    grid[0, 0].invert_yaxis()
    return as_png(figure)


def _backends(report: AnnotatorReport, metric: str) -> list[str]:
    return [r.annotator.backend for r in report.rows if r.metric == metric and r.split == ALL]


def landmarks_picture(report: AnnotatorReport) -> bytes:
    """PCK of each landmark, and its constant offset from the rig's."""
    figure = new_figure(9, 6.4)
    left, right = figure.subplots(1, 2, width_ratios=(2.2, 1), sharey=True)
    y = np.arange(len(LANDMARKS))
    for metric, colour, offset, text in (
        ("pose.pck_0.2", "#9fc8e3", 0.0, "within 0.2 torso"),
        ("pose.pck_0.1", BLUE, 0.0, "within 0.1 torso"),
    ):
        values = [report.of(f"{metric}/{n}").estimate.value for n in LANDMARKS]
        left.barh(y + offset, [v or 0 for v in values], color=colour, label=text, height=0.75)
    seen = [report.of(f"pose.pck_0.1_visible/{n}").estimate.value for n in LANDMARKS]
    known = [k for k, v in enumerate(seen) if v is not None]
    left.plot([seen[k] for k in known], known, "|", color="black", markersize=8, label="within 0.1, not hidden")
    left.axvline(GOAL_OF["pose.pck_0.1"].limit, color=_RED, linewidth=1, linestyle="--")
    left.set_yticks(y, LANDMARKS, fontsize=7)
    left.set(xlim=(0, 1.0), ylim=(len(LANDMARKS) - 0.4, -0.6), xlabel="share of landmarks in the picture")
    for way, colour, marker, text in (("down", ORANGE, "v", "down the torso"), ("right", GREEN, ">", "to the right")):
        pairs = [(report.of(f"pose.bias_{way}/{n}").estimate.value, k) for k, n in enumerate(LANDMARKS)]
        found = [(v, k) for v, k in pairs if v is not None]
        right.plot([v for v, _ in found], [k for _, k in found], marker, color=colour, markersize=4, label=text)
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel("mean offset, torso lengths")
    for axes in (left, right):
        axes.grid(alpha=0.25, axis="x")
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.06), ncols=3, frameon=False)
    return as_png(figure)


def hands_picture(report: AnnotatorReport) -> bytes:
    """Distributions of the hands' errors in space, a line for each backend."""
    figure = new_figure(9.6, 2.9)
    panels = figure.subplots(1, 4)
    measures = (
        ("mpjpe", "keypoints, root-aligned"),
        ("mpjpe_scaled", "and scaled"),
        ("pa_mpjpe", "and turned (PA)"),
        ("surface", "mesh surface, root-aligned"),
    )
    limit = GOAL_OF["hands.mpjpe"].limit
    for axes, (name, title) in zip(panels, measures):
        for (backend, samples), (colour, line) in zip(report.hands.items(), _STYLES):
            values = np.concatenate([*(getattr(v, name) for v in samples), np.zeros(0)])
            values = values[np.isfinite(values)]
            if len(values):
                edges = np.linspace(0, 6 * limit, 46)
                shares = np.histogram(np.minimum(values, edges[-1] - 1e-9), edges)[0] / len(values)
                text = f"{backend}: mean {values.mean():.1f}, median {np.median(values):.1f}"
                axes.stairs(100 * shares, edges, color=colour, linestyle=line, fill=line == "-", alpha=0.8, label=text)
        if name == "mpjpe":
            axes.axvline(limit, color=_RED, linewidth=1, linestyle="--")
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlabel("mm (the last bar: and more)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_ylim(0, 1.25 * max(axes.get_ylim()[1], 1e-3))
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=6.5, loc="upper right", frameon=False)
    panels[0].set_ylabel("% of hands found", fontsize=8)
    return as_png(figure)


def confusion_picture(report: AnnotatorReport) -> bytes:
    """Spans by true and by predicted action; what has no counterpart is in the last row or column."""
    counts = confusion(report.captions)
    names = [a.replace("_", " ") for a in ACTIONS] + [NOTHING]
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    whole = np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(counts / whole, cmap="Blues", vmin=0, vmax=1)
    for (r, c), n in np.ndenumerate(counts):
        if n:
            axes.text(c, r, str(n), ha="center", va="center", fontsize=9, color="white" if n > 0.6 * whole[r] else "k")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="annotated", ylabel="true")
    axes.set_title(
        f"{int(counts[:-1].sum())} true spans, {int(counts[:, :-1].sum())} annotated", fontsize=9, loc="left"
    )
    return as_png(figure)


def reliability_picture(report: AnnotatorReport) -> bytes:
    """How often spans of a confidence are right, with and without regard to the action's name."""
    figure = new_figure(6.4, 3.4)
    panels = figure.subplots(1, 2, sharey=True)
    confidence = np.array([p.confidence for v in report.captions for p in v.predicted])
    which = bin_of(confidence, _BINS)
    counts = np.bincount(which, minlength=_BINS)
    for axes, attribute, metric, title in (
        (panels[0], "match_named", "captions.ece", "span and action right"),
        (panels[1], "match", "captions.ece_any_action", "span right"),
    ):
        right = np.concatenate([*(getattr(v, attribute) >= 0 for v in report.captions), np.zeros(0, bool)])
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        for b in np.flatnonzero(counts):
            mine = which == b
            accuracy = right[mine].mean()
            axes.bar((b + 0.5) / _BINS, accuracy, 0.9 / _BINS, color=BLUE, alpha=0.6)
            axes.plot(confidence[mine].mean(), accuracy, "o", color=_RED, markersize=4)
            axes.text((b + 0.5) / _BINS, accuracy + 0.02, str(counts[b]), ha="center", fontsize=7)
        ece = report.of(metric).estimate.value
        axes.set_title(f"{title}: ECE {'–' if ece is None else f'{ece:.3f}'}", fontsize=9, loc="left")
        axes.set(xlim=(0, 1), ylim=(0, 1.1), xlabel="confidence")
    panels[0].set_ylabel("share that is right")
    return as_png(figure)
