"""Plots of a judge report as PNG bytes: agreement, confusion by action, scores by kind of case."""

from __future__ import annotations

import numpy as np

from pipelines.evaluation.judges.report import JudgeReport
from pipelines.previews.plots import BLUE, GREEN, GREY, ORANGE, as_png, new_figure
from pipelines.store.studio_schemas import JUDGE_CASE_KINDS

_RED = "#D55E00"
_COLOURS = (BLUE, ORANGE, GREEN)
_CELLS = (
    ("done, said done", True, True),
    ("done, said not", True, False),
    ("not done, said done", False, True),
    ("not done, said not", False, False),
)


def agreement_picture(report: JudgeReport) -> bytes:
    """Kappa of all cases and of each action, and accuracy of each kind of case, with 95 % intervals."""
    figure = new_figure(9.6, 3.6)
    left, right = figure.subplots(1, 2)
    actions = ["all", *sorted({r["split"] for r in report.rows if r["split"].startswith("action=")})]
    kinds = [f"case={k}" for k in JUDGE_CASE_KINDS if any(r["split"] == f"case={k}" for r in report.rows)]
    for axes, metric, names in ((left, "kappa", actions), (right, "accuracy", kinds)):
        for n, (look, colour) in enumerate(zip(report.pictures, _COLOURS)):
            shift = 0.18 * (n - (len(report.pictures) - 1) / 2)
            for y, name in enumerate(names):
                row = report.of(metric, look, name)
                if row is None or row["value"] is None:
                    continue
                if row["low"] is not None:
                    axes.plot([row["low"], row["high"]], [y + shift] * 2, color=colour, linewidth=1.4)
                axes.plot(row["value"], y + shift, "o", color=colour, markersize=5, label=look if y == 0 else None)
        axes.set_yticks(range(len(names)), [n.split("=")[-1].replace("_", " ") for n in names], fontsize=8)
        axes.invert_yaxis()
        axes.grid(alpha=0.25, axis="x")
        axes.set_xlim(min(0.0, axes.get_xlim()[0]), 1.02)
        axes.set_xlabel("Cohen's kappa, by action asked for" if metric == "kappa" else "accuracy, by kind of case")
    left.legend(frameon=False, fontsize=8, loc="lower left")
    fitted = "" if report.held_back else ", fitted on these clips"
    figure.suptitle(f"{report.judge} on {report.batch}: {report.clips} clips{fitted}", fontsize=10)
    return as_png(figure)


def confusion_picture(report: JudgeReport) -> bytes:
    """For each action asked for, how often what is done and what is not is said to be done; a panel for each look."""
    actions = sorted({c["action"] for c in report.cases})
    looks = report.pictures
    figure = new_figure(1.6 + 4.2 * len(looks), 1.6 + 0.36 * len(actions))
    panels = figure.subplots(1, len(looks), squeeze=False, sharey=True)[0]
    heads = [text for text, _, _ in _CELLS] + ["no verdict"]
    for axes, look in zip(panels, looks):
        counts = np.zeros((len(actions), len(heads)), int)
        for c in report.cases:
            if c["pictures"] != look:
                continue
            k = len(_CELLS) if c["success"] is None else _cell(c["expected"], c["success"])
            counts[actions.index(c["action"]), k] += 1
        whole = np.maximum(counts.sum(1, keepdims=True), 1)
        right = np.zeros((*counts.shape, 3))
        for k in range(len(heads)):
            colour = (0.35, 0.7, 0.9) if k in (0, 3) else (0.6, 0.6, 0.6) if k == len(_CELLS) else (0.95, 0.55, 0.3)
            share = (counts[:, k] / whole[:, 0])[:, None]
            right[:, k] = 1 - share * (1 - np.array(colour))
        axes.imshow(right, aspect="auto")
        for (r, c), n in np.ndenumerate(counts):
            axes.text(c, r, str(n), ha="center", va="center", fontsize=9, color="black" if n else "#bbbbbb")
        axes.set_xticks(range(len(heads)), heads, rotation=30, ha="right", fontsize=8)
        axes.set_yticks(range(len(actions)), [a.replace("_", " ") for a in actions], fontsize=8)
        axes.set_title(f"{look} results", fontsize=9, loc="left")
    return as_png(figure)


def scores_picture(report: JudgeReport) -> bytes:
    """Every verdict's score by kind of case: those done should lie to the right, all others to the left."""
    kinds = [k for k in JUDGE_CASE_KINDS if any(c["kind"] == k for c in report.cases)]
    looks = report.pictures
    figure = new_figure(1.0 + 4.2 * len(looks), 0.9 + 0.5 * len(kinds))
    panels = figure.subplots(1, len(looks), squeeze=False, sharey=True)[0]
    rng = np.random.default_rng(0)
    for axes, look in zip(panels, looks):
        for y, kind in enumerate(kinds):
            cases = [c for c in report.cases if c["pictures"] == look and c["kind"] == kind and c["score"] is not None]
            colours = [GREEN if c["success"] == c["expected"] else _RED for c in cases]
            axes.scatter([c["score"] for c in cases], y + rng.uniform(-0.25, 0.25, len(cases)), s=10, c=colours)
        axes.set(xlim=(-0.02, 1.02), xlabel="score", ylim=(len(kinds) - 0.5, -0.5))
        axes.set_yticks(range(len(kinds)), [k.replace("_", " ") for k in kinds], fontsize=8)
        axes.set_title(f"{look} results (red: wrong)", fontsize=9, loc="left", color=GREY)
        axes.grid(alpha=0.25, axis="x")
    return as_png(figure)


def _cell(expected: bool, success: bool) -> int:
    return next(k for k, (_, e, s) in enumerate(_CELLS) if (e, s) == (expected, success))
