"""Agnostic masks: on drawn figures, where the truth is known, and on a real clip."""

from __future__ import annotations

import itertools
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from pipelines.arrays import decode_mask, encode_mask, points_to_arrow
from pipelines.masks.agnostic import GREY, agnostic_frame, agnostic_with_pose
from pipelines.masks.base import HandOutline, Observation
from pipelines.masks.body import Body, hand_from_pose, hand_length
from pipelines.masks.geometric import GeometricBackend, nearest_part, within
from pipelines.masks.observations import observations
from pipelines.masks.parsing import LABELS, ParsingBackend, labels_at
from pipelines.masks.settings import MasksSettings, ParsingSettings
from pipelines.masks.stage import AgnosticMaskStage, compose
from pipelines.masks.temporal import RunningVote
from pipelines.registry import STAGES
from pipelines.stage import VideoTask
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import HANDS, LANDMARK, POINT_2D, POSE

# A standing adult, front view, in units of torso length, origin between the hips, y up. The person's left is at +x.
_LEFT = {
    2: (0.05, 1.47), 1: (0.03, 1.47), 3: (0.07, 1.47), 7: (0.14, 1.44), 9: (0.05, 1.33), 11: (0.36, 1.00),
    13: (0.47, 0.48), 15: (0.52, 0.02), 17: (0.54, -0.13), 19: (0.50, -0.15), 21: (0.46, -0.08),
    23: (0.19, 0.0), 25: (0.20, -0.80), 27: (0.21, -1.55), 29: (0.20, -1.63), 31: (0.26, -1.67),
}  # fmt: skip


def standing(height: int, width: int, torso: float, centre: tuple[float, float]) -> np.ndarray:
    """(33, 4) landmarks in pixels of a standing person; `centre` is between the hips."""
    units = np.zeros((33, 2))
    units[0] = (0.0, 1.40)
    for k, (x, y) in _LEFT.items():
        units[k] = (x, y)
        units[{1: 4, 2: 5, 3: 6}.get(k, k + 1)] = (-x, y)
    out = np.ones((33, 4), np.float32)
    out[:, :2] = np.array(centre) + torso * units * (1, -1)
    out[:, 2] = 0.0
    return out


