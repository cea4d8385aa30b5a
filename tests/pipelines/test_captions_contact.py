"""What the contact network is told, measured on drawn people and drawn cloth of which everything is known."""

import cv2
import numpy as np
import pyarrow as pa
import pytest

from models.contact.network import CLASSES, REST, weights_digest
from pipelines.captions.contact import SIDES, Contact, acting_spans, look_around, may_touch, observe, shots
from pipelines.captions.contact_cells import CELLS, CHANNELS, SPACING, CellSampler, Look, cell_points
from pipelines.captions.contact_data import labels
from pipelines.captions.contact_geometry import (
    FEATURES,
    GRID_FPS,
    grid_times,
    interpolate,
    measure_geometry,
    on_grid,
)
from pipelines.captions.settings import CaptionSettings, SmoothingSettings
from pipelines.captions.stage import CaptionsStage
from pipelines.captions.tracks import HAND_COLUMNS, MASK_COLUMNS, POSE_COLUMNS, GarmentRegion, build_tracks
from pipelines.video import VideoWriter
from tests.pipelines.captions_scene import FPS, HEIGHT, WIDTH, person, raise_and_rub, tables

UNIT = 72.0
SMOOTHING = SmoothingSettings()


def track(people, fps=FPS):
    rows = tables(people)
    pose, hands = rows["pose"].select(POSE_COLUMNS), rows["hands"].select(HAND_COLUMNS)
    times = np.arange(len(people)) / fps
    pose = pose.set_column(pose.column_names.index("time_s"), "time_s", pa.array(times))
    return build_tracks(pose, hands, len(people), fps, (HEIGHT, WIDTH))


def features(people, side="right", fps=FPS):
    tracks = track(people, fps)
    around = {s: np.full(len(people), 1.0) for s in SIDES}
    grid = grid_times(tracks.times_s)
    return on_grid(measure_geometry(tracks, around)[side], tracks.times_s, tracks.body, grid, side)


def column(values, name):
    return values[:, FEATURES.index(name)]


def test_features_have_their_names_and_places():
    path, _ = raise_and_rub(rub_s=0.6, rest_s=0.1)
    values = features(person(path))
    assert values.shape == (1 + int((len(path) - 1) * GRID_FPS / FPS), len(FEATURES))
    # The middle of the chest is at x 0; a body unit is 0.36 m.
    middle = len(values) // 2
    assert column(values, "palm_x")[middle] == pytest.approx(path[2 * middle, 0] / 0.36, abs=0.02)
    assert column(values, "palm_y")[middle] == pytest.approx(path[2 * middle, 1] / 0.36, abs=0.02)
    # The palm faces the body: its normal points inward.
    np.testing.assert_allclose(column(values, "palm_normal_z")[middle], 1, atol=1e-5)
    assert column(values, "known").min() == 1 and column(values, "person").min() == 1


def test_the_left_hand_looks_as_the_right():
    path, _ = raise_and_rub(rub_s=0.6, rest_s=0.1)
    right, left = features(person(path)), features(person(path * [-1, 1], side="left"), "left")
    np.testing.assert_allclose(left, right, atol=2e-3)


def test_features_do_not_depend_on_size_place_and_frame_rate():
    path, _ = raise_and_rub(rub_s=0.6, rest_s=0.1)
    one = features(person(path))
    np.testing.assert_allclose(features(person(path, scale=0.7, shift=(20, -10))), one, atol=2e-3)
    at = np.arange(2 * len(path) - 1) / 2
    fast = np.stack([np.interp(at, np.arange(len(path)), path[:, i]) for i in range(2)], -1)
    moving = [i for i, n in enumerate(FEATURES) if n not in ("garment_around",)]
    np.testing.assert_allclose(features(person(fast), fps=60)[:, moving], one[:, moving], atol=5e-3)


def test_velocity_is_in_body_units_a_second():
    # 0.36 m in a second is one body unit a second.
    path = np.stack([np.linspace(0, 0.36, 31), np.full(31, 0.2)], -1)
    values = features(person(path))
    np.testing.assert_allclose(column(values, "speed_palm_x"), 1.0, atol=1e-3)
    np.testing.assert_allclose(column(values, "speed_palm_y"), 0.0, atol=1e-3)
    np.testing.assert_allclose(column(values, "speed_body_x"), 0.0, atol=1e-3)


