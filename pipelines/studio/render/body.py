"""The person without clothes, as parts to draw: skin, eyes, hair."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

import numpy as np

from pipelines.studio.body.rig import Posed, Rig, Shape
from pipelines.studio.cloth import Label, Part
from pipelines.studio.render.hair import grow_hair, paint_hair
from pipelines.studio.render.look import Look
from pipelines.studio.render.skin import paint_eye, paint_skin

SKIN, EYE, HAIR = "body.skin", "body.eye", "body.hair"
"""Names of the body's textures."""


_KEPT = 16


class Region(IntEnum):
    """Which part of the body a pixel of skin belongs to."""

    HEAD = 16
    NECK = 17
    TORSO = 18
    ARMS = 19
    LEFT_HAND = 20
    RIGHT_HAND = 21
    LEGS = 22


_JOINTS = {
    Region.HEAD: ("head", "eye", "neck03"),
    Region.NECK: ("neck01", "neck02"),
    Region.ARMS: ("shoulder01", "upperarm", "lowerarm"),
    Region.LEGS: ("upperleg", "lowerleg", "foot", "toe"),
}


@dataclass(frozen=True)
class BodyPart(Part):
    """A part of the body.

    Attributes:
        regions: (V,) uint8 of `Region`; the corners of a face share one.
    """

    regions: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))


class BodyMeshes:
    """Meshes and textures of one person.

    Args:
        rig: The body.
        shape: The person.
        look: How the person looks.

    Attributes:
        textures: Name -> (h, w, 3 or 4) uint8; where there is a fourth channel, 255 marks hair.
    """

    def __init__(self, rig: Rig, shape: Shape, look: Look):
        self._split = _split(rig)
        self._eyes = {side: _eye_mesh(rig, shape, side) for side in rig.eyes}
        self._eyeball_faces = np.isin(rig.faces[:, 0], np.concatenate(list(rig.eyes.values())))
        self._hair = grow_hair(rig, shape, look.hair)
        self._hair_glossy = 0.0 if look.hair.style in ("curly", "afro") else 0.3
        self._kept: dict[bytes, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}
        self.textures = {
            SKIN: paint_skin(rig, look.face, look.hair),
            EYE: paint_eye(look.face),
            HAIR: paint_hair(look.hair),
        }

    def parts(self, posed: Posed, vertices: np.ndarray, covered: np.ndarray) -> list[Part]:
        """Skin, eyes and hair in a pose.

        Args:
            posed: The skeleton.
            vertices: (V, 3) the skinned body, world, metres.
            covered: (F,) bool, faces of the rig that clothes hide; they are not drawn.
        """
        index, faces, uv, regions = self._uncovered(covered)
        out: list[Part] = [BodyPart(vertices[index], faces, uv, SKIN, Label.SKIN, False, 0.12, "skin", regions)]
        for side, (eye, eye_faces, eye_uv) in self._eyes.items():
            out.append(Part(vertices[eye], eye_faces, eye_uv, EYE, Label.OTHER, False, 0.5, f"{side} eye"))
        if self._hair is not None:
            hair = self._hair
            at = posed.skin(hair.vertices, hair.weights)
            out.append(Part(at, hair.faces, hair.uv, HAIR, Label.HAIR, True, self._hair_glossy, "hair"))
        return out

    def _uncovered(self, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The drawn part of the body: rig vertices, faces, texture coordinates, regions. Kept while `covered` stands,
        so that the faces are the same array in every frame."""
        key = covered.tobytes()
        if key not in self._kept:
            vertex, every, uv, regions = self._split
            used, faces = np.unique(every[~(covered | self._eyeball_faces)], return_inverse=True)
            faces = faces.reshape(-1, 3).astype(np.int32)
            if len(self._kept) > _KEPT:
                self._kept.clear()
            self._kept[key] = (vertex[used], faces, uv[used], regions[used])
        return self._kept[key]


@lru_cache(maxsize=1)
def _split(rig: Rig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rig's mesh with a vertex for each place in the texture and each region around it.

    Returns:
        Rig vertex (N,), faces (F, 3) int32 in the rig's order, texture coordinates (N, 2) with v down, `Region` (N,).
    """
    regions = np.repeat(_regions(rig)[rig.faces[:, 0]], 3)
    corners = np.rint(rig.corner_uv.reshape(-1, 2) * 65535)
    keys = np.concatenate([rig.faces.reshape(-1, 1), corners, regions[:, None]], 1).astype(np.int64)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    uv = (unique[:, 1:3] / 65535 * (1, -1) + (0, 1)).astype(np.float32)
    return unique[:, 0], inverse.reshape(-1, 3).astype(np.int32), uv, unique[:, 3].astype(np.uint8)


def _regions(rig: Rig) -> np.ndarray:
    """`Region` of each vertex (V,), by the joint that moves it most."""
    of_joint = np.full(len(rig.names), int(Region.TORSO))
    for region, prefixes in _JOINTS.items():
        for j, name in enumerate(rig.names):
            if name.startswith(prefixes):
                of_joint[j] = region
    out = of_joint[np.asarray(rig.weights.argmax(1)).ravel()]
    out[rig.hands["left"]] = Region.LEFT_HAND
    out[rig.hands["right"]] = Region.RIGHT_HAND
    return out


def _eye_mesh(rig: Rig, shape: Shape, side: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices of an eyeball, its faces, and texture coordinates as seen from the front."""
    index = rig.eyes[side]
    lookup = np.full(rig.num_vertices, -1)
    lookup[index] = np.arange(len(index))
    faces = lookup[rig.faces[np.isin(rig.faces[:, 0], index)]].astype(np.int32)
    ball = shape.vertices[index]
    low, high = ball.min(0), ball.max(0)
    uv = np.stack([(ball[:, 0] - low[0]), (high[2] - ball[:, 2])], -1) / (high[0] - low[0])
    return index, faces, np.clip(uv, 0, 1).astype(np.float32)