def silhouette(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """The person drawn with thick lines, independent of the code under test; (height, width) uint8."""
    out = np.zeros((height, width), np.uint8)
    p = [tuple(int(v) for v in xy) for xy in np.round(landmarks[:, :2])]
    torso = np.linalg.norm(landmarks[[11, 12], :2].mean(0) - landmarks[[23, 24], :2].mean(0))
    cv2.fillConvexPoly(out, np.array([p[11], p[12], p[24], p[23]], np.int32), 1)
    for a, b, w in (
        (11, 12, 0.2), (23, 24, 0.3), (11, 23, 0.2), (12, 24, 0.2), (11, 13, 0.2), (12, 14, 0.2), (13, 15, 0.16),
        (14, 16, 0.16), (15, 19, 0.14), (16, 20, 0.14), (23, 25, 0.28), (24, 26, 0.28), (25, 27, 0.2), (26, 28, 0.2),
        (27, 31, 0.12), (28, 32, 0.12),
    ):  # fmt: skip
        cv2.line(out, p[a], p[b], 1, max(1, round(w * torso)))
    neck = landmarks[[11, 12], :2].mean(0)
    cv2.line(out, tuple(int(v) for v in neck), p[0], 1, max(1, round(0.22 * torso)))
    cv2.ellipse(
        out, tuple(int(v) for v in eyes(landmarks)), (round(0.17 * torso), round(0.25 * torso)), 0, 0, 360, 1, -1
    )
    return out


def eyes(landmarks: np.ndarray) -> np.ndarray:
    return landmarks[1:7, :2].mean(0)


def face(landmarks: np.ndarray, height: int, width: int) -> np.ndarray:
    """A box from brow to mouth between the ears, a little inside; bool."""
    y, x = np.mgrid[:height, :width]
    left, right = sorted((landmarks[7, 0], landmarks[8, 0]))
    inset = 0.15 * (right - left)
    inside = (x > left + inset) & (x < right - inset)
    return inside & (y > eyes(landmarks)[1] - 2) & (y < landmarks[[9, 10], 1].mean() + 1)


def open_hand(wrist: tuple[float, float], length: float, angle: float = 0.0) -> np.ndarray:
    """(21, 2) keypoints of a hand with spread fingers, pointing up at angle 0 (degrees, clockwise)."""
    out = [(0.0, 0.0)]
    out += [(0.12, 0.12), (0.22, 0.24), (0.30, 0.34), (0.37, 0.42)]
    for base, spread in ((0.14, 0.30), (0.045, 0.08), (-0.05, -0.12), (-0.14, -0.35)):
        knuckle = np.array([base, 0.47])
        for joint in (0.0, 0.21, 0.34, 0.44):
            out.append(tuple(knuckle + joint * np.array([np.sin(spread), np.cos(spread)])))
    a = np.radians(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return (np.array(wrist) + length * (np.array(out) * (1, -1)) @ turn.T).astype(np.float32)


def observe(landmarks, person, hands=(), options: MasksSettings | None = None, frame: int = 0) -> Observation:
    options = options or MasksSettings()
    size = person.shape
    scale = min(1.0, options.working_side_px / max(size))
    small = (round(size[1] * scale), round(size[0] * scale))
    reduced = (cv2.resize(person * np.uint8(255), small, interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
    return Observation(frame, landmarks, reduced, size, scale, tuple(hands))


def masks_of(seen: list[Observation], category: str = "upper_body", options: MasksSettings | None = None):
    options = options or MasksSettings()
    backend = GeometricBackend(options)
    return [m for _, m in compose(zip(seen, backend.regions(seen, None, category)), options)]


def hand(side: str, keypoints: np.ndarray, precise: bool = True) -> HandOutline:
    return HandOutline(side, keypoints, hand_length(keypoints), precise)


def grown(mask: np.ndarray, radius: float) -> np.ndarray:
    return distance_transform_edt(mask == 0) <= radius


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(97, 700),
    width=st.integers(97, 700),
    share=st.floats(0.12, 0.35),
    at=st.tuples(st.floats(0.3, 0.7), st.floats(0.4, 0.7)),
    category=st.sampled_from(["upper_body", "lower_body", "dresses"]),
)
def test_mask_covers_the_garment_keeps_the_face_and_stays_near_the_person(height, width, share, at, category):
    torso = max(18.0, share * height)
    landmarks = standing(height, width, torso, (at[0] * width, at[1] * height))
    person = silhouette(landmarks, height, width)
    options = MasksSettings()
    mask = masks_of([observe(landmarks, person)], category)[0]
    assert mask.shape == person.shape
    assert set(np.unique(mask)) <= {0, 1}
    pixel = max(1.0, max(height, width) / options.working_side_px)
    size = Body.of(landmarks, 1.0, 0.5).size
    near = grown(person, options.dilation * size + 3 * pixel + 1)
    if category != "upper_body":  # the space between the legs, which a skirt spans
        hull = np.zeros_like(person)
        cv2.fillConvexPoly(hull, cv2.convexHull(landmarks[[23, 24, 25, 26], :2].round().astype(np.int32)), 1)
        near |= grown(hull, 3 * pixel)
    assert not (mask.astype(bool) & ~near).any()
    assert not (mask.astype(bool) & face(landmarks, height, width) & ~grown(1 - person, 2 * pixel)).any()
    p = landmarks[:, :2]
    chest, thigh = p[[11, 12, 23, 24]].mean(0), 0.5 * (p[23] + p[25])
    for point, wanted in ((chest, category != "lower_body"), (thigh, category != "upper_body")):
        x, y = np.round(point).astype(int)
        if 0 <= x < width and 0 <= y < height:
            assert mask[y, x] == wanted


def test_each_category_keeps_the_rest_visible():
    landmarks = standing(640, 480, 150, (240, 360))
    person = silhouette(landmarks, 640, 480)
    upper, lower, dress = (
        masks_of([observe(landmarks, person)], c)[0] for c in ("upper_body", "lower_body", "dresses")
    )

    def at(mask, point):
        x, y = np.round(point).astype(int)
        return mask[y, x]

    p = landmarks[:, :2]
    shin, foot, forearm = 0.5 * (p[25] + p[27]), p[31] + (0, 3), 0.5 * (p[13] + p[15])
    assert [at(m, forearm) for m in (upper, lower, dress)] == [1, 0, 1]
    assert [at(m, shin) for m in (upper, lower, dress)] == [0, 1, 1]
    assert [at(m, foot) for m in (upper, lower, dress)] == [0, 0, 0]
    assert lower.sum() < dress.sum() and upper.sum() < dress.sum()
    collar = p[[11, 12]].mean(0) - (0, 0.12 * 150)
    assert at(upper, collar) and at(dress, collar) and not at(lower, collar)


def test_hand_on_the_garment_stays_visible_and_cloth_between_its_fingers_does_not():
    landmarks = standing(640, 480, 150, (240, 360))
    person = silhouette(landmarks, 640, 480)
    keypoints = open_hand((240, 330), 90)
    mask = masks_of([observe(landmarks, person, [hand("right", keypoints)])])[0]
    for tip, joint in ((8, 6), (12, 10), (16, 14), (20, 18), (5, 9), (9, 13)):
        for share in (0.0, 0.5, 1.0):
            x, y = np.round((1 - share) * keypoints[tip] + share * keypoints[joint]).astype(int)
            assert mask[y, x] == 0, f"keypoint {tip} is repainted"
    for a, b in ((8, 12), (12, 16), (16, 20)):
        x, y = np.round(0.5 * (keypoints[a] + keypoints[b])).astype(int)
        assert mask[y, x] == 1, "cloth between two fingertips is left"
    silhouette_free = masks_of([observe(landmarks, person)])[0]
    hidden = silhouette_free.astype(bool) & (mask == 0)
    outline = np.zeros_like(person)
    bones = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 5), (0, 17), (5, 9), (9, 13), (13, 17)]
    bones += [(f + j, f + j + 1) for f in (5, 9, 13, 17) for j in range(3)]
    for a, b in bones:
        cv2.line(outline, *(tuple(np.round(keypoints[k]).astype(int).tolist()) for k in (a, b)), 1, 1)
    cv2.fillConvexPoly(outline, keypoints[[0, 1, 2, 5, 9, 13, 17]].round().astype(np.int32), 1)
    assert not (hidden & ~grown(outline, 0.075 * 90 + 1)).any(), "more than a hand's width is left visible"


def test_no_ring_around_a_hand_off_the_garment():
    landmarks = standing(640, 480, 120, (240, 380))
    landmarks[15, :2], landmarks[13, :2] = (390, 200), (340, 290)  # left arm raised sideways
    landmarks[[17, 19, 21], :2] = (402, 172), (388, 168), (378, 180)
    person = silhouette(landmarks, 640, 480)
    keypoints = open_hand((390, 196), 75)
    for a, b in ((0, 5), (0, 9), (0, 13), (0, 17), (5, 8), (9, 12), (13, 16), (17, 20), (1, 4)):
        cv2.line(person, *(tuple(np.round(keypoints[k]).astype(int).tolist()) for k in (a, b)), 1, 14)
    mask = masks_of([observe(landmarks, person, [hand("left", keypoints)])])[0]
    fingers = np.zeros_like(person)
    for f in (5, 9, 13, 17):
        cv2.line(fingers, *(tuple(np.round(keypoints[k]).astype(int).tolist()) for k in (f, f + 3)), 1, 3)
    assert not (mask.astype(bool) & grown(fingers, 12)).any()
    x, y = np.round(0.5 * (landmarks[13, :2] + landmarks[15, :2])).astype(int)
    assert mask[y, x] == 1, "the sleeve of a lifted arm is garment"


def test_cloth_that_a_hand_pulls_away_is_repainted():
    landmarks = standing(640, 480, 120, (200, 330))
    landmarks[13, :2], landmarks[15, :2] = (318, 250), (350, 315)
    landmarks[[17, 19, 21], :2] = (338, 336), (330, 330), (336, 316)
    bare = silhouette(landmarks, 640, 480)
    keypoints = open_hand((350, 318), 64, angle=-115)
    for a, b in ((0, 5), (0, 17), (5, 8), (9, 12), (13, 16), (17, 20), (1, 4)):
        cv2.line(bare, *(tuple(np.round(keypoints[k]).astype(int).tolist()) for k in (a, b)), 1, 8)
    held = bare.copy()
    cv2.fillConvexPoly(held, np.array([(225, 270), (225, 362), (305, 385), (320, 330)], np.int32), 1)
    cloth = (held > 0) & (bare == 0) & ~grown(bare, 6)
    assert cloth.sum() > 500
    seen = observe(landmarks, held, [hand("left", keypoints)])
    mask = masks_of([seen])[0]
    assert mask[cloth].mean() > 0.97
    without = MasksSettings.model_validate({"hands": {"ring": 0.0, "reach": 0.0}})
    assert masks_of([seen], options=without)[0][cloth].mean() < 0.8, "the figure does not test the rule"
    for tip in (8, 12, 16):
        x, y = np.round(keypoints[tip]).astype(int)
        assert mask[y, x] == 0


def test_hand_at_the_collar_does_not_take_hair_into_the_mask():
    landmarks = standing(640, 480, 150, (240, 400))
    landmarks[13, :2], landmarks[15, :2] = (330, 300), (290, 262)
    landmarks[[17, 19, 21], :2] = (262, 250), (264, 240), (274, 240)
    person = silhouette(landmarks, 640, 480)
    cv2.ellipse(person, tuple(int(v) for v in eyes(landmarks)), (48, 44), 0, 0, 360, 1, -1)  # hair stands off the head
    keypoints = open_hand((286, 258), 80, angle=-50)
    without, with_hand = (masks_of([observe(landmarks, person, h)])[0] for h in ([], [hand("left", keypoints)]))
    above = np.zeros_like(person)
    above[: int(landmarks[[9, 10], 1].mean()) - 3] = 1
    assert not (with_hand & (1 - without) & above).any()


def test_guessed_hand_shows_less_than_a_seen_one():
    keypoints = open_hand((240, 330), 90)
    landmarks = standing(640, 480, 150, (240, 360))
    person = silhouette(landmarks, 640, 480)
    seen, guessed = (masks_of([observe(landmarks, person, [hand("right", keypoints, p)])])[0] for p in (True, False))
    assert guessed[tuple(keypoints[12].round().astype(int)[::-1])] == 1
    assert guessed[tuple(keypoints[9].round().astype(int)[::-1])] == 0
    assert (guessed == 0).sum() < (seen == 0).sum()


def test_missing_hand_is_completed_from_the_pose():
    landmarks = standing(640, 480, 150, (240, 360))
    body = Body.of(landmarks, 1.0, 0.5)
    outline = hand_from_pose(body, "left", 1.0)
    assert outline is not None and not outline.precise
    assert np.linalg.norm(outline.keypoints[0] - landmarks[15, :2]) < 1e-3
    assert 0.25 * 150 < outline.length_px < 0.6 * 150
    landmarks[15, 3] = 0.1
    assert hand_from_pose(Body.of(landmarks, 1.0, 0.5), "left", 1.0) is None


@given(angle=st.floats(-180, 180), length=st.floats(10, 300), squeeze=st.floats(0.3, 1.0))
def test_hand_length_survives_rotation_and_foreshortening(angle, length, squeeze):
    keypoints = open_hand((100, 100), length, angle)
    assert hand_length(keypoints) == pytest.approx(length, rel=0.12)
    flat = keypoints.copy()
    flat[:, 0] *= squeeze
    assert hand_length(flat) <= hand_length(keypoints) * 1.001


def test_still_video_gives_one_still_mask():
    landmarks = standing(241, 163, 60, (80, 140))
    person = silhouette(landmarks, 241, 163)
    masks = masks_of([observe(landmarks, person, frame=i) for i in range(12)])
    assert len(masks) == 12
    assert all((m == masks[0]).all() for m in masks)


def test_fast_arm_is_covered_in_every_frame_and_jitter_is_steadied():
    rng = np.random.default_rng(0)
    seen, cores = [], []
    for i in range(24):
        landmarks = standing(480, 400, 120, (200, 270))
        a = np.radians(-60 + 10 * i)
        elbow = landmarks[11, :2] + 62 * np.array([np.cos(a), np.sin(a)])
        landmarks[13, :2], landmarks[15, :2] = elbow, elbow + 55 * np.array([np.cos(a), np.sin(a)])
        landmarks[[17, 19, 21], :2] = landmarks[15, :2] + 18 * np.array([np.cos(a), np.sin(a)])
        person = silhouette(landmarks, 480, 400)
        cores.append(np.round(0.5 * (landmarks[11, :2] + elbow)).astype(int))
        jittered = landmarks.copy()
        jittered[11:, :2] += rng.normal(0, 1.0, (22, 2))
        seen.append(observe(jittered, person, frame=i))
    masks = masks_of(seen)
    assert all(m[y, x] == 1 for m, (x, y) in zip(masks, cores))


def test_smoothing_reduces_flicker_of_a_rough_person_mask():
    rng = np.random.default_rng(1)
    landmarks = standing(320, 240, 80, (120, 180))
    person = silhouette(landmarks, 320, 240)
    seen = []
    for i in range(20):
        wobble = cv2.dilate(person, np.ones((3, 3), np.uint8)) if rng.random() < 0.5 else person
        seen.append(observe(landmarks, wobble, frame=i))

    def flicker(masks):
        return np.mean([(a != b).mean() for a, b in itertools.pairwise(masks)])

    rough = flicker(masks_of(seen, options=MasksSettings(temporal_window=1)))
    steady = flicker(masks_of(seen, options=MasksSettings(temporal_window=7)))
    assert steady < 0.5 * rough


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 15), half=st.integers(0, 4), seed=st.integers(0, 99))
def test_running_vote_is_the_centred_mean_over_half(count, half, seed):
    rng = np.random.default_rng(seed)
    frames = (rng.random((count, 9, 11)) < 0.5).astype(np.uint8)
    vote: RunningVote[int] = RunningVote(2 * half + 1, 1)
    out = [pair for i, f in enumerate(frames) for pair in vote.push(f, i)]
    out += list(vote.finish())
    assert [i for _, i in out] == list(range(count))
    for steady, i in out:
        window = frames[max(0, i - half) : i + half + 1]
        assert (steady == (window.mean(0) >= 0.5)).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), radius=st.floats(0, 12))
