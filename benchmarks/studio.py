"""Speed, memory and size of the capture studio."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipelines.studio.batch import render_batch
from pipelines.studio.settings import StudioSettings

_RIG = Path(__file__).parents[1] / "pipelines" / "studio" / "body" / "rig.npz"
_ONE_CLIP = (
    "import sys, resource, pathlib;"
    "from pipelines.studio.clip import render_clip; from pipelines.studio.settings import StudioSettings;"
    "render_clip(StudioSettings(seed=3, frames=int(sys.argv[1])), 0, pathlib.Path(sys.argv[2]));"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
)


def studio(clips: int = 8, lengths: tuple[int, ...] = (65, 260)) -> dict[str, Any]:
    """Frames a second and core at 480x640 with all truth and counterfactuals; memory over the length of a clip.

    The baseline is the same batch without counterfactual, timed in the same run.
    """
    cores = os.cpu_count() or 1
    seconds, frames = {}, 0
    for name, counterfactual in (("everything", True), ("without counterfactual", False)):
        with tempfile.TemporaryDirectory() as folder:
            settings = StudioSettings(clips=clips, seed=3, counterfactual=counterfactual, workers=cores)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            started = time.perf_counter()
            report = render_batch(settings, Path(folder))
            wall = time.perf_counter() - started
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if report.failures:
                raise RuntimeError(f"The benchmark's clips must all render: {report.failures}")
            frames = report.frames
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seconds[name] = {"wall_s": wall, "cpu_s": cpu, "frames_per_second_and_core": frames / (wall * cores)}
    memory = {}
    for length in lengths:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", _ONE_CLIP, str(length), folder], check=True, capture_output=True, text=True
            )
            memory[str(length)] = float(done.stdout.split()[-1])
    return {"frames": frames, "cores": cores, "runs": seconds, "memory_mb": memory, "rig_bytes": _RIG.stat().st_size}
