"""The table and the picture of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.plan import ROWS, AblationSettings, Row, jobs
from benchmarks.ablation.run import RESULTS, read_result
from pipelines.evaluation.ablation import AblationClip, Interval
from pipelines.evaluation.ablation import summary as summarise

MOST_SEEDS = 9
_HEADS = (
    "row",
    "seeds",
    "exact ISR",
    "false",
    "leaked",
    "response, asked",
    "response, false",
    "error",
    "in interaction frames",
    "in its pixels",
)


def measured(settings: AblationSettings, folder: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """Row name -> results of its seeds, as far as there are."""
    found: dict[str, list[dict[str, Any]]] = {}
    for job in jobs(MOST_SEEDS):
        if (result := read_result(job, settings, folder)) is not None:
            found.setdefault(job.row.name, []).append(result)
    return found


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Interval]:
    """Measure -> mean and interval of one row, as on the leaderboard.

    Raises:
        ValueError: The seeds were measured on different clips.
    """
    return summarise([[AblationClip.model_validate(c) for c in r["clips"]] for r in results])


def markdown(settings: AblationSettings, found: dict[str, list[dict[str, Any]]]) -> str:
    """RESULTS.md."""
    some = next(iter(found.values()))[0]
    unchanged = float(np.mean([c["unchanged"] for c in some["clips"]]))
    lines = [
        "# The ablation in small\n",
        "Made by `make ablation`; one file of figures a row and seed in `results/`.\n",
        f"{settings.steps} steps of {settings.batch_size} for every row, all from one network that saw ordinary clips "
        f"alone for {settings.base_steps}; "
        f"{settings.interactive_clips} rendered scenes with zips, {settings.ordinary_clips} without interactions, "
        f"{len(some['clips'])} held-back interactions in another garment; 95 % bootstrap intervals over clips and "
        "seeds. Response: how far the result goes through the change of the picture that the interaction makes, 0 as "
        "the rendered truth without it, 1 as the truth with it. Exact ISR: more than halfway, when the caption asks "
        "for it; no judge is involved, whose kappa it would depend on. "
        "False: the same of clips in which the hands move alike, nothing is done, and the caption asks for nothing; "
        "they wear that garment already, so this is measured in the paired setting. "
        "Leaked: the same when the caption asks for nothing, but the source does it: its collar and the edge of the "
        "mask show that. Where nothing is asked for, rows that read action captions are guided away from an opening "
        "zip. Errors are mean absolute differences, 0 to 1, from the "
        f"truth in the pixels that the garment changes (leaving the clip as it is: {unchanged:.3f}): in "
        "all frames, in those in which the interaction shows, and in what the interaction itself changes. Design and "
        "settings were chosen on clips of seed 601; all figures are of others.\n",
        f"| {' | '.join(_HEADS)} |",
        "|" + "---|" * len(_HEADS),
    ]
    for row in ROWS:
        if row.name in found:
            s = summary(found[row.name])
            lines.append(
                f"| {row.title} | {len(found[row.name])} | {s['isr'].percent()} | {s['false'].percent()} | "
                f"{s['leaked'].percent()} | {s['asked'].number()} | {s['quiet'].number()} | {s['error'].number()} | "
                f"{s['error_interaction'].number()} | {s['error_changed'].number()} |"
            )
    return "\n".join([*lines, ""])


def plot(found: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Bars of ISR and false interactions with their intervals, as PNG."""
    from matplotlib.figure import Figure

    rows: list[Row] = [r for r in ROWS if r.name in found]
    summaries = [summary(found[r.name]) for r in rows]
    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(rows))
    bars = (
        ("isr", -0.2, "#2a7f62", "done when asked"),
        ("false", 0.2, "#c44536", "done where nothing is done or asked for"),
    )
    for measure, offset, color, label in bars:
        values = [s[measure] for s in summaries]
        means = [v.mean for v in values]
        error = np.maximum([[v.mean - v.low for v in values], [v.high - v.mean for v in values]], 0)
        axes.barh(at + offset, means, 0.38, color=color, label=label)
        axes.errorbar(means, at + offset, xerr=error, fmt="none", ecolor="black", lw=1)
    axes.set(yticks=at, yticklabels=[r.title for r in rows], xlim=(0, 1), xlabel="share of held-back interactions")
    axes.invert_yaxis()
    axes.legend()
    figure.savefig(file, dpi=110)