def test_distance_helpers_agree_with_exact_distances(seed, radius):
    rng = np.random.default_rng(seed)
    parts = np.zeros((40, 50), np.uint8)
    for value in (1, 2, 3):
        y, x = rng.integers(0, 40), rng.integers(0, 50)
        parts[y : y + 5, x : x + 5] = value
    exact = np.stack(
        [distance_transform_edt(parts != v) if (parts == v).any() else np.full(parts.shape, 1e9) for v in (1, 2, 3)]
    )
    best = exact.min(0)
    chosen = np.take_along_axis(exact, nearest_part(parts)[None].astype(int) - 1, 0)[0]
    assert (chosen <= best * 1.05 + 0.6).all()
    mask = (parts == 1).astype(np.uint8)
    if mask.any():
        found = within(mask, radius)
        assert found[exact[0] <= 0.95 * radius - 0.5].all()
        assert not found[exact[0] > 1.05 * radius + 0.5].any()


# --- from tables ----------------------------------------------------------------------------------------------------


def pose_table(landmarks: list[np.ndarray | None], persons: list[np.ndarray | None], fps: float = 30.0) -> pa.Table:
    found = np.array([p is not None for p in landmarks])
    points = np.stack([p if p is not None else np.zeros((33, 4)) for p in landmarks])
    return pa.table(
        {
            "frame": pa.array(range(len(landmarks)), pa.int32()),
            "time_s": np.arange(len(landmarks)) / fps,
            "detected": found,
            "landmarks": points_to_arrow(points, LANDMARK, found),
            "person_mask": pa.array([None if m is None else encode_mask(m) for m in persons], pa.binary()),
        }
    )


