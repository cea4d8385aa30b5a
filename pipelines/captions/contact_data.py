"""Training data of the contact network: what annotators see of studio clips, with the studio's truth as labels.

`python -m pipelines.captions.contact_data --batch NAME [NAME ...] --out FOLDER` writes one file a clip. The batches
must be annotated up to `agnostic_masks`. Files that are there and still hold are kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from models.contact.network import CLASSES
from pipelines.captions.contact import SIDES, Observation, look_around, observe
from pipelines.captions.contact_cells import CELLS, CHANNELS
from pipelines.captions.contact_geometry import FEATURES
from pipelines.captions.settings import CODE_VERSION
from pipelines.captions.tracks import Tracks, read_region, read_tracks
from pipelines.stage import VideoTask
from pipelines.studio.samples import SampleKind, run

_TRUTH_COLUMNS = ["frame", "handedness", "contact", "action", "distance_m"]


def observed(task: VideoTask) -> tuple[Tracks, Observation, dict[str, np.ndarray]]:
    """What the network sees of a video, kept whole.

    Returns:
        Tracks, geometry, and side -> cells of shape (T, channels, cells, cells), float16, NaN without a picture.
    """
    tracks, region = read_tracks(task), read_region(task)
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


def measured(task: VideoTask) -> dict[str, np.ndarray]:
    """Arrays of a clip's file: what the network sees of both hands, first the left one, and the truth."""
    tracks, seen, cells = observed(task)
    return {
        "features": np.stack([seen.features[s] for s in SIDES]).astype(np.float16),
        "cells": np.stack([cells[s] for s in SIDES]),
        "inputs": np.array(json.dumps({"features": FEATURES, "channels": CHANNELS})),
        **labels(task.rows("studio_hands", _TRUTH_COLUMNS), tracks, seen.grid_s),
    }


def contact_samples() -> SampleKind:
    """Files as `models.contact.data` reads them."""
    return SampleKind(
        stages=("hands", "agnostic_masks"),
        notes=("seed", "performance", "action", "side", "garment_type"),
        version=(FEATURES, CHANNELS, CODE_VERSION),
        measure=measured,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module. Returns 1 when a clip could not be used."""
    return run("pipelines.captions.contact_data", __doc__, contact_samples, arguments)


if __name__ == "__main__":
    sys.exit(main())