def test_a_hand_that_is_not_known_is_nan_and_says_so():
    people = person(np.tile([0.0, 0.2], (31, 1)))
    people.keypoints["right"][10:20] = np.nan
    people.space["right"][10:20] = np.nan
    values = features(people)
    assert (column(values, "known")[5:10] == 0).all() and np.isnan(column(values, "palm_x")[5:10]).all()
    assert np.isfinite(column(values, "pose_wrist_x")).all()
    assert np.isfinite(column(values, "palm_x")[[0, 4, 10, 15]]).all()


def test_interpolation_asks_only_the_neighbours_it_needs():
    values, times = np.array([[0.0], [2.0], [np.nan], [6.0]]), np.array([0.0, 1.0, 2.0, 3.0])
    at = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0])
    expected = [0.0, 1.0, 2.0, 2.0, np.nan, 6.0, 6.0, 6.0]
    np.testing.assert_allclose(interpolate(values, times, at)[:, 0], expected)
    np.testing.assert_allclose(interpolate(values[:1], times[:1], at)[:, 0], 0)


# --- cells ---


def _cloth(seed=0):
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur((rng.random((300, 280, 3)) * 255).astype(np.float32), (0, 0), 2.0)
    low, high = texture.min(), texture.max()
    return (30 + 190 * (texture - low) / (high - low)).astype(np.float32)


def look(time_s, hand, cloth=(0.0, 0.0), body=(0.0, 0.0), light=0.0, patch=None, side="right"):
    """A torso in textured cloth; near the hand the cloth is moved, everything by the body's motion, pixels."""
    hand, body = np.asarray(hand, float) + body, np.asarray(body, float)
    y, x = np.mgrid[:300, :280].astype(np.float32)
    pull = np.exp(-(((x - hand[0]) ** 2 + (y - hand[1]) ** 2) / (2 * 25.0**2)).astype(np.float32))
    move = np.asarray(cloth, np.float32)
    map_x, map_y = x - body[0] - pull * move[0], y - body[1] - pull * move[1]
    picture = cv2.remap(_cloth(), map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR)
    if patch is not None:
        cv2.circle(picture, tuple(int(v) for v in np.asarray(patch) + body), 14, (230, 40, 40), -1)
    picture = np.clip(picture + light, 0, 255)
    cv2.ellipse(picture, tuple(round(v) for v in hand), (18, 12), 0, 0, 360, (250, 220, 200), -1)
    landmarks = np.zeros((33, 2))
    landmarks[[11, 12, 24, 23]] = np.array([(180, 60), (108, 60), (112, 175), (176, 175)]) + body
    mine, others = ((14, 16), (13, 15)) if side == "right" else ((13, 15), (14, 16))
    landmarks[list(mine)] = hand + np.array([[-60 if side == "right" else 60, 60], [0, 0]])
    landmarks[list(others)] = np.array([(20.0, 200.0), (20.0, 260.0)]) + body
    angle = np.linspace(0, 2 * np.pi, 21, endpoint=False)
    keypoints = hand + np.stack([18 * np.cos(angle), 12 * np.sin(angle)], -1)
    mask = np.zeros((600, 560), np.uint8)
    mask[:, :280] = 1
    axes = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    origin = np.array([144.0, 60.0]) + body
    return Look(np.uint8(picture), time_s, landmarks, {side: keypoints}, origin, *axes, UNIT, (mask, 2.0))


def channel(cells, name):
    return cells[CHANNELS.index(name)]


def two(first, second, side="right"):
    sampler = CellSampler()
    before = sampler.step(first, [side])[side]
    assert (channel(before, "tracked") == 0).all() and (channel(before, "change_slow") == 0).all()
    return sampler.step(second, [side])[side]


def test_cloth_that_goes_along_is_told_from_cloth_that_stays():
    moved = two(look(0.0, (144, 120)), look(0.1, (150, 120), cloth=(6, 0)))
    still = two(look(0.0, (144, 120)), look(0.1, (150, 120)))
    for cells, expected in ((moved, 0.4), (still, 0.0)):
        # What is above the hand, since the forearm hides what is below.
        near = channel(cells, "tracked")[:4, 3:7] > 0
        assert near.sum() >= 8
        assert channel(cells, "along")[:4, 3:7][near].mean() == pytest.approx(expected, abs=0.2)
    # At the middle of the pull 6 pixels of 72 to a unit in a tenth of a second; the hand hides it and some around.
    speed = channel(moved, "flow_x")[channel(moved, "tracked") > 0].max()
    assert 0.4 < speed / (6 / UNIT / 0.1) < 1.0


