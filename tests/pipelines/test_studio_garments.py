"""Garments as cloth: whole meshes that stay outside of the body, and do what hands do to them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from models.perception.hands.base import Camera
from models.perception.mesh_render import render_meshes, vertex_normals
from pipelines.studio.body.rig import load_rig
from pipelines.studio.cloth import ClothState, Grab, Label
from pipelines.studio.garments import KINDS, Garment, GarmentSpec, LowerClothes, mesh, sample_spec
from pipelines.studio.garments.garment import FABRIC, INNER, TRIM
from pipelines.studio.garments.unwrap import CHEST_UV, TEXTURE_M

SHAPES = {
    "mean": None,
    "broad": [1.5, -1.0, 0.8, 0.5, -0.5, 0.5, 0.3, 0.0],
    "tall": [0.6, 1.4, 0.2, -1.3, 1.1, -0.7, 0.9, -1.2],
    "slight": [-1.5, 1.0, -0.8, 0.3, 0.5, 0, 0, 0],
}


@lru_cache(maxsize=8)
def person(name="mean"):
    coefficients = SHAPES[name]
    return load_rig().shape(None if coefficients is None else np.array(coefficients, float))


@lru_cache(maxsize=16)
def garment(kind, body="mean", seed=3):
    return Garment(load_rig(), person(body), sample_spec(kind, np.random.default_rng(seed)))


@lru_cache(maxsize=16)
def pose(body="mean", arms=38.0, elbows=10.0, turn=0.0):
    """Arms lowered by `arms` degrees, elbows bent further by `elbows`."""
    rig = load_rig()
    local = np.tile(np.eye(3), (len(rig.names), 1, 1))
    local[0] = Rotation.from_euler("z", turn, degrees=True).as_matrix()
    for side, m in (("L", 1), ("R", -1)):
        local[rig.index(f"upperarm01.{side}")] = Rotation.from_euler("y", m * arms, degrees=True).as_matrix()
        axis = np.radians(elbows) * np.array([-0.75, 0, -0.65 * m])
        local[rig.index(f"lowerarm01.{side}")] = Rotation.from_rotvec(axis).as_matrix()
    return rig.pose(person(body), local)


def skin_of(body, posed):
    """Vertices and normals of a posed body."""
    rig = load_rig()
    skin = posed.skin(person(body).vertices, rig.weights)
    return skin, vertex_normals(skin, rig.faces)


@lru_cache(maxsize=1)
def arm_skin():
    """(V,) bool: arms and hands."""
    rig = load_rig()
    arms = ("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
    joints = [i for i, n in enumerate(rig.names) if n.startswith(arms)]
    return np.asarray(rig.weights[:, joints].sum(1)).ravel() > 0.5


def depth_in_body(points, body, posed):
    """How deep points lie behind the tangent plane at the nearest vertex of the posed body's trunk and legs; metres."""
    skin, normals = skin_of(body, posed)
    skin, normals = skin[~arm_skin()], normals[~arm_skin()]
    _, near = cKDTree(skin).query(points)
    return -((points - skin[near]) * normals[near]).sum(-1)