def hand_table(rows: list[tuple[int, str, np.ndarray, bool]]) -> pa.Table:
    points = np.stack([k for *_, k, _ in rows]) if rows else np.zeros((0, 21, 2))
    return pa.table(
        {
            "frame": pa.array([r[0] for r in rows], pa.int32()),
            "handedness": pa.array([r[1] for r in rows], pa.string()),
            "keypoints_2d": points_to_arrow(points, POINT_2D),
            "interpolated": pa.array([r[3] for r in rows], pa.bool_()),
        }
    )


def test_short_gap_takes_its_neighbours_pose_and_a_long_one_the_whole_person():
    landmarks = standing(240, 180, 60, (90, 130))
    person = silhouette(landmarks, 240, 180)
    poses: list = [landmarks] * 5 + [None] * 3 + [landmarks] * 2 + [None] * 40
    persons: list = [person] * 5 + [None] * 3 + [person] * 2 + [person] * 40
    options = MasksSettings(carry_s=0.2)
    seen = list(observations(pose_table(poses, persons), hand_table([]), (240, 180), options))
    masks = masks_of(seen, options=options)
    steady = masks[2].astype(bool)
    assert (masks[6].astype(bool) == steady).mean() > 0.995
    assert seen[6].landmarks is not None and seen[30].landmarks is None
    covered = masks[30].astype(bool)
    assert covered[person > 0].mean() > 0.99
    assert covered[face(landmarks, 240, 180)].any(), "without a pose nobody knows where the face is"


