"""Plots as PNG bytes, small enough for the metadata of an event. Figures are made without a display."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.store import DeltaStore
from pipelines.store.schemas import STAGE_STATUS, TRAINING_METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#888888"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches at 100 dots each."""
    # The figure without pyplot keeps no global state, so threads of the UI's processes do not meet in it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_png(figure: Figure) -> bytes:
    """The figure as PNG, in 128 colours: lines and bars need no more, and the event gets half as large."""
    drawn, out = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def loss_curve(store: DeltaStore, checkpoint_id: str) -> bytes | None:
    """Loss, AC term and step time of a training run as PNG; None when no steps were logged."""
    rows = store.read(
        TRAINING_METRICS,
        ["step", "loss", "loss_std", "loss_action", "step_seconds"],
        {"checkpoint_id": checkpoint_id},
    )
    if rows.num_rows == 0:
        return None
    step = rows["step"].to_numpy()
    figure = new_figure(8, 3.4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.4))
    for name, colour, text in (
        ("loss", BLUE, "loss"),
        ("loss_std", GREEN, "flow matching"),
        ("loss_action", ORANGE, "AC term"),
    ):
        values = rows[name].to_numpy(zero_copy_only=False).astype(float)
        if not np.isfinite(values).any():
            continue
        left.plot(step, values, color=colour, alpha=0.25, linewidth=0.8)
        left.plot(step, smoothed(values), color=colour, linewidth=1.6, label=text)
    left.set(xlabel="step", ylabel="loss", yscale="log")
    left.legend(frameon=False)
    left.grid(alpha=0.25)
    right.plot(step, rows["step_seconds"].to_numpy(), color=GREY, linewidth=0.8)
    right.set(xlabel="step", ylabel="seconds a step", ylim=(0, None))
    right.grid(alpha=0.25)
    return as_png(figure)


def smoothed(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Centred running mean over `share` of the series, shorter at both ends; NaN counts as absent."""
    half = max(1, int(len(values) * share / 2))
    known = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / np.maximum(count[high] - count[low], 1)


def stage_times(store: DeltaStore, batch: str) -> bytes | None:
    """Milliseconds a frame of each stage of a batch, network inference apart from the rest, as PNG; None without any.

    The times are those of the workers, so with two workers a stage runs about twice as fast.
    """
    rows = [r for r in store.read(STAGE_STATUS, where={"batch": batch}).to_pylist() if r["frames"]]
    if not rows:
        return None
    stages = sorted({r["stage"] for r in rows}, key=_order)
    model, total, frames = (
        np.array([sum(r[k] for r in rows if r["stage"] == s) for s in stages])
        for k in ("model_seconds", "seconds", "frames")
    )
    inference, other = 1e3 * model / frames, 1e3 * (total - model) / frames
    figure = new_figure(8, 0.9 + 0.45 * len(stages))
    axes = figure.subplots()
    y = np.arange(len(stages))
    axes.barh(y, inference, color=BLUE, label="network inference")
    axes.barh(y, other, left=inference, color=ORANGE, hatch="//", edgecolor="white", label="everything else")
    for k, length in enumerate(inference + other):
        text = f"{length:.1f} ms · {1e3 / length:.0f} frames/s" if length > 0 else "0 ms"
        axes.text(length, k, f" {text}", va="center", fontsize=8)
    axes.set_yticks(y, stages)
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds a frame in a worker")
    axes.set_title(batch, loc="left")
    axes.set_xlim(0, 1.35 * max(float((inference + other).max()), 1e-3))
    # Outside, since bars and their labels may lie anywhere.
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return as_png(figure)


def _order(stage: str) -> int:
    from pipelines.registry import STAGES

    return list(STAGES).index(stage) if stage in STAGES else len(STAGES)