@pytest.mark.parametrize(
    ("kind", "body"), [*((k, "mean") for k in KINDS), ("zip_jacket", "broad"), ("zip_jacket", "tall")]
)
def test_cloth_is_one_whole_sheet(kind, body):
    g = garment(kind, body)
    vertices, _, faces = g.surface(pose(body), ClothState())
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    # Each direction of an edge once: no face is doubled or turned over, and none meets more than one neighbour.
    assert len(np.unique(edges, axis=0)) == len(edges)
    assert set(faces.ravel()) == set(range(len(vertices)))
    loops = mesh.boundary_loops(g.faces)
    # Neck, hem and two sleeves; an open front joins neck and hem.
    assert len(loops) == (3 if g.spec.opens else 4)
    sides = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    assert sides.max() < 0.07


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", SHAPES)
def test_cloth_stays_outside_of_the_body(kind, body):
    g = garment(kind, body)
    for arms, elbows in ((0, 0), (40, 10), (30, 75)):
        posed = pose(body, arms, elbows)
        vertices, _, _ = g.surface(posed, ClothState(time_s=1.0))
        skin, normals = skin_of(body, posed)
        shown = np.zeros(len(skin), bool)
        shown[np.unique(load_rig().faces[~g.covered])] = True
        _, near = cKDTree(skin).query(vertices)
        depth = -((vertices - skin[near]) * normals[near]).sum(-1)
        # Arms that hang beside the body press into its cloth, and skin that is not drawn cannot show through.
        own = (g._drape.sheet.arm[: len(vertices)] != 0) == arm_skin()[near]
        assert ((depth > 0.003) & own & shown[near]).mean() < 0.007, (arms, elbows)


@pytest.mark.parametrize("kind", KINDS)
def test_no_hole_shows_where_skin_is_left_out(kind):
    g, posed, rig = garment(kind), pose(), load_rig()
    skin = posed.skin(person().vertices, rig.weights)
    assert 0.05 < g.covered.mean() < 0.4
    states = [ClothState(), ClothState(sleeve_roll={"left": 1.0, "right": 1.0}, collar_turn=1.0, zip_open=0.9)]
    if not g.spec.opens:
        held = g.anchor("hem", "left", posed, ClothState())
        states.append(ClothState(grabs=(Grab(held.rest, np.array([0.02, -0.07, 0.22]), "hem", 0.22),)))

    def seen(meshes, yaw):
        turn = Rotation.from_euler("z", yaw, degrees=True).as_matrix()
        to_camera = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ turn
        moved = [(v @ to_camera.T + np.array([0, 0.15, 2.5]), f, (1.0, 1.0, 1.0)) for v, f in meshes]
        return np.isfinite(render_meshes(moved, Camera(500, 500, 160, 160), 320, 320)[1])

    for state in states:
        cloth = [(p.vertices, p.faces) for p in g.parts(posed, state)]
        for yaw in (0, 50, -60, 180):
            left_out = seen([(skin, rig.faces[g.covered])], yaw)
            # Cloth that spans a bump of the body has a smaller outline there, by a pixel: that is no hole.
            left_out = binary_erosion(left_out, iterations=2)
            hole = left_out & ~seen([*cloth, (skin, rig.faces[~g.covered])], yaw)
            assert not hole.any(), (state, yaw)


@pytest.mark.parametrize("kind", KINDS)
def test_texture_is_laid_flat_and_upright(kind):
    g = garment(kind)
    posed = load_rig().pose(person(), np.tile(np.eye(3), (len(load_rig().names), 1, 1)))
    part = g.parts(posed, ClothState())[0]
    assert part.label is Label.GARMENT
    for p in g.parts(posed, ClothState()):
        assert p.uv.shape == (len(p.vertices), 2) and p.uv.min() >= 0 and p.uv.max() <= 1, p.name
        assert p.faces.max() < len(p.vertices) and p.texture in (FABRIC, TRIM, INNER)
    edges = mesh.edge_list(part.faces)
    on_cloth = np.linalg.norm(part.vertices[edges[:, 0]] - part.vertices[edges[:, 1]], axis=1)
    on_texture = np.linalg.norm(part.uv[edges[:, 0]] - part.uv[edges[:, 1]], axis=1) * TEXTURE_M
    ratio = on_texture / np.maximum(on_cloth, 1e-6)
    assert abs(np.median(ratio[on_cloth > 0.006]) - 1) < 0.06
    assert np.quantile(np.abs(ratio[on_cloth > 0.006] - 1), 0.9) < 0.35
    # On the chest u runs to the person's left and v downwards, at TEXTURE_M of cloth a texture.
    z = part.vertices[:, 2]
    chest = (np.abs(part.uv - CHEST_UV) < 0.05).all(1) & (part.vertices[:, 1] < -0.05)
    fit = np.linalg.lstsq(
        np.column_stack([part.vertices[chest][:, [0, 2]], np.ones(chest.sum())]), part.uv[chest], rcond=None
    )
    slopes = fit[0] * TEXTURE_M
    assert 0.85 < slopes[0, 0] < 1.4 and abs(slopes[1, 0]) < 0.2
    assert -1.6 < slopes[1, 1] < -0.85 and abs(slopes[0, 1]) < 0.2
    # No face is laid upside down in front.
    a, b, c = (part.uv[part.faces[:, k]] for k in range(3))
    turned = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    front = (part.uv[part.faces].mean(1)[:, 0] < 0.5) & (z[part.faces].mean(1) < 0.45)
    assert (turned[front] < 0).mean() > 0.99