def test_interpolated_pose_lies_between_its_neighbours():
    first, last = standing(200, 200, 50, (80, 110)), standing(200, 200, 50, (100, 110))
    person = silhouette(first, 200, 200)
    table = pose_table([first, None, None, None, last], [person, None, None, None, person])
    seen = list(observations(table, hand_table([]), (200, 200), MasksSettings()))
    assert np.allclose([o.landmarks[11, 0] for o in seen], np.linspace(first[11, 0], last[11, 0], 5), atol=1e-3)


def test_no_person_in_any_frame_is_an_error_that_says_so():
    with pytest.raises(ValueError, match="No person was found in any frame"):
        list(observations(pose_table([None] * 3, [None] * 3), hand_table([]), (100, 100), MasksSettings()))
    with pytest.raises(ValueError, match="no rows"):
        list(
            observations(
                pose_table([standing(9, 9, 5, (4, 4))], [None]).slice(0, 0), hand_table([]), (9, 9), MasksSettings()
            )
        )


def test_hands_of_the_table_are_used_and_the_other_one_is_guessed():
    landmarks = standing(240, 180, 60, (90, 130))
    table = pose_table([landmarks] * 2, [silhouette(landmarks, 240, 180)] * 2)
    keypoints = open_hand((60, 130), 30)
    first, second = observations(table, hand_table([(1, "right", keypoints, True)]), (240, 180), MasksSettings())
    assert {h.side: h.precise for h in first.hands} == {"left": False, "right": False}
    assert np.allclose(next(h for h in second.hands if h.side == "right").keypoints, keypoints)
    assert not next(h for h in second.hands if h.side == "right").precise


