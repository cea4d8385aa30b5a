"""Plans and their performance, on a plain shell of the torso in place of a garment."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.perception.mesh_render import vertex_normals
from pipelines.captions.spans import runs
from pipelines.store.schemas import ACTIONS
from pipelines.store.studio_schemas import PERFORMANCES
from pipelines.studio.body import load_rig
from pipelines.studio.cloth import Anchor
from pipelines.studio.motion import ACTIONS_OF, Performer, sample_script
from pipelines.studio.motion.goals import dragged, rubbed
from pipelines.studio.motion.obstacle import SOLID
from pipelines.studio.motion.timeline import Phases, between, minimum_jerk
from pipelines.studio.sentences import sentence
from pipelines.studio.settings import INTERACTING

SECONDS, FPS = 2.6, 25


class Shell:
    """The torso's skin, a centimetre out, which hands can hold where garments have something to hold."""

    AT: ClassVar = {"zip": (0.0, 0.45), "hem": (0.10, 0.0), "stretch": (0.06, 0.18), "collar": (0.06, 0.5)}

    def __init__(self):
        rig, shape = load_rig(), load_rig().shape()
        solid = np.asarray(rig.weights[:, [rig.index(n) for n in SOLID if n != "head"]].sum(1)).ravel()
        index = np.flatnonzero(solid > 0.5)
        self.weights, self.out = rig.weights[index], vertex_normals(shape.vertices, rig.faces)[index]
        self.rest = shape.vertices[index] + 0.01 * self.out

    def surface(self, posed, state):
        turned = (self.weights @ posed.rotations.reshape(-1, 9)).reshape(-1, 3, 3)
        normals = np.einsum("nab,nb->na", turned, self.out)
        return posed.skin(self.rest, self.weights), normals / np.linalg.norm(normals, axis=1, keepdims=True), None

    def anchor(self, name, side, posed, state):
        rig = load_rig()
        if name == "cuff":
            a, b = (posed.positions[rig.index(j + (".L" if side == "left" else ".R"))] for j in ("lowerarm02", "wrist"))
            return Anchor(a, (a + b) / 2 + [0, -0.04, 0], np.array([0.0, -1, 0]), (b - a) / np.linalg.norm(b - a))
        x, z = self.AT[name]
        x *= 1 if side == "left" else -1
        z -= 0.4 * state.zip_open
        front = np.flatnonzero(self.out[:, 1] < -0.4)
        i = front[np.argmin(np.linalg.norm(self.rest[front][:, [0, 2]] - [x, z], axis=1))]
        cloth, normals, _ = self.surface(posed, state)
        return Anchor(self.rest[i], cloth[i], normals[i], np.array([0.0, 0.0, -1.0]))


@lru_cache
def shell() -> Shell:
    return Shell()


def perform(performance, garment="t_shirt", action=None, seed=0):
    rng = np.random.default_rng(seed)
    script = sample_script(rng, performance, garment, SECONDS, action)
    return script, Performer(load_rig(), load_rig().shape(), shell(), script, rng)


def moments(performer, fps=FPS):
    return [performer.at(i / fps) for i in range(round(SECONDS * fps))]


@given(st.floats(-1, 2), st.floats(-1, 2))
def test_moves_are_monotonic_and_between_0_and_1(a, b):
    low, high = sorted((a, b))
    assert 0 <= minimum_jerk(low) <= minimum_jerk(high) <= 1
    assert minimum_jerk(0) == between(3, 3, 4) == 0 and minimum_jerk(1) == between(4, 3, 4) == 1


def test_a_hand_is_away_before_and_after_and_at_its_place_in_between():
    p = Phases(0.2, 0.6, 1.6, 2.0)
    assert p.reach(0.1) == p.reach(2.1) == 0 and p.reach(0.6) == p.reach(1.5) == 1
    assert [p.at_place(t) for t in (0.59, 0.6, 1.59, 1.6)] == [False, True, True, False]
    assert p.progress(0) == 0 and p.progress(1.1) == pytest.approx(0.5) and p.progress(9) == 1


def test_every_action_can_be_done_to_some_garment_and_nothing_to_the_wrong_one():
    assert {a for actions in ACTIONS_OF.values() for a in actions} == set(ACTIONS)
    with pytest.raises(ValueError, match="cannot be done to a t_shirt"):
        sample_script(np.random.default_rng(0), "interaction", "t_shirt", SECONDS, "operate_zipper")


