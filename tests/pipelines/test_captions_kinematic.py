"""Contact from geometry, on a drawn person of whom everything is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.captions.annotate import KinematicBackend
from pipelines.captions.cloth import Scene, drag_shares
from pipelines.captions.features import LEFT_SHOULDER, RIGHT_SHOULDER, surroundings
from pipelines.captions.kinematic import Evidence, caption_actions, hand_spans, step
from pipelines.captions.settings import CaptionSettings, KinematicSettings, SmoothingSettings, SoftThreshold
from pipelines.captions.spans import temporal_iou
from pipelines.captions.tracks import HAND_COLUMNS, POSE_COLUMNS, GarmentRegion, build_tracks
from pipelines.captions.wording import Movement, action_of, describe, place_of, sentence
from tests.pipelines.captions_scene import CENTRE, FPS, HEIGHT, PX, SHOULDER, WIDTH, person, raise_and_rub, tables

STILL_CLOTH = CaptionSettings(kinematic=KinematicSettings(cloth_motion=False))


class Task:
    """A video's rows without a lake."""

    def __init__(self, rows, path=None):
        self._rows = rows
        self.path = path
        self.threads = 1
        count = rows["pose"].num_rows
        self.row = {"num_frames": count, "fps": FPS, "height": HEIGHT, "width": WIDTH}

    def rows(self, table, columns=None):
        return self._rows[table].select(columns) if columns else self._rows[table]


def captions(people, settings=STILL_CLOTH, garment=None):
    return KinematicBackend(settings).caption(Task(tables(people, garment)))


def track(people, settings=None):
    rows = tables(people)
    pose, hands = rows["pose"].select(POSE_COLUMNS), rows["hands"].select(HAND_COLUMNS)
    return build_tracks(pose, hands, len(people), FPS, (HEIGHT, WIDTH), settings or KinematicSettings())


def test_a_palm_that_rubs_the_chest_is_found_where_it_is():
    path, truth = raise_and_rub()
    whole, actions = captions(person(path))
    assert [(a.action, a.hand) for a in actions] == [("other", "right")]
    assert temporal_iou((actions[0].start, actions[0].end), truth) > 0.8
    assert actions[0].text == "the right hand rubs the chest of the garment"
    assert 0.5 <= actions[0].confidence <= KinematicSettings().reliability
    expected = "A person, visible from head to hips, faces the camera and stands still. The right hand rubs"
    assert whole.text.startswith(expected)
    assert whole.confidence == pytest.approx(0.9)


def test_the_left_hand_mirrors_the_right():
    path, truth = raise_and_rub()
    _, actions = captions(person(path * [-1, 1], side="left"))
    assert [a.hand for a in actions] == ["left"]
    assert temporal_iou((actions[0].start, actions[0].end), truth) > 0.8


@pytest.mark.parametrize("turn", [60, 90, 180])
def test_a_hand_that_turns_its_palm_away_only_gestures(turn):
    path, _ = raise_and_rub()
    whole, actions = captions(person(path, turn_deg=turn))
    assert actions == []
    assert "The left hand" not in whole.text and "right hand moves in front of the chest" in whole.text


def test_a_gesture_before_the_garment_is_an_unsure_stay_for_who_asks():
    path, _ = raise_and_rub()
    every = CaptionSettings(kinematic=KinematicSettings(cloth_motion=False, min_confidence=0))
    _, actions = captions(person(path, turn_deg=120), every)
    assert [a.text for a in actions] == ["the right hand is in front of the chest of the garment"]
    assert actions[0].confidence == pytest.approx(1 - KinematicSettings().reliability, abs=0.02)


def test_hands_that_hold_each_other_do_not_hold_the_garment():
    path, _ = raise_and_rub()
    # The other wrist follows where this one's is during the rubbing.
    assert captions(person(path, other_wrist=(-0.05, 0.2)))[1] == []
    assert len(captions(person(path, other_wrist=(0.25, 0.6)))[1]) == 1


def test_a_hand_in_front_of_no_garment_is_no_contact():
    path, _ = raise_and_rub()
    trousers = np.zeros((HEIGHT, WIDTH), np.uint8)
    trousers[230:] = 1
    assert captions(person(path), garment=trousers)[1] == []