def write_tables(
    store: DeltaStore, landmarks: list[np.ndarray], persons: list[np.ndarray], video_id: str = "v"
) -> None:
    keys = {"batch": "b", "video_id": video_id, "fingerprint": "x"}
    table = pose_table(landmarks, persons)
    empty = {
        "world_landmarks": pa.array([[]] * len(landmarks), POSE.schema.field("world_landmarks").type),
        "score": pa.array([1.0] * len(landmarks), pa.float32()),
        "person_area": pa.array([0.1] * len(landmarks), pa.float32()),
        **{k: pa.array([v] * len(landmarks)) for k, v in keys.items()},
    }
    columns = {**{n: table[n] for n in table.column_names}, **empty}
    store.replace(POSE, pa.table([columns[n] for n in POSE.schema.names], schema=POSE.schema), {"batch": "b"}, Commit())
    store.replace(HANDS, HANDS.schema.empty_table(), {"batch": "b"}, Commit())


def task(store: DeltaStore, height: int, width: int, **columns) -> VideoTask:
    row = {"batch": "b", "video_id": "v", "height": height, "width": width, "garment_category": None, **columns}
    return VideoTask(store, row, 1, lambda n: None)


def test_stage_writes_a_row_a_frame(lake: DeltaStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.masks.stage._ROWS", 16)
    landmarks = standing(121, 97, 30, (48, 66))
    persons = [silhouette(landmarks, 121, 97)] * 20
    write_tables(lake, [landmarks] * 20, persons)
    stage = STAGES["agnostic_masks"].build()
    assert isinstance(stage, AgnosticMaskStage)
    assert (
        stage.inputs == STAGES["agnostic_masks"].inputs and stage.code_version == STAGES["agnostic_masks"].code_version
    )
    stage = pickle.loads(pickle.dumps(stage))
    stage.setup(1)
    work = task(lake, 121, 97)
    chunks = list(stage.annotate(work))
    rows = pa.Table.from_batches(chunks)
    assert len(chunks) == 2 and work.frames == 20
    assert rows["frame"].to_pylist() == list(range(20))
    assert set(rows["category"].to_pylist()) == {"upper_body"} and set(rows["source"].to_pylist()) == {"geometric"}
    mask = decode_mask(rows["mask"][15].as_py(), 121, 97)
    assert mask.mean() == pytest.approx(rows["area_fraction"][15].as_py(), abs=1e-6)
    assert mask[60 - 8, 48] == 1


def test_stage_refuses_an_unknown_category(lake: DeltaStore):
    with pytest.raises(ValueError, match="shoes"):
        list(STAGES["agnostic_masks"].build().annotate(task(lake, 10, 10, garment_category="shoes")))


def test_fingerprint_follows_category_and_settings():
    row = {"sha256": "a", "garment_category": None}
    one = AgnosticMaskStage(MasksSettings())
    assert one.fingerprint(row, {}) == AgnosticMaskStage(MasksSettings()).fingerprint(row, {})
    others = [
        one.fingerprint({**row, "garment_category": "dresses"}, {}),
        AgnosticMaskStage(MasksSettings(dilation=0.1)).fingerprint(row, {}),
        AgnosticMaskStage(MasksSettings(backend="parsing")).fingerprint(row, {}),
        one.fingerprint(row, {"pose": "changed"}),
    ]
    assert len({one.fingerprint(row, {}), *others}) == 5


# --- human parsing ---------------------------------------------------------------------------------------------------


class PaintedParser:
    """A network that honours the SegFormer interface and reads the class from the colour of the pixel."""

    def __init__(self, colours: dict[str, tuple[int, int, int]]):
        import torch

        self.config = SimpleNamespace(id2label=dict(enumerate(LABELS)))
        self.table = [colours.get(name) for name in LABELS]
        self.weight = torch.zeros(1)
        self.calls: list[tuple[int, ...]] = []

    def parameters(self):
        return iter([self.weight])

    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, pixel_values):
        import torch

        self.calls.append(tuple(pixel_values.shape))
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        rgb = 255 * (pixel_values.permute(0, 2, 3, 1) * std + mean)[:, ::4, ::4]
        scores = [
            torch.full(rgb.shape[:3], -1e6) if c is None else -(rgb - torch.tensor(c, dtype=torch.float32)).norm(dim=-1)
            for c in self.table
        ]
        return SimpleNamespace(logits=torch.stack(scores, 1))


