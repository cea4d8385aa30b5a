"""Measuring hands against known truth, each number by hand or by another formulation."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial import procrustes
from scipy.spatial.transform import Rotation

from pipelines.evaluation.annotators.alignment import procrustes_aligned, scale_aligned
from pipelines.evaluation.annotators.hands import hand_figures, measure_hands
from pipelines.evaluation.annotators.statistics import (
    estimate,
)
from pipelines.store.schemas import HANDS
from pipelines.store.studio_schemas import STUDIO_HANDS
from tests.pipelines.annotator_scene import (
    HEIGHT,
    WIDTH,
    Hand,
    table,
)

SIZE = (HEIGHT, WIDTH)
LABELLED = json.dumps({"video": "acts.mp4", "actions": []})
COCO_PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")


def values(figures) -> dict[str, float | None]:
    return {f.metric: estimate(f.statistic, resamples=0).value for f in figures}


# --- hands ---


def measured_hands(truth: list[dict], found: list[dict]):
    return measure_hands(table(STUDIO_HANDS, truth), table(HANDS, found), SIZE)


def test_the_same_hand_has_no_error():
    hand = Hand("left", 3)
    samples = measured_hands([hand.truth("v", 0)], [hand.found("v", 0)])
    got = values(hand_figures([samples]))
    assert got["hands.found"] == got["hands.pck_0.1"] == got["hands.precision"] == 1 and got["hands.swapped"] == 0
    for name in ("mpjpe", "mpjpe_scaled", "pa_mpjpe"):
        assert got[f"hands.{name}"] == pytest.approx(0, abs=1e-3)
    for name in ("mesh", "pa_mesh", "surface"):
        assert got[f"hands.{name}"] < 0.1, "stored vertices are rounded to a tenth of a millimetre"
    assert got["hands.size_ratio"] == pytest.approx(1, abs=1e-6)


def test_alignments_take_away_what_they_are_named_after():
    rng = np.random.default_rng(5)
    true = rng.normal(size=(4, 21, 3))
    true -= true[:, :1]
    turn = Rotation.random(4, random_state=1).as_matrix()
    scaled, scale = scale_aligned(0.8 * true, true)
    assert np.allclose(scaled, true) and np.allclose(scale, 1.25)
    moved = np.einsum("nij,npj->npi", turn, 1.3 * true) + np.array([0.2, 0.1, 3.0])
    aligned, angles = procrustes_aligned(moved, true)
    assert np.allclose(aligned, true)
    assert np.allclose(angles, np.degrees(Rotation.from_matrix(turn).magnitude()))
    # scipy's Procrustes allows reflections, so it agrees where the best similarity is none.
    noisy = moved + rng.normal(0, 0.05, moved.shape)
    for a, b, ours in zip(noisy, true, procrustes_aligned(noisy, true)[0]):
        standard, fitted, _ = procrustes(b, a)
        size = np.linalg.norm(b - b.mean(0))
        assert np.linalg.norm(ours - b) == pytest.approx(size * np.linalg.norm(fitted - standard), rel=1e-6)


def test_a_mirrored_hand_is_not_mended_by_alignment():
    true = np.random.default_rng(0).normal(size=(1, 21, 3))
    mirrored = true * [-1, 1, 1]
    aligned, _ = procrustes_aligned(mirrored, true)
    assert np.linalg.norm(aligned - true) > 1
    # Chirality is kept: the best rotation of Kabsch, worked out by scipy, leaves the same rest.
    a, b = (p[0] - p[0].mean(0) for p in (mirrored, true))
    rotation, _ = Rotation.align_vectors(b, a)
    turned = rotation.apply(a)
    scale = (turned * b).sum() / (a**2).sum()
    assert np.allclose(aligned[0] - true[0].mean(0), scale * turned, atol=1e-6)


def test_errors_in_space_by_hand():
    hand = Hand("right", 4)
    longer = hand.found("v", 0)
    # Ten millimetres on all keypoints but the root.
    for k in range(1, 21):
        longer["keypoints_3d"][k]["z_m"] += 0.010
    samples = measured_hands([hand.truth("v", 0)], [longer])
    assert samples.mpjpe[0] == pytest.approx(10, abs=1e-3)
    assert samples.pa_mpjpe[0] < samples.mpjpe_scaled[0] < 10.001
    shifted = hand.found("v", 0)
    for p in shifted["keypoints_3d"]:
        p["x_m"] += 0.3
    samples = measured_hands([hand.truth("v", 0)], [shifted])
    assert samples.mpjpe[0] == pytest.approx(0, abs=1e-3), "where the hand is does not matter"


def test_a_larger_mesh_is_off_by_its_size():
    hand, large = Hand("left", 2), Hand("left", 2)
    large.shape = large.shape.copy()
    large.shape[0] = 1.1
    large.at = large.at * 1.1
    truth, found = hand.truth("v", 0), large.found("v", 0)
    samples = measured_hands([truth], [found])
    vertices, keypoints = hand.posed()
    expected = 1e3 * 0.1 * np.linalg.norm(vertices[:1609] - keypoints[0], axis=1).mean()
    assert samples.size_ratio[0] == pytest.approx(1.1, abs=1e-4)
    assert samples.mesh[0] == pytest.approx(expected, abs=0.1) and samples.pa_mesh[0] < 0.1
    assert 0 < samples.surface[0] < samples.mesh[0]
    assert samples.mpjpe_scaled[0] < 1e-2 < samples.mpjpe[0]


def test_the_surface_distance_is_the_same_with_every_vertex(monkeypatch):
    a, b = Hand("left", 2), Hand("left", 8)
    truth, found = [a.truth("v", 0)], [b.found("v", 0, keypoints_2d=a.found("v", 0)["keypoints_2d"])]
    some = measured_hands(truth, found).surface[0]
    monkeypatch.setattr("pipelines.evaluation.annotators.hands._SURFACE_STRIDE", 1)
    every = measured_hands(truth, found).surface[0]
    assert some == pytest.approx(every, rel=0.03) and every > 1


def test_a_hand_far_off_is_missed_and_its_keypoints_are_wrong():
    hand, away = Hand("left", 1), Hand("left", 1, at=(0.25, 0.1, 0.7))
    samples = measured_hands([hand.truth("v", f) for f in range(4)], [hand.found("v", 0), away.found("v", 1)])
    got = values(hand_figures([samples]))
    assert got["hands.found"] == 0.25 and got["hands.pck_0.2"] == 0.25 and got["hands.pck_0.2_found"] == 1
    assert got["hands.precision"] == 0.5 and np.isfinite(samples.mpjpe).sum() == 1


def test_hands_that_are_mostly_hidden_do_not_count():
    hand = Hand("left", 1)
    samples = measured_hands([hand.truth("v", 0, visible=0.49), hand.truth("v", 1, visible=0.5)], [hand.found("v", 1)])
    got = values(hand_figures([samples]))
    assert got["hands.found"] == 1 and len(samples.frame) == 1
    alone = measured_hands([hand.truth("v", 0, visible=0.49)], [hand.found("v", 0)])
    assert values(hand_figures([alone]))["hands.found"] is None
    assert values(hand_figures([alone]))["hands.precision"] == 1, "finding a hidden hand where it is is no mistake"


def test_swapped_hands_are_missed_and_said_to_be_swapped():
    left, right = Hand("left", 1, (-0.15, 0.1, 0.7)), Hand("right", 2, (0.15, 0.1, 0.7))
    truth = [left.truth("v", 0), right.truth("v", 0)]
    found = [left.found("v", 0, handedness="right"), right.found("v", 0, handedness="left")]
    got = values(hand_figures([measured_hands(truth, found)]))
    assert got["hands.swapped"] == 1 and got["hands.found"] == 0 and got["hands.precision"] == 0


def test_interpolated_hands_are_found_but_not_observed():
    hand = Hand("left", 1)
    samples = measured_hands(
        [hand.truth("v", 0, contact=True), hand.truth("v", 1)], [hand.found("v", 0, interpolated=True)]
    )
    got = values(hand_figures([samples]))
    assert (got["hands.found"], got["hands.found_observed"], got["hands.found_touching"]) == (0.5, 0, 1)
    assert got["hands.precision"] is None


def test_keypoints_out_of_the_picture_do_not_count():
    hand = Hand("left", 1, at=(-0.28, 0.0, 0.7))
    samples = measured_hands([hand.truth("v", 0)], [hand.found("v", 0)])
    outside = np.isnan(samples.keypoint_error[0])
    assert 0 < outside.sum() < 21 and np.nanmax(samples.keypoint_error[0]) < 1e-6


def test_mano_without_its_files_has_keypoints_and_no_surface(monkeypatch, tmp_path):
    monkeypatch.setenv("ITRYON_HAMER", str(tmp_path))
    hand = Hand("left", 1)
    samples = measured_hands([hand.truth("v", 0)], [hand.found("v", 0, mesh_topology="mano", source="hamer")])
    assert samples.mpjpe[0] == pytest.approx(0, abs=1e-3)
    assert np.isnan([samples.mesh[0], samples.pa_mesh[0], samples.surface[0]]).all()


def test_no_hands_at_all():
    hand = Hand("left", 1)
    nothing = values(hand_figures([measured_hands([hand.truth("v", 0)], [])]))
    assert nothing["hands.found"] == 0 and nothing["hands.pck_0.2"] == 0
    assert nothing["hands.mpjpe"] is None and nothing["hands.precision"] is None
    empty = values(hand_figures([measured_hands([], [hand.found("v", 0)])]))
    assert empty["hands.found"] is None and empty["hands.precision"] == 0
    assert values(hand_figures([measured_hands([], [])]))["hands.found"] is None
