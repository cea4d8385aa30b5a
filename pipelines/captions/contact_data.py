"""Training data of the contact network: what annotators see of studio clips, with the studio's truth as labels.

`python -m pipelines.captions.contact_data --batch NAME [NAME ...] --out FOLDER` writes one file a clip. The batches
must be annotated up to `agnostic_masks`. Files that are there and still hold are kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.contact.network import CLASSES
from pipelines.captions.contact import SIDES, Observation, look_around, observe
from pipelines.captions.contact_cells import CELLS, CHANNELS
from pipelines.captions.contact_geometry import FEATURES
from pipelines.captions.settings import CODE_VERSION
from pipelines.captions.spans import frames_of
from pipelines.captions.tracks import (
    HAND_COLUMNS,
    MASK_COLUMNS,
    MASK_HOLD_S,
    POSE_COLUMNS,
    GarmentRegion,
    Tracks,
    build_tracks,
)
from pipelines.stage import VideoTask, digest
from pipelines.store import TABLES, DeltaStore

_TRUTH_COLUMNS = ["frame", "handedness", "contact", "action", "distance_m"]


def observed(task: VideoTask) -> tuple[Tracks, Observation, dict[str, np.ndarray]]:
    """What the network sees of a video, kept whole.

    Returns:
        Tracks, geometry, and side -> cells of shape (T, channels, cells, cells), float16, NaN without a picture.
    """
    row = task.row
    pose, hands = task.rows("pose", POSE_COLUMNS), task.rows("hands", HAND_COLUMNS)
    size = (row["height"], row["width"])
    tracks = build_tracks(pose, hands, row["num_frames"], row["fps"], size)
    region = GarmentRegion(task.rows("agnostic_masks", MASK_COLUMNS), frames_of(MASK_HOLD_S, row["fps"]))
    seen = observe(tracks, region)
    shape = (len(seen.grid_s), len(CHANNELS), CELLS, CELLS)
    cells = {side: np.full(shape, np.nan, np.float16) for side in SIDES}
    for k, found in look_around(task, tracks, region, seen):
        for side, values in found.items():
            cells[side][k] = values
    return tracks, seen, cells


def labels(truth: pa.Table, tracks: Tracks, grid_s: np.ndarray) -> dict[str, np.ndarray]:
    """The truth at regular times, that of the nearest frame.

    Args:
        truth: Rows of `studio_hands` of the clip.
        tracks: Of the same clip.
        grid_s: Shape (T,), seconds.

    Returns:
        `contact` (2, T) bool, `action` (2, T) int, the class or -1 without contact, and `distance` (2, T) metres.
        First the left hand.
    """
    times = tracks.times_s
    nearest = np.clip(np.searchsorted((times[1:] + times[:-1]) / 2, grid_s), 0, len(times) - 1)
    out = {
        "contact": np.zeros((2, len(times)), bool),
        "action": np.full((2, len(times)), -1, np.int8),
        "distance": np.full((2, len(times)), np.nan, np.float32),
    }
    for r in truth.to_pylist():
        at = (SIDES.index(r["handedness"]), r["frame"])
        out["contact"][at], out["distance"][at] = r["contact"], r["distance_m"]
        if r["contact"]:
            out["action"][at] = CLASSES.index(r["action"] or "rest")
    return {k: v[:, nearest] for k, v in out.items()}


def write_batch(store: DeltaStore, batch: str, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Write the files of a batch.

    Yields:
        Video and, where its clip could not be used, why.

    Raises:
        LookupError: The batch has no studio clips.
    """
    clips = store.read(TABLES["studio_clips"], where={"batch": batch}).to_pylist()
    if not clips:
        raise LookupError(f"Batch {batch!r} has no rows of studio_clips: render one with `itryon studio`")
    videos = {r["video_id"]: r for r in store.read(TABLES["videos"], where={"batch": batch}).to_pylist()}
    done = {
        name: {
            r["video_id"]: r["fingerprint"]
            for r in store.read(TABLES["stage_status"], where={"batch": batch, "stage": name}).to_pylist()
            if r["status"] == "ok"
        }
        for name in ("hands", "agnostic_masks")
    }
    folder.mkdir(parents=True, exist_ok=True)
    for clip in clips:
        video_id = clip["video_id"]
        missing = [name for name, videos_done in done.items() if video_id not in videos_done]
        if missing:
            yield video_id, f"no rows of {missing[0]}: materialise the batch to agnostic_masks"
            continue
        prints = [clip["fingerprint"], *(done[n][video_id] for n in done), FEATURES, CHANNELS, CODE_VERSION]
        fingerprint = digest(*prints)[:32]
        path = folder / f"{video_id}.npz"
        if not (path.is_file() and _fingerprint(path) == fingerprint):
            task = VideoTask(store, videos[video_id], 1, lambda n: None)
            tracks, seen, cells = observed(task)
            truth = labels(task.rows("studio_hands", _TRUTH_COLUMNS), tracks, seen.grid_s)
            names = ("seed", "performance", "action", "side", "garment_type")
            notes = {k: clip[k] for k in names} | {"video_id": video_id, "batch": batch, "fingerprint": fingerprint}
            arrays: dict[str, np.ndarray] = {
                "features": np.stack([seen.features[s] for s in SIDES]).astype(np.float16),
                "cells": np.stack([cells[s] for s in SIDES]),
                "notes": np.array(json.dumps(notes)),
                "inputs": np.array(json.dumps({"features": FEATURES, "channels": CHANNELS})),
                **truth,
            }
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            partial.replace(path)
        yield video_id, None


def _fingerprint(path: Path) -> str | None:
    with np.load(path) as file:
        return json.loads(str(file["notes"]))["fingerprint"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module. Returns 1 when a clip could not be used."""
    from rich.console import Console
    from rich.progress import track

    parser = argparse.ArgumentParser(prog="python -m pipelines.captions.contact_data", description=__doc__)
    parser.add_argument("--batch", nargs="+", required=True, help="studio batches in the lake at ITRYON_LAKE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    options = parser.parse_args(arguments)
    store, console = DeltaStore(), Console()
    problems = {}
    for batch in options.batch:
        total = len(store.read(TABLES["studio_clips"], ["video_id"], {"batch": batch}))
        for video_id, problem in track(write_batch(store, batch, options.out), batch, total, console=console):
            if problem:
                problems[video_id] = problem
    for video_id, problem in problems.items():
        console.print(f"left out {video_id}: {problem}", highlight=False)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
