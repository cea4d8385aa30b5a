"""The embedded judge, what it sees, and how its network is trained, on drawn scenes whose truth is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models.contact.network import CLASSES, REST
from models.judges.base import HandContact, JudgeRequest, sample_frames
from models.judges.kinematic import KinematicJudge
from models.judges.measures import network as networks
from models.judges.measures.cells import (
    CHANNELS,
    COVER,
    OWN,
    PAIR,
    HandCells,
    hand_cells,
    moved_cells,
    own_cells,
    pair_cells,
)
from models.judges.measures.network import Committee, InteractionNet, as_tensors
from models.judges.measures.train import JudgeTrainingSettings, Sample, Trainer, augmented, train
from models.judges.measures.windows import (
    AFTER_S,
    BEFORE_S,
    BODY_PX,
    INSIDE,
    MASKS,
    MOMENTS,
    NUMBERS,
    SLEEVE_PX,
    SUMMARY,
    MomentSampling,
    hand_views,
    moments,
)
from models.judges.settings import KinematicJudgeSettings

HEIGHT, WIDTH, FRAMES, START, END, FPS = 160, 120, 40, 12, 30, 15.0
ZIP = CLASSES.index("operate_zipper")
INSIDE_SPAN = slice(len(BEFORE_S), len(BEFORE_S) + len(INSIDE))


def pose(shift: float) -> np.ndarray:
    """33 landmarks: a torso 50 px wide, arms that hang; all moved sideways."""
    out = np.full((33, 2), 60.0)
    out[:, 1] = 20
    out[[11, 12]] = (85, 40), (35, 40)
    out[[23, 24]] = (80, 120), (40, 120)
    out[[13, 14]] = (95, 70), (25, 70)
    out[[15, 17, 19]] = (100, 105)
    out[[16, 18, 20]] = (20, 105)
    return out + np.array([shift, 0])


def hand_at(x: float, y: float) -> np.ndarray:
    """21 keypoints of a hand that points up, 20 px long."""
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(-6, 6, 21), rng.uniform(-20, 0, 21)], 1)
    points[0], points[12] = (0, 0), (0, -20)
    return (points + np.array([x, y])).astype(np.float32)


def video(opens: bool, colour: tuple[int, int, int], seed: int, sway: float = 0.0) -> np.ndarray:
    """A garment whose front opens, or does not, while the right hand goes down it from START to END."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(0, 25, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2)
    pictures = []
    for t in range(FRAMES):
        shift = round(sway * np.sin(t / 4))
        picture = np.full((HEIGHT, WIDTH, 3), (90, 110, 130), np.float32)
        picture[36:130, 25 + shift : 95 + shift] = (np.array(colour, np.float32) + texture[..., None])[36:130, 25:95]
        if opens:
            bottom = round(45 + 70 * np.clip((t - START) / (END - START), 0, 1))
            picture[42:bottom, 53 + shift : 67 + shift] = (235, 230, 220)
        if START - 2 <= t < END + 2:
            points = hand_at(60 + shift, hand_y(t))
            cv2.fillConvexPoly(picture, cv2.convexHull(points.astype(np.int32)), (200, 160, 140))
        picture += rng.normal(0, 2, picture.shape)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
    return np.stack(pictures)


def hand_y(t: int) -> float:
    return 60 + 55 * float(np.clip((t - START) / (END - START), 0, 1))


def contact_of(does: str | None) -> dict[str, HandContact]:
    """What a sure contact network says: the right hand does something in the span, the left one nothing."""
    out = {}
    for side in ("left", "right"):
        touching = np.full(FRAMES, 0.02)
        doing = np.full((FRAMES, len(CLASSES)), 0.02)
        doing[:, REST] = 0.88
        if side == "right" and does is not None:
            touching[START:END] = 0.95
            doing[START:END] = 0.02
            doing[START:END, CLASSES.index(does)] = 0.88
        out[side] = HandContact(touching, doing)
    return out


def request(
    result: np.ndarray, source: np.ndarray, sway: float = 0.0, span: tuple[int, int] = (START, END)
) -> JudgeRequest:
    frames = MomentSampling(384).frames(*span, FRAMES, FPS)
    shifts = np.round(sway * np.sin(np.arange(FRAMES) / 4))
    region = np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    region[:, 36:130, 20:100] = True
    hands = [{"right": hand_at(60 + shifts[t], hand_y(t))} if START - 2 <= t < END + 2 else {} for t in range(FRAMES)]
    return JudgeRequest(
        "operate_zipper",
        "The person opens the zip with the right hand.",
        FPS,
        *span,
        frames,
        result[frames],
        source[frames],
        region[frames],
        [hands[f] for f in frames],
        np.stack([pose(s) for s in shifts]),
        contact_of("operate_zipper"),
    )


