"""Paints a person's skin into the rig's texture: face, brows, lips, lashes, stubble, scalp, nails, mottling.

Everything is placed by where a texel lies on the mean body at rest, so it sits alike on every shape. Distances are
metres there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from models.perception.hands.base import Camera
from models.perception.mesh_render import vertex_normals
from pipelines.studio.body.rig import Rig
from pipelines.studio.render.look import Face, Hair
from pipelines.studio.render.noise import mix, smooth_noise, smooth_step, to_bytes
from pipelines.studio.render.occlusion import vertex_openness
from pipelines.studio.render.raster import Window, rasterize

SIZE = 768
"""Pixels of the skin's texture: twice as fine as a head-to-hip picture at 640 rows shows it."""
HEAD_AXIS_Y = -0.03
"""Where the head's vertical axis stands on the mean body."""
_EYE_HEIGHT = 0.7195


@dataclass(frozen=True)
class SkinMaps:
    """What each texel of the skin's texture is.

    Attributes:
        position: (S, S, 3) on the mean body at rest, metres; texels beside the islands continue the nearest.
        lips: (S, S) 0 to 1.
        eyelids: (S, S) 0 to 1.
        nails: (S, S) 0 to 1.
        openness: (S, S) 0 to 1, how much of the light around reaches the skin at rest.
        palms: (S, S) 0 to 1.
        eye_gap: (S, S) metres from the nearer eyeball.
    """

    position: np.ndarray
    lips: np.ndarray
    eyelids: np.ndarray
    nails: np.ndarray
    openness: np.ndarray
    palms: np.ndarray
    eye_gap: np.ndarray


@lru_cache(maxsize=1)
def skin_maps(rig: Rig) -> SkinMaps:
    """Maps of the rig's texture, made once."""
    shape = rig.shape()
    vertices = shape.vertices
    palm = np.zeros(len(vertices))
    gap = np.full(len(vertices), np.inf)
    for side, mirror in (("left", 1.0), ("right", -1.0)):
        suffix = "." + side[0].upper()
        wrist, index, little = (shape.joints[rig.index(n + suffix)] for n in ("wrist", "finger2-1", "finger5-1"))
        out = -mirror * np.cross(index - wrist, little - wrist)
        normals = vertex_normals(vertices, rig.faces)[rig.hands[side]]
        palm[rig.hands[side]] = smooth_step(0.0, 0.5, normals @ (out / np.linalg.norm(out)))
        ball = vertices[rig.eyes[side]]
        centre = (ball.min(0) + ball.max(0)) / 2
        gap = np.minimum(gap, np.linalg.norm(vertices - centre, axis=1) - (ball[:, 0].max() - ball[:, 0].min()) / 2)
    openness = vertex_openness(vertices, rig.faces)
    marks = np.stack([rig.marks["lips"], rig.marks["eyelids"], rig.marks["fingernails"]], -1)
    layers = [vertices, marks, np.stack([openness, palm, np.minimum(gap, 1.0)], -1)]
    position, marked, rest = _unfold(rig, layers)
    return SkinMaps(position, *np.moveaxis(marked, -1, 0), *np.moveaxis(rest, -1, 0))


def _unfold(rig: Rig, layers: list[np.ndarray]) -> list[np.ndarray]:
    """Vertex values (V, 3) as textures (S, S, 3)."""
    body = ~np.isin(rig.faces[:, 0], np.concatenate(list(rig.eyes.values())))
    faces, uv = rig.faces[body], rig.corner_uv[body]
    corners = np.concatenate([uv.reshape(-1, 2) * (1, -1) + (0, 1), np.ones((len(faces) * 3, 1))], 1)
    camera = Camera(SIZE, SIZE, -0.5, -0.5)
    order = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    out = []
    for values in layers:
        drawn = rasterize(corners, order, values[faces.ravel()], camera, Window(0, 0, SIZE, SIZE))
        # Beside the islands, go on with the nearest texel: bilinear reads reach over the border.
        _, nearest = cv2.distanceTransformWithLabels(
            (~drawn.seen).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
        )
        numbers = np.zeros(int(nearest.max()) + 1, np.intp)
        numbers[nearest[drawn.seen]] = np.flatnonzero(drawn.seen)
        out.append(drawn.attributes.reshape(-1, 3)[numbers[nearest]])
    return out


