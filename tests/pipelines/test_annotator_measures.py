"""Measuring pose, masks and captions against known truth, and the statistics of it, by other formulations."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.arrays import decode_mask, encode_mask
from pipelines.captions.score import score_spans
from pipelines.evaluation.annotators.captions import ActionSpan, caption_figures, compare_spans, confusion, true_spans
from pipelines.evaluation.annotators.masks import mask_figures, measure_masks
from pipelines.evaluation.annotators.pose import HEADLINE, LANDMARKS, measure_pose, pose_figures
from pipelines.evaluation.annotators.statistics import (
    BalancedAccuracy,
    CalibrationError,
    Median,
    Ratio,
    Statistic,
    estimate,
)
from pipelines.store.schemas import AGNOSTIC_MASKS, POSE
from pipelines.store.studio_schemas import STUDIO_FRAMES, STUDIO_HANDS
from tests.pipelines.annotator_scene import (
    HEIGHT,
    TORSO,
    WIDTH,
    Hand,
    box_mask,
    landmarks,
    pose_row,
    standing,
    table,
    truth_frame,
)

SIZE = (HEIGHT, WIDTH)
LABELLED = json.dumps({"video": "acts.mp4", "actions": []})
COCO_PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def values(figures) -> dict[str, float | None]:
    return {f.metric: estimate(f.statistic, resamples=0).value for f in figures}


# --- statistics ---


@given(st.lists(st.lists(st.floats(-5, 5), max_size=6), min_size=1, max_size=5))
def test_means_and_medians_are_those_of_all_samples_together(videos):
    flat = np.concatenate([*(np.array(v, float) for v in videos), np.zeros(0)])
    mean, median = Ratio.mean([np.array(v) for v in videos]), Median([np.array(v) for v in videos])
    if not len(flat):
        assert estimate(mean).value is None and estimate(median).value is None
        return
    assert estimate(mean).value == pytest.approx(flat.mean(), abs=1e-9)
    assert estimate(median).value == np.sort(flat)[(len(flat) - 1) // 2]
    assert estimate(mean).num_samples == estimate(median).num_samples == len(flat)


def test_drawing_videos_again_is_the_same_as_repeating_their_samples():
    rng = np.random.default_rng(0)
    videos = [rng.normal(size=n) for n in (3, 8, 1)]
    drawn = np.array([2.0, 1.0, 3.0])
    repeated = np.concatenate([np.tile(v, int(d)) for v, d in zip(videos, drawn)])
    assert Ratio.mean(videos).at(drawn[None])[0] == pytest.approx(repeated.mean())
    assert Median(videos).at(drawn[None])[0] == np.sort(repeated)[(len(repeated) - 1) // 2]


def test_the_interval_is_that_of_a_plain_bootstrap_and_covers_the_value():
    rng = np.random.default_rng(1)
    videos = [rng.normal(loc=rng.normal(), size=20) for _ in range(12)]
    ours = estimate(Ratio.mean(videos))
    means = []
    for _ in range(2000):
        pick = rng.integers(0, 12, 12)
        means.append(np.concatenate([videos[i] for i in pick]).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    assert ours.low == pytest.approx(low, abs=0.08) and ours.high == pytest.approx(high, abs=0.08)
    assert ours.low < ours.value < ours.high
    assert ours == estimate(Ratio.mean(videos)), "the same samples must give the same interval"


def test_one_video_has_no_interval_and_videos_without_samples_do_not_count():
    statistic = Ratio.mean([np.array([1.0, 0.0]), np.array([np.nan]), np.zeros(0)])
    e = estimate(statistic)
    assert (e.value, e.low, e.high, e.num_samples, e.num_videos) == (0.5, None, None, 2, 1)


def test_a_split_takes_only_its_videos():
    statistic = Ratio.mean([np.ones(4), np.zeros(2)])
    assert estimate(statistic, np.array([True, False])).value == 1
    assert estimate(statistic, np.array([False, False])).value is None


def test_balanced_accuracy_weighs_both_classes_alike():
    statistic: Statistic = BalancedAccuracy(np.array([[9, 0], [0, 1]]), np.array([[10, 0], [0, 2]]))
    assert estimate(statistic, resamples=0).value == pytest.approx((0.9 + 0.5) / 2)
    only_one = BalancedAccuracy(np.array([[9, 0]]), np.array([[10, 0]]))
    assert estimate(only_one).value is None


def test_calibration_error_by_hand():
    # Bin 8: confidence 0.85 and 0.85, one of two right; bin 3: 0.35, right.
    statistic = CalibrationError(
        [np.array([0.85, 0.35]), np.array([0.85])], [np.array([True, True]), np.array([False])]
    )
    assert estimate(statistic, resamples=0).value == pytest.approx((2 * abs(0.85 - 0.5) + abs(0.35 - 1)) / 3)
    assert estimate(CalibrationError([np.zeros(0)], [np.zeros(0, bool)])).value is None
    assert estimate(CalibrationError([np.array([1.0])], [np.array([True])])).value == 0


# --- pose ---


def measured_pose(points: np.ndarray, **truth):
    return measure_pose(table(STUDIO_FRAMES, [truth_frame("v", 0, **truth)]), table(POSE, [pose_row("v", 0, points)]))


def test_landmarks_are_right_within_a_share_of_the_torso():
    moved = standing()
    moved[15] += [0, 0.099 * TORSO]
    moved[16] += [0.15 * TORSO, 0]
    moved[13] += [0, 0.3 * TORSO]
    got = values(pose_figures([measured_pose(moved)]))
    assert got["pose.pck_0.1"] == pytest.approx(15 / 17) and got["pose.pck_0.2"] == pytest.approx(16 / 17)
    assert got["pose.pck_0.1/left_wrist"] == 1 and got["pose.pck_0.1/right_wrist"] == 0
    assert got["pose.median_px/right_wrist"] == pytest.approx(0.15 * TORSO, abs=1e-4)
    assert got["pose.bias_down/left_elbow"] == pytest.approx(0.3, abs=1e-5)
    assert got["pose.bias_right/right_wrist"] == pytest.approx(0.15, abs=1e-5)
    assert got["pose.bias_right/left_elbow"] == pytest.approx(0, abs=1e-5)
    assert got["pose.person_iou"] == 1 and got["pose.detected"] == 1


def test_a_turned_picture_gives_the_same_figures():
    moved, turn = standing(), np.array([[0.0, -1.0], [1.0, 0.0]])
    moved[13] += [0.12 * TORSO, 0.3 * TORSO]
    upright = values(pose_figures([measured_pose(moved)]))

    def turned(points: np.ndarray) -> np.ndarray:
        return (points - 60) @ turn.T + 60

    sideways = values(
        pose_figures([measured_pose(turned(moved), landmarks=landmarks(turned(standing())), width=HEIGHT)])
    )
    for name in ("pose.bias_down/left_elbow", "pose.bias_right/left_elbow", "pose.pck_0.2"):
        assert sideways[name] == pytest.approx(upright[name], abs=1e-5)


def test_only_landmarks_in_the_picture_count_and_hidden_ones_are_told_apart():
    true, visible = standing(), np.ones(33)
    true[27] = [50, HEIGHT + 5]
    visible[[15, 27]] = 0
    moved = true.copy()
    moved[15] += [30, 0]
    moved[27] += [90, 0]
    got = values(pose_figures([measured_pose(moved, landmarks=landmarks(true, visible))]))
    assert got["pose.pck_0.1"] == pytest.approx(15 / 16), "the ankle below the picture does not count"
    assert got["pose.pck_0.1_visible"] == 1, "the hidden wrist does not count here"
    assert got["pose.pck_0.1/left_ankle"] is None and got["pose.pck_0.1_visible/left_wrist"] is None


def test_a_constant_offset_is_reported_and_taken_away():
    moved = standing()
    moved[[23, 24]] += [0, -0.15 * TORSO]
    samples = [measured_pose(moved)] * 2
    got = values(pose_figures(samples))
    assert got["pose.pck_0.1"] == pytest.approx(15 / 17) and got["pose.pck_0.1_debiased"] == 1
    assert got["pose.bias_down/left_hip"] == pytest.approx(-0.15, abs=1e-5)


def test_what_is_not_found_is_wrong_and_has_no_pixels():
    truth = table(STUDIO_FRAMES, [truth_frame("v", f) for f in range(3)])
    undetected = {**pose_row("v", 0), "detected": False, "landmarks": [], "person_mask": None}
    got = values(pose_figures([measure_pose(truth, table(POSE, [undetected, pose_row("v", 2)]))]))
    assert got["pose.pck_0.2"] == pytest.approx(1 / 3) and got["pose.detected"] == pytest.approx(1 / 3)
    assert got["pose.person_iou"] == pytest.approx(1 / 3) and got["pose.median_px"] == 0
    nothing = values(pose_figures([measure_pose(truth, table(POSE, []))]))
    assert nothing["pose.pck_0.2"] == 0 and nothing["pose.median_px"] is None and nothing["pose.person_iou"] == 0


def test_person_iou_by_hand():
    truth = table(STUDIO_FRAMES, [truth_frame("v", 0), truth_frame("v", 1, person_mask=box_mask(0, 0, 0, 0))])
    half = {**pose_row("v", 0), "person_mask": box_mask(30, 10, 50, 110)}
    got = measure_pose(truth, table(POSE, [half, pose_row("v", 1)])).person_iou
    assert got[0] == pytest.approx(0.5) and np.isnan(got[1]), "a frame without a person has no IoU"


def test_the_headline_is_the_coco_keypoints():
    sides = [f"{s}_{part}" for part in COCO_PARTS for s in ("left", "right")]
    assert [LANDMARKS[i] for i in HEADLINE] == ["nose", *sides]


# --- masks ---


def agnostic(frame: int, counts: bytes) -> dict:
    return {
        "video_id": "v", "frame": frame, "mask": counts, "height": HEIGHT, "width": WIDTH, "area_fraction": 0.1,
        "category": "upper_body", "source": "geometric",
    }  # fmt: skip


def test_mask_shares_by_hand():
    # Garment x 40-60, right region x 35-65, mask x 45-80, all 30 rows.
    frames = table(STUDIO_FRAMES, [truth_frame("v", 0)])
    got = values(
        mask_figures(
            [
                measure_masks(
                    frames, table(STUDIO_HANDS, []), table(AGNOSTIC_MASKS, [agnostic(0, box_mask(45, 40, 80, 70))])
                )
            ]
        )
    )
    assert got["masks.left_visible"] == pytest.approx(5 / 20)
    assert got["masks.excess"] == pytest.approx(15 / 30)
    assert got["masks.excess_of_garment"] == pytest.approx(20 / 20)
    assert got["masks.region_iou"] == pytest.approx(20 / 45)
    assert got["masks.held_left_visible"] is None and got["masks.hands_kept"] is None


def test_a_frame_without_a_mask_hides_nothing():
    frames = table(STUDIO_FRAMES, [truth_frame("v", 0), truth_frame("v", 1)])
    masks = table(AGNOSTIC_MASKS, [agnostic(0, box_mask(35, 40, 65, 70))])
    got = values(mask_figures([measure_masks(frames, table(STUDIO_HANDS, []), masks)]))
    assert got["masks.left_visible"] == 0.5 and got["masks.excess"] == 0 and got["masks.region_iou"] == 0.5
    nothing = measure_masks(table(STUDIO_FRAMES, []), table(STUDIO_HANDS, []), masks)
    assert values(mask_figures([nothing]))["masks.left_visible"] is None


def test_hands_in_the_mask_and_cloth_at_touching_hands():
    hand = Hand("left", 1, at=(0.0, 0.0, 0.9), bend=0.1)
    everywhere = encode_mask(np.ones(SIZE, np.uint8))
    frames = table(STUDIO_FRAMES, [truth_frame("v", 0, skin_mask=everywhere, garment_mask=everywhere)])
    hands = table(STUDIO_HANDS, [hand.truth("v", 0, contact=True)])
    points = np.array([[p["x_px"], p["y_px"]] for p in hand.truth("v", 0)["keypoints_2d"]])
    # The mask is all to the left of the hand's middle.
    middle = int(points[:, 0].mean())
    samples = measure_masks(frames, hands, table(AGNOSTIC_MASKS, [agnostic(0, box_mask(0, 0, middle, HEIGHT))]))
    from matplotlib.path import Path as Outline
    from scipy.spatial import ConvexHull

    hull = points[ConvexHull(points).vertices]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside_hull = Outline(hull).contains_points(np.stack([x.ravel(), y.ravel()], 1)).sum()
    assert 0.5 * inside_hull < samples.hand[0] < 2 * inside_hull
    assert 0.1 * samples.hand[0] < samples.hand_hidden[0] < 0.9 * samples.hand[0]
    low, high = points.min(0), points.max(0)
    margin = 0.25 * (high - low).max()
    x0, y0, x1, y1 = *np.floor(low - margin).astype(int), *(np.ceil(high + margin).astype(int) + 1)
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, WIDTH), min(y1, HEIGHT)
    assert samples.held[0] == (x1 - x0) * (y1 - y0) and samples.held_left[0] == (x1 - middle) * (y1 - y0)
    hidden = measure_masks(frames, table(STUDIO_HANDS, [hand.truth("v", 0, visible=0.3)]), table(AGNOSTIC_MASKS, []))
    assert hidden.hand[0] == 0 and hidden.held[0] == 0


def test_mask_counts_are_those_of_pixels():
    rng = np.random.default_rng(2)
    masks = [(rng.random(SIZE) > 0.5).astype(np.uint8) for _ in range(3)]
    garment, region, mask = masks
    frames = table(
        STUDIO_FRAMES, [truth_frame("v", 0, garment_mask=encode_mask(garment), agnostic_mask=encode_mask(region))]
    )
    s = measure_masks(frames, table(STUDIO_HANDS, []), table(AGNOSTIC_MASKS, [agnostic(0, encode_mask(mask))]))
    assert s.left[0] == (garment & ~mask & 1).sum() and s.excess[0] == (mask & ~region & 1).sum()
    assert s.predicted[0] == mask.sum() == decode_mask(encode_mask(mask), *SIZE).sum()


# --- captions ---


def spans(*items: tuple) -> list[ActionSpan]:
    return [ActionSpan(*i) for i in items]


def test_spans_by_hand():
    found = compare_spans(
        spans(("operate_zipper", (10, 20)), ("adjust_hem", (30, 40))),
        spans(("operate_zipper", (12, 22), 0.9), ("adjust_collar", (30, 39), 0.7), ("other", (60, 70), 0.4)),
        80,
        "interaction",
    )
    assert found.match.tolist() == [0, 1, -1] and found.match_named.tolist() == [0, -1, -1]
    got = values(caption_figures([found]))
    assert got["captions.span_f1"] == pytest.approx(2 * 1 / 5) and got["captions.span_f1_any_action"] == pytest.approx(
        0.8
    )
    assert got["captions.span_precision"] == pytest.approx(1 / 3) and got["captions.span_recall"] == 0.5
    assert got["captions.false_spans"] == 1 and got["captions.clips_with_false_span"] == 1
    assert got["captions.frame_precision/operate_zipper"] == pytest.approx(0.8)
    assert got["captions.frame_recall/operate_zipper"] == pytest.approx(0.8)
    assert got["captions.frame_recall/adjust_hem"] == 0 and got["captions.frame_precision/adjust_hem"] is None
    assert got["captions.frame_precision"] == pytest.approx(17 / 29) and got["captions.frame_recall"] == pytest.approx(
        17 / 20
    )
    assert got["captions.ece"] == pytest.approx((0.1 + 0.7 + 0.4) / 3)
    table_ = confusion([found])
    assert table_[2, 2] == 1 and table_[1, 0] == 1 and table_[6, 5] == 1 and table_.sum() == 3


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), max_size=4),
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8)), max_size=4),
)
def test_span_scores_agree_with_those_of_captions(truth, predicted):
    def disjoint(items):
        out, at = [], 0
        for gap, length in items:
            out.append((at + gap, at + gap + length))
            at += gap + length
        return out

    a, b = disjoint(truth), disjoint(predicted)
    ours = compare_spans(spans(*(("other", s) for s in a)), spans(*(("other", s) for s in b)), 200, "interaction")
    theirs = score_spans({"v": b}, {"v": a})
    assert (ours.match >= 0).sum() == theirs.matched
    f1 = values(caption_figures([ours]))["captions.span_f1"]
    assert f1 is None if not a and not b else f1 == pytest.approx(theirs.f1)


def test_pantomime_told_from_interaction():
    zip_ = ("operate_zipper", (10, 20))
    clips = [
        compare_spans(spans(zip_), spans(zip_), 30, "interaction"),
        compare_spans(spans(zip_), spans(("other", (12, 20))), 30, "interaction"),
        compare_spans(spans(zip_), spans(("operate_zipper", (19, 30))), 30, "interaction"),
        compare_spans([], [], 30, "pantomime"),
        compare_spans([], spans(zip_), 30, "pantomime"),
        compare_spans([], spans(zip_), 30, "walk"),
    ]
    got = values(caption_figures(clips))
    assert got["captions.interaction_found"] == pytest.approx(2 / 3) and got["captions.pantomime_silent"] == 0.5
    assert got["captions.told_from_pantomime"] == pytest.approx((2 / 3 + 0.5) / 2)


def test_nothing_happens_and_nothing_is_said():
    got = values(caption_figures([compare_spans([], [], 30, "idle")]))
    assert (
        got["captions.span_f1"] is None and got["captions.ece"] is None and got["captions.told_from_pantomime"] is None
    )
    assert got["captions.false_spans"] == 0


def test_true_spans_are_runs_of_one_action():
    actions = [None, "other", "other", "adjust_hem", None, "other"]
    frames = table(STUDIO_FRAMES, [truth_frame("v", f, action=a) for f, a in enumerate(actions)])
    assert true_spans(frames) == spans(("other", (1, 3)), ("adjust_hem", (3, 4)), ("other", (5, 6)))
    assert true_spans(table(STUDIO_FRAMES, [])) == []