def test_a_hand_that_swings_across_fast_only_passes():
    count = 60
    swing = np.stack([0.15 * np.sin(np.arange(count) * 2 * np.pi / 12), np.full(count, 0.2)], -1)
    assert captions(person(swing))[1] == []
    slow = np.stack([0.15 * np.sin(np.arange(count) * 2 * np.pi / 60), np.full(count, 0.2)], -1)
    assert len(captions(person(slow))[1]) == 1


@settings(deadline=None, max_examples=15)
@given(st.floats(0.5, 1.4), st.floats(-40, 40), st.floats(-40, 40))
def test_measurements_do_not_depend_on_size_and_place(scale, x, y):
    path, _ = raise_and_rub(rub_s=0.6, rest_s=0.1)
    one = track(person(path)).hands["right"]
    other = track(person(path, scale=scale, shift=(x, y))).hands["right"]
    for name in ("palm", "reach", "inside", "facing", "speed", "pinch", "elbow_flexion", "from_other_forearm"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-3, err_msg=name)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turn", [0, 30, 90, 150, 180])
def test_facing_is_the_cosine_of_the_palms_turn(side, turn):
    x = 0.1 if side == "left" else -0.1
    path = np.tile([x, 0.2], (5, 1))
    hand = track(person(path, turn_deg=turn, side=side)).hands[side]
    np.testing.assert_allclose(hand.facing, np.cos(np.radians(turn)), atol=1e-5)


def test_torso_coordinates_and_speed():
    # One body unit is the distance of the shoulder joints, 0.36 m here; the torso is 0.55 m long.
    path = np.stack([np.linspace(0, 0.36, 31), np.full(31, 0.275)], -1)
    hand = track(person(path)).hands["right"]
    np.testing.assert_allclose(hand.palm[0], (0, 0.5), atol=1e-5)
    np.testing.assert_allclose(hand.palm[-1], (1, 0.5), atol=1e-5)
    np.testing.assert_allclose(hand.speed, 1.0, rtol=1e-3)


def test_a_person_seen_from_behind_has_the_sides_swapped_and_faces_away():
    people = person(np.tile([0.1, 0.2], (5, 1)))
    people.landmarks[..., 0] = 2 * CENTRE[0] - people.landmarks[..., 0]
    people.world[..., [0, 2]] *= -1
    body = track(people).body
    assert body.inward[0, 2] == pytest.approx(-1)
    shoulders = body.to_torso(people.landmarks[:, [LEFT_SHOULDER, RIGHT_SHOULDER], :2])
    np.testing.assert_allclose(shoulders[0, :, 0], (0.5, -0.5), atol=1e-5)


def test_frames_without_person_or_hand_are_unknown_not_contact():
    path, (start, stop) = raise_and_rub()
    people = person(path)
    people.landmarks[start + 10 : stop] = np.nan
    people.world[start + 10 : stop] = np.nan
    _, actions = captions(people)
    assert all(a.end <= start + 10 + 2 for a in actions)
    nobody = person(path)
    nobody.landmarks[:], nobody.world[:] = np.nan, np.nan
    whole, actions = captions(nobody)
    assert actions == [] and whole.text == "No person is found in the video."


def test_garment_around_a_hand_is_counted_where_it_is():
    people = person(np.tile([0.0, 0.2], (3, 1)))
    hand = track(people).hands["right"]
    around = surroundings(hand.keypoints[0])
    outline = hand.keypoints[0]
    assert (np.linalg.norm(around[:, None] - outline[None], axis=-1).min(1) > 1).all()
    middle = float(np.median(around[:, 1]))
    upper = np.zeros((HEIGHT, WIDTH), np.uint8)
    upper[: round(middle)] = 1
    region = GarmentRegion(tables(people, upper)["agnostic_masks"])
    shares = region.shares_around({"right": hand}, {"right": np.array([True, False, True])})["right"]
    expected = (np.round(around[:, 1]) < round(middle)).mean()
    np.testing.assert_allclose(shares, [expected, np.nan, expected])