def hairline(azimuth: np.ndarray, recession: float = 0.0) -> np.ndarray:
    """Height of the hairline on the mean head, metres.

    Args:
        azimuth: Angle about the head's axis from the front, 0 to pi, radians.
        recession: 0 to 1.
    """
    angles = np.radians([0, 22, 38, 50, 62, 72, 80, 92, 104, 116, 135, 180])
    heights = np.array([0.792, 0.791, 0.785, 0.774, 0.758, 0.728, 0.702, 0.722, 0.712, 0.682, 0.652, 0.645])
    back = np.array([0.012, 0.016, 0.026, 0.026, 0.012, 0, 0, 0, 0, 0, 0, 0]) * recession
    return np.interp(azimuth, angles, heights + back)


def azimuth(position: np.ndarray) -> np.ndarray:
    """Angle about the head's axis from the front, 0 to pi, of points (..., 3) on the mean head."""
    return np.arctan2(np.abs(position[..., 0]), HEAD_AXIS_Y - position[..., 1])


def paint_skin(rig: Rig, face: Face, hair: Hair) -> np.ndarray:
    """The skin's texture (S, S, 4) uint8: RGB, and how much of the roots of hair show."""
    maps = skin_maps(rig)
    rng = np.random.default_rng(face.seed)
    z = maps.position[..., 2]
    tone = np.array(face.skin, np.float32)
    light = float(tone.mean())
    red = tone * np.array([1.02, 0.80, 0.78], np.float32)
    mottle = smooth_noise(rng, (SIZE, SIZE), (26, 26), 3)
    picture = np.broadcast_to(tone, (SIZE, SIZE, 3)) * (1 + 0.018 * mottle[..., None])
    flush = smooth_noise(rng, (SIZE, SIZE), (18, 18), 3)
    picture = mix(picture, red, np.clip(0.14 + 0.06 * flush, 0, 1))
    # Palms and soles are lighter, most of all on dark skin; finger tips and knuckles redder.
    pale = mix(tone, np.array([0.86, 0.66, 0.56], np.float32), 0.15 + 0.5 * (1 - light))
    picture = mix(picture, pale, maps.palms * 0.8)
    nail = mix(tone * 1.06, np.array([0.93, 0.74, 0.70], np.float32), 0.35)
    picture = mix(picture, np.clip(nail, 0, 1), smooth_step(0.3, 0.8, maps.nails) * 0.85)
    head = z > 0.56
    area = np.flatnonzero(head.ravel())
    local = SkinMaps(*(m.reshape(SIZE * SIZE, *m.shape[2:])[area] for m in vars(maps).values()))
    fine = smooth_noise(rng, (SIZE, SIZE), (330, 330)).ravel()[area]
    strands = smooth_noise(rng, (SIZE, SIZE), (120, 420)).ravel()[area]
    flat = picture.reshape(-1, 3)
    flat[area] = _paint_head(flat[area], local, face, hair, red, fine, strands)
    openness = 0.45 + 0.55 * maps.openness**0.8
    # What light reaches a fold has been through skin before.
    shade = np.stack([openness**0.75, openness**1.05, openness**1.1], -1)
    hairy = np.zeros((SIZE, SIZE), np.float32)
    if hair.style != "bald":
        hairy.ravel()[area] = scalp_share(local.position, hair)
    return to_bytes(np.dstack([picture * shade, hairy]))