def test_motion_of_the_body_and_change_of_light_are_taken_off():
    cells = two(look(0.0, (144, 120)), look(0.1, (144, 120), body=(5, 3), light=4.0))
    tracked = channel(cells, "tracked") > 0
    assert tracked.sum() > 20
    for name in ("flow_x", "flow_y"):
        assert np.abs(channel(cells, name)[tracked]).max() < 0.15
    brighter = two(look(0.0, (144, 120)), look(0.1, (144, 120), light=25.0))
    assert np.median(channel(brighter, "change_now")) < 0.02


def test_a_left_hand_is_seen_in_the_mirror():
    right = two(look(0.0, (144, 120)), look(0.1, (150, 120), cloth=(6, 0)))
    mirrored = [look(0.0, (144, 120), side="left"), look(0.1, (150, 120), cloth=(6, 0), side="left")]
    left = two(*mirrored, side="left")
    np.testing.assert_allclose(channel(left, "garment"), channel(right, "garment")[:, ::-1])
    tracked = (channel(left, "tracked") > 0) & (channel(right, "tracked")[:, ::-1] > 0)
    np.testing.assert_allclose(channel(left, "flow_x")[tracked], -channel(right, "flow_x")[:, ::-1][tracked], atol=0.25)


def test_cells_lie_around_the_hand_and_know_limbs_and_garment():
    one = look(0.0, (270, 120))
    points = cell_points(one, "right").reshape(CELLS, CELLS, 2)
    np.testing.assert_allclose(points[4, 4], (270, 120), atol=1e-9)
    np.testing.assert_allclose(points[4, 5] - points[4, 4], (SPACING * UNIT, 0), atol=1e-9)
    np.testing.assert_allclose(cell_points(one, "left" if "left" in one.hands else "right")[0], points[0, 0])
    cells = CellSampler().step(one, ["right"])["right"]
    assert channel(cells, "limb")[4, 4] == 1 and channel(cells, "limb")[0, 0] == 0
    # The mask is twice as large and ends at half its width; the picture ends ten pixels from the hand.
    np.testing.assert_array_equal(channel(cells, "garment")[0] > 0, points[0, :, 0] < 139.75)
    assert (channel(cells, "limb")[:, points[0, :, 0] > 281] == 1).all()


def test_cloth_that_looks_other_than_before_the_hand_came_is_noticed():
    sampler = CellSampler()
    for i in range(5):
        sampler.step(look(i / 15, (230, 230)), ["right"])
    # The hand covers the place, goes on, and beside it something else shows.
    sampler.step(look(5 / 15, (144, 120)), ["right"])
    sampler.step(look(6 / 15, (144, 140)), ["right"])
    opened = sampler.step(look(7 / 15, (144, 150), patch=(144, 120)), ["right"])["right"]
    slow = channel(opened, "change_slow")
    assert slow[:4, 3:6].max() > 0.3 and np.median(slow) < 0.05
    assert sampler.step(look(8 / 15, (144, 150)), []) == {}
    with pytest.raises(ValueError, match="pictures change"):
        small = look(9 / 15, (144, 150))
        sampler.step(Look(small.rgb[:100], *[getattr(small, f) for f in list(small.__dataclass_fields__)[1:]]), [])


# --- over a video ---