def test_zip_opens_from_the_top():
    g, posed = garment("zip_jacket"), pose()
    last, widest = np.inf, 0.0
    left, right = g._zip.index.reshape(2, -1)
    for amount in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        state = ClothState(zip_open=amount)
        worn = g.worn(posed, state)
        gap = np.linalg.norm(worn.vertices[left] - worn.vertices[right], axis=1)
        slider = g.anchor("zip", "left", posed, state)
        assert slider.position[2] < last
        last = slider.position[2]
        below = worn.vertices[left, 2] < last - 0.01
        assert gap[below].max() < 0.001
        if amount:
            above = worn.vertices[left, 2] > last + 0.02
            # The point of the V is at the slider, its mouth at the collar.
            assert gap[above].min() > 0.001 and gap[above].argmax() <= 4
            assert gap.max() > widest
            widest = gap.max()
        assert slider.along[2] < -0.7 and slider.normal[1] < -0.3
    assert widest > 0.10
    assert Label.INNER in {p.label for p in g.parts(posed, ClothState(zip_open=0.5))}


def test_nothing_but_a_jacket_opens():
    g, posed = garment("t_shirt"), pose()
    still, _, _ = g.surface(posed, ClothState())
    opened, _, _ = g.surface(posed, ClothState(zip_open=0.7))
    np.testing.assert_array_equal(still, opened)
    assert {p.label for p in g.parts(posed, ClothState())} == {Label.GARMENT}


@pytest.mark.parametrize("kind", ["t_shirt", "collared_shirt", "dress"])
@pytest.mark.parametrize("turn", [0.0, 50.0])
def test_lifted_hem_goes_with_the_hand(kind, turn):
    g, posed = garment(kind), pose(turn=turn)
    held = g.anchor("hem", "right", posed, ClothState())
    pull = posed.rotations[0] @ np.array([-0.02, -0.05, 0.16])
    before, _, _ = g.surface(posed, ClothState())
    after, _, _ = g.surface(posed, ClothState(grabs=(Grab(held.rest, pull, "hem", 0.22),)))
    spot = np.linalg.norm(before - held.position, axis=1).argmin()
    assert np.linalg.norm(before[spot] - held.position) < 1e-3
    assert np.linalg.norm(after[spot] - before[spot] - pull) < 0.03
    moved = np.linalg.norm(after - before, axis=1)
    # Cloth above goes along a little, shoulders do not; nothing is torn.
    assert moved[before[:, 2] > 0.46].max() < 0.01
    edges = mesh.edge_list(g.faces)
    stretched = np.linalg.norm(after[edges[:, 0]] - after[edges[:, 1]], axis=1)
    assert stretched.max() < 0.12
    middle = np.abs(before[:, 0] * np.cos(np.radians(turn)) + before[:, 1] * np.sin(np.radians(turn))) < 0.2
    assert (depth_in_body(after[middle & (before[:, 2] < 0.3)], "mean", posed) > 0.004).mean() < 0.01