def test_interactions_fill_the_share_of_their_clips_that_the_studio_counts_on():
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(1000):
        p = sample_script(rng, "interaction", str(rng.choice(list(ACTIONS_OF))), SECONDS).phases
        shares.append((p.leave - p.arrive) / SECONDS)
        assert 0 <= p.set_out < p.arrive < p.leave < p.back <= SECONDS + 1e-9
    assert abs(np.mean(shares) - INTERACTING) < 0.05


@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_touches_the_cloth_exactly_while_it_lasts(action):
    garment = next(g for g, actions in ACTIONS_OF.items() if action in actions)
    script, performer = perform("interaction", garment, action, seed=3)
    seen = moments(performer)
    (span,) = runs(np.array([m.action == action for m in seen]))
    assert span[0] == pytest.approx(script.phases.arrive * FPS, abs=1)
    assert span[1] == pytest.approx(script.phases.leave * FPS, abs=1)
    touching = np.array([m.touches[script.side].action == action for m in seen])
    assert runs(touching) == [span]
    assert script.action in sentence(script, garment) or sentence(script, garment)


@pytest.mark.parametrize("performance", ["pantomime", "hover"])
@pytest.mark.parametrize("seed", range(4))
def test_miming_and_hovering_hands_stay_off_the_cloth(performance, seed):
    garment = list(ACTIONS_OF)[seed]
    script, performer = perform(performance, garment, seed=seed)
    first = performer.at(0).state
    for m in moments(performer, 10):
        touch = m.touches[script.side]
        assert not touch.contact and touch.action is None and m.action is None
        still = (m.state.zip_open, m.state.collar_turn, dict(m.state.sleeve_roll), m.state.grabs)
        assert still == (first.zip_open, first.collar_turn, dict(first.sleeve_roll), ())
        if script.phases.at_place(m.time_s):
            assert touch.distance_m > 0.005


@pytest.mark.parametrize("performance", PERFORMANCES)
@pytest.mark.parametrize("seed", [1, 2])
def test_motion_is_smooth_and_hands_stay_out_of_the_body(performance, seed):
    _, performer = perform(performance, list(ACTIONS_OF)[seed], seed=seed)
    seen = moments(performer)
    for side in ("left", "right"):
        hand = load_rig().hands[side]
        wrists = np.array([m.skin[hand[::100]] for m in seen])
        # No hand is faster than 6 m/s, none jumps by more than a few centimetres a frame.
        assert np.linalg.norm(np.diff(wrists, axis=0), axis=-1).max() < 6.0 / FPS
    for m in seen[::6]:
        body = load_rig()
        solid = np.asarray(body.weights[:, [body.index(n) for n in SOLID]].sum(1)).ravel() > 0.6
        normals = vertex_normals(m.skin, body.faces)[solid]
        torso = m.skin[solid]
        for side in ("left", "right"):
            points = m.skin[body.hands[side][::9]]
            nearest = np.argmin(((points[:, None] - torso[None]) ** 2).sum(-1), 1)
            near = np.linalg.norm(points - torso[nearest], axis=1) < 0.08
            depth = -((points - torso[nearest]) * normals[nearest]).sum(-1)[near]
            assert (depth < 0.02).mean() > 0.97 if near.any() else True


def test_the_same_seed_gives_the_same_motion_and_another_one_another():
    a, b, c = (perform("interaction", seed=s)[1].at(1.3).skin for s in (5, 5, 6))
    assert np.array_equal(a, b) and not np.allclose(a, c)


def test_palms_rub_in_circles_strokes_and_slides_and_cloth_goes_along_a_little():
    ways = []
    for seed in range(60):
        script = sample_script(np.random.default_rng(seed), "interaction", "t_shirt", SECONDS, "other")
        path = np.array([rubbed(script, p) for p in np.linspace(0, 1, 200)])
        assert np.linalg.norm(path[0]) < 1e-6 and np.linalg.norm(np.diff(path, axis=0), axis=1).max() < 0.02
        reach, end = np.linalg.norm(path, axis=1).max(), float(np.linalg.norm(path[-1]))
        assert 0.015 < reach < 0.26
        ways.append(end > 0.8 * reach)
        cloth = np.array([dragged(script, moved) for moved in path])
        # Along, never further than the hand, and no further than cloth has slack.
        assert (np.linalg.norm(cloth, axis=1) <= np.minimum(0.45 * np.linalg.norm(path, axis=1), 0.025) + 1e-9).all()
        assert ((cloth * path).sum(1) >= 0).all()
    assert 10 < sum(ways) < 35
