"""Measurements, spans and words of the kinematic backend, on a drawn person of whom everything is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.contact.network import CLASSES
from pipelines.captions.annotate import KinematicBackend, caption_actions
from pipelines.captions.base import ActionCaption
from pipelines.captions.contact import ActingSpan, Contact, ContactReader
from pipelines.captions.features import LEFT_SHOULDER, RIGHT_SHOULDER, surroundings
from pipelines.captions.settings import CaptionSettings, KinematicSettings
from pipelines.captions.tracks import HAND_COLUMNS, POSE_COLUMNS, GarmentRegion, build_tracks
from pipelines.captions.wording import Movement, describe, measure_movement, place_of, sentence
from tests.pipelines.captions_scene import CENTRE, FPS, HEIGHT, PX, SHOULDER, WIDTH, person, raise_and_rub, tables


class Task:
    """A video's rows without a lake."""

    def __init__(self, rows):
        self._rows = rows
        count = rows["pose"].num_rows
        self.row = {"num_frames": count, "fps": FPS, "height": HEIGHT, "width": WIDTH}

    def rows(self, table, columns=None):
        return self._rows[table].select(columns) if columns else self._rows[table]


def track(people):
    rows = tables(people)
    pose, hands = rows["pose"].select(POSE_COLUMNS), rows["hands"].select(HAND_COLUMNS)
    return build_tracks(pose, hands, len(people), FPS, (HEIGHT, WIDTH))


def contact(frames, span, name, probability=0.9):
    """A hand that does one thing in `span`."""
    touching, doing = np.zeros(frames), np.zeros((frames, len(CLASSES)))
    touching[span[0] : span[1]] = probability
    doing[:, CLASSES.index(name)] = 1.0
    return Contact(touching, doing)


@pytest.fixture
def seen(monkeypatch):
    """Lets a test say what the contact network sees."""

    def see(right, left=None):
        def read(self, task, tracks, region):
            nothing = contact(len(tracks.times_s), (0, 0), "rest")
            return {"left": left or nothing, "right": right or nothing}

        monkeypatch.setattr(ContactReader, "read", read)

    return see


def test_what_the_network_sees_becomes_a_caption_where_it_is(seen):
    path, truth = raise_and_rub()
    seen(contact(len(path), truth, "other"))
    whole, actions = KinematicBackend(CaptionSettings()).caption(Task(tables(person(path))))
    expected = "the right hand rubs the chest of the garment"
    assert actions == [ActionCaption("other", *truth, expected, pytest.approx(0.9), "right")]
    said = "A person, visible from head to hips, faces the camera and stands still. The right hand rubs"
    assert whole.text.startswith(said)
    assert whole.confidence == pytest.approx(0.9)


def test_how_sure_it_has_to_be_is_a_setting(seen):
    path, truth = raise_and_rub()
    seen(contact(len(path), truth, "adjust_hem", 0.4))
    rows = Task(tables(person(path)))
    assert KinematicBackend(CaptionSettings()).caption(rows)[1] == []
    bold = CaptionSettings(kinematic=KinematicSettings(min_probability=0.3))
    (action,) = KinematicBackend(bold).caption(rows)[1]
    assert (action.action, action.start, action.end) == ("adjust_hem", *truth)


def test_known_actions_are_not_looked_for(monkeypatch):
    monkeypatch.setattr(ContactReader, "read", lambda *_: pytest.fail("looked at the video"))
    known = [ActionCaption("adjust_hem", 0, 5, "the left hand lifts the hem", 1.0, "left")]
    path, _ = raise_and_rub()
    whole, actions = KinematicBackend(CaptionSettings()).caption(Task(tables(person(path))), known)
    assert actions == known and whole.text.endswith("The left hand lifts the hem.")


def test_a_person_who_is_not_found_gets_no_captions():
    path, _ = raise_and_rub()
    nobody = person(path)
    nobody.landmarks[:], nobody.world[:] = np.nan, np.nan
    nobody.keypoints["right"][:], nobody.space["right"][:] = np.nan, np.nan
    whole, actions = KinematicBackend(CaptionSettings()).caption(Task(tables(nobody)))
    assert actions == [] and whole.text == "No person is found in the video."