SOURCE, RESULT = (70, 80, 140), (150, 60, 60)


@pytest.fixture(scope="module")
def source() -> np.ndarray:
    return video(True, SOURCE, 0)


def channel(cells: HandCells, name: str, part: slice = INSIDE_SPAN) -> np.ndarray:
    return cells.body[part, CHANNELS.index(name)].astype(float)


# --- moments and windows ---


def test_moments_lie_before_in_and_after_the_span(source: np.ndarray) -> None:
    asked = request(source, source)
    index, in_phase = moments(asked)
    frames = asked.frames[index]
    assert len(frames) == MOMENTS and in_phase[: len(BEFORE_S)].all() and (np.diff(frames) >= 0).all()
    assert (frames[: len(BEFORE_S)] < START).all() and (frames[-len(AFTER_S) :] >= END).all()
    assert frames[INSIDE_SPAN].tolist() == [START + round(s * (END - 1 - START)) for s in INSIDE]
    # 0.8 s after the last frame would be frame 41 of 40.
    assert frames[-1] == FRAMES - 1
    # A span that is the whole video leaves nothing before or after it.
    index, in_phase = moments(request(source, source, span=(0, FRAMES)))
    assert in_phase.tolist() == [False] * len(BEFORE_S) + [True] * len(INSIDE) + [False] * len(AFTER_S)


def test_windows_follow_the_body(source: np.ndarray) -> None:
    moving = video(True, SOURCE, 0, sway=6.0)
    still, swaying = request(source, source), request(moving, moving, sway=6.0)
    # The body moves by up to 12 pixels.
    left_behind = dataclasses.replace(swaying, landmarks=still.landmarks)
    seen = [hand_views(r)["right"].of(r.source[moments(r)[0]])[0].astype(float) for r in (still, swaying, left_behind)]
    apart = [np.abs(seen[0] - s)[:, 4:-4, 4:-4].mean() for s in seen[1:]]
    assert apart[0] < 8 and apart[1] > 1.3 * apart[0]


def test_a_left_hand_is_the_mirror_image_of_a_right_one(source: np.ndarray) -> None:
    asked = request(source, source)
    views = hand_views(asked)
    swapped = asked.landmarks.copy()
    for left, right in ((11, 12), (13, 14), (15, 16), (17, 18), (19, 20), (23, 24)):
        swapped[:, [left, right]] = asked.landmarks[:, [right, left]]
    swapped[..., 0] = WIDTH - 1 - swapped[..., 0]
    mirrored = dataclasses.replace(
        asked,
        source=asked.source[:, :, ::-1],
        region=asked.region[:, :, ::-1],
        hands=[{"left": h["right"] * (-1, 1) + (WIDTH - 1, 0)} if h else {} for h in asked.hands],
        landmarks=swapped,
        contact={"left": asked.contact["right"], "right": asked.contact["left"]},
    )
    other = hand_views(mirrored)["left"]
    assert other.numbers == pytest.approx(views["right"].numbers, abs=1e-4)
    assert other.summary == pytest.approx(views["right"].summary, abs=1e-4)
    index, _ = moments(asked)
    for mine, theirs in zip(views["right"].of(asked.source[index]), other.of(mirrored.source[index])):
        assert np.abs(mine.astype(int) - theirs).mean() < 1


def test_views_say_where_the_hand_is_and_what_the_contact_network_says(source: np.ndarray) -> None:
    view = hand_views(request(source, source))["right"]
    assert view.numbers.shape == (MOMENTS, len(NUMBERS)) and view.summary.shape == (len(SUMMARY),)
    down, seen = view.numbers[:, NUMBERS.index("down")], view.numbers[:, NUMBERS.index("seen")]
    # The hand goes down by 55 pixels, and a body unit is at least the torso's 80 over 1.6.
    assert down[INSIDE_SPAN][-1] - down[INSIDE_SPAN][0] == pytest.approx(55 * 0.84 / 50, abs=0.1)
    assert seen.tolist() == [0, 0, 1, *[1] * len(INSIDE), 1, 0, 0]
    assert view.summary[SUMMARY.index("own_operate_zipper")] == pytest.approx(np.sqrt(0.95 * 0.88), abs=1e-3)
    assert (
        view.body_masks.shape == (MOMENTS, BODY_PX, BODY_PX, len(MASKS)) and view.sleeve_masks.shape[1:3] == SLEEVE_PX
    )
    assert view.body_masks[5, ..., 0].max() == 255 and view.body_masks[0, ..., 0].max() == 0
    with pytest.raises(ValueError, match="contact network"):
        hand_views(dataclasses.replace(request(source, source), contact=None))