def test_only_stretches_with_a_hand_near_the_garment_are_decoded(tmp_path):
    path, (start, stop) = raise_and_rub(rub_s=1.0, rest_s=2.0)
    people = person(path, other_wrist=(0.9, 0.9))
    tracks = track(people)
    video = tmp_path / "a.mp4"
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur((rng.random((HEIGHT, WIDTH, 3)) * 255).astype(np.uint8), (0, 0), 2)
    with VideoWriter(video, fps=FPS, width=WIDTH, height=HEIGHT) as writer:
        for _ in range(len(people)):
            writer.write(picture)

    class Task:
        path, threads, row = video, 1, {"cut_frames": None}

    region = GarmentRegion(tables(people)["agnostic_masks"].select(MASK_COLUMNS))
    seen = observe(tracks, region)
    seen.near["left"][:] = False
    seen.near["right"][:] = False
    middle = slice(start // 2, stop // 2)
    seen.near["right"][middle] = True
    found = list(look_around(Task(), tracks, region, seen))
    assert [k for k, _ in found] == list(range(middle.start, middle.stop))
    assert all(set(cells) == {"right"} for _, cells in found)
    # Pictures from before the hand came were looked at, so motion is known from the first sample on.
    assert channel(found[0][1]["right"], "tracked").sum() > 10
    seen.near["right"][:] = False
    assert list(look_around(Task(), tracks, region, seen)) == []


def test_a_hand_may_touch_where_the_garment_is():
    chest, far = track(person(np.tile([0.0, 0.2], (3, 1)))), track(person(np.tile([0.6, -0.4], (3, 1))))
    assert may_touch(chest.hands["right"]).all()
    assert not may_touch(far.hands["right"]).any()
    thigh = track(person(np.tile([0.1, 0.9], (3, 1)))).hands["right"]
    assert not may_touch(thigh).any() and may_touch(thigh, lower=True).all()


def contact(touching, name, frames=60):
    doing = np.zeros((frames, len(CLASSES)))
    doing[:, CLASSES.index(name)] = 1.0
    return Contact(np.asarray(touching, float), doing)


def test_spans_are_where_a_hand_acts_and_named_by_vote():
    touching = np.zeros(60)
    touching[10:40] = 0.9
    (span,) = acting_spans(contact(touching, "adjust_hem"), 30, SMOOTHING)
    assert (span.start, span.end, span.action) == (10, 40, "adjust_hem")
    assert span.confidence == pytest.approx(0.9)
    # A hand that only lies there is in contact, and does nothing.
    assert acting_spans(contact(touching, "rest"), 30, SMOOTHING) == []
    mixed = contact(touching, "adjust_hem")
    mixed.doing[10:15] = 0
    mixed.doing[10:15, CLASSES.index("other")] = 1
    assert [s.action for s in acting_spans(mixed, 30, SMOOTHING)] == ["adjust_hem"]
    assert [(s.start, s.end) for s in acting_spans(mixed, 30, SMOOTHING, cuts=[25])] == [(10, 25), (25, 40)]
    assert mixed.acting.max() <= 1


def test_shots_part_the_grid_at_cuts():
    tracks = track(person(np.tile([0.0, 0.2], (60, 1))))
    grid = grid_times(tracks.times_s)
    assert shots(grid, tracks, ()) == [(0, len(grid))]
    assert shots(grid, tracks, [30, 0, 99]) == [(0, 15), (15, len(grid))]
    assert shots(grid, tracks, [31]) == [(0, 16), (16, len(grid))]


def test_labels_are_the_truth_of_the_nearest_frame():
    tracks = track(person(np.tile([0.0, 0.2], (10, 1))), fps=25.0)
    rows = [
        {"frame": f, "handedness": s, "contact": s == "right" and f >= 4, "action": None, "distance_m": 0.01 * f}
        for f in range(10)
        for s in SIDES
    ]
    for r in rows:
        r["action"] = ("adjust_hem" if r["frame"] < 8 else "rest") if r["contact"] else None
    found = labels(pa.Table.from_pylist(rows), tracks, grid_times(tracks.times_s))
    # 15 samples a second of 25 frames a second: frames 0, 2, 3, 5, 7, 8.
    nearest = [0, 2, 3, 5, 7, 8]
    np.testing.assert_allclose(found["distance"][0], 0.01 * np.array(nearest), atol=1e-6)
    assert found["contact"].tolist() == [[False] * 6, [f >= 4 for f in nearest]]
    hem = CLASSES.index("adjust_hem")
    assert found["action"].tolist() == [[-1] * 6, [-1, -1, -1, hem, hem, REST]]


def test_rows_depend_on_the_weights():
    stage = CaptionsStage(CaptionSettings())
    assert stage.weights() == {"contact": weights_digest()}
    assert CaptionsStage(CaptionSettings(backend="vlm")).weights() == {}