def test_confidence_is_the_mean_evidence_and_unsure_stays_can_be_asked_for():
    near, contact = np.zeros(90), np.zeros(90)
    near[10:40], contact[10:40] = 0.9, 0.8
    near[60:80], contact[60:80] = 0.9, 0.2
    seen = Evidence(near, contact)
    kinematic = KinematicSettings()
    sure = hand_spans(seen, FPS, SmoothingSettings(), kinematic)
    assert sure == [((10, 40), pytest.approx(0.8 * 0.8 + 0.2 * 0.2))]
    every = hand_spans(seen, FPS, SmoothingSettings(), kinematic.model_copy(update={"min_confidence": 0.0}))
    assert [s for s, _ in every] == [(10, 40), (60, 80)]
    assert every[1][1] == pytest.approx(0.8 * 0.2 + 0.2 * 0.8)


def test_two_hands_that_do_the_same_become_one_caption():
    path = np.tile([-0.08, 0.2], (40, 1))
    right, left = person(path), person(path * [-1, 1], side="left")
    right.landmarks[:, [13, 15]], right.world[:, [13, 15]] = left.landmarks[:, [13, 15]], left.world[:, [13, 15]]
    right.keypoints["left"], right.space["left"] = left.keypoints["left"], left.space["left"]
    tracks = track(right)
    sure = np.ones(40)
    nothing = {side: np.full(40, np.nan) for side in tracks.hands}
    evidence = {side: Evidence(sure, sure) for side in tracks.hands}
    smoothing, kinematic = SmoothingSettings(), KinematicSettings()
    found = caption_actions(tracks.body, tracks.hands, evidence, nothing, FPS, smoothing, kinematic)
    assert [(c.start, c.end, c.hand) for c in found] == [(0, 40, "both")]
    assert found[0].text == "both hands rest on the chest of the garment"


@given(st.floats(-1e3, 1e3), st.floats(-5, 5), st.floats(0.01, 5))
def test_steps_rise_from_zero_to_one(value, centre, width):
    threshold = SoftThreshold(centre=centre, width=width)
    low, high = step(np.array([value, value + 0.1]), threshold)
    assert 0 <= low <= high <= 1
    assert step(np.array([centre]), threshold)[0] == pytest.approx(0.5)
    assert step(np.array([np.nan]), threshold)[0] == 0


_AT_REST = Movement(0, 0.3, 0.1, 0, 0, 0.1, 0, 0, float("nan"))


def _movement(**changes):
    return Movement(**{**_AT_REST.__dict__, **changes})


@pytest.mark.parametrize(
    ("changes", "action", "text"),
    [
        ({}, "other", "the right hand rests on the chest of the garment"),
        ({"speed": 0.8, "path": 1.2}, "other", "the right hand rubs the chest of the garment"),
        (
            {"speed": 0.8, "path": 0.7, "travel_v": -0.4},
            "other",
            "the right hand slides up the chest of the garment",
        ),
        ({"v": -0.05, "u": 0.2, "pinched": 1.0}, "adjust_collar", "the right hand adjusts the collar of the garment"),
        ({"v": 0.95, "u": -0.4}, "adjust_hem", "the right hand adjusts the hem of the garment"),
        (
            {"pinched": 1.0, "travel_v": 0.5, "path": 0.9, "speed": 0.5},
            "operate_zipper",
            "the right hand pulls something down the middle of the garment, as one does with a zipper",
        ),
        ({"on_forearm": 0.9, "v": 0.5}, "roll_sleeve", "the right hand rolls the left sleeve of the garment"),
        (
            {"u": 0.5, "v": 0.6, "pinched": 0.9, "drag": 0.8, "travel_u": 0.2},
            "stretch_fabric",
            "the right hand stretches the fabric at the left side of the middle of the garment",
        ),
    ],
)
def test_what_the_hand_does_and_where_names_the_action(changes, action, text):
    movement = _movement(**changes)
    assert action_of(movement) == action
    assert sentence(action, "right", movement) == text


