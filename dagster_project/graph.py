"""Draws the asset graph: `python -m dagster_project.graph docs/images/asset-graph.png`.

For people who read the documentation before they run anything; the UI shows the same graph with its state.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dagster_project.build import build_defs

_COLOURS = {
    "studio": "#d3ebee",
    "ingest": "#d9e4ef",
    "annotations": "#cfe8d8",
    "training": "#f6e3bd",
    "tryon": "#f3d3d9",
    "evaluation": "#e2d8f0",
    "promotion": "#cfd5f2",
}


def asset_edges() -> tuple[dict[str, set[str]], dict[str, str]]:
    """Asset -> assets it needs directly, without those it needs through another one; and asset -> group."""
    specs = list(build_defs().resolve_all_asset_specs())
    parents = {s.key.to_user_string(): {d.asset_key.to_user_string() for d in s.deps} for s in specs}

    def above(name: str) -> set[str]:
        return {a for p in parents[name] for a in {p} | above(p)}

    shown = {n: {p for p in ps if not any(p in above(q) for q in ps - {p})} for n, ps in parents.items()}
    return shown, {s.key.to_user_string(): s.group_name or "" for s in specs}


def draw(target: Path) -> None:
    """Write the graph as a PNG or SVG, left to right."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

    edges, groups = asset_edges()

    def depth(name: str) -> int:
        return max((depth(p) + 1 for p in edges[name]), default=0)

    columns: dict[int, list[str]] = {}
    for name, needed in edges.items():
        children = [depth(c) for c, parents in edges.items() if name in parents]
        # What needs nothing stands beside what needs it, so that its arrow crosses no other asset.
        columns.setdefault(depth(name) if needed or not children else min(children) - 1, []).append(name)
    # The way from videos to the leaderboard on top, the studio that measures it below.
    lanes = [
        {c: [n for n in names if (groups[n] == "studio") == below] for c, names in columns.items()}
        for below in (False, True)
    ]
    heights = [max(map(len, lane.values())) for lane in lanes]
    middles = (0.0, -(sum(heights) + 1) / 2)
    places = {
        name: (1.9 * column, middle + (len(names) - 1) / 2 - row)
        for lane, middle in zip(lanes, middles)
        for column, names in lane.items()
        for row, name in enumerate(names)
    }
    top, bottom = max(y for _, y in places.values()) + 0.45, min(y for _, y in places.values()) - 0.95
    figure = Figure(figsize=(1.75 * len(columns) + 0.4, 0.75 * (top - bottom)), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    for name, (x, y) in places.items():
        box = FancyBboxPatch(
            (x - 0.75, y - 0.19), 1.5, 0.38, boxstyle="round,pad=0.02", fc=_COLOURS[groups[name]], ec="#555555", lw=0.8
        )
        axes.add_patch(box)
        axes.text(x, y, name, ha="center", va="center", fontsize=9, family="monospace")
        for parent in edges[name]:
            start, end = (places[parent][0] + 0.78, places[parent][1]), (x - 0.78, y)
            arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, lw=0.9, color="#555555", shrinkA=0)
            axes.add_patch(arrow)
    legend = [Patch(fc=colour, ec="#555555", label=group) for group, colour in _COLOURS.items()]
    axes.legend(handles=legend, ncol=len(legend), loc="lower center", frameon=False, fontsize=9)
    axes.set_xlim(-0.95, 1.9 * (len(columns) - 1) + 0.95)
    axes.set_ylim(bottom, top)
    axes.axis("off")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