COLOURS = {
    "background": (0, 0, 0),
    "face": (255, 0, 0),
    "top": (0, 255, 0),
    "hands": (0, 0, 255),
    "pants": (255, 255, 0),
}


def painted(height: int, width: int) -> tuple[np.ndarray, dict[str, tuple[slice, slice]]]:
    places = {
        "face": (slice(height // 10, height // 4), slice(2 * width // 5, 3 * width // 5)),
        "top": (slice(height // 3, 2 * height // 3), slice(width // 4, 3 * width // 4)),
        "pants": (slice(2 * height // 3, height), slice(width // 3, 2 * width // 3)),
        "hands": (slice(height // 2, 7 * height // 12), slice(width // 2, 5 * width // 8)),
    }
    picture = np.zeros((height, width, 3), np.uint8)
    for name, place in places.items():
        picture[place] = COLOURS[name]
    return picture, places


@pytest.mark.parametrize(("category", "inside"), [("upper_body", "top"), ("lower_body", "pants"), ("dresses", "top")])
def test_parsing_backend_masks_the_classes_of_the_category(category, inside):
    picture, places = painted(301, 233)
    options = MasksSettings(backend="parsing", temporal_window=1)
    network = PaintedParser(COLOURS)
    backend = ParsingBackend(options, network)
    backend.setup(1)
    seen = [Observation(i, None, None, (301, 233), 1.0) for i in range(3)]
    masks = [m for _, m in compose(zip(seen, backend.regions(seen, [picture] * 3, category)), options)]
    assert network.calls == [(3, 3, 576, 384)]
    shrunk = {k: tuple(slice(s.start + 6, s.stop - 6) for s in v) for k, v in places.items()}
    assert masks[0][shrunk["face"]].max() == 0
    assert masks[0][shrunk["hands"]].max() == 0
    cloth = masks[0][places[inside]].copy()
    if inside == "top":
        outside_hand = cloth[: cloth.shape[0] // 3]
        assert outside_hand.mean() > 0.99
    else:
        assert cloth.mean() > 0.97
    assert masks[0][shrunk["pants"]].mean() == pytest.approx(float(category != "upper_body"), abs=0.2)


def test_parsing_stage_reads_the_video_and_accounts_inference(lake: DeltaStore, moving_video):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    small = SegformerConfig(
        num_labels=18, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)},
        hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=16,
    )  # fmt: skip
    folder = moving_video.parent / "parser"
    SegformerForSemanticSegmentation(small).save_pretrained(folder)
    options = MasksSettings(backend="parsing", parsing=ParsingSettings(model=str(folder), device="cpu"))
    landmarks = standing(64, 96, 16, (48, 36))
    frames = 9
    write_tables(lake, [landmarks] * frames, [silhouette(landmarks, 64, 96)] * frames)
    work = task(lake, 64, 96, uri=lake.blobs.put_file(moving_video))
    stage = pickle.loads(pickle.dumps(AgnosticMaskStage(options)))
    stage.setup(1)
    rows = pa.Table.from_batches(list(stage.annotate(work)))
    assert rows["frame"].to_pylist() == list(range(frames))
    assert set(rows["source"].to_pylist()) == {"parsing"}
    assert work.model_seconds > 0
    assert stage.weights() == {"human_parser": f"{folder}@unpinned"}


def test_parser_that_is_not_there_or_has_other_classes_says_what_to_do(tmp_path):
    options = MasksSettings(backend="parsing", parsing=ParsingSettings(model=str(tmp_path / "nothing")))
    with pytest.raises(RuntimeError, match=r"masks\.backend: geometric"):
        ParsingBackend(options).setup(1)
    network = PaintedParser(COLOURS)
    network.config.id2label = {0: "background", 1: "hat"}
    with pytest.raises(RuntimeError, match="needed are those of fashn-human-parser"):
        ParsingBackend(MasksSettings(backend="parsing"), network).setup(1)


def test_labels_at_enlarges_scores_and_not_classes():
    scores = np.zeros((18, 4, 4), np.float32)
    scores[3, :, 2:] = 1.0
    scores[0, :, :2] = 1.0
    labels = labels_at(scores, (31, 47))
    assert labels.shape == (31, 47)
    assert set(np.unique(labels)) == {0, 3}
    assert (labels[:, :20] == 0).all() and (labels[:, 28:] == 3).all()


# --- agnostic frames ------------------------------------------------------------------------------------------------


def test_agnostic_frame_is_grey_inside_and_untouched_outside():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    mask = (rng.random((33, 47)) < 0.4).astype(np.uint8)
    before = rgb.copy()
    out = agnostic_frame(rgb, mask)
    assert (out[mask == 1] == GREY).all() and (out[mask == 0] == rgb[mask == 0]).all()
    assert (rgb == before).all()
    with pytest.raises(ValueError, match="mask"):
        agnostic_frame(rgb, mask[:-1])


def test_skeleton_is_drawn_inside_the_mask_only():
    landmarks = standing(160, 120, 50, (60, 90))
    rgb = np.full((160, 120, 3), 7, np.uint8)
    mask = np.zeros((160, 120), np.uint8)
    mask[30:90] = 1
    out = agnostic_with_pose(rgb, mask, landmarks)
    assert (out[mask == 0] == 7).all()
    assert (out[mask == 1] != GREY).any(-1).sum() > 50
    assert (agnostic_with_pose(rgb, mask, None) == agnostic_frame(rgb, mask)).all()
    assert (agnostic_with_pose(rgb, mask, np.full((33, 4), np.nan)) == agnostic_frame(rgb, mask)).all()
    assert (agnostic_with_pose(rgb, np.zeros_like(mask), landmarks) == rgb).all()
