"""Pictures of the studio: what is drawn where, textures the right way round, light, places, films, product photos.

One module, though long: all of it looks at the few small scenes that the helpers on top of it draw.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipelines.studio.body import load_rig
from pipelines.studio.cloth import Label, Part
from pipelines.studio.render import Frame, Look, Region, Renderer, StudioCamera, product_image, sample_look
from pipelines.studio.render.atlas import Atlas
from pipelines.studio.render.backgrounds import Background, paint_background
from pipelines.studio.render.fabrics import KINDS, cut_fabric, make_fabric, photo_fabrics
from pipelines.studio.render.film import FilmEffect
from pipelines.studio.render.lighting import key_light
from pipelines.studio.render.look import BACKGROUNDS, HAIR_STYLES, Film
from pipelines.studio.render.occlusion import screen_openness, vertex_openness
from pipelines.studio.render.raster import face_normals
from pipelines.studio.render.renderer import NO_PART, Shader
from pipelines.studio.render.scene import Layout

SIZE = (320, 240)
_PLAIN = Film(exposure=1, balance=(1, 1, 1), contrast=1, noise=0, blur=0, vignette=0)


def _camera(target=(0.0, 0.0, 0.3), distance=2.0, azimuth=0.0, elevation=0.0, focal=330.0, size=SIZE) -> StudioCamera:
    out = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.cross(-out, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(-out, right), -out])
    return StudioCamera(np.array(target) + distance * out, rotation, focal, size[1], size[0])


def _look(seed: int = 0, **changes) -> Look:
    look = sample_look(np.random.default_rng(seed))
    if "style" in changes:
        changes["hair"] = look.hair.model_copy(update={"style": changes.pop("style")})
    return look.model_copy(update=changes)


def _person(look: Look, size=SIZE):
    rig = load_rig()
    shape = rig.shape()
    posed = rig.pose(shape, np.tile(np.eye(3), (len(rig.names), 1, 1)))
    renderer = Renderer(rig, shape, look, {}, size)
    parts = renderer.body_parts(posed, posed.skin(shape.vertices, rig.weights), np.zeros(len(rig.faces), bool))
    return renderer, parts, shape


def _sheet(texture: str, label=Label.GARMENT, at_y=0.0, half=0.4, two_sided=False, flip=False) -> Part:
    """A square that faces the camera, or with `flip` away from it; its texture is upright seen from the front."""
    corners = np.array([[-half, at_y, half], [half, at_y, half], [half, at_y, -half], [-half, at_y, -half]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    faces = np.array([[0, 3, 2], [0, 2, 1]], np.int32)
    return Part(corners, faces[:, ::-1].copy() if flip else faces, uv, texture, label, two_sided)


def _quarters() -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32, :32], picture[:32, 32:], picture[32:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    picture[32:, 32:] = 200
    return picture


def _first_hit(origin: np.ndarray, direction: np.ndarray, parts: list[Part]) -> tuple[int, float]:
    """Part and distance along the ray of the first triangle hit (Moeller and Trumbore); -1 and inf for none."""
    best = (-1, np.inf)
    for number, part in enumerate(parts):
        a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
        e1, e2 = b - a, c - a
        p = np.cross(direction, e2)
        det = (e1 * p).sum(1)
        ok = np.abs(det) > 1e-12 if part.two_sided else det > 1e-12
        with np.errstate(divide="ignore", invalid="ignore"):
            s = (origin - a) / det[:, None]
            u = (s * p).sum(1)
            q = np.cross(s, e1)
            v, t = (q * direction).sum(1), (q * e2).sum(1)
        hit = ok & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        if hit.any() and t[hit].min() < best[1]:
            best = (number, float(t[hit].min()))
    return best


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 0.0), (0.7, 0.3), (-2.6, -0.2)])
def test_parts_and_depth_are_those_that_rays_meet(azimuth: float, elevation: float) -> None:
    renderer, parts, _ = _person(_look(1, style="long"))
    parts = [*parts, Part(**{**vars(_sheet("body.eye", at_y=-0.25, half=0.12, two_sided=True))})]
    camera = _camera(azimuth=azimuth, elevation=elevation)
    frame = renderer.draw(parts, camera)
    rng = np.random.default_rng(0)
    # Where neighbours differ a ray may fall on either side.
    even = cv2.morphologyEx(frame.part, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) == 0
    rows, columns = np.nonzero(even)
    pick = rng.choice(len(rows), 40, replace=False)
    inside = np.flatnonzero(frame.part[rows, columns] != NO_PART)
    pick = np.concatenate([pick, rng.choice(inside, 60, replace=False)])
    intrinsics = camera.intrinsics
    wrong = 0
    for r, c in zip(rows[pick], columns[pick]):
        ray = np.array([(c - intrinsics.cx) / intrinsics.fx, (r - intrinsics.cy) / intrinsics.fy, 1.0])
        part, depth = _first_hit(camera.position, camera.rotation.T @ ray, parts)
        seen = int(frame.part[r, c])
        if (part == -1) != (seen == NO_PART) or (part >= 0 and (part != seen or abs(depth - frame.depth[r, c]) > 2e-3)):
            wrong += 1
    assert wrong <= 1


def test_labels_follow_parts_and_regions_follow_the_body() -> None:
    renderer, parts, shape = _person(_look(2, style="short"))
    camera = _camera()
    frame = renderer.draw(parts, camera)
    assert np.array_equal(frame.label == Label.BACKGROUND, np.isinf(frame.depth))
    assert np.array_equal(frame.region > 0, frame.label == Label.SKIN)
    rig = load_rig()

    def at(points: np.ndarray) -> tuple[int, int]:
        x, y = np.rint(camera.project(points)).astype(int)
        return int(frame.label[y, x]), int(frame.region[y, x])

    nose = shape.vertices[np.argmin(np.where(shape.vertices[:, 2] > 0.6, shape.vertices[:, 1], 9))]
    assert at(nose) == (Label.SKIN, Region.HEAD)
    assert at(nose + np.array([0, 0.05, 0.14])) == (Label.HAIR, 0)
    assert at(shape.joints[rig.index("spine03")]) == (Label.SKIN, Region.TORSO)
    assert at(shape.joints[rig.index("lowerarm01.L")]) == (Label.SKIN, Region.ARMS)
    assert at(shape.vertices[rig.hands["left"]].mean(0)) == (Label.SKIN, Region.LEFT_HAND)
    left, right = (np.nonzero(frame.region == r)[1].mean() for r in (Region.LEFT_HAND, Region.RIGHT_HAND))
    assert left > right, "the person's left is on the picture's right"


def test_covered_faces_are_not_drawn() -> None:
    rig = load_rig()
    renderer, _, shape = _person(_look(3, style="bald"))
    posed = rig.pose(shape, np.tile(np.eye(3), (len(rig.names), 1, 1)))
    low = (shape.vertices[:, 2] < 0.4)[rig.faces].all(1)
    parts = renderer.body_parts(posed, shape.vertices, low)
    assert sum(len(p.faces) for p in parts) == np.count_nonzero(~low)
    assert parts[0].faces is renderer.body_parts(posed, shape.vertices, low.copy())[0].faces


def test_textures_are_upright_and_not_mirrored() -> None:
    shader = Shader([{"cloth": _quarters()}], _look().lights)
    camera = _camera(target=(0, 0, 0))
    drawn = shader.draw([_sheet("cloth")], camera)
    assert drawn is not None
    h, w = drawn.part.shape
    for row, column, channel in ((0.3, 0.3, 0), (0.3, 0.7, 1), (0.7, 0.3, 2)):
        colour = drawn.rgb[0][int(h * row), int(w * column)]
        assert int(np.argmax(colour)) == channel
        assert np.sort(colour)[1] < 30
    assert drawn.rgb[0][int(h * 0.7), int(w * 0.7)].min() > 60


def test_textures_are_interpolated_with_perspective() -> None:
    ramp = np.zeros((64, 256, 3), np.uint8)
    ramp[..., 0] = np.arange(256)[None]
    lights = _look().lights.model_copy(update={"key": 0.0, "fill": 0.0, "ambient": 1.0, "shadow": 0.0})
    lights = lights.model_copy(update={"ambient_colour": (1.0, 1.0, 1.0)})
    sheet = _sheet("ramp", half=0.5)
    corners = sheet.vertices.copy()
    corners[:, 1] = corners[:, 0] * 1.5  # turned away: its right side is farther
    part = Part(corners, sheet.faces, sheet.uv, "ramp", Label.GARMENT)
    camera = _camera(target=(0, 0, 0))
    drawn = Shader([{"ramp": ramp}], lights).draw([part], camera)
    assert drawn is not None
    for u in (0.25, 0.5, 0.75):
        x, y = camera.project(np.array([u - 0.5, (u - 0.5) * 1.5, 0.0]))
        value = drawn.rgb[0][round(float(y)) - drawn.window.y0, round(float(x)) - drawn.window.x0, 0]
        light = (lights.ambient * 0.8) ** (1 / 2.2)
        assert value / light == pytest.approx(255 * u, abs=7)


def test_backs_of_two_sided_parts_are_darker_and_those_of_others_missing() -> None:
    textures = {"cloth": np.full((16, 16, 3), 180, np.uint8)}
    lights = _look().lights.model_copy(update={"key_direction": (0.0, -1.0, 0.0), "shadow": 0.0})
    shader = Shader([textures], lights)
    camera = _camera(target=(0, 0, 0))
    front = shader.draw([_sheet("cloth", two_sided=True)], camera)
    back = shader.draw([_sheet("cloth", two_sided=True, flip=True)], camera)
    assert front is not None
    assert back is not None
    assert np.array_equal(front.part, back.part)
    middle = (front.part.shape[0] // 2, front.part.shape[1] // 2)
    assert back.rgb[0][middle].mean() < 0.85 * front.rgb[0][middle].mean()
    assert shader.draw([_sheet("cloth", flip=True)], camera) is None


def test_the_nearer_part_hides_the_farther_one_whatever_the_order() -> None:
    textures = {"a": np.full((8, 8, 3), 90, np.uint8)}
    camera = _camera(target=(0, 0, 0))
    near, far = _sheet("a", Label.GARMENT, -0.3, 0.2), _sheet("a", Label.LOWER, 0.3)
    for parts in ([near, far], [far, near]):
        drawn = Shader([textures], _look().lights).draw(parts, camera)
        assert drawn is not None
        h, w = drawn.label.shape
        assert drawn.label[h // 2, w // 2] == Label.GARMENT
        assert drawn.depth[h // 2, w // 2] == pytest.approx(1.7, abs=1e-3)
        assert drawn.label[h // 10, w // 10] == Label.LOWER


def test_what_is_behind_the_camera_is_left_out() -> None:
    textures = {"a": np.full((8, 8, 3), 90, np.uint8)}
    camera = _camera(target=(0, 0, 0))
    behind = _sheet("a", at_y=-3.0)
    across = Part(
        np.array([[0, -3.0, 0.1], [0.1, 1, 0.1], [0, 1, -0.1]]), np.array([[0, 2, 1]], np.int32),
        np.zeros((3, 2), np.float32), "a", Label.OTHER, True,
    )  # fmt: skip
    assert Shader([textures], _look().lights).draw([behind], camera) is None
    drawn = Shader([textures], _look().lights).draw([_sheet("a"), across, behind], camera)
    assert drawn is not None
    assert set(np.unique(drawn.part)) <= {0, NO_PART}


def test_a_shadow_falls_where_the_light_is_blocked() -> None:
    towards = np.array([0.0, -0.6, 0.8])
    wall = np.stack(np.meshgrid(np.linspace(-1, 1, 41), [0.0], np.linspace(-1, 1, 41), indexing="ij"), -1).reshape(
        -1, 3
    )
    n = np.arange(41 * 41).reshape(41, 41)
    a, b, c, d = (m.ravel() for m in (n[:-1, :-1], n[1:, :-1], n[:-1, 1:], n[1:, 1:]))
    faces = np.concatenate([np.stack([a, b, d], -1), np.stack([a, d, c], -1)])
    # A ball in front of the wall.
    centre, radius = np.array([0.2, -0.4, 0.3]), 0.15
    rig = load_rig()
    eye = rig.shape().vertices[rig.eyes["left"]]
    ball = (eye - eye.mean(0)) / np.ptp(eye[:, 0]) * 2 * radius + centre
    lookup = np.full(rig.num_vertices, -1)
    lookup[rig.eyes["left"]] = np.arange(len(eye))
    ball_faces = lookup[rig.faces[np.isin(rig.faces[:, 0], rig.eyes["left"])]]
    vertices = np.concatenate([wall, ball]).astype(np.float32)
    every = np.concatenate([faces, ball_faces + len(wall)]).astype(np.int32)
    arrives = key_light(wall.astype(np.float32), vertices, every, face_normals(vertices, every), towards, 1.0)
    # How far the way to the light passes by the middle of the ball.
    along = (centre - wall) @ towards
    miss = np.linalg.norm(centre - wall - along[:, None] * towards, axis=1)
    # A pixel of the map of shadows is 15 mm wide here, the ball has corners, and the light is not quite at infinity.
    assert (arrives[miss < radius - 0.03] < 0.1).all()
    assert (arrives[miss > np.linalg.norm(ball - centre, axis=1).max() + 0.045] > 0.9).all()


def test_openness_of_a_corner_and_of_a_bump() -> None:
    rig = load_rig()
    vertices = rig.shape().vertices
    openness = vertex_openness(vertices, rig.faces)
    forehead = np.argmin(np.linalg.norm(vertices - (0, -0.14, 0.77), axis=1))
    armpit = np.argmin(
        np.linalg.norm(vertices - rig.shape().joints[rig.index("upperarm01.L")] - (-0.02, 0, -0.10), axis=1)
    )
    assert openness[forehead] > 0.9
    assert openness[armpit] < 0.7
    depth = np.full((80, 80), 2.0, np.float32)
    assert screen_openness(depth, 600.0, 0.16).min() > 0.99
    depth[:, 40:] = 1.95  # stands out by five centimetres
    shaded = screen_openness(depth, 600.0, 0.16)
    assert shaded[40, 37] < 0.9 < shaded[40, 5]
    assert shaded[40, 43:].min() > 0.99


def test_normals_are_one_across_a_seam_of_the_texture() -> None:
    # Two triangles that share an edge, whose vertices are there twice.
    vertices = np.array([[0, 0, 0], [0, 0, 1], [-1, 0.5, 0], [0, 0, 0], [0, 0, 1], [1, 0.5, 0]], float)
    faces = np.array([[0, 2, 1], [3, 4, 5]], np.int32)
    part = Part(vertices, faces, np.zeros((6, 2), np.float32), "a", Label.GARMENT)
    normals = Layout([part]).normals(face_normals(vertices, faces).astype(np.float32))
    assert np.allclose(normals[0], normals[3])
    assert np.allclose(np.abs(normals[0]), [0, 1, 0], atol=1e-6)


def test_atlas_gives_texels_back() -> None:
    rng = np.random.default_rng(0)
    textures = {f"t{i}": rng.integers(0, 255, (16 + 5 * i, 40 - 6 * i, 3)).astype(np.uint8) for i in range(4)}
    atlas = Atlas([textures], {})
    for name, picture in textures.items():
        h, w = picture.shape[:2]
        y, x = np.mgrid[:h, :w]
        uv = np.stack([(x.ravel() + 0.5) / w, (y.ravel() + 0.5) / h], -1).astype(np.float32)
        place = atlas.place(name, uv).reshape(h, w, 2).astype(np.float32)
        read = cv2.remap(atlas.pictures[0], place[..., 0], place[..., 1], cv2.INTER_LINEAR)
        assert np.abs(read[..., :3].astype(int) - picture).max() <= 1
    coarse = Atlas([textures], {"t0": 5.0})
    assert coarse.place("t0", np.ones((1, 2)))[0, 0] - coarse.place("t0", np.zeros((1, 2)))[0, 0] == 40 / 4


def test_same_look_same_bytes() -> None:
    frames: list[Frame] = []
    for _ in range(2):
        renderer, parts, _ = _person(_look(5))
        frames += [renderer.draw(parts, _camera(), 0.0), renderer.draw(parts, _camera(azimuth=0.01), 0.04)]
    for a, b in (frames[::2], frames[1::2]):
        assert all(np.array_equal(x, y) for x, y in zip(vars(a).values(), vars(b).values()))
    renderer, parts, _ = _person(_look(5))
    again = renderer.draw(parts, _camera(), 0.04)
    assert np.array_equal(again.label, frames[0].label)
    assert not np.array_equal(again.rgb, frames[0].rgb), "noise changes with time"


def test_outfits_differ_in_colour_only() -> None:
    rig = load_rig()
    shape, look = rig.shape(), _look(9)
    red, blue = (np.full((32, 32, 3), c, np.uint8) for c in ((190, 20, 20), (20, 20, 190)))
    cloth = _sheet("cloth", at_y=-0.3, half=0.25)
    both = Renderer(rig, shape, look, {"cloth": red}, SIZE, [{"cloth": blue}]).draw_all([cloth], _camera(), 0.1)
    for frame, texture, channel in zip(both, (red, blue), (0, 2)):
        alone = Renderer(rig, shape, look, {"cloth": texture}, SIZE).draw([cloth], _camera(), 0.1)
        assert np.array_equal(frame.rgb, alone.rgb)
        assert np.array_equal(frame.label, alone.label)
        assert (frame.rgb[frame.label == Label.GARMENT].argmax(-1) == channel).mean() > 0.95
    far = cv2.dilate((both[0].label > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert np.array_equal(both[0].rgb[far], both[1].rgb[far])


def test_dressed_renderers_share_the_person_and_the_place() -> None:
    rig = load_rig()
    shape, look = rig.shape(), _look(10)
    red, blue = (np.full((32, 32, 3), c, np.uint8) for c in ((190, 20, 20), (20, 20, 190)))
    first = Renderer(rig, shape, look, {"cloth": red}, SIZE)
    second = first.dressed({"coat": blue})
    first.draw([_sheet("cloth")], _camera())
    frame = second.draw([_sheet("coat")], _camera())
    fresh = Renderer(rig, shape, look, {"coat": blue}, SIZE).draw([_sheet("coat")], _camera())
    assert np.array_equal(frame.rgb, fresh.rgb)


def test_bad_input_is_refused() -> None:
    renderer, parts, _ = _person(_look(6))
    with pytest.raises(ValueError, match="camera is 100 x 320"):
        renderer.draw(parts, _camera(size=(320, 100)))
    with pytest.raises(KeyError, match="silk"):
        renderer.draw([_sheet("silk")], _camera())
    empty = renderer.draw([], _camera())
    assert not empty.label.any()
    assert np.isinf(empty.depth).all()


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_every_hair_style_leaves_the_face_free(style: str) -> None:
    look = _look(7)
    renderer, parts, shape = _person(look.model_copy(update={"hair": look.hair.model_copy(update={"style": style})}))
    head = shape.joints[load_rig().index("head")]
    frame = renderer.draw(parts, _camera(target=head, distance=1.2, focal=700.0))
    hair = frame.label == Label.HAIR
    assert hair.any() == (style != "bald")
    camera = _camera(target=head, distance=1.2, focal=700.0)
    for side in ("left", "right"):
        x, y = np.rint(camera.project(shape.vertices[load_rig().eyes[side]].mean(0))).astype(int)
        assert frame.label[y, x] == Label.OTHER
    lips = shape.vertices[load_rig().marks["lips"] > 0.5].mean(0)
    x, y = np.rint(camera.project(lips)).astype(int)
    assert frame.label[y, x] == Label.SKIN
    if style not in ("bald", "buzz"):
        # No skin shines through between the crown and the hairline.
        x, y = np.rint(camera.project(np.array([0.0, -0.12, 0.815]))).astype(int)
        assert hair[y, x]


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds(kind: str) -> None:
    a, b, c = (paint_background(np.random.default_rng(s), kind, 90, 70, 0.8) for s in (0, 0, 1))  # type: ignore[arg-type]
    assert a.shape == (90, 70, 3)
    assert 0 <= a.min() <= a.max() <= 1
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_background_turns_with_the_camera() -> None:
    look = _look(8, background="clutter")
    first = _camera(focal=400.0)
    place = Background(look, -0.95)
    seen = place.seen_by(first)
    yaw = 0.03
    turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
    moved = place.seen_by(StudioCamera(first.position, turn @ first.rotation, 400.0, first.width, first.height))
    # A far point, seen by both.
    far = StudioCamera(first.position, turn @ first.rotation, 400.0, first.width, first.height)
    point = first.position + first.rotation.T @ np.array([0.0, 0.0, 1e5])
    shift = far.project(point) - first.project(point)
    (dx, dy), response = cv2.phaseCorrelate(
        *(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (seen, moved)),
        cv2.createHanningWindow((240, 320), cv2.CV_32F),
    )
    assert response > 0.2
    assert dx == pytest.approx(shift[0], abs=0.7)
    assert dy == pytest.approx(shift[1], abs=0.7)


def test_film() -> None:
    grey = np.full((64, 48, 3), 110, np.uint8)
    assert np.array_equal(FilmEffect(_PLAIN, 64, 48, 0)(grey, 0.0), grey)
    noisy = FilmEffect(_PLAIN.model_copy(update={"noise": 3.0}), 64, 48, 0)
    assert np.array_equal(noisy(grey, 0.2), noisy(grey, 0.2))
    assert noisy(grey, 0.2).astype(int).std() == pytest.approx(3.0 * np.hypot(0.75, 0.55), rel=0.15)
    brighter = FilmEffect(_PLAIN.model_copy(update={"exposure": 1.5}), 64, 48, 0)(grey, 0.0)
    # In light, not in grey levels.
    assert (brighter[0, 0, 0] / 110) ** 2.2 == pytest.approx(1.5, rel=0.05)
    corner = FilmEffect(_PLAIN.model_copy(update={"vignette": 0.3}), 64, 48, 0)(grey, 0.0)
    assert corner[0, 0, 0] < 85
    assert corner[32, 24, 0] >= 108


@pytest.mark.parametrize("kind", KINDS)
def test_fabrics(kind: str) -> None:
    a, b, c = (make_fabric(np.random.default_rng(s), kind, 128) for s in (3, 3, 4))
    assert a.shape == (128, 128, 3)
    assert a.dtype == np.uint8
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_prints_are_on_the_chest() -> None:
    # The same dice up to the print: the difference is the print itself.
    for seed in range(6):
        plain, printed = (make_fabric(np.random.default_rng(seed), "plain", 256, p) for p in (False, True))
        changed = (
            np.abs(cv2.GaussianBlur(plain, (0, 0), 3).astype(int) - cv2.GaussianBlur(printed, (0, 0), 3)).max(-1) > 12
        )
        rows, columns = np.nonzero(changed)
        assert len(rows)
        assert 0.05 < rows.mean() / 256 < 0.45
        assert 0.4 < columns.mean() / 256 < 0.66


def test_fabrics_from_photos(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no photos"):
        photo_fabrics(tmp_path)
    photo = np.full((90, 60, 3), (40, 120, 200), np.uint8)
    cv2.imwrite(str(tmp_path / "shirt.png"), photo[..., ::-1])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken, shirt = photo_fabrics(tmp_path)
    assert np.array_equal(
        np.unique(cut_fabric(np.random.default_rng(0), shirt, 32).reshape(-1, 3), axis=0), [[40, 120, 200]]
    )
    with pytest.raises(ValueError, match="broken"):
        cut_fabric(np.random.default_rng(0), broken)
    with pytest.raises(ValueError, match="unknown fabric"):
        make_fabric(np.random.default_rng(0), "lead")


def test_product_photo() -> None:
    rgb, opacity = product_image([_sheet("cloth", half=0.3)], {"cloth": _quarters()}, (200, 100))
    assert rgb.shape == (200, 100, 3)
    rows, columns = np.nonzero(opacity > 127)
    assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=1), "a square stays one"
    assert np.ptp(columns) == pytest.approx(86, abs=2), "it fills the picture but for the margin"
    assert (rows.mean(), columns.mean()) == (pytest.approx(99.5, abs=1), pytest.approx(49.5, abs=1))
    assert rgb[:40].min() > 235
    top_left, top_right = rgb[80, 25], rgb[80, 75]
    assert (int(np.argmax(top_left)), int(np.argmax(top_right))) == (0, 1)
    with pytest.raises(ValueError, match="no garment"):
        product_image([], {}, (10, 10))


def test_looks_are_drawn_widely_and_survive_json() -> None:
    looks = [sample_look(np.random.default_rng(s)) for s in range(150)]
    assert {x.hair.style for x in looks} == set(HAIR_STYLES)
    assert {x.background for x in looks} == set(BACKGROUNDS)
    tones = np.array([np.mean(x.face.skin) for x in looks])
    assert tones.min() < 0.27
    assert tones.max() > 0.75
    for look in looks[:20]:
        assert Look.model_validate_json(look.model_dump_json()) == look
        assert np.linalg.norm(look.lights.key_direction) == pytest.approx(1, abs=1e-3)
