"""The hand lifter: what it must not depend on, hands it was not trained on, and that training is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.perception.hands.base import MIRROR, HandTrack
from models.perception.hands.lifter import (
    ARM,
    FEATURES,
    OUTPUTS,
    VERSION,
    WEIGHTS,
    Canonical,
    HandLifter,
    arm_of,
    lifter_digest,
)
from models.perception.hands.lifter_samples import held_back, load_data
from models.perception.hands.lifter_synthetic import random_hands
from models.perception.hands.train_lifter import (
    LifterNet,
    LifterTrainingSettings,
    root_aligned_mm,
    run,
    write,
)

SAMPLE = Path(__file__).parent / "data" / "hand_lifter_sample.npz"
"""Hands of rendered clips that were not trained on, as MediaPipe saw them, and their truth along the viewing ray."""


@pytest.fixture(scope="module")
def lifter() -> HandLifter:
    return HandLifter()


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    with np.load(SAMPLE) as file:
        return {k: file[k].astype(bool if k == "left" else np.float64) for k in file.files}


def track(sample: dict[str, np.ndarray], left: bool) -> HandTrack:
    rows = sample["left"] == left
    points, world, score = (sample[k][rows] for k in ("points", "world", "score"))
    frames = np.arange(int(rows.sum()))
    return HandTrack("left" if left else "right", frames, score, points, world, {"arm": sample["arm"][rows]})


@pytest.mark.parametrize("left", [False, True])
def test_hands_that_were_not_trained_on(lifter: HandLifter, sample: dict[str, np.ndarray], left: bool) -> None:
    seen = track(sample, left)
    lifted = lifter(seen)
    rows = sample["left"] == left
    before = root_aligned_mm(seen.world, sample["true_world"][rows])
    after = root_aligned_mm(lifted.world, sample["true_world"][rows])
    assert np.median(before) > 30
    assert np.median(after) < 0.5 * np.median(before) and np.mean(after < before) > 0.9
    away = np.linalg.norm(seen.points - sample["true_points"][rows], axis=-1).mean()
    assert np.linalg.norm(lifted.points - sample["true_points"][rows], axis=-1).mean() < 0.8 * away


def test_a_mirrored_left_hand_is_a_right_hand(lifter: HandLifter, sample: dict[str, np.ndarray]) -> None:
    seen = track(sample, True)
    flip = np.array([-1.0, 1.0])
    arm = seen.extra["arm"] * np.array([-1.0, 1.0, 1.0, 1.0])
    other = HandTrack("right", seen.frames, seen.score, seen.points * flip, seen.world * MIRROR, {"arm": arm})
    expected = lifter(seen)
    found = lifter(other)
    np.testing.assert_allclose(found.points * flip, expected.points, atol=1e-3)
    np.testing.assert_allclose(found.world * MIRROR, expected.world, atol=1e-5)


def test_size_and_place_in_the_picture_do_not_matter(lifter: HandLifter, sample: dict[str, np.ndarray]) -> None:
    seen = track(sample, False)
    arm = seen.extra["arm"].copy()
    arm[..., :2] = 3 * arm[..., :2] + (50, -20)
    arm[..., 2] *= 3
    large = HandTrack("right", seen.frames, seen.score, 3 * seen.points + (50, -20), seen.world, {"arm": arm})
    expected, found = lifter(seen), lifter(large)
    np.testing.assert_allclose(found.points, 3 * expected.points + (50, -20), atol=1e-2)
    np.testing.assert_allclose(found.world, expected.world, atol=1e-5)


def test_hands_without_a_body_are_lifted_too(lifter: HandLifter, sample: dict[str, np.ndarray]) -> None:
    seen = track(sample, False)
    bare = HandTrack("right", seen.frames, seen.score, seen.points, seen.world)
    lifted = lifter(bare)
    assert np.isfinite(lifted.points).all() and np.isfinite(lifted.world).all()
    truth = sample["true_world"][~sample["left"]]
    assert np.median(root_aligned_mm(lifted.world, truth)) < 0.8 * np.median(root_aligned_mm(seen.world, truth))
    assert len(lifter(seen.keep(np.zeros(0, int))).frames) == 0


def test_hands_in_random_poses_stay_where_they_are_seen(lifter: HandLifter) -> None:
    points, world, true, _ = random_hands(400, np.random.default_rng(11))
    lifted = lifter(HandTrack("right", np.arange(400), np.full(400, 0.9), points, world))
    moved = np.linalg.norm(lifted.points - points, axis=-1).mean(1) / np.ptp(points, axis=1).max(-1)
    assert np.median(moved) < 0.06
    after, before = root_aligned_mm(lifted.world, true), root_aligned_mm(world, true)
    assert np.median(after) < np.median(before)


@pytest.mark.parametrize("limits", ["residual_limits", "strangeness_limits"])
def test_answers_that_cannot_be_trusted_are_not_taken(sample: dict[str, np.ndarray], limits: str) -> None:
    doubting = HandLifter()
    setattr(doubting, limits, (0.0, 1e-9))
    seen = track(sample, False)
    kept = doubting(seen)
    np.testing.assert_allclose(kept.points, seen.points, atol=1e-6)
    np.testing.assert_allclose(kept.world, seen.world - seen.world.mean(1, keepdims=True), atol=1e-9)


def test_trust_falls_with_strangeness(lifter: HandLifter, sample: dict[str, np.ndarray]) -> None:
    names = ("points", "world", "score", "arm", "left")
    seen = Canonical.of(*(sample[k] for k in names))
    # Keypoints in another order are no hand at all.
    order = np.random.default_rng(2).permutation(21)
    mixed = Canonical.of(*(sample[k][:, order] if k in ("points", "world") else sample[k] for k in names))
    assert np.mean(lifter.trust(seen, lifter.answer(seen)[0]) == 1) > 0.8
    assert (lifter.trust(mixed, lifter.answer(mixed)[0]) == 0).all()


def test_the_way_back_undoes_the_way_there(sample: dict[str, np.ndarray]) -> None:
    seen = Canonical.of(*(sample[k] for k in ("points", "world", "score", "arm", "left")))
    np.testing.assert_allclose(
        seen.back(seen.points) * seen.size[:, None, None] + seen.centre[:, None], sample["points"], atol=1e-9
    )
    np.testing.assert_allclose(seen.back(seen.vectors(sample["world"])), sample["world"], atol=1e-12)
    # Fingers up, and right hands all: the index knuckle lies on the thumb's side.
    assert (seen.points[:, 9, 1] < seen.points[:, 0, 1]).all()
    assert seen.features.shape == (len(sample["left"]), FEATURES)


def test_the_arm_is_that_of_the_side() -> None:
    pose = np.arange(33 * 4, dtype=float).reshape(33, 4)
    assert arm_of(pose, "left")[2, 0] == pose[15, 0] and arm_of(pose, "right")[2, 0] == pose[16, 0]
    assert np.isnan(arm_of(None, "left")).all()
    assert all(a + (1 if a % 2 else -1) == b for a, b in zip(ARM["left"], ARM["right"]))


def test_numpy_answers_as_torch_does(tmp_path: Path) -> None:
    torch.manual_seed(3)
    settings = LifterTrainingSettings(width=24, blocks=3)
    network = LifterNet(settings).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            value.copy_((value + 0.2 * torch.randn_like(value)).half().float() if name != "scale" else value)
    notes = {
        "version": VERSION,
        "features": FEATURES,
        "outputs": OUTPUTS,
        "blocks": 3,
        "log_metres": -2.0,
        "hand_scale": 1.0,
        "residual_limits": [1.0, 2.0],
        "strangeness_limits": [1.0, 2.0],
    }
    write(tmp_path / "w.safetensors", network.state_dict(), notes)
    features = np.random.default_rng(0).normal(0, 3, (5, FEATURES)).astype(np.float32)
    features[1, 110:] = np.nan
    with torch.no_grad():
        expected = network(network.standardise(torch.from_numpy(features))).numpy()
    np.testing.assert_allclose(HandLifter(tmp_path / "w.safetensors").outputs(features), expected, rtol=1e-3, atol=1e-3)


def test_missing_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train_lifter"):
        HandLifter(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="train_lifter"):
        lifter_digest(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights, but long enough to look at")
    with pytest.raises(ValueError, match="does not hold"):
        HandLifter(tmp_path / "text.safetensors")
    notes = {
        "features": 7,
        "outputs": OUTPUTS,
        "blocks": 2,
        "log_metres": 0.0,
        "hand_scale": 1.0,
        "residual_limits": [1.0, 2.0],
        "strangeness_limits": [1.0, 2.0],
    }
    write(tmp_path / "old.safetensors", {"mean": torch.zeros(7)}, notes)
    with pytest.raises(ValueError, match="other inputs"):
        HandLifter(tmp_path / "old.safetensors")


def test_weights_are_small() -> None:
    assert WEIGHTS.stat().st_size < 1e6
    assert sum(p.numel() for p in LifterNet(LifterTrainingSettings()).parameters()) <= 300_000


def _clip(folder: Path, name: str, seed: int) -> None:
    points, world, true, scale = random_hands(30, np.random.default_rng(seed))
    np.savez(
        folder / f"{name}.npz",
        notes=np.array(f'{{"video_id": "{name}", "performance": "idle", "seed": {seed}}}'),
        frame=np.arange(30),
        left=np.zeros(30, bool),
        score=np.ones(30),
        points=points,
        # An error that a network can learn: all hands turned by half a radian.
        world=world @ np.array([[1, 0, 0], [0, 0.88, 0.48], [0, -0.48, 0.88]]),
        arm=np.full((30, 9, 4), np.nan),
        true_points=true[..., :2] * scale[:, None, None],
        true_world=true,
        metres_per_pixel=1 / scale,
        visible=np.ones(30),
    )


def test_training_learns_and_repeats_itself(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for seed in range(24):
        _clip(folder, f"clip{seed}", seed)
    data = load_data([folder])
    test = held_back(data.seed, 0.2)
    assert 0 < test.sum() < len(test) and not set(data.clip[test]) & set(data.clip[~test])
    settings = LifterTrainingSettings(steps=80, batch=64, width=48, random_share=0.0)
    figures = run(settings, data, tmp_path / "a.safetensors")
    assert figures["all"]["after_mean"] < 0.75 * figures["all"]["before_mean"]
    run(settings, data, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with pytest.raises(ValueError, match="none to test on"):
        run(settings, data.rows(~test), tmp_path / "c.safetensors")
    with pytest.raises(ValueError, match="lifter_data"):
        load_data([tmp_path / "empty"])
