"""The embedded judge, and how its networks are trained, on made-up cells and drawn scenes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from models.contact.network import CLASSES, REST
from models.judges.base import sample_frames
from models.judges.kinematic import KinematicJudge
from models.judges.measures import network as networks
from models.judges.measures.cells import CHANNELS, HandCells
from models.judges.measures.network import Committee, InteractionNet, as_tensors
from models.judges.measures.train import JudgeTrainingSettings, Sample, Trainer, augmented, train
from models.judges.measures.windows import BEFORE_S, INSIDE, MOMENTS, NUMBERS, SUMMARY
from models.judges.settings import KinematicJudgeSettings
from tests.models.drawn_interaction import SOURCE, request, video

ZIP = CLASSES.index("operate_zipper")
INSIDE_SPAN = slice(len(BEFORE_S), len(BEFORE_S) + len(INSIDE))


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return video(True, SOURCE, 0)


# --- network and training ---


def made_up(follows: bool, rng: np.random.Generator, kind: str | None = None) -> Sample:
    """A hand of whose source the cloth changes in the middle, and of whose result it does so, too, or not."""
    body = rng.normal(0, 0.3, (MOMENTS, len(CHANNELS), 12, 12))
    for name in ("source_changed", *(["result_changed"] if follows else [])):
        body[INSIDE_SPAN, CHANNELS.index(name), 4:8, 4:8] += 2
    sleeve = rng.normal(0, 0.3, (MOMENTS, len(CHANNELS), 6, 12))
    numbers, summary = rng.normal(0, 0.1, (MOMENTS, len(NUMBERS))), rng.normal(0, 0.1, len(SUMMARY))
    summary[ZIP] += 1
    seen = HandCells(
        *(a.astype(np.float16) for a in (body, sleeve)), *(a.astype(np.float32) for a in (numbers, summary))
    )
    moved = [np.zeros((MOMENTS, 2, rows, 12), np.float32) for rows in (12, 6)]
    moved[0][INSIDE_SPAN, : 1 + follows, 4:8, 4:8] = 1
    return Sample(kind or ("done" if follows else "undone"), seen, ZIP, follows, (moved[0], moved[1]))


SETTINGS = JudgeTrainingSettings(steps=120, batch_size=8, learning_rate=5e-3)


@pytest.fixture(scope="module")
def trained() -> tuple[InteractionNet, list[Sample]]:
    rng = np.random.default_rng(0)
    torch.set_num_threads(1)
    return train(SETTINGS, [made_up(bool(k % 2), rng) for k in range(40)]), [
        made_up(bool(k % 2), rng) for k in range(20)
    ]


def test_network_learns_whether_the_result_follows(trained: tuple[InteractionNet, list[Sample]]) -> None:
    network, fresh = trained
    action, follows = Committee([network]).probabilities([s.seen for s in fresh])
    assert action.sum(1) == pytest.approx(1, abs=1e-5) and (action.argmax(1) == ZIP).all()
    assert [f > 0.5 for f in follows] == [s.follows for s in fresh]


def test_network_learns_where_cloth_moves(trained: tuple[InteractionNet, list[Sample]]) -> None:
    network, fresh = trained
    with torch.no_grad():
        found = network(*as_tensors([s.seen for s in fresh])).moved[0].sigmoid()[:, : len(INSIDE)].mean(1).numpy()
    for (of_source, of_result), sample in zip(found, fresh):
        inside, outside = of_source[2:4, 2:4].mean(), of_source[0].mean()
        assert inside > 0.4 and outside < 0.2
        assert (of_result[2:4, 2:4].mean() > 0.3) == sample.follows


def test_augmented_truth_moves_with_what_is_seen() -> None:
    rng = np.random.default_rng(3)
    sample = made_up(True, rng)
    assert sample.moved is not None
    truth = rng.uniform(0, 1, sample.moved[0].shape).astype(np.float32)
    body = sample.seen.body.copy()
    way = CHANNELS.index("result_across")
    body[:, way] = truth[:, 1]
    sample = dataclasses.replace(
        sample, seen=dataclasses.replace(sample.seen, body=body), moved=(truth, sample.moved[1])
    )
    unknown = dataclasses.replace(sample, moved=None)
    settings = JudgeTrainingSettings(noise=0.0, contrast=0.5)
    seen, moved, known = augmented([sample, unknown] * 8, rng, settings)
    assert known.tolist() == [1, 0] * 8 and moved[0].shape[2] == 2
    for k in range(0, 16, 2):
        assert moved[0][k, :, 1].numpy() == pytest.approx(seen[0][k, :, way].numpy(), abs=1e-3)
    assert len({float(m[0, 1, 0, 0]) for m in moved[0][::2]}) > 1
    # One gain for all that a garment's contrast scales, another for the other video's.
    gains = [
        (seen[0][0, :, CHANNELS.index(name)] - seen[0][2, :, CHANNELS.index(name)]).sort().values
        for name in ("result_changed", "source_changed")
    ]
    assert gains[0].abs().max() > 0.01 and not torch.allclose(gains[0].mean(), gains[1].mean(), atol=1e-3)


def test_a_committee_says_what_its_members_say_on_average(
    trained: tuple[InteractionNet, list[Sample]], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    members = [trained[0], InteractionNet().eval()]
    hands = [s.seen for s in trained[1][:3]]
    networks.save(Committee(members), tmp_path / "two.safetensors", {})
    said = networks.load(tmp_path / "two.safetensors")[0].probabilities(hands)
    alone = [Committee([m]).probabilities(hands) for m in members]
    assert np.abs(alone[0][1] - alone[1][1]).max() > 0.1
    for k in range(2):
        assert said[k] == pytest.approx((alone[0][k] + alone[1][k]) / 2, abs=0.02)


def test_unknown_cells_count_as_usual_ones(trained: tuple[InteractionNet, list[Sample]]) -> None:
    network, fresh = trained
    seen = fresh[0].seen
    unknown, usual = seen.body.copy(), seen.body.astype(np.float32)
    k = CHANNELS.index("source_changed")
    unknown[:, k, :3], usual[:, k, :3] = np.nan, network.mean[k].item()
    answers = [Committee([network]).probabilities([dataclasses.replace(seen, body=b)])[1] for b in (unknown, usual)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    samples = [made_up(bool(k % 2), rng) for k in range(6)]
    settings = JudgeTrainingSettings(steps=4, batch_size=4)
    whole = Trainer(settings, samples)
    losses = [whole.train_step() for _ in range(4)]
    first = Trainer(settings, samples)
    for _ in range(2):
        first.train_step()
    first.save(tmp_path / "state.pt")
    again = Trainer(settings, samples)
    assert again.load(tmp_path / "state.pt") and [again.train_step() for _ in range(2)] == losses[2:]
    for name, value in whole.averaged().state_dict().items():
        assert torch.equal(value, again.averaged().state_dict()[name])
    assert not Trainer(settings, samples[:-1]).load(tmp_path / "state.pt")
    with pytest.raises(ValueError, match="no case undone"):
        Trainer(settings, [s for s in samples if s.follows])


# --- the judge ---


@pytest.fixture
def weights(trained: tuple[InteractionNet, list[Sample]], tmp_path: Path) -> Path:
    networks.save(Committee([trained[0]]), tmp_path / "w.safetensors", {"min_score": 0.5, "clips": ["7"]})
    return tmp_path / "w.safetensors"


def test_weights_are_small_and_come_back_as_they_were(
    trained: tuple[InteractionNet, list[Sample]], weights: Path
) -> None:
    loaded, notes = networks.load(weights)
    assert notes == {"min_score": 0.5, "clips": ["7"]} and weights.stat().st_size < 1_000_000
    hands = [s.seen for s in trained[1]]
    for mine, theirs in zip(Committee([trained[0]]).probabilities(hands), loaded.probabilities(hands)):
        assert mine == pytest.approx(theirs, abs=0.02)
    with pytest.raises(FileNotFoundError, match="restore it"):
        networks.load(weights.with_name("none"))


def test_verdict_is_of_the_hand_that_most_likely_did_it(
    weights: Path, source: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = KinematicJudge(weights=weights)
    action = np.full((2, len(CLASSES)), 0.02)
    action[0, REST], action[1, ZIP] = 0.88, 0.88
    monkeypatch.setattr(judge._networks, "probabilities", lambda hands: (action, np.array([0.9, 0.75])))
    said = judge.judge(request(source, source))
    assert said.success is True and said.votes == [True] and said.score == pytest.approx(0.88 * 0.75)
    assert "right hand" in said.rationale and "0.88" in said.rationale and "0.75" in said.rationale
    asked = dataclasses.replace(request(source, source), action="adjust_collar")
    other = judge.judge(asked)
    assert other.success is False and other.score == pytest.approx(0.02 * 0.9)
    strict = KinematicJudge(KinematicJudgeSettings(min_score=0.7), weights)
    monkeypatch.setattr(strict._networks, "probabilities", lambda hands: (action, np.array([0.9, 0.75])))
    assert strict.judge(request(source, source)).success is False


def test_what_cannot_be_judged_is_no_verdict(source: np.ndarray) -> None:
    asked = request(source, source)
    nobody = dataclasses.replace(asked, landmarks=np.full_like(asked.landmarks, np.nan))
    verdict = KinematicJudge().judge(nobody)
    assert verdict.success is None and verdict.score is None and "no person" in verdict.rationale
    verdict = KinematicJudge().judge(dataclasses.replace(asked, action="whistle"))
    assert verdict.success is None and "whistle" in verdict.rationale


def test_malformed_requests_are_refused(source: np.ndarray) -> None:
    asked = request(source, source)
    with pytest.raises(ValueError, match="result"):
        dataclasses.replace(asked, result=asked.result[:, :-1])
    with pytest.raises(ValueError, match="landmarks"):
        dataclasses.replace(asked, landmarks=asked.landmarks[:5])
    with pytest.raises(ValueError, match="outside"):
        sample_frames(50, 60, 40, 2, 8)


def test_sampled_frames_cover_span_and_context() -> None:
    frames = sample_frames(10, 20, 100, 5, 8)
    assert frames[0] == 5 and frames[-1] == 24 and len(frames) == 8
    assert sample_frames(0, 3, 3, 5, 8).tolist() == [0, 1, 2]


def test_digest_tells_judges_apart(weights: Path) -> None:
    same = KinematicJudge()
    assert same.digest == KinematicJudge().digest and same.fitted_on and same.needs_contact
    others = {KinematicJudge(KinematicJudgeSettings(min_score=0.4)).digest, KinematicJudge(weights=weights).digest}
    assert len(others | {same.digest}) == 3
