"""Training data as arrays: one file a clip, one sequence a hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Split = Literal["train", "val", "test"]
_VAL, _TEST = 0.12, 0.32


@dataclass(frozen=True)
class HandSequence:
    """One hand over one clip, on a regular grid in time.

    Attributes:
        clip: Identity of the clip.
        notes: What the clip shows: seed, performance, action, side, garment_type.
        acts: Whether this is the hand that the clip is about.
        features: Shape (T, features), NaN where not known.
        cells: Shape (T, channels, cells, cells), float16; NaN where no picture was looked at.
        contact: Shape (T,), bool.
        action: Shape (T,), int, class or -1 without contact.
        distance: Shape (T,), metres from the garment, NaN where not known.
    """

    clip: str
    notes: dict[str, Any]
    acts: bool
    features: np.ndarray
    cells: np.ndarray
    contact: np.ndarray
    action: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class ContactData:
    """Sequences of one split, and the names of what is in them."""

    features: tuple[str, ...]
    channels: tuple[str, ...]
    sequences: tuple[HandSequence, ...]


def split_of(seed: int) -> Split:
    """The split of a clip. It hangs on the clip's seed alone, which decides person, garment and motion."""
    share = int(hashlib.sha256(f"contact {seed}".encode()).hexdigest()[:8], 16) / 2**32
    return "val" if share < _VAL else "test" if share < _TEST else "train"


def load_data(folders: Sequence[Path], split: Split | None = None) -> ContactData:
    """Read what `pipelines.captions.contact_data` wrote.

    Args:
        folders: Where the files are.
        split: Only clips of this split; all by default.

    Raises:
        ValueError: There are no files, or they do not hold the same inputs.
    """
    files = sorted({p.name: p for folder in folders for p in folder.glob("*.npz")}.items())
    if not files:
        raise ValueError(f"no clips in {', '.join(map(str, folders))}: write them with pipelines.captions.contact_data")
    names: dict[str, Any] | None = None
    found = []
    for _, path in files:
        with np.load(path) as file:
            own = json.loads(str(file["inputs"]))
            if names is not None and own != names:
                raise ValueError(f"{path} was written by another version of the features: write the folder anew")
            names = own
            notes = json.loads(str(file["notes"]))
            if split is not None and split_of(notes["seed"]) != split:
                continue
            arrays = {k: file[k] for k in ("features", "cells", "contact", "action", "distance")}
        for hand, side in enumerate(("left", "right")):
            own_arrays = {k: v[hand] for k, v in arrays.items()}
            found.append(HandSequence(notes["video_id"], notes, notes["side"] == side, **own_arrays))
    assert names is not None
    return ContactData(tuple(names["features"]), tuple(names["channels"]), tuple(found))
