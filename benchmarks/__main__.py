"""`python -m benchmarks`: run the benchmarks, print them, and write benchmarks/RESULTS.md and results.json."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import annotation, loader, metrics, model, overfit, report, scale, studio, tryon

HERE = Path(__file__).parent


def main(
    only: Annotated[
        str | None, typer.Option(help="throughput, memory, studio, model, loader, overfit, metrics, tryon or scale")
    ] = None,
    minutes: Annotated[str, typer.Option(help="Lengths of the video for the memory figures, minutes")] = "0.25,0.5,1",
    fps: Annotated[float, typer.Option(help="Frame rate of that video")] = 10.0,
) -> None:
    """Measure and write the results; what is not measured this time keeps its last figures."""
    file = HERE / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
    lengths = tuple(float(m) for m in minutes.split(","))
    for name, measure in {
        "throughput": annotation.throughput,
        "memory": lambda: annotation.memory(lengths, fps),
        "studio": studio.studio,
        "model": model.model,
        "loader": loader.loader,
        "overfit": overfit.overfit,
        "metrics": metrics.metrics,
        "tryon": tryon.tryon,
        "scale": scale.scale,
    }.items():
        if only in (None, name):
            results[name] = {"measured": datetime.now(UTC).date().isoformat(), "machine": machine, **measure()}
            file.write_text(json.dumps(results, indent=1) + "\n")
    text = report.markdown(results)
    (HERE / "RESULTS.md").write_text(text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