def test_a_caption_of_the_whole_names_each_thing_once_and_not_too_many():
    tracks = track(person(np.tile([0.0, 0.2], (30, 1))))
    hands = list(tracks.hands.values())
    twice = describe(tracks.body, hands, ["the left hand waves.", "the left hand waves"], HEIGHT, FPS)
    assert twice.endswith("stands still. The left hand waves.")
    many = describe(tracks.body, hands, [f"thing {i}" for i in range(9)], HEIGHT, FPS)
    assert many.endswith(
        "Thing 0, then thing 1, then thing 2, then thing 3, then the garment is touched again in other ways."
    )
    none = describe(tracks.body, hands, [], HEIGHT, FPS)
    assert none.endswith("stands still. The right hand is held in front of the chest.")


def test_both_hands_take_a_plural_verb():
    assert sentence("adjust_hem", "both", _AT_REST) == "both hands adjust the hem of the garment"


@pytest.mark.parametrize(
    ("u", "v", "place"),
    [(0, 0.2, "chest"), (0.4, 0.6, "left side of the middle"), (-0.5, -0.1, "right shoulder"), (0.1, 0.9, "hem")],
)
def test_places_are_the_wearers(u, v, place):
    assert place_of(u, v) == place


def _cloth_scene(hand_shift, cloth_shift, seed=0):
    """Torso with cloth; the cloth around the hand moves by `cloth_shift` pixels and the hand by `hand_shift`."""
    rng = np.random.default_rng(seed)
    unit = 96.0
    size = 240
    texture = rng.uniform(60, 200, (size // 4, size // 4))
    x, y = np.meshgrid(np.arange(size), np.arange(size))

    def picture(centre, shift):
        import cv2

        smooth = cv2.resize(texture.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        # Cloth follows within half a body unit of the hand, less and less further out.
        distance = np.hypot(x - centre[0], y - centre[1])
        pull = np.clip(1.6 - distance / (0.5 * unit), 0, 1)
        warped = cv2.remap(
            smooth, (x - shift[0] * pull).astype(np.float32), (y - shift[1] * pull).astype(np.float32), cv2.INTER_LINEAR
        )
        cv2.ellipse(warped, tuple(map(int, centre)), (22, 14), 0, 0, 360, 250, -1)
        return np.clip(warped, 0, 255).astype(np.uint8)

    def scene(centre, shift):
        landmarks = np.full((33, 2), np.nan, np.float32)
        landmarks[[11, 12, 24, 23]] = [(180, 30), (60, 30), (70, 210), (170, 210)]
        landmarks[[14, 16]] = [(20, 160), (centre[0] - 25, centre[1])]
        angle = np.linspace(0, 2 * np.pi, 21, endpoint=False)
        keypoints = np.stack([centre[0] + 22 * np.cos(angle), centre[1] + 14 * np.sin(angle)], -1).astype(np.float32)
        return Scene(picture(centre, shift), landmarks, {"right": keypoints}, unit)

    start = np.array([115.0, 110.0])
    return scene(start, (0, 0)), scene(start + hand_shift, np.asarray(cloth_shift, float))


@pytest.mark.parametrize("shift", [(6, 0), (0, -6), (4, 5)])
def test_cloth_that_goes_along_is_told_from_cloth_that_stays(shift):
    assert drag_shares(*_cloth_scene(np.array(shift), shift), ["right"])["right"] > 0.5
    assert drag_shares(*_cloth_scene(np.array(shift), (0, 0)), ["right"])["right"] < 0.1


def test_a_hand_at_rest_or_unseen_says_nothing_about_cloth():
    before, after = _cloth_scene(np.array([0.3, 0.0]), (0, 0))
    shares = drag_shares(before, after, ["right", "left"])
    assert np.isnan(shares["right"]) and np.isnan(shares["left"])


def test_cloth_without_texture_says_nothing():
    before, after = _cloth_scene(np.array([6.0, 0.0]), (6, 0))
    flat = [Scene(np.full_like(s.grey, 128), s.landmarks, s.hands, s.unit) for s in (before, after)]
    assert np.isnan(drag_shares(*flat, ["right"])["right"])


def test_shoulders_in_the_scene_are_where_the_tests_believe():
    people = person(np.zeros((1, 2)))
    left, right = people.landmarks[0, [LEFT_SHOULDER, RIGHT_SHOULDER], :2]
    np.testing.assert_allclose(left - right, (2 * SHOULDER * PX, 0))