def test_two_hands_that_do_the_same_become_one_caption():
    path = np.tile([-0.08, 0.2], (40, 1))
    hands = track(person(path)).hands
    hands["left"] = track(person(path * [-1, 1], side="left")).hands["left"]
    spans = {"left": [ActingSpan(0, 38, "other", 0.7)], "right": [ActingSpan(4, 40, "other", 0.8)]}
    (both,) = caption_actions(hands, spans, FPS)
    assert (both.start, both.end, both.hand, both.confidence) == (0, 40, "both", 0.8)
    assert both.text == "both hands rest on the chest of the garment"
    spans["left"] = [ActingSpan(0, 38, "adjust_hem", 0.7)]
    assert [c.hand for c in caption_actions(hands, spans, FPS)] == ["left", "right"]


# --- measurements ---


@settings(deadline=None, max_examples=15)
@given(st.floats(0.5, 1.4), st.floats(-40, 40), st.floats(-40, 40))
def test_measurements_do_not_depend_on_size_and_place(scale, x, y):
    path, _ = raise_and_rub(rub_s=0.6, rest_s=0.1)
    one = track(person(path)).hands["right"]
    other = track(person(path, scale=scale, shift=(x, y))).hands["right"]
    for name in ("palm", "reach", "inside", "speed", "pinch", "elbow_flexion", "from_other_forearm"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-3, err_msg=name)


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


def test_movement_is_measured_where_the_hand_is_known():
    path = np.stack([np.full(40, 0.0), np.linspace(0.1, 0.375, 40)], -1)
    people = person(path)
    moved = measure_movement(track(people).hands["right"], 0, 40, FPS)
    # Half a torso (0.275 of 0.55 m) down in 39 frames; the first and last tenth are averaged.
    assert moved.travel_v == pytest.approx(0.5 * 36 / 39, abs=0.02) and moved.travel_u == pytest.approx(0, abs=1e-3)
    assert moved.path == pytest.approx(0.275 / 0.36, rel=0.1)
    people.keypoints["right"][:], people.space["right"][:] = np.nan, np.nan
    assert np.isnan(measure_movement(track(people).hands["right"], 0, 40, FPS).u)


def test_shoulders_in_the_scene_are_where_the_tests_believe():
    people = person(np.zeros((1, 2)))
    left, right = people.landmarks[0, [LEFT_SHOULDER, RIGHT_SHOULDER], :2]
    np.testing.assert_allclose(left - right, (2 * SHOULDER * PX, 0))


# --- words ---

_AT_REST = Movement(0, 0.3, 0.1, 0, 0, 0.1)
_UNKNOWN = dict.fromkeys(_AT_REST.__dict__, float("nan"))


@pytest.mark.parametrize(
    ("action", "changes", "text"),
    [
        ("other", {}, "the right hand rests on the chest of the garment"),
        ("other", {"speed": 0.8, "path": 1.2}, "the right hand rubs the chest of the garment"),
        (
            "other",
            {"speed": 0.8, "path": 0.7, "travel_v": -0.4},
            "the right hand slides up the chest of the garment",
        ),
        ("adjust_collar", {"v": -0.05}, "the right hand adjusts the collar of the garment"),
        ("adjust_hem", {"v": 0.95}, "the right hand adjusts the hem of the garment"),
        ("operate_zipper", {"travel_v": 0.5}, "the right hand pulls the zipper of the garment down"),
        ("operate_zipper", {"travel_v": -0.5}, "the right hand pulls the zipper of the garment up"),
        ("operate_zipper", _UNKNOWN, "the right hand pulls the zipper of the garment"),
        ("stretch_fabric", _UNKNOWN, "the right hand stretches the fabric of the garment"),
        ("other", _UNKNOWN, "the right hand touches the garment"),
        ("roll_sleeve", {"v": 0.5}, "the right hand rolls the left sleeve of the garment"),
        (
            "stretch_fabric",
            {"u": 0.5, "v": 0.6},
            "the right hand stretches the fabric at the left side of the middle of the garment",
        ),
    ],
)
def test_sentences_say_what_the_hand_does_and_where(action, changes, text):
    assert sentence(action, "right", Movement(**{**_AT_REST.__dict__, **changes})) == text


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
