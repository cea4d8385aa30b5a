"""Judges on drawn scenes whose truth is known, and the vision-language judge against a stand-in endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from models.judges.base import JudgeRequest, sample_frames
from models.judges.kinematic import KinematicJudge
from models.judges.vlm import VlmJudge
from models.vlm.client import ChatClient
from models.vlm.settings import ChatSettings
from tests.chat_endpoint import ListedAnswers

HEIGHT, WIDTH, FRAMES, START, END = 144, 120, 40, 12, 30


def hand_at(x: float, y: float) -> np.ndarray:
    """21 keypoints of a hand that points up, 24 px long."""
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(-7, 7, 21), rng.uniform(-24, 0, 21)], 1)
    points[0], points[12] = (0, 0), (0, -24)
    return (points + np.array([x, y])).astype(np.float32)


def scene(
    opens: tuple[int, int] | None, colour: tuple[int, int, int], where: int = 60, seed: int = 0, sway: float = 0.0
) -> tuple[np.ndarray, np.ndarray, list[dict[str, np.ndarray]], np.ndarray]:
    """A garment whose front opens from frame `opens[0]` to `opens[1]` while a hand goes down from START to END.

    Returns pictures, region, hands, torso.
    """
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.normal(0, 25, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 2)
    pictures, regions, hands, torsos = [], [], [], []
    for t in range(FRAMES):
        shift = round(sway * np.sin(t / 4))
        picture = np.full((HEIGHT, WIDTH, 3), (90, 110, 130), np.float32)
        region = np.zeros((HEIGHT, WIDTH), bool)
        region[30:130, 25 + shift : 95 + shift] = True
        cloth = np.array(colour, np.float32) + texture[..., None]
        picture[region] = cloth[region]
        along = np.clip((t - START) / (END - START), 0, 1)
        if opens is not None:
            opened = np.clip((t - opens[0]) / max(1, opens[1] - opens[0]), 0, 1)
            bottom = round(40 + 70 * opened)
            picture[40:bottom, where - 6 + shift : where + 6 + shift] = (235, 230, 220)
        known = {}
        if START - 2 <= t < END + 2:
            points = hand_at(60 + shift, 50 + 70 * along)
            cv2.fillConvexPoly(picture, cv2.convexHull(points.astype(np.int32)), (200, 160, 140))
            known = {"right": points}
        picture += rng.normal(0, 3, picture.shape)
        pictures.append(np.clip(picture, 0, 255).astype(np.uint8))
        regions.append(region)
        hands.append(known)
        torsos.append(np.array([[90, 35], [30, 35], [85, 125], [35, 125]], np.float32) + np.array([shift, 0]))
    return np.stack(pictures), np.stack(regions), hands, np.stack(torsos)


def request(result: np.ndarray, source: np.ndarray, region: np.ndarray, hands: list, torso: np.ndarray) -> JudgeRequest:
    frames = KinematicJudge().frames(START, END, FRAMES, 15)
    return JudgeRequest(
        "operate_zipper",
        "The person opens the zip with the right hand.",
        15,
        START,
        END,
        frames,
        result[frames],
        source[frames],
        region[frames],
        [hands[f] for f in frames],
        torso[frames],
    )


SOURCE_COLOUR, RESULT_COLOUR = (70, 80, 140), (150, 60, 60)


def judged(result_opens: tuple[int, int] | None, where: int = 60, seed: int = 0, sway: float = 0.0) -> Any:
    source, region, hands, torso = scene((START, END), SOURCE_COLOUR, seed=seed, sway=sway)
    result = scene(result_opens, RESULT_COLOUR, where, seed + 100, sway)[0]
    return KinematicJudge().judge(request(result, source, region, hands, torso))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sway", [0.0, 4.0])
def test_done_in_another_garment_is_a_success(seed: int, sway: float) -> None:
    verdict = judged((START, END), seed=seed, sway=sway)
    assert verdict.success is True, verdict.rationale
    assert verdict.score > 0.6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sway", [0.0, 4.0])
def test_pantomime_is_a_failure(seed: int, sway: float) -> None:
    verdict = judged(None, seed=seed, sway=sway)
    assert verdict.success is False, verdict.rationale
    assert verdict.score < 0.3


def test_change_of_the_whole_picture_is_no_interaction() -> None:
    source, region, hands, torso = scene((START, END), SOURCE_COLOUR)
    still = scene(None, RESULT_COLOUR, seed=3)[0].astype(float)
    lit = np.clip(still * np.linspace(1, 1.4, FRAMES)[:, None, None, None], 0, 255).astype(np.uint8)
    assert KinematicJudge().judge(request(lit, source, region, hands, torso)).success is False


@pytest.mark.parametrize("opens", [(2, 9), (END + 4, END + 8)])
def test_change_at_the_wrong_time_is_a_failure(opens: tuple[int, int]) -> None:
    verdict = judged(opens)
    assert verdict.success is False, verdict.rationale


def test_change_at_the_wrong_place_is_a_failure() -> None:
    verdict = judged((START, END), where=88)
    assert verdict.success is False, verdict.rationale


def test_source_that_shows_nothing_is_no_verdict() -> None:
    source, region, hands, torso = scene(None, SOURCE_COLOUR)
    for result in (source, scene((START, END), RESULT_COLOUR, seed=4)[0]):
        verdict = KinematicJudge().judge(request(result, source, region, hands, torso))
        assert verdict.success is None and verdict.score is None
        assert "too little to tell" in verdict.rationale


def test_no_hand_is_no_verdict() -> None:
    source, region, _, torso = scene((START, END), SOURCE_COLOUR)
    verdict = KinematicJudge().judge(request(source, source, region, [{} for _ in range(FRAMES)], torso))
    assert verdict.success is None and verdict.score is None
    assert "hand is known in 0%" in verdict.rationale


def test_no_cloth_is_no_verdict() -> None:
    source, region, hands, torso = scene((START, END), SOURCE_COLOUR)
    verdict = KinematicJudge().judge(request(source, source, np.zeros_like(region), hands, torso))
    assert verdict.success is None
    assert "cloth" in verdict.rationale


def test_malformed_requests_are_refused() -> None:
    source, region, hands, torso = scene(None, SOURCE_COLOUR)
    with pytest.raises(ValueError, match="result"):
        request(source[:, :-1], source, region, hands, torso)
    with pytest.raises(ValueError, match="outside"):
        sample_frames(50, 60, 40, 2, 8)


def test_sampled_frames_cover_span_and_context() -> None:
    frames = sample_frames(10, 20, 100, 5, 8)
    assert frames[0] == 5 and frames[-1] == 24 and len(frames) == 8
    assert sample_frames(0, 3, 3, 5, 8).tolist() == [0, 1, 2]


@pytest.fixture
def endpoint() -> Iterator[ListedAnswers]:
    with ListedAnswers() as server:
        yield server


def ask(endpoint: ListedAnswers, answers: list[Any]) -> Any:
    endpoint.answers = answers
    settings = ChatSettings(
        base_url=endpoint.url, model="test-vl", api_key_env=None, max_retries=0, answer_attempts=1, timeout_s=5
    )
    source, region, hands, torso = scene(None, SOURCE_COLOUR)
    return VlmJudge(ChatClient(settings)).judge(request(source, source, region, hands, torso))


def vote(success: bool, confidence: float = 0.9) -> str:
    return f'{{"rationale": "Seen {success}.", "success": {str(success).lower()}, "confidence": {confidence}}}'


def test_majority_of_votes_decides(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, [vote(True), vote(False, 0.6), vote(True)])
    assert verdict.success is True
    assert verdict.votes == [True, False, True]
    assert verdict.score == pytest.approx((0.9 + 0.4 + 0.9) / 3)
    assert "2 of 3" in verdict.rationale and "Seen True." in verdict.rationale
    assert (verdict.prompt_tokens, verdict.completion_tokens) == (300, 21)
    assert [r["seed"] for r in endpoint.requests] == [0, 1, 2]
    content = endpoint.requests[0]["messages"][-1]["content"]
    assert "opens the zip" in content[0]["text"] and "t = 0.80 s to t = 2.00 s" in content[0]["text"]


def test_nonsense_and_a_tie_are_no_verdict(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, [vote(True), "perhaps", vote(False)])
    assert verdict.success is None and verdict.score is None
    assert "1 of 2 votes" in verdict.rationale
    assert verdict.prompt_tokens == 300
    verdict = ask(endpoint, ["perhaps", vote(True), "perhaps"])
    assert verdict.success is None
    assert "no JSON object" in verdict.rationale


def test_dead_endpoint_is_no_verdict_and_asked_once(endpoint: ListedAnswers) -> None:
    verdict = ask(endpoint, [500])
    assert verdict.success is None
    assert "500" in verdict.rationale
    assert len(endpoint.requests) == 1