def _paint_head(
    picture: np.ndarray,
    maps: SkinMaps,
    face: Face,
    hair: Hair,
    red: np.ndarray,
    fine: np.ndarray,
    strands: np.ndarray,
) -> np.ndarray:
    """Colours (N, 3) of texels of the head."""
    x, y, z = maps.position.T
    side = np.abs(x)
    front = smooth_step(-0.045, -0.085, y)
    tone = np.array(face.skin, np.float32)
    hair_colour = np.array(hair.colour, np.float32)

    def spot(cx: float, cz: float, rx: float, rz: float) -> np.ndarray:
        return front * np.exp(-(((side - cx) / rx) ** 2) - ((z - cz) / rz) ** 2)

    rosy = 0.5 * spot(0.043, 0.683, 0.026, 0.021) + 0.38 * spot(0, 0.684, 0.015, 0.014)
    ears = smooth_step(0.074, 0.082, side) * smooth_step(0.735, 0.72, z)
    picture = mix(picture, red * (1.0, 0.9, 0.9), np.clip(face.blush * (rosy + 0.4 * ears), 0, 0.6))
    # Under the eyes, beside the nose, round the mouth.
    weary = spot(0.032, 0.7035, 0.015, 0.0045) + 0.8 * np.exp(
        -(((side - (0.0225 + 0.9 * (0.676 - z))) / 0.0022) ** 2)
    ) * front * smooth_step(0.681, 0.672, z) * smooth_step(0.650, 0.662, z)
    picture = picture * (1 - (0.03 + 0.10 * face.age) * np.clip(weary, 0, 1)[:, None])
    picture = picture * (1 - 0.10 * spot(0.031, 0.7285, 0.018, 0.004)[:, None])
    if face.freckles:
        where = np.clip(spot(0.03, 0.69, 0.035, 0.022) + spot(0, 0.69, 0.02, 0.015), 0, 1)
        spots = smooth_step(1.3, 2.1, fine) * where
        picture = mix(picture, tone * (0.72, 0.60, 0.5), spots * face.freckles * 0.8)
    # Lips: the mark is as coarse as the mesh; fuller in the middle, darker where they meet.
    lips = smooth_step(0.15, 0.7, maps.lips)
    picture = mix(picture, np.array(face.lips, np.float32), lips * 0.85)
    meet = np.exp(-(((z - 0.6482 + 0.02 * side) / 0.0013) ** 2)) * (side < 0.0255) * smooth_step(-0.115, -0.12, y)
    picture = picture * (1 - 0.62 * meet[:, None])
    picture = picture * (1 + 0.05 * spot(0, 0.642, 0.012, 0.003)[:, None])
    # Stubble and beard.
    jaw = smooth_step(0.672, 0.655, z - 0.75 * np.clip(side - 0.028, 0, 0.04)) * smooth_step(0.583, 0.605, z)
    jaw = np.maximum(jaw * smooth_step(-0.02, -0.045, y), _sideburn(side, y, z))
    philtrum = spot(0, 0.664, 0.03, 0.006)
    beard = np.clip(np.maximum(jaw, philtrum), 0, 1) * (1 - lips)
    cover = np.clip(face.stubble * 1.15, 0, 1)
    if face.stubble > 0.12:
        density = np.clip(beard * (0.25 + 0.75 * cover) + 0.10 * cover * fine * (beard > 0.2), 0, 1)
        shade = mix(tone * 0.62, hair_colour, 0.35 + 0.55 * cover)
        picture = mix(picture, shade * (1 + 0.13 * strands[:, None]), density * (0.18 + 0.75 * cover))
    # Brows: an arch that narrows outwards.
    along = np.clip((side - 0.0145) / 0.041, -0.3, 1.3)
    arch = 0.7398 + 0.0085 * np.sin(np.clip(along, 0, 1.1) * 2.2) - 0.0035 * along**2
    width = (0.0026 + 0.0020 * face.brows) * np.clip(1.15 - 0.75 * along, 0.1, 1)
    ends = smooth_step(-0.03, 0.12, along) * smooth_step(1.08, 0.85, along)
    brow = (
        ends
        * np.exp(-(np.abs((z - arch) / width) ** 2.5))
        * np.clip(0.85 + 0.22 * strands, 0.3, 1)
        * front
        * (0.5 + 0.5 * face.brows)
    )
    picture = mix(picture, np.minimum(hair_colour * 0.75, tone * 0.55), np.clip(brow, 0, 1) * 0.92)
    # Lashes: the rims of the lids.
    rim = smooth_step(0.0030, 0.0012, maps.eye_gap) * front
    upper = smooth_step(_EYE_HEIGHT - 0.002, _EYE_HEIGHT + 0.002, z)
    lash = np.minimum(hair_colour * 0.45, 0.16)
    picture = mix(picture, lash, np.clip(rim * (0.25 + 0.62 * upper), 0, 1))
    lid = smooth_step(0.3, 0.9, maps.eyelids) * upper
    picture = picture * (1 - 0.10 * lid[:, None])
    return _paint_scalp(picture, maps, hair, tone, fine, strands)