@pytest.mark.parametrize("kind", ["long_sleeve", "dress"])
def test_pinched_cloth_makes_a_tent(kind):
    g, posed = garment(kind), pose()
    held = g.anchor("stretch", "left", posed, ClothState())
    pull, radius = np.array([0.03, -0.10, 0.0]), 0.12
    before, _, _ = g.surface(posed, ClothState())
    after, _, _ = g.surface(posed, ClothState(grabs=(Grab(held.rest, pull, "pinch", radius),)))
    moved = np.linalg.norm(after - before, axis=1)
    away = np.linalg.norm(before - held.position, axis=1)
    assert abs(moved[away.argmin()] - np.linalg.norm(pull)) < 0.01
    rings = [moved[(away > a) & (away < a + 0.02) & (before[:, 1] < -0.05)].mean() for a in (0.0, 0.04, 0.08, 0.12)]
    assert all(a > b for a, b in pairwise(rings))
    assert moved[away > 2 * radius].max() < 1e-3


def test_rubbed_cloth_moves_along_the_body():
    g, posed = garment("t_shirt"), pose()
    spot = g.anchor("stretch", "right", posed, ClothState())
    before, normals, _ = g.surface(posed, ClothState())
    after, _, _ = g.surface(posed, ClothState(grabs=(Grab(spot.rest, np.array([0.02, 0.0, 0.01]), "rub", 0.1),)))
    near = np.linalg.norm(before - spot.position, axis=1) < 0.04
    step = after[near] - before[near]
    assert 0.008 < np.linalg.norm(step, axis=1).mean() < 0.025
    assert np.abs((step * normals[near]).sum(-1)).mean() < 0.5 * np.linalg.norm(step, axis=1).mean()


@pytest.mark.parametrize("kind", ["long_sleeve", "collared_shirt"])
def test_sleeve_rolls_up_to_the_elbow(kind):
    g, posed, rig = garment(kind), pose(elbows=40.0), load_rig()
    wrist, elbow = (posed.positions[rig.index(n)] for n in ("wrist.L", "lowerarm01.L"))
    way = (elbow - wrist) / np.linalg.norm(elbow - wrist)
    reached, radii = [], []
    for amount in (0.0, 0.3, 0.6, 1.0):
        state = ClothState(sleeve_roll={"left": amount})
        parts = {p.name: p for p in g.parts(posed, state)}
        cuff = parts["left cuff"].vertices
        reached.append((cuff.mean(0) - wrist) @ way)
        across = cuff - wrist - ((cuff - wrist) @ way)[:, None] * way
        radii.append(np.linalg.norm(across, axis=1).max())
        # Nothing of the sleeve is left below its cuff.
        sleeve = parts[kind].vertices[g._drape.sheet.arm[g._drawn] > 0]
        assert ((sleeve - wrist) @ way).min() > ((cuff - wrist) @ way).min() - 0.01
        held = g.anchor("cuff", "left", posed, state)
        # Its vertices are a centimetre and a half apart.
        assert np.linalg.norm(cuff - held.position, axis=1).min() < 0.016
        assert held.along @ -way > 0.8
    assert all(a < b for a, b in pairwise(reached))
    assert reached[-1] > 0.7 * np.linalg.norm(elbow - wrist)
    right = {p.name: p for p in g.parts(posed, ClothState(sleeve_roll={"left": 1.0}))}["right cuff"].vertices
    untouched = {p.name: p for p in g.parts(posed, ClothState())}["right cuff"].vertices
    np.testing.assert_array_equal(right, untouched)


