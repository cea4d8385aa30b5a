"""Drawn sequences for tests of the contact network: a hand comes to the chest and touches, or does not.

Cells move along with a hand that touches; the distance and the depth feature fall when it comes near. Nothing else
differs, so a network that learns has found just that.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

FEATURES = ("palm_x", "palm_y", "scale_hand", "pose_wrist_x", "known", "score", "speed_palm_x")
CHANNELS = ("flow_x", "flow_y", "tracked", "along", "limb", "garment", "change_slow", "change_now")
PERFORMANCES = ("interaction", "pantomime", "hover", "idle")


def write_clips(folder: Path, count: int, steps: int = 39) -> None:
    """Write `count` clips in the format of `pipelines.captions.contact_data`."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        performance = PERFORMANCES[seed % len(PERFORMANCES)]
        action = (1, 4)[seed // len(PERFORMANCES) % 2]
        features = rng.normal(0, 0.1, (2, steps, len(FEATURES)))
        cells = np.full((2, steps, len(CHANNELS), 9, 9), np.nan)
        contact = np.zeros((2, steps), bool)
        start = int(rng.integers(6, 12))
        span = slice(start, start + 16)
        features[:, :, FEATURES.index("known")] = 1
        if performance != "idle":
            # The right hand acts: low at the hem for action 1, higher for action 4.
            features[1, span, FEATURES.index("palm_y")] += 1.0 if action == 1 else 0.2
            cells[1, span] = rng.normal(0, 0.02, (16, len(CHANNELS), 9, 9))
            cells[1, span, CHANNELS.index("tracked")] = 1
        if performance == "interaction":
            contact[1, span] = True
            cells[1, span, CHANNELS.index("along")] += 0.7
        distance = np.where(contact, 0.0, 0.1)
        notes = {"video_id": f"{seed:016x}", "seed": seed, "performance": performance, "fingerprint": str(seed)}
        notes |= {"action": None, "side": None if performance == "idle" else "right", "garment_type": "t_shirt"}
        np.savez_compressed(
            folder / f"{seed:016x}.npz",
            features=features.astype(np.float16),
            cells=cells.astype(np.float16),
            contact=contact,
            action=np.where(contact, action, -1).astype(np.int8),
            distance=distance.astype(np.float32),
            notes=np.array(json.dumps(notes)),
            inputs=np.array(json.dumps({"features": FEATURES, "channels": CHANNELS})),
        )
