"""Parts, light and a place to a picture with its labels and depth."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.studio.body.rig import Posed, Rig, Shape
from pipelines.studio.cloth import Label, Part
from pipelines.studio.render.atlas import Atlas
from pipelines.studio.render.backgrounds import Background
from pipelines.studio.render.body import BodyMeshes
from pipelines.studio.render.camera import StudioCamera
from pipelines.studio.render.film import FilmEffect
from pipelines.studio.render.lighting import GAIN_ONE, LEVELS, behind, key_light, light_table, vertex_light
from pipelines.studio.render.look import Lights, Look
from pipelines.studio.render.occlusion import screen_openness
from pipelines.studio.render.raster import PART_STEP, Window, rasterize
from pipelines.studio.render.scene import Layout, Scene

NO_PART = 255
_REACH_M = 0.16
_EDGE_M = 0.03
_EDGE_BLUR = 1.1


@dataclass(frozen=True)
class Frame:
    """A picture and what its pixels are.

    Attributes:
        rgb: (H, W, 3) uint8.
        label: (H, W) uint8 of `cloth.Label`.
        depth: (H, W) float32 metres, inf where nothing is.
        part: (H, W) uint8, number of the part in the list that was drawn, `NO_PART` where nothing is.
        region: (H, W) uint8 of `body.Region` where the label is SKIN, else 0.
    """

    rgb: np.ndarray
    label: np.ndarray
    depth: np.ndarray
    part: np.ndarray
    region: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """Lit parts within a window of the picture; arrays are (h, w, ...) as those of `Frame`, `rgb` once an outfit."""

    window: Window
    rgb: list[np.ndarray]
    label: np.ndarray
    depth: np.ndarray
    part: np.ndarray
    region: np.ndarray


class Shader:
    """Draws lit, textured parts.

    How fine each texture needs to be is read off the first frame drawn, and stays.

    Args:
        outfits: Name -> (h, w, 3 or 4) uint8; a fourth channel marks texels of skin that are hair. Several sets of
            textures give several pictures at little more than the cost of one.
        lights: The lights.
    """

    def __init__(self, outfits: Sequence[Mapping[str, np.ndarray]], lights: Lights):
        self._outfits = [dict(o) for o in outfits]
        self._lights = lights
        self._atlas: Atlas | None = None
        self._layout = Layout(())
        self._tables = {label: light_table(lights, label) for label in Label}

    def draw(self, parts: Sequence[Part], camera: StudioCamera) -> Drawn | None:
        """Draw parts; None where nothing of them is in the picture.

        Raises:
            KeyError: A part names a texture that there is not.
        """
        if not self._layout.fits(parts):
            self._layout = Layout(parts)
        layout = self._layout
        scene = Scene(parts, layout, camera)
        window = scene.window(camera)
        if window.empty or not len(scene.faces):
            return None
        if self._atlas is None:
            self._atlas = Atlas(self._outfits, scene.fineness(self._outfits[0], camera.intrinsics))
        attributes = np.empty((len(scene.vertices), 3), np.float32)
        places = np.concatenate([self._atlas.place(p.texture, p.uv) for p in parts])
        attributes[:, :2] = places.take(layout.source, 0)
        attributes[:, 0] += layout.slot * np.float32(PART_STEP)
        attributes[:, 2] = self._light(scene, camera)
        raster = rasterize(scene.vertices, scene.faces, attributes, camera.intrinsics, window)
        u, v, light = cv2.split(raster.attributes)
        slot = (u * np.float32(1 / PART_STEP)).astype(np.uint8)
        u -= slot * np.float32(PART_STEP)
        light *= np.sqrt(screen_openness(raster.depth, camera.focal, _REACH_M))
        factors = self._factors(light, slot, layout)
        albedos = [cv2.remap(p, u, v, cv2.INTER_LINEAR) for p in self._atlas.pictures]
        part, label, region = _named(slot, raster.seen, albedos[0], layout)
        return Drawn(window, [_lit(a, factors) for a in albedos], label, raster.depth, part, region)

    def _light(self, scene: Scene, camera: StudioCamera) -> np.ndarray:
        rotation, lights = camera.rotation.astype(np.float32), self._lights
        key, fill = (rotation @ np.asarray(d, np.float32) for d in (lights.key_direction, lights.fill_direction))
        # Half of the vertices belong to faces that look away.
        used = scene.used
        layout, vertices, back = scene.layout, scene.vertices.take(used, 0), scene.layout.back[used]
        normals = scene.normals.take(layout.source[used], 0)
        normals[back] *= -1
        arrives = np.ones(len(used), np.float32)
        if lights.shadow > 0:
            arrives = key_light(vertices, scene.own, layout.faces, scene.along, key, lights.shadow)
        light = vertex_light(
            vertices,
            normals,
            lights,
            key=key,
            fill=fill,
            up=rotation[:, 2],
            arrives=arrives,
            soft=layout.soft[used],
            gloss=layout.gloss[used],
        )
        out = np.zeros(len(scene.vertices), np.float32)
        out[used] = np.where(back, behind(light), light)
        return out

    def _factors(self, light: np.ndarray, slot: np.ndarray, layout: Layout) -> np.ndarray:
        """What the light does to each pixel: (h, w, 4) uint8, see `light_table`."""
        tables = np.concatenate([self._tables[s.label] for s in layout.slots]).view(np.uint32).ravel()
        entry = np.minimum(light * np.float32(LEVELS - 1), LEVELS - 1).astype(np.int32)
        entry += slot.astype(np.int32) * LEVELS
        return tables.take(entry).view(np.uint8).reshape(*entry.shape, 4)


def _lit(albedo: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) uint8 under the light."""
    rgb = cv2.cvtColor(cv2.multiply(albedo, factors, scale=1 / GAIN_ONE), cv2.COLOR_RGBA2RGB)
    white = cv2.extractChannel(factors, 3)
    x, y, w, h = cv2.boundingRect(white)
    if w:
        patch = rgb[y : y + h, x : x + w]
        cv2.add(patch, cv2.merge([white[y : y + h, x : x + w]] * 3), dst=patch)
    return rgb