@pytest.mark.parametrize("kind", ["collared_shirt", "zip_jacket"])
def test_collar_turns_up(kind):
    g, posed = garment(kind), pose()
    heights = []
    for turn in (0.0, 0.5, 1.0):
        for side in ("left", "right"):
            held = g.anchor("collar", side, posed, ClothState(collar_turn=turn))
            collar = next(p for p in g.parts(posed, ClothState(collar_turn=turn)) if p.name == "collar")
            assert np.linalg.norm(collar.vertices - held.position, axis=1).min() < 1e-4
            assert np.sign(held.position[0]) == (1 if side == "left" else -1)
        heights.append(held.position[2])
    assert heights[0] < heights[1] < heights[2]
    assert heights[2] - heights[0] > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_anchors_lie_on_the_cloth_of_the_frame(kind):
    g, posed = garment(kind), pose(turn=30.0)
    state = ClothState(zip_open=0.3, sleeve_roll={"left": 0.4}, time_s=0.7)
    vertices, normals, _ = g.surface(posed, state)
    tree = cKDTree(vertices)
    for name in ("hem", "stretch"):
        for side in ("left", "right"):
            held = g.anchor(name, side, posed, state)
            distance, near = tree.query(held.position)
            assert distance < 1e-4
            np.testing.assert_allclose(held.normal, normals[near], atol=1e-3)
            assert abs(np.linalg.norm(held.along) - 1) < 1e-6 and held.along[2] < -0.5
            here = posed.rotations[0].T @ (held.position - posed.positions[0])
            assert np.sign(here[0]) == (1 if side == "left" else -1) and here[1] < 0


def test_places_that_are_not_there_are_refused():
    posed, still = pose(), ClothState()
    with pytest.raises(ValueError, match="t_shirt has no zip"):
        garment("t_shirt").anchor("zip", "left", posed, still)
    with pytest.raises(ValueError, match="dress has no collar"):
        garment("dress").anchor("collar", "left", posed, still)
    with pytest.raises(ValueError, match="no place 'pocket'"):
        garment("t_shirt").anchor("pocket", "left", posed, still)
    with pytest.raises(ValueError, match="unknown kind"):
        GarmentSpec("poncho")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counterpart"):
        sample_spec("dress", np.random.default_rng(0), like=GarmentSpec("t_shirt"))
    with pytest.raises(ValueError, match="unknown lower clothes"):
        LowerClothes(load_rig(), person(), "kilt")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_counterpart_can_be_held_in_the_same_places(kind):
    g, posed = garment(kind), pose()
    other = Garment(load_rig(), person(), sample_spec(kind, np.random.default_rng(9), like=g.spec))
    assert other.spec.seed != g.spec.seed
    for name in ("hem", "stretch"):
        a, b = (x.anchor(name, "left", posed, ClothState()).position for x in (g, other))
        assert np.linalg.norm(a - b) < 0.03, name


def test_same_seed_same_cloth_and_other_seed_other_folds():
    rig, posed, state = load_rig(), pose(), ClothState(time_s=0.4)
    spec = garment("t_shirt").spec
    one, two = (Garment(rig, person(), spec).surface(posed, state)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    other = Garment(rig, person(), replace(spec, seed=spec.seed + 1)).surface(posed, state)[0]
    assert 1e-4 < np.abs(other - one).max() < 0.05


@pytest.mark.parametrize("kind", ["trousers", "shorts", "skirt", "none"])
def test_lower_clothes_hide_what_they_say(kind):
    rig, posed = load_rig(), pose()
    lower = LowerClothes(rig, person(), kind, seed=1)
    parts = lower.parts(posed)
    assert {p.label for p in parts} == {Label.LOWER} and len(parts) == (2 if kind == "none" else 3)
    cloth = np.concatenate([p.vertices for p in parts])
    skin = posed.skin(person().vertices, rig.weights)
    hidden = skin[np.unique(rig.faces[lower.covered])]
    assert cKDTree(cloth).query(hidden)[0].max() < 0.12
    for p in parts:
        assert p.uv.min() >= 0 and p.uv.max() <= 1
        if "shoe" not in p.name and kind != "skirt":
            assert (depth_in_body(p.vertices, "mean", posed) > 0.002).mean() < 0.01
