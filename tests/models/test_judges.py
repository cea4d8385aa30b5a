"""The embedded judge and what it measures, on drawn scenes whose truth is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from models.contact.network import CLASSES, REST
from models.judges.base import HandContact, JudgeRequest, Verdict, sample_frames
from models.judges.kinematic import ClothSampling, KinematicJudge
from models.judges.measures.features import cloth_measures, contact_measures
from models.judges.measures.logistic import fit_logistic, read_models, write_models
from models.judges.settings import KinematicJudgeSettings

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


def contact_of(does: str | None, when: tuple[int, int] = (START, END)) -> dict[str, HandContact]:
    """What a sure contact network says: the right hand does something in a span, the left one nothing."""
    out = {}
    for side in ("left", "right"):
        # Where neither hand acts, the one nearer to acting is looked at.
        touching = np.full(FRAMES, 0.02 if side == "right" else 0.01)
        doing = np.full((FRAMES, len(CLASSES)), 0.02)
        doing[:, REST] = 0.88
        if side == "right" and does is not None:
            touching[when[0] : when[1]] = 0.95
            doing[when[0] : when[1]] = 0.02
            doing[when[0] : when[1], CLASSES.index(does)] = 0.88
        out[side] = HandContact(touching, doing)
    return out


def request(
    result: np.ndarray,
    source: np.ndarray,
    region: np.ndarray,
    hands: list,
    torso: np.ndarray,
    action: str = "operate_zipper",
    contact: dict[str, HandContact] | None = None,
) -> JudgeRequest:
    frames = ClothSampling(KinematicJudgeSettings()).frames(START, END, FRAMES, 15)
    return JudgeRequest(
        action,
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
        contact_of("operate_zipper") if contact is None else contact,
    )


SOURCE_COLOUR, RESULT_COLOUR = (70, 80, 140), (150, 60, 60)


def measured(result_opens: tuple[int, int] | None, where: int = 60, seed: int = 0, sway: float = 0.0) -> dict:
    source, region, hands, torso = scene((START, END), SOURCE_COLOUR, seed=seed, sway=sway)
    result = scene(result_opens, RESULT_COLOUR, where, seed + 100, sway)[0]
    return cloth_measures(request(result, source, region, hands, torso), KinematicJudgeSettings())


def judged(result_opens: tuple[int, int] | None, seed: int = 0, sway: float = 0.0, **asked: Any) -> Verdict:
    source, region, hands, torso = scene((START, END), SOURCE_COLOUR, seed=seed, sway=sway)
    result = scene(result_opens, RESULT_COLOUR, 60, seed + 100, sway)[0]
    return KinematicJudge().judge(request(result, source, region, hands, torso, **asked))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sway", [0.0, 4.0])
def test_cloth_that_follows_is_told_from_still_cloth(seed: int, sway: float) -> None:
    done, still = measured((START, END), seed=seed, sway=sway), measured(None, seed=seed, sway=sway)
    assert abs(done["change_kept"]) < 0.8 and still["change_kept"] < -1.2
    assert done["slope"] > 0.5 > still["slope"]
    assert done["in_time"] > 0.7 and done["in_place"] > 0.7
    assert done["source_change"] == pytest.approx(still["source_change"])


def test_change_of_the_whole_picture_is_no_change_next_to_the_hand() -> None:
    source, region, hands, torso = scene((START, END), SOURCE_COLOUR)
    still = scene(None, RESULT_COLOUR, seed=3)[0].astype(float)
    lit = np.clip(still * np.linspace(1, 1.4, FRAMES)[:, None, None, None], 0, 255).astype(np.uint8)
    found = cloth_measures(request(lit, source, region, hands, torso), KinematicJudgeSettings())
    assert found["change_kept"] < -1


@pytest.mark.parametrize("opens", [(2, 9), (END + 4, END + 8)])
def test_change_at_another_time_or_place_is_seen(opens: tuple[int, int]) -> None:
    right, early, aside = measured((START, END)), measured(opens), measured((START, END), where=88)
    assert early["in_time"] < right["in_time"] - 0.3
    assert aside["in_place"] < right["in_place"] - 0.3


def test_contact_measures_read_span_and_action() -> None:
    parts = scene((START, END), SOURCE_COLOUR)
    asked = {
        name: contact_measures(request(parts[0], *parts, action=action, contact=contact))
        for name, action, contact in (
            ("right", "operate_zipper", contact_of("operate_zipper")),
            ("other", "adjust_collar", contact_of("operate_zipper")),
            ("nothing", "operate_zipper", contact_of(None)),
            ("early", "operate_zipper", contact_of("operate_zipper", (0, 6))),
        )
    }
    assert asked["right"]["margin"] > 2 > -2 > asked["other"]["margin"]
    assert asked["right"]["acting"] == asked["other"]["acting"] > 0 > asked["nothing"]["acting"]
    assert asked["right"]["acting_share"] > 0.9 and asked["early"]["acting_share"] < 0.2
    assert asked["early"]["acting_outside"] > asked["right"]["acting_outside"]
    with pytest.raises(ValueError, match="contact network"):
        contact_measures(dataclasses.replace(request(parts[0], *parts), contact=None))


@pytest.mark.parametrize("sway", [0.0, 4.0])
def test_embedded_judge_on_drawn_scenes(sway: float) -> None:
    done = judged((START, END), sway=sway)
    assert done.success is True and done.votes == [True], done.rationale
    still = judged(None, sway=sway)
    assert still.score < done.score - 0.1, still.rationale
    for verdict in (
        judged((START, END), sway=sway, action="adjust_collar"),
        judged((START, END), sway=sway, contact=contact_of(None)),
    ):
        assert verdict.success is False, verdict.rationale


def test_no_hand_is_no_verdict() -> None:
    source, region, _, torso = scene((START, END), SOURCE_COLOUR)
    verdict = KinematicJudge().judge(request(source, source, region, [{} for _ in range(FRAMES)], torso))
    assert verdict.success is None and verdict.score is None
    assert "hand is known in none" in verdict.rationale


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


def test_digest_tells_judges_apart() -> None:
    same, other = KinematicJudge(), KinematicJudge(KinematicJudgeSettings(min_score=0.4))
    assert same.digest == KinematicJudge().digest != other.digest
    assert same.fitted_on and same.needs_contact


def test_weights_that_are_missing_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="restore it"):
        KinematicJudge(weights=tmp_path / "none.json")


def test_logistic_finds_what_made_the_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3)) * [1, 5, 1] + [0, 2, 0]
    truth = rng.random(4000) < 1 / (1 + np.exp(-(1.5 * x[:, 0] - 0.2 * (x[:, 1] - 2))))
    rows = [dict(zip("abc", r)) for r in x]
    model = fit_logistic(rows, truth, "abc", penalty=0.1)
    slope = np.array(model.weight) / model.scale
    assert slope == pytest.approx([1.5, -0.2, 0], abs=0.15)
    assert model.probability({"a": float("nan"), "b": float("nan"), "c": 0.0}) == pytest.approx(
        model.probability({"a": model.mean[0], "b": model.mean[1], "c": 0.0})
    )
    write_models(tmp_path / "m.json", {"one": model}, {"clips": ["1"]})
    models, notes = read_models(tmp_path / "m.json")
    assert models == {"one": model} and notes == {"clips": ["1"]}
    with pytest.raises(ValueError, match="one class"):
        fit_logistic(rows[:5], [True] * 5, "abc")