def _sideburn(side: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Strip before the ear that joins beard and hair."""
    strip = np.exp(-(((y + 0.054) / 0.011) ** 2)) * (side > 0.05)
    return strip * smooth_step(0.735, 0.715, z) * smooth_step(0.62, 0.65, z)


def scalp_share(position: np.ndarray, hair: Hair) -> np.ndarray:
    """How much of the hair's roots show at points (..., 3) of the mean head, 0 to 1 with a soft hairline."""
    z = position[..., 2]
    line = hairline(azimuth(position), hair.recession)
    ear = (np.abs(position[..., 0]) > 0.0775) & (z < 0.73)
    return smooth_step(-0.004, 0.007, z - line) * ~ear


def _paint_scalp(
    picture: np.ndarray, maps: SkinMaps, hair: Hair, tone: np.ndarray, fine: np.ndarray, strands: np.ndarray
) -> np.ndarray:
    share = scalp_share(maps.position, hair)
    colour = np.array(hair.colour, np.float32)
    if hair.style == "bald":
        return mix(picture, mix(tone * 0.86, colour, 0.15), share * 0.14)
    roots = colour * (1 + 0.12 * strands[:, None])
    if hair.style == "buzz":
        short = mix(colour * (1 + 0.10 * fine[:, None]), tone * 0.7, 0.2)
        return mix(picture, short, share * np.clip(0.84 + 0.06 * fine, 0, 1))
    return mix(picture, mix(roots, tone * 0.6, 0.12), share * 0.97)


def paint_eye(face: Face) -> np.ndarray:
    """Texture (96, 96, 3) uint8 RGB of an eyeball seen from the front; it spans the ball's whole width."""
    size = 96
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    r = np.hypot(x, y)
    rng = np.random.default_rng(face.seed + 1)
    iris = np.array(face.eyes, np.float32)
    white = np.broadcast_to(np.array([0.90, 0.875, 0.855], np.float32), (size, size, 3))
    veins = smooth_step(0.45, 0.95, np.abs(x))
    picture = mix(white, np.array([0.80, 0.62, 0.58], np.float32), 0.35 * veins)
    radius = 0.405
    rays = smooth_noise(rng, (size, size), (24, 24))
    inner = mix(iris * (1 + 0.18 * rays[..., None]), iris * 1.35, smooth_step(0.33, 0.2, r) * 0.6)
    picture = mix(picture, inner, smooth_step(radius + 0.03, radius - 0.03, r))
    rim = np.exp(-(((r - radius) / 0.045) ** 2))
    picture = mix(picture, iris * 0.3, rim * 0.75)
    picture = mix(picture, np.array([0.02, 0.02, 0.02], np.float32), smooth_step(0.185, 0.14, r))
    # The upper lid shades the ball; a window shows in it.
    picture = picture * (1 - 0.38 * smooth_step(0.02, -0.42, y)[..., None])
    glint = np.exp(-(((x + 0.13) / 0.07) ** 2) - ((y + 0.12) / 0.07) ** 2)
    picture = mix(picture, np.array([1, 1, 1], np.float32), glint * 0.9)
    return to_bytes(picture)
