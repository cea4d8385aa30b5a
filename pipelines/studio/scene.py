"""One clip before the camera: who, in what, where, doing what; and its frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.studio.body import load_rig
from pipelines.studio.cloth import ClothState, Label
from pipelines.studio.garments import Garment, GarmentSpec, LowerClothes, sample_spec
from pipelines.studio.motion import Moment, Performer, sample_script
from pipelines.studio.people import CameraPath, sample_shape
from pipelines.studio.plan import Plan
from pipelines.studio.render import Frame, Region, Renderer, StudioCamera, product_image, sample_look
from pipelines.studio.render.fabrics import make_fabric
from pipelines.studio.settings import StudioSettings

_PRODUCT_SIZE = (512, 384)


@dataclass(frozen=True)
class Shot:
    """One frame.

    Attributes:
        moment: What was performed.
        camera: Where from.
        frame: The picture with labels and depth.
        counterfactual: (H, W, 3) uint8, the same moment in the other garment; None where it is not wanted.
        undone: (H, W, 3) uint8, the same again while the other garment stays as if no hand had touched it; None where
            that is not wanted or nothing is done anyway.
        agnostic: (H, W) bool, what has to be repainted for any garment of the category.
    """

    moment: Moment
    camera: StudioCamera
    frame: Frame
    counterfactual: np.ndarray | None
    undone: np.ndarray | None
    agnostic: np.ndarray


class Scene:
    """Everything of one clip that does not change from frame to frame."""

    def __init__(self, settings: StudioSettings, plan: Plan):
        rng = np.random.default_rng(plan.seed)
        self.rig = load_rig()
        self.shape = sample_shape(self.rig, rng)
        self._fps = settings.fps
        worn = sample_spec(plan.garment, rng)
        self._specs: tuple[GarmentSpec, GarmentSpec] = (worn, sample_spec(plan.garment, rng, like=worn))
        self._garments = tuple(Garment(self.rig, self.shape, spec) for spec in self._specs)
        # Every other counterfactual is of the same cut: shape cannot tell the two apart, and drawing it is nearly free.
        self._same_cut = bool(rng.random() < 0.5)
        self._lower = LowerClothes.sample(self.rig, self.shape, self.category, rng)
        seconds = settings.frames / settings.fps
        self.script = sample_script(rng, plan.performance, plan.garment, seconds, plan.action)
        self._performer = Performer(self.rig, self.shape, self._garments[0], self.script, rng)
        self._camera = CameraPath.sample(rng, self.shape, self.rig, settings.width, settings.height)
        self._look = sample_look(rng)
        below = {"lower": make_fabric(rng, str(rng.choice(["denim", "plain", "melange"]))), "shoe": _plain(rng)}
        self._textures = tuple(
            garment.textures(settings.fabrics, settings.plain, settings.white_beneath) for garment in self._garments
        )
        size = (settings.height, settings.width)
        first, second = (textures | below for textures in self._textures)
        shared = (second,) if settings.counterfactual and self._same_cut else ()
        self._renderer = Renderer(self.rig, self.shape, self._look, first, size, others=shared)
        self._undone = settings.undone and plan.performance == "interaction"
        self._other = self._renderer.dressed(second) if settings.counterfactual and not self._same_cut else None

    @property
    def category(self) -> str:
        """Which garment is tried on: upper_body or dresses."""
        return self._garments[0].category

    def shoot(self, number: int) -> Shot:
        """Frame `number`."""
        t = number / self._fps
        moment, camera = self._performer.at(t), self._camera.at(t)
        frames = self._renderer.draw_all(self._parts(moment, self._garments[0], self._renderer), camera, t)
        if self._other is not None:
            frames.append(self._other.draw(self._parts(moment, self._garments[1], self._other), camera, t))
        repaint = np.logical_or.reduce([_repaint(f, self.category) for f in frames])
        other = frames[1].rgb if len(frames) > 1 else None
        undone = self._left_alone(moment, camera, t) if self._undone else None
        return Shot(moment, camera, frames[0], other, undone, repaint)

    def _left_alone(self, moment: Moment, camera: StudioCamera, t: float) -> np.ndarray:
        """The moment in the other garment that no hand has done anything to, (H, W, 3) uint8."""
        still = dataclasses.replace(moment, state=moment.untouched)
        if self._other is not None:
            return self._other.draw(self._parts(still, self._garments[1], self._other), camera, t).rgb
        return self._renderer.draw_all(self._parts(still, self._garments[0], self._renderer), camera, t)[1].rgb

    def _parts(self, moment: Moment, garment: Garment, renderer: Renderer) -> list[Any]:
        covered = garment.covered | self._lower.covered
        return [
            *renderer.body_parts(moment.posed, moment.skin, covered),
            *self._lower.parts(moment.posed),
            *garment.parts(moment.posed, moment.state),
        ]

    def product(self, which: int) -> np.ndarray:
        """The garment worn (0) or the other one (1) as a product picture, (H, W, 3) uint8 RGB."""
        garment = self._garments[0 if self._same_cut else which]
        local = np.tile(np.eye(3), (len(self.rig.names), 1, 1))
        parts = garment.parts(self.rig.pose(self.shape, local), ClothState())
        shown = [p for p in parts if p.label is Label.GARMENT]
        return product_image(shown, self._textures[which], _PRODUCT_SIZE)[0]

    def description(self) -> Mapping[str, Any]:
        """How it all looks, as plain values."""
        return {
            "look": self._look.model_dump(mode="json"),
            "garment": dataclasses.asdict(self._specs[0]),
            "counterfactual": dataclasses.asdict(self._specs[1]),
            "same_cut": self._same_cut,
            "script": dataclasses.asdict(self.script),
        }


def _repaint(frame: Frame, category: str) -> np.ndarray:
    """(H, W) bool: cloth of the category, and skin that another garment of it may cover; no head, neck or hands."""
    bare = (Region.TORSO, Region.ARMS, Region.LEGS) if category == "dresses" else (Region.TORSO, Region.ARMS)
    return np.isin(frame.label, (Label.GARMENT, Label.INNER)) | np.isin(frame.region, bare)


def _plain(rng: np.random.Generator) -> np.ndarray:
    return np.full((16, 16, 3), rng.integers(20, 220, 3), np.uint8)
