"""Training data of annotators: for each studio clip a file with what is seen of it and what is true.

What is measured differs by network; which clips can be used, when a file still holds, and the command line do not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.stage import VideoTask, digest
from pipelines.stage.plan import read_statuses
from pipelines.store import TABLES, DeltaStore


class UnusableClip(Exception):
    """Nothing can be learned from a clip; the message says why."""


@dataclass(frozen=True)
class SampleKind:
    """What the files of one network hold.

    Attributes:
        stages: Annotation stages whose rows are read, in the order in which they run.
        notes: Columns of `studio_clips` that go into a file.
        version: What else the arrays depend on, such as versions of code and weights; JSON or what turns into text.
        measure: From a clip to its arrays by name; raises `UnusableClip`.
    """

    stages: tuple[str, ...]
    notes: tuple[str, ...]
    version: tuple[Any, ...]
    measure: Callable[[VideoTask], Mapping[str, np.ndarray]]


def write_batch(store: DeltaStore, batch: str, folder: Path, kind: SampleKind) -> Iterator[tuple[str, str | None]]:
    """Write `<video_id>.npz` for every clip of a batch; files that still hold are kept.

    Beside the arrays, a file holds `notes`: JSON with the clip's notes, video, batch, and a fingerprint of all that
    the arrays depend on.

    Yields:
        Video and, where its clip could not be used, why.

    Raises:
        LookupError: The batch has no studio clips.
    """
    clips = store.read(TABLES["studio_clips"], where={"batch": batch}).to_pylist()
    if not clips:
        raise LookupError(f"Batch {batch!r} has no rows of studio_clips: render one with `itryon studio`")
    videos = {r["video_id"]: r for r in store.read(TABLES["videos"], where={"batch": batch}).to_pylist()}
    statuses = [read_statuses(store, batch, stage) for stage in kind.stages]
    done = [{v: r["fingerprint"] for v, r in rows.items() if r["status"] == "ok"} for rows in statuses]
    folder.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        video_id = clip["video_id"]
        missing = [stage for stage, prints in zip(kind.stages, done) if video_id not in prints]
        if missing:
            yield video_id, f"no rows of {missing[0]}: materialise the batch to {kind.stages[-1]}"
            continue
        fingerprint = digest(clip["fingerprint"], *(prints[video_id] for prints in done), *kind.version)[:32]
        path = folder / f"{video_id}.npz"
        if not (path.is_file() and _fingerprint(path) == fingerprint):
            try:
                arrays = kind.measure(VideoTask(store, videos[video_id], 1, lambda frames: None))
            except UnusableClip as problem:
                yield video_id, str(problem)
                continue
            notes = {k: clip[k] for k in kind.notes}
            notes |= {"video_id": video_id, "batch": batch, "fingerprint": fingerprint}
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.savez_compressed(file, notes=np.array(json.dumps(notes)), **arrays)  # type: ignore[arg-type]
            partial.replace(path)
        yield video_id, None


def _fingerprint(path: Path) -> str | None:
    with np.load(path) as file:
        return json.loads(str(file["notes"]))["fingerprint"]


def run(program: str, description: str | None, kind: Callable[[], SampleKind], arguments: Sequence[str] | None) -> int:
    """Command line that writes the files of batches. Returns 1 when a clip could not be used.

    Args:
        program: Module that is run.
        description: What it does.
        kind: What to write; called after the arguments are read.
        arguments: Those of the process by default.
    """
    from rich.console import Console
    from rich.progress import track

    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--batch", nargs="+", required=True, help="studio batches in the lake at ITRYON_LAKE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    options = parser.parse_args(arguments)
    store, console, made = DeltaStore(), Console(), kind()
    problems = {}
    for batch in options.batch:
        total = len(store.read(TABLES["studio_clips"], ["video_id"], {"batch": batch}))
        written = write_batch(store, batch, options.out, made)
        for video_id, problem in track(written, batch, total, console=console):
            if problem:
                problems[video_id] = problem
    for video_id, problem in problems.items():
        console.print(f"left out {video_id}: {problem}", highlight=False)
    return 1 if problems else 0
