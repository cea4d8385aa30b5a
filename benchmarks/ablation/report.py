"""The table and the picture of what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation.plan import ROWS, AblationSettings, Job, Row, jobs
from benchmarks.ablation.run import RESULTS, read_result
from pipelines.evaluation.bootstrap import cluster_draws, percentile_interval

_DRAWS = 2000
_MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "isr": lambda clip: float(clip["asked"] > 0.5),
    "false": lambda clip: float(clip["unasked"] > 0.5),
    "nearness": lambda clip: clip["asked"],
    "error": lambda clip: clip["error"],
    "error_interaction": lambda clip: clip["error_interaction"],
}
MOST_SEEDS = 9


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        """As percent."""
        return f"{100 * self.mean:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"

    def number(self) -> str:
        """Three decimals."""
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Mean over seeds and clips, and its bootstrap interval; clips and seeds are drawn with replacement.

    Args:
        values: (seeds, clips).
        seed: Of the bootstrap.
    """
    seeds, clips = values.shape
    of_seeds, of_clips = cluster_draws([seeds, clips], _DRAWS, seed)
    means = np.einsum("bs,sc,bc->b", of_seeds, values, of_clips, optimize=True) / values.size
    found = percentile_interval(means, 0.95)
    assert found is not None
    return Interval(float(values.mean()), *found)


def measured(settings: AblationSettings, folder: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """Row name -> results of its seeds, as far as there are."""
    found: dict[str, list[dict[str, Any]]] = {}
    for job in jobs(MOST_SEEDS):
        if (result := read_result(job, settings, folder)) is not None:
            found.setdefault(job.row.name, []).append(result)
    return found


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Interval]:
    """Measure -> mean and interval of one row.

    Raises:
        ValueError: The seeds were measured on different clips.
    """
    names = {tuple(c["clip"] for c in r["clips"]) for r in results}
    if len(names) != 1:
        raise ValueError("the seeds of a row were measured on different clips: delete its results and run again")
    return {k: interval(np.array([[f(c) for c in r["clips"]] for r in results])) for k, f in _MEASURES.items()}


def markdown(settings: AblationSettings, found: dict[str, list[dict[str, Any]]]) -> str:
    """RESULTS.md."""
    some = next(iter(found.values()))[0]
    unchanged = float(np.mean([c["unchanged"] for c in some["clips"]]))
    lines = [
        "# The ablation in small\n",
        "Made by `make ablation`; one file of figures a row and seed in `results/`.\n",
        f"{settings.steps} steps of {settings.batch_size} from random weights for every row, "
        f"{settings.interactive_clips} rendered clips with zips, {settings.ordinary_clips} without interactions, "
        f"{len(some['clips'])} held-back interactions in another garment; 95 % bootstrap intervals over clips and "
        "seeds. ISR: the result is nearer to "
        "the rendered truth with the interaction than to the one without, when the caption asks for it. False: the "
        "same when the caption asks for nothing. Errors are mean absolute differences, 0 to 1, from the truth in the "
        f"pixels that the garment changes (leaving the clip as it is: {unchanged:.3f}).\n",
        "| row | seeds | ISR | false | error | error in interaction frames |",
        "|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        if row.name in found:
            s = summary(found[row.name])
            lines.append(
                f"| {row.title} | {len(found[row.name])} | {s['isr'].percent()} | {s['false'].percent()} | "
                f"{s['error'].number()} | {s['error_interaction'].number()} |"
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
    bars = (("isr", -0.2, "#2a7f62", "done when asked"), ("false", 0.2, "#c44536", "done unasked"))
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


def missing(settings: AblationSettings, wanted: Sequence[Job]) -> list[Job]:
    """Jobs without figures."""
    return [job for job in wanted if read_result(job, settings) is None]