# --- cells ---


def cloth(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.uniform(0, 255, (64, 64, 3)).astype(np.float32), (0, 0), 2).astype(np.uint8)


def window(picture: np.ndarray, x: int = 0) -> np.ndarray:
    return picture[8:56, 8 + x : 56 + x]


def test_cells_tell_changed_cloth_from_cloth_that_lies_a_little_off() -> None:
    picture = cloth(0)
    changed = picture.copy()
    changed[24:40, 24:40] = cloth(1)[24:40, 24:40]
    pictures = np.stack(
        [window(picture)] * 4 + [window(picture, 2), window(changed)] + [window(picture)] * (MOMENTS - 6)
    )
    masks = np.zeros((MOMENTS, 48, 48, len(MASKS)), np.uint8)
    masks[7, 16:32, 16:32, 0] = 255
    found = own_cells([pictures, 255 - pictures], masks, np.ones(MOMENTS, bool)).astype(float)
    assert found.shape == (2, MOMENTS, len(OWN), 12, 12)
    best, here, across = (found[0, :, OWN.index(n)] for n in ("changed", "changed_here", "across"))
    middle = (slice(5, 7), slice(5, 7))
    # The window moved to the right, so its cloth was two pixels further right before.
    assert across[4, 2:-2, 2:-2].mean() > 0.9 and best[4].mean() < best[5][middle].mean() - 1
    assert here[4].mean() > best[4].mean() + 0.7
    assert best[5][middle].mean() > best[3].mean() + 1 and best[5, :2].mean() == pytest.approx(
        best[3, :2].mean(), abs=0.01
    )
    assert np.isnan(best[7][middle]).all() and np.isfinite(best[7, :2]).all()
    # Other colours, the same changes.
    assert np.nanmax(np.abs(found[0] - found[1])[:, 0]) < 0.8


def test_moved_cells_are_where_done_and_undone_differ() -> None:
    undone = np.full((1, 48, 48, 3), 100, np.uint8)
    done = undone.copy()
    done[0, 8:12, 4:6, 1] = 151
    found = moved_cells(done, undone)
    assert (
        found.shape == (1, 12, 12) and found[0, 2, 1] == pytest.approx(0.1, abs=1e-3) and np.count_nonzero(found) == 1
    )


def test_pair_cells_see_the_same_folds_in_other_colours() -> None:
    picture = window(cloth(3))
    masks = np.zeros((1, 48, 48, len(MASKS)), np.uint8)
    alike, other = (pair_cells(picture[None], v[None], masks).astype(float) for v in (255 - picture, window(cloth(4))))
    edges = PAIR.index("source_edges")
    assert alike[0, edges].mean() > 0.65 and other[0, edges].mean() < alike[0, edges].mean() - 0.25
    same = PAIR.index("same")
    assert pair_cells(picture[None], picture[None], masks)[0, same].min() == 1 and alike[0, same].mean() < 0.4


def test_cells_of_a_request_show_whether_the_results_front_opens(source: np.ndarray) -> None:
    done, still = (hand_cells(request(video(o, RESULT, 5), source))["right"] for o in (True, False))
    assert done.body.shape[1:] == (len(CHANNELS), 12, 12) and done.sleeve.shape[1:] == (len(CHANNELS), 6, 12)
    after = slice(MOMENTS - 2, MOMENTS)
    changes = [np.nanmax(channel(c, "result_changed", after)) for c in (done, still)]
    assert changes[0] > changes[1] + 1
    assert channel(done, "source_changed", after) == pytest.approx(channel(still, "source_changed", after), nan_ok=True)
    covered = [channel(done, name) for name in COVER]
    assert covered[0].max() > 0.9 and covered[-1].max() == 1


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
