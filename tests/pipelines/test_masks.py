"""Agnostic masks of drawn figures, where the truth is known."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from pipelines.masks.agnostic import GREY, agnostic_frame, agnostic_with_pose
from pipelines.masks.body import Body, hand_from_pose, hand_length
from pipelines.masks.geometric import nearest_part, within
from pipelines.masks.settings import MasksSettings
from pipelines.masks.temporal import RunningVote
from tests.pipelines.mask_figures import (
    eyes,
    face,
    grown,
    hand,
    masks_of,
    observe,
    open_hand,
    silhouette,
    standing,
)


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
