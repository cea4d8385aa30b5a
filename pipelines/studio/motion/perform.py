"""Performs a script: for every frame the posed person, the state of the cloth, and which hand touches what."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from pipelines.studio.body.hand import SIDES
from pipelines.studio.body.posing import HandGoal, Poser, Trunk
from pipelines.studio.body.rig import Posed, Rig, Shape
from pipelines.studio.cloth import Anchor, ClothState, Grab
from pipelines.studio.motion import goals
from pipelines.studio.motion.moment import Moment, Touch
from pipelines.studio.motion.obstacle import Obstacle, Torso
from pipelines.studio.motion.script import Script
from pipelines.studio.motion.timeline import Phases, Sway, between

TOUCH_M = 0.008
"""A hand this near to the cloth touches it."""
_SKIN_STEP = 5


class Worn(Protocol):
    """What a performance needs of a garment."""

    def anchor(self, name: str, side: str, posed: Posed, state: ClothState) -> Anchor:
        """Where a hand takes hold of it."""
        ...

    def surface(self, posed: Posed, state: ClothState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices (N, 3), unit normals (N, 3) and faces of the outer cloth."""
        ...


@dataclass(frozen=True)
class _Aim:
    """Where a hand is wanted and how near it may come to cloth and body."""

    goal: HandGoal
    margin: float