def _named(
    slot: np.ndarray, seen: np.ndarray, albedo: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Part, label and region of each pixel."""
    tables = np.zeros((3, 256), np.uint8)
    for number, s in enumerate(layout.slots):
        tables[:, number] = s.part, s.label, s.region
    part, label, region = (cv2.LUT(slot, table) for table in tables)
    part[~seen] = NO_PART
    label[~seen] = Label.BACKGROUND
    label[(label == Label.SKIN) & (albedo[..., 3] > 127)] = Label.HAIR
    region[label != Label.SKIN] = 0
    return part, label, region


class Renderer:
    """Draws one person in one outfit in one place.

    Two things are set by the first frame drawn: how fine textures are kept, and what of the place behind is seen.

    Args:
        rig: The body.
        shape: The person.
        look: Skin, hair, lights, place, camera.
        textures: Name -> (h, w, 3) uint8 RGB of every texture that clothes use.
        size: (height, width) of the pictures.
        others: The same textures of further outfits, of the same cut.
    """

    def __init__(
        self,
        rig: Rig,
        shape: Shape,
        look: Look,
        textures: Mapping[str, np.ndarray],
        size: tuple[int, int],
        others: Sequence[Mapping[str, np.ndarray]] = (),
    ):
        self.look = look
        self.height, self.width = size
        self.body = BodyMeshes(rig, shape, look)
        self._shader = Shader([{**self.body.textures, **t} for t in (textures, *others)], look.lights)
        self._film = FilmEffect(look.film, self.height, self.width, look.seed)
        self._background = Background(look, float(shape.vertices[:, 2].min()))
        self._outfits = 1 + len(others)

    def dressed(self, textures: Mapping[str, np.ndarray]) -> Renderer:
        """A renderer of the same person in the same place, in clothes of other cut and textures.

        Painting a person takes longer than ten frames do, and is not done again.
        """
        other = copy.copy(self)
        other._shader = Shader([{**self.body.textures, **textures}], self.look.lights)
        other._outfits = 1
        return other

    def body_parts(self, posed: Posed, vertices: np.ndarray, covered: np.ndarray) -> list[Part]:
        """Skin, eyes and hair.

        Args:
            posed: The skeleton.
            vertices: (V, 3) the skinned body, world, metres.
            covered: (F,) bool, faces of the rig that clothes hide.
        """
        return self.body.parts(posed, vertices, covered)

    def draw(self, parts: Sequence[Part], camera: StudioCamera, time_s: float = 0.0) -> Frame:
        """One frame in the first outfit; see `draw_all`."""
        return self.draw_all(parts, camera, time_s)[0]

    def draw_all(self, parts: Sequence[Part], camera: StudioCamera, time_s: float = 0.0) -> list[Frame]:
        """One frame in every outfit; all arrays but the pictures are shared.

        Args:
            parts: Everything of the person that can be seen.
            camera: Where from; its size must be the renderer's.
            time_s: Time of the frame; noise differs from time to time and is the same for the same time.

        Raises:
            ValueError: The camera's size is another.
            KeyError: A part names a texture that there is not.
        """
        if (camera.height, camera.width) != (self.height, self.width):
            raise ValueError(
                f"The camera is {camera.width} x {camera.height} pixels, the renderer {self.width} x {self.height}"
            )
        behind = self._background.seen_by(camera)
        size = (self.height, self.width)
        label, region = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        part, depth = np.full(size, NO_PART, np.uint8), np.full(size, np.inf, np.float32)
        pictures = [behind] * self._outfits
        drawn = self._shader.draw(parts, camera)
        if drawn is not None:
            at = drawn.window.slices
            label[at], region[at], part[at], depth[at] = drawn.label, drawn.region, drawn.part, drawn.depth
            self._background.shade(behind, label, parts, camera)
            shown, outline = (drawn.part != NO_PART).astype(np.uint8), outlines(drawn.part, drawn.depth)
            pictures = []
            for rgb in drawn.rgb:
                picture = behind.copy()
                cv2.copyTo(rgb, shown, picture[at])
                # Blend the stairs along the outlines of things away.
                cv2.copyTo(cv2.GaussianBlur(picture[at], (3, 3), _EDGE_BLUR), outline, picture[at])
                pictures.append(picture)
        return [Frame(self._film(picture, time_s), label, depth, part, region) for picture in pictures]


def outlines(part: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Pixels (h, w) uint8, not 0 along the outlines of parts and where depth jumps."""
    pair = np.ones((2, 2), np.uint8)
    edge = cv2.morphologyEx(part, cv2.MORPH_GRADIENT, pair)
    steps = cv2.morphologyEx(np.minimum(depth, np.float32(1e3)), cv2.MORPH_GRADIENT, pair) > _EDGE_M
    return cv2.dilate(edge | steps.view(np.uint8), np.ones((3, 3), np.uint8))
