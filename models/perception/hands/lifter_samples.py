"""What the hand lifter is trained on: hands of rendered clips, and hands in random poses, both with their truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models.perception.hand_ik import bone_lengths
from models.perception.hand_mesh import shared_mesh
from models.perception.hands.lifter import HAND_FEATURES, Canonical
from models.perception.hands.lifter_synthetic import random_hands


@dataclass
class LifterData:
    """Hands with their truth.

    Attributes:
        clip: (N,) id of the clip.
        performance: (N,) what was performed in it.
        seed: (N,) seed of the clip.
        frame: (N,) frame number.
        seen: Observations in canonical form.
        true_points: (N, 21, 2) truth, canonical axes, hand sizes about the centre of the points seen.
        true_world: (N, 21, 3) truth, canonical axes along the viewing ray, metres about its mean, of a hand as large
            as the mesh at rest.
        log_metres: (N,) logarithm of metres a hand size, for a hand as large as the mesh at rest.
        hand_scale: (N,) how many times as large the hand is.
        visible: (N,) share of the hand in sight.
    """

    clip: np.ndarray
    performance: np.ndarray
    seed: np.ndarray
    frame: np.ndarray
    seen: Canonical
    true_points: np.ndarray
    true_world: np.ndarray
    log_metres: np.ndarray
    hand_scale: np.ndarray
    visible: np.ndarray

    def rows(self, which: np.ndarray) -> LifterData:
        """Some of the hands (mask or indices)."""
        seen = Canonical(**{k: v[which] for k, v in vars(self.seen).items()})
        return LifterData(seen=seen, **{k: v[which] for k, v in vars(self).items() if k != "seen"})


def load_data(folders: Sequence[Path]) -> LifterData:
    """All clips of some folders.

    Raises:
        ValueError: There are none.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for path in sorted((p for f in folders for p in f.glob("*.npz")), key=lambda p: p.name):
        with np.load(path) as file:
            notes = json.loads(str(file["notes"]))
            part = {k: file[k] for k in file.files if k != "notes"}
        named = {"clip": notes["video_id"], "performance": notes["performance"], "seed": notes["seed"]}
        for key, value in {**part, **{k: np.full(len(part["frame"]), v) for k, v in named.items()}}.items():
            columns.setdefault(key, []).append(value)
    if not columns:
        raise ValueError(f"no clip in {', '.join(map(str, folders))}: run `python -m pipelines.hands.lifter_data`")
    c = {k: np.concatenate(v) for k, v in columns.items()}
    seen = Canonical.of(c["points"], c["world"], c["score"], c["arm"], c["left"])
    away = seen.vectors(c["true_points"] - seen.centre[:, None]) / seen.size[:, None, None]
    scale = hand_scale(c["true_world"])
    return LifterData(
        c["clip"],
        c["performance"],
        c["seed"],
        c["frame"],
        seen,
        away,
        seen.vectors(c["true_world"]) / scale[:, None, None],
        np.log(c["metres_per_pixel"] * seen.size / scale),
        scale,
        c["visible"],
    )


def hand_scale(keypoints: np.ndarray) -> np.ndarray:
    """(N,) how many times as long as at rest in the mesh the bones of keypoints (N, 21, 3), metres, are together."""
    mesh = shared_mesh("right")
    rest = mesh.keypoints(np.zeros((1, len(mesh.joints), 3)))
    return bone_lengths(keypoints).sum(-1) / bone_lengths(rest).sum(-1)


def random_data(count: int, like: LifterData, rng: np.random.Generator) -> LifterData:
    """Hands in random poses; every other one on the arm of a hand of `like`, the others without one."""
    points, world, true, pixels_per_metre = random_hands(count, rng)
    arm = np.full((count, 9, 4), np.nan)
    seen = Canonical.of(points, world, rng.uniform(0.6, 1.0, count), arm, np.zeros(count, bool))
    borrowed = rng.integers(0, len(like.visible), count)
    features = seen.features.copy()
    features[::2, HAND_FEATURES:-3] = like.seen.features[borrowed[::2], HAND_FEATURES:-3]
    away = seen.vectors(true[..., :2] * pixels_per_metre[:, None, None] - seen.centre[:, None])
    scale = hand_scale(true)
    return LifterData(
        np.full(count, "random"),
        np.full(count, "random"),
        np.zeros(count, int),
        np.zeros(count, int),
        replace(seen, features=features),
        away / seen.size[:, None, None],
        seen.vectors(true) / scale[:, None, None],
        np.log(seen.size / pixels_per_metre / scale),
        scale,
        np.ones(count),
    )


def joined(a: LifterData, b: LifterData) -> LifterData:
    """Hands of both."""
    seen = Canonical(**{k: np.concatenate([v, getattr(b.seen, k)]) for k, v in vars(a.seen).items()})
    rest = {k: np.concatenate([v, getattr(b, k)]) for k, v in vars(a).items() if k != "seen"}
    return LifterData(seen=seen, **rest)


def held_back(seed: np.ndarray, share: float) -> np.ndarray:
    """(N,) bool: whether clips with these seeds are for testing; does not depend on which clips there are."""
    places = {s: int(hashlib.sha256(str(s).encode()).hexdigest()[:8], 16) / 2**32 for s in np.unique(seed).tolist()}
    return np.array([places[s] < share for s in seed.tolist()], bool)