class Performer:
    """One person who performs one script in one garment. Frames may be asked for in any order."""

    def __init__(self, rig: Rig, shape: Shape, garment: Worn, script: Script, rng: np.random.Generator):
        self.rig, self.shape, self.garment, self.script = rig, shape, garment, script
        self.poser = Poser(rig, shape)
        moving = script.performance == "walk"
        self._bend = Sway.sample(rng, np.radians([2.0, 1.5, 2.5]), 3)
        self._look = Sway.sample(rng, np.radians([5.0, 3.0, 9.0]), 3)
        self._turn = Sway.sample(rng, np.radians(4.0), 1)
        self._weight = Sway.sample(rng, np.array([0.012, 0.01, 0.004]), 3)
        self._idle = {side: Sway.sample(rng, 0.012, 3, 0.3) for side in SIDES}
        self._yaw = float(rng.normal(0, np.radians(9)))
        self._walk_turn = float(rng.uniform(-1, 1) * np.radians(75)) if moving else 0.0
        self._walk_step = float(rng.uniform(-0.5, 0.5)) if moving else 0.0
        self._stride_rate = float(rng.uniform(0.7, 1.1))
        self._zip = float(rng.uniform(0, 0.1) if rng.random() < 0.6 else rng.uniform(0.2, 0.8))
        self._elbow = {side: rng.normal(0, 0.15, 3) for side in SIDES}
        rest = rig.pose(shape, np.tile(np.eye(3), (len(rig.names), 1, 1)))
        cloth, normals, _ = garment.surface(rest, ClothState())
        self._hips = np.abs(shape.joints[rig.index("upperleg01.L")])
        self._hips[2] = shape.joints[rig.index("upperleg01.L")][2]
        chest = shape.joints[rig.index("spine01")]
        near = np.abs(cloth[:, 0]) < 0.1
        near &= np.abs(cloth[:, 2] - chest[2]) < 0.1
        self._chest = np.array([0.0, cloth[near, 1].min(), chest[2]])
        self._torso = Torso(rig, shape, cloth)
        self._spot = self._place_on(cloth, normals)

    def at(self, t: float) -> Moment:
        """The frame at `t` seconds."""
        script, poser = self.script, self.poser
        trunk = self._trunk(t)
        local = poser.trunk(trunk)
        posed = poser.pose(trunk, local)
        untouched, mimed = self._cloth(t)
        state = mimed if script.performance == "interaction" else untouched
        obstacle = self._torso.obstacle(posed, *self.garment.surface(posed, mimed)[:2])
        acting = [] if script.side is None else list(SIDES) if script.both else [script.side]
        # The hand that is acted upon, or only hangs, goes first: the other one may reach for its sleeve.
        for side in sorted(SIDES, key=lambda s: s in acting):
            aim = self._acting(side, t, posed, mimed, obstacle) if side in acting else self._resting(side, t, posed)
            poser.reach(local, posed, side, aim.goal)
            posed = poser.pose(trunk, local)
            aim = self._kept_out(side, posed, obstacle, aim)
            poser.reach(local, posed, side, aim.goal)
            posed = poser.pose(trunk, local)
        skin = posed.skin(self.shape.vertices, self.rig.weights)
        state = self._grabbed(t, posed, state, acting)
        touches = self._touches(t, skin, obstacle, acting)
        doing = script.action if script.performance == "interaction" and script.phases.at_place(t) else None
        return Moment(t, trunk, posed, skin, state, untouched, touches, doing)

    # --- trunk ---

    def _trunk(self, t: float) -> Trunk:
        script = self.script
        turn = np.array([0.0, 0.0, self._yaw + self._turn.at(t)[0]])
        root = self._weight.at(t).copy()
        stride, knee = 0.0, {}
        if script.performance == "walk":
            p = script.phases
            turn[2] += self._walk_turn * (between(t, p.set_out, p.arrive) - 0.8 * between(t, p.leave, p.back))
            root[1] += self._walk_step * between(t, p.set_out, p.back)
            angle = 2 * np.pi * self._stride_rate * t
            stride = 0.28 * np.sin(angle)
            knee = {"left": 0.25 * (1 + np.sin(angle + 1.2)), "right": 0.25 * (1 + np.sin(angle + 1.2 + np.pi))}
            root[2] += 0.012 * np.cos(2 * angle)
        look = self._look.at(t)
        if script.side is not None:
            # People look down at what their hands do.
            look = look + np.radians([16, 0, 0]) * script.phases.reach(t) * script.gesture["mirror"]
        return Trunk(root, turn, self._bend.at(t), look, stride, knee)

    # --- hands ---

    def _hang(self, side: str, t: float, posed: Posed) -> HandGoal:
        """The arm hanging beside the body; it swings when the person walks."""
        m = _sign(side)
        hand = self.poser.hands[side]
        hips = posed.rotations[0]
        wrist, fingers, palm = goals.hang(m, self._hips)
        wrist = wrist + self._idle[side].at(t)
        if self.script.performance == "walk":
            wrist = wrist + np.array([0.0, -0.12 * m * np.sin(2 * np.pi * self._stride_rate * t), 0.02])
        grip = {"relaxed": 1.0}
        return HandGoal(
            posed.positions[0] + hips @ wrist + hips @ hand.turn(fingers, palm) @ hand.point("palm", grip),
            hips @ hand.turn(fingers, palm),
            grip,
            "palm",
            hips @ (np.array([0.5 * m, 0.7, -0.5]) + self._elbow[side]),
        )

    def _resting(self, side: str, t: float, posed: Posed) -> _Aim:
        script, hang = self.script, self._hang(side, t, posed)
        if script.action == "roll_sleeve":
            return _Aim(self._blend(hang, self._offered(side, posed), self._lead(t), side, posed), 0.0)
        if script.performance == "walk" or script.side is None:
            return _Aim(hang, 0.015)
        if script.other_hand == "hip":
            m, hips = _sign(side), posed.rotations[0]
            place, fingers, palm = goals.on_hip(m, self._hips)
            turn = self.poser.hands[side].turn(fingers, palm)
            goal = replace(hang, position=posed.positions[0] + hips @ place, rotation=hips @ turn)
            return _Aim(replace(goal, elbow=hips @ np.array([m, 0.5, -0.1])), 0.002)
        if script.other_hand == "gesture":
            return _Aim(self._blend(hang, self._free(side, t, posed), script.phases.reach(t), side, posed), 0.03)
        return _Aim(hang, 0.015)

    def _acting(self, side: str, t: float, posed: Posed, mimed: ClothState, obstacle: Obstacle) -> _Aim:
        script = self.script
        hang = self._hang(side, t, posed)
        margin = 0.0
        if script.performance == "hover":
            there, margin = self._free(side, t, posed), script.gap_m * 0.5 + 0.02
        elif script.performance == "rest":
            there = self._laid(side, posed, obstacle, np.zeros(2))
        elif script.action == "other":
            there = self._laid(side, posed, obstacle, self._rub(t))
        else:
            there, margin = self._held(side, t, posed, mimed), -0.01
        if script.performance == "pantomime":
            margin = 0.6 * script.gap_m
        return _Aim(self._blend(hang, there, script.phases.reach(t), side, posed), margin)

    def _held(self, side: str, t: float, posed: Posed, mimed: ClothState) -> HandGoal:
        script, m = self.script, _sign(side)
        assert script.action is not None
        of = _other(side) if script.action == "roll_sleeve" else side
        anchor = self.garment.anchor(goals.ANCHOR_OF[script.action], of, posed, mimed)
        chest = posed.rotations[self.rig.index("spine01")]
        hand = self.poser.hands[side]
        if script.action == "roll_sleeve":
            across = np.cross(anchor.along, anchor.normal)
            across *= np.sign(across @ (chest @ np.array([-m, 0.0, 0.0]))) or 1.0
            rotation = hand.turn(0.7 * across - 0.5 * anchor.normal, -anchor.normal)
        else:
            fingers, palm = goals.held_directions(script.action, m)
            rotation = chest @ hand.turn(fingers, palm)
        position = anchor.position + chest @ self._pull(t, m)
        if script.performance == "pantomime":
            position = position + script.gap_m * anchor.normal
        elbow = chest @ (np.array([0.8 * m, 0.3, -0.9]) + self._elbow[side])
        return HandGoal(position, rotation, goals.GRIP_OF[script.action], "pinch", elbow)

    def _laid(self, side: str, posed: Posed, obstacle: Obstacle, moved: np.ndarray) -> HandGoal:
        script, m = self.script, _sign(side)
        cloth, normals = obstacle.points[: obstacle.cloth], obstacle.normals[: obstacle.cloth]
        chest = posed.rotations[self.rig.index("spine01")]
        # The palm glides over the cloth: it goes to the spot that lies under where it is moved to.
        spot = cloth[self._spot] + chest @ np.array([moved[0], 0.0, moved[1]])
        distance = np.linalg.norm(cloth - spot, axis=1)
        near = np.argpartition(distance, 12)[:12]
        weight = np.exp(-((distance[near] / 0.02) ** 2)) + 1e-9
        normal = (normals[near] * weight[:, None]).sum(0)
        normal /= np.linalg.norm(normal)
        lift = ((cloth[near] - spot) @ normal * weight).sum() / weight.sum()
        position = spot + normal * (lift + (script.gap_m if script.performance == "pantomime" else 0.001))
        hand = self.poser.hands[side]
        fingers = chest @ goals.laid_directions(script, m)
        if script.fist:
            rotation = hand.turn(-normal + 0.5 * fingers, chest @ np.array([-0.2 * m, 0.2, -1.0]))
            grip, point = {"fist": 1.0}, "knuckles"
        else:
            rotation, grip, point = hand.turn(fingers, -normal), {"flat": 0.8, "relaxed": 0.2}, "palm"
        return HandGoal(position, rotation, grip, point, chest @ (np.array([m, 0.2, -0.7]) + self._elbow[side]))

    def _free(self, side: str, t: float, posed: Posed) -> HandGoal:
        m = _sign(side)
        chest = posed.rotations[self.rig.index("spine01")]
        place, fingers, palm, grip = goals.gesture(self.script, m, t, self._chest)
        hand = self.poser.hands[side]
        return HandGoal(
            posed.positions[0] + chest @ place,
            chest @ hand.turn(fingers, palm),
            grip,
            "palm",
            chest @ (np.array([0.8 * m, 0.4, -0.8]) + self._elbow[side]),
        )

    def _offered(self, side: str, posed: Posed) -> HandGoal:
        """The forearm held across the front of the body, its sleeve within the other hand's reach."""
        m = _sign(side)
        chest = posed.rotations[self.rig.index("spine01")]
        hand = self.poser.hands[side]
        place = self._chest + np.array([-0.10 * m, -0.24, -0.14])
        rotation = chest @ hand.turn(np.array([-0.8 * m, -0.6, 0.1]), np.array([0.0, 0.5, -0.8]))
        elbow = chest @ np.array([0.9 * m, 0.2, -0.7])
        return HandGoal(posed.positions[0] + chest @ place, rotation, {"relaxed": 1.0}, "palm", elbow)

    def _lead(self, t: float) -> float:
        p = self.script.phases
        early = Phases(p.set_out, p.set_out + 0.75 * (p.arrive - p.set_out), p.leave, p.back)
        return early.reach(t)

    def _blend(self, a: HandGoal, b: HandGoal, w: float, side: str, posed: Posed) -> HandGoal:
        """On the way from one goal to another; a hand goes round the body, not through it."""
        if w <= 0:
            return a
        hand = self.poser.hands[side]
        start = a.position + a.rotation @ (hand.point(b.point, a.grip) - hand.point(a.point, a.grip))
        out = posed.rotations[0] @ np.array([0.06 * _sign(side), -0.13, 0.0]) * np.sin(np.pi * w)
        turn = Slerp([0, 1], Rotation.from_matrix(np.stack([a.rotation, b.rotation])))(w).as_matrix()
        # Fingers close on the last third of the way.
        close = between(w, 0.3, 1.0)
        grip = {k: v * (1 - close) for k, v in a.grip.items()}
        for k, v in b.grip.items():
            grip[k] = grip.get(k, 0.0) + v * close
        return HandGoal(start + w * (b.position - start) + out, turn, grip, b.point, (1 - w) * a.elbow + w * b.elbow)

    def _kept_out(self, side: str, posed: Posed, obstacle: Obstacle, aim: _Aim) -> _Aim:
        """The goal moved so that no part of the hand is deeper in cloth or body than it may be."""
        index = self.rig.hands[side][::_SKIN_STEP]
        hand = posed.skin(self.shape.vertices[index], self.rig.weights[index])
        moved = obstacle.way_out(hand, aim.margin)
        return replace(aim, goal=replace(aim.goal, position=aim.goal.position + moved))

    # --- cloth ---

    def _cloth(self, t: float) -> tuple[ClothState, ClothState]:
        """The cloth left alone, and as the acting hand moves it (or would, were it not mimed)."""
        script = self.script
        still = ClothState(zip_open=self._zip, time_s=t)
        if script.action is None:
            return still, still
        done = between(script.phases.progress(t), 0.0, 1.0)
        done = 1 - done if script.backwards else done
        changed = still
        if script.action == "operate_zipper":
            changed = replace(still, zip_open=done * (0.3 + 0.6 * script.amount))
            still = replace(still, zip_open=(0.3 + 0.6 * script.amount) if script.backwards else 0.0)
        elif script.action == "adjust_collar":
            changed = replace(still, collar_turn=done)
            still = replace(still, collar_turn=float(script.backwards))
        elif script.action == "roll_sleeve":
            assert script.side is not None
            of = _other(script.side)
            changed = replace(still, sleeve_roll={of: done * (0.35 + 0.4 * script.amount)})
            still = replace(still, sleeve_roll={of: (0.35 + 0.4 * script.amount) * script.backwards})
        return still, changed

    def _pull(self, t: float, m: float) -> np.ndarray:
        """(3,) metres in the chest's frame by which a hand moves the spot it holds."""
        script = self.script
        progress, a = script.phases.progress(t), script.amount
        if script.action == "adjust_hem":
            return goals.lifted(progress) * np.array([0.02 * m, -0.03 - 0.04 * a, 0.07 + 0.15 * a])
        if script.action == "stretch_fabric":
            return goals.pulled(progress, script.cycles) * np.array([(0.03 + 0.06 * a) * m, -0.05 - 0.07 * a, 0.02])
        return np.zeros(3)

    def _rub(self, t: float) -> np.ndarray:
        return goals.rubbed(self.script, self.script.phases.progress(t))

    def _grabbed(self, t: float, posed: Posed, state: ClothState, acting: list[str]) -> ClothState:
        script = self.script
        if script.performance != "interaction" or not script.phases.at_place(t):
            return state
        chest = posed.rotations[self.rig.index("spine01")]
        grabs = []
        for side in acting:
            m = _sign(side)
            if script.action in ("adjust_hem", "stretch_fabric"):
                anchor = self.garment.anchor(goals.ANCHOR_OF[script.action], side, posed, state)
                hand = self.poser.hands[side]
                held = posed.positions[hand.wrist] + posed.rotations[hand.wrist] @ hand.point(
                    "pinch", goals.GRIP_OF[script.action]
                )
                # What the hand really holds: an arm that cannot reach further does not pull further either.
                offset = held - anchor.position
                wanted = float(np.linalg.norm(self._pull(t, m))) + 0.02
                offset *= min(1.0, wanted / max(float(np.linalg.norm(offset)), 1e-9))
                kind: Literal["pinch", "hem"] = "hem" if script.action == "adjust_hem" else "pinch"
                radius = 0.22 if kind == "hem" else 0.10 + 0.05 * script.amount
                grabs.append(Grab(anchor.rest, offset, kind, radius))
            elif script.action == "other":
                left, up = goals.dragged(script, self._rub(t))
                drag = chest @ np.array([left, 0.0, up])
                grabs.append(Grab(self._spot_rest, drag, "rub", 0.11))
        return replace(state, grabs=tuple(grabs))

    # --- truth ---

    def _touches(self, t: float, skin: np.ndarray, obstacle: Obstacle, acting: list[str]) -> dict[str, Touch]:
        script = self.script
        out = {}
        for side in SIDES:
            hand = skin[self.rig.hands[side][::_SKIN_STEP]]
            far, nearest = obstacle.tree.query(hand)
            out_of = ((hand - obstacle.points[nearest]) * obstacle.normals[nearest]).sum(-1)
            on_cloth = nearest < obstacle.cloth
            near = on_cloth & (far < 0.03)
            distance = float(max(0.0, out_of[near].min())) if near.any() else float(far.min())
            placed = side in acting and script.phases.at_place(t)
            if placed and script.performance == "interaction":
                out[side] = Touch(True, script.action, 0.0)
            elif placed and script.performance == "rest":
                out[side] = Touch(True, "rest", 0.0)
            elif distance < TOUCH_M and script.performance not in ("pantomime", "hover"):
                out[side] = Touch(True, "rest", distance)
            else:
                out[side] = Touch(False, None, distance)
        return out

    def _place_on(self, cloth: np.ndarray, normals: np.ndarray) -> int:
        """Point of the torso's cloth at the script's `place`, counted among `_torso.cloth`; also keeps it at rest."""
        hips, chest = (self.shape.joints[self.rig.index(n)][2] for n in ("upperleg01.L", "clavicle.L"))
        u, v = self.script.place
        wanted = np.array([(u - 0.5) * 0.22, chest - 0.08 - v * (chest - hips - 0.16)])
        cloth, normals = cloth[self._torso.cloth], normals[self._torso.cloth]
        front = np.flatnonzero((normals[:, 1] < -0.6) & (np.abs(cloth[:, 0]) < 0.15))
        spot = int(front[np.argmin(np.linalg.norm(cloth[front][:, [0, 2]] - wanted, axis=1))])
        self._spot_rest = cloth[spot]
        return spot


def _sign(side: str) -> float:
    return 1.0 if side == "left" else -1.0


def _other(side: str) -> str:
    return "right" if side == "left" else "left"
