"""Places behind a person, out of focus: painted, not photographed."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.studio.cloth import Label, Part
from pipelines.studio.render.camera import StudioCamera
from pipelines.studio.render.look import BACKGROUNDS, BackgroundKind, Look
from pipelines.studio.render.noise import mix, smooth_noise, smooth_step, to_bytes

_MARGIN = 0.1
"""Of the picture's size, on every side: what a shaking camera brings into view."""
_FLOOR_SHADOW = 0.45
_WALL_SHADOW = 0.28


class Background:
    """A place as the cameras of one clip see it. It is painted when the first camera looks, for what that one sees.

    Args:
        look: Kind of place, its light and the seed.
        floor_z: Height of the floor, metres, world.
    """

    def __init__(self, look: Look, floor_z: float):
        self._look, self._floor_z = look, floor_z
        self._rng = np.random.default_rng([look.seed, 1])
        self._wall_m = float(self._rng.uniform(0.5, 3.0))
        self._near_wall = look.background in ("wall", "brick", "studio") and self._wall_m < 1.3
        self._shadow = look.lights.shadow
        self._key = np.array(look.lights.key_direction)
        self._painted: tuple[StudioCamera, np.ndarray] | None = None

    def _paint(self, camera: StudioCamera) -> tuple[StudioCamera, np.ndarray]:
        """The first camera and the picture, larger than the camera's by `_MARGIN` on every side."""
        if self._painted is None:
            py, px = self._pad(camera)
            h, w = camera.height + 2 * py, camera.width + 2 * px
            # Where floor and wall meet, as a share of the picture.
            horizon = (camera.project(np.array([0.0, self._wall_m, self._floor_z]))[1] + py) / h
            picture = paint_background(self._rng, self._look.background, h, w, float(horizon))
            light = self._look.lights
            level = float(np.clip(light.ambient + 0.55 * light.key + 0.3 * light.fill, 0.5, 1.5)) ** (1 / 2.2)
            tint = (np.array(light.ambient_colour) + np.array(light.key_colour)) / 2
            self._painted = camera, to_bytes(picture * level * tint ** (1 / 2.2))
        return self._painted

    @staticmethod
    def _pad(camera: StudioCamera) -> tuple[int, int]:
        return round(camera.height * _MARGIN), round(camera.width * _MARGIN)

    def seen_by(self, camera: StudioCamera) -> np.ndarray:
        """What a camera sees of it, (H, W, 3) uint8. Turning matters, moving does not: the place is far."""
        first, picture = self._paint(camera)
        py, px = self._pad(camera)
        turned = camera.rotation @ first.rotation.T
        dx, dy = camera.focal * turned[0, 2], camera.focal * turned[1, 2]
        roll = np.arctan2(turned[1, 0], turned[0, 0])
        h, w = camera.height, camera.width
        if max(abs(dx), abs(dy), abs(roll) * w / 2) < 0.05:
            return picture[py : py + h, px : px + w].copy()
        cx, cy = (w - 1) / 2, (h - 1) / 2
        c, s = np.cos(roll), np.sin(roll)
        # From the picture asked for to the painted one.
        x0, y0 = cx + px - dx * c - dy * s, cy + py + dx * s - dy * c
        matrix = np.array([[c, s, x0 - c * cx - s * cy], [-s, c, y0 + s * cx - c * cy]])
        return cv2.warpAffine(
            picture, matrix, (w, h), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
        )

    def shade(self, rgb: np.ndarray, label: np.ndarray, parts: Sequence[Part], camera: StudioCamera) -> None:
        """Darken the place, in `rgb`, where the person takes its light."""
        small = (camera.width // 4, camera.height // 4)
        dark = np.zeros(small[::-1], np.float32)
        if self._near_wall and self._shadow > 0.2:
            person = cv2.resize((label != Label.BACKGROUND).astype(np.float32), small, interpolation=cv2.INTER_AREA)
            # The shadow falls away from the light, farther on a wall farther off.
            gap = self._wall_m / float(np.linalg.norm(camera.position)) * camera.focal / 4
            across, down = -self._key[0] / -self._key[1], self._key[2] / -self._key[1]
            moved = np.array([[1, 0, 0.8 * across * gap], [0, 1, 0.8 * down * gap]])
            soft = 2 + gap / 12
            dark = cv2.GaussianBlur(cv2.warpAffine(person, moved, small), (0, 0), soft) * _WALL_SHADOW * self._shadow
        feet = min(parts, key=lambda p: float(p.vertices[:, 2].min()))
        low = feet.vertices[feet.vertices[:, 2] < feet.vertices[:, 2].min() + 0.04]
        if low[:, 2].min() < self._floor_z + 0.25:
            at = camera.project(np.c_[low[:, :2], np.full(len(low), self._floor_z)]) / 4
            if at[:, 1].min() < small[1]:
                blot = np.zeros_like(dark)
                points = np.clip(np.rint(at), -1e4, 1e4).astype(np.int32)
                cv2.fillConvexPoly(blot, cv2.convexHull(points), 1.0)
                size = camera.focal / float(np.linalg.norm(camera.position)) / 4
                blot = cv2.GaussianBlur(cv2.dilate(blot, np.ones((3, 5))), (0, 0), 0.05 * size, sigmaY=0.018 * size)
                dark = np.maximum(dark, blot * _FLOOR_SHADOW)
        if dark.any():
            keep = cv2.resize((255 - dark * 255).astype(np.uint8), (camera.width, camera.height))
            cv2.multiply(rgb, cv2.merge([keep] * 3), dst=rgb, scale=1 / 255)


def paint_background(
    rng: np.random.Generator, kind: BackgroundKind, height: int, width: int, horizon: float
) -> np.ndarray:
    """A place under even light.

    Args:
        rng: Source of all choices.
        kind: What sort of place.
        height: Rows.
        width: Columns.
        horizon: Where wall and floor meet, as a share of the height; the floor shows only below it.

    Returns:
        (height, width, 3) float32, 0 to 1.

    Raises:
        ValueError: There is no such place.
    """
    if kind not in BACKGROUNDS:
        raise ValueError(f"unknown background {kind!r}; there are {', '.join(BACKGROUNDS)}")
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    return np.clip(_PAINTERS[kind](rng, y, x, horizon), 0, 1).astype(np.float32)


def _wall_colour(rng: np.random.Generator) -> np.ndarray:
    value = rng.beta(4, 1.8)
    tint = rng.normal(0, 0.06, 3)
    if rng.random() < 0.25:
        tint *= 2.5
    return np.clip(value * (0.93 + tint), 0.08, 0.95).astype(np.float32)


def _plaster(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, colour: np.ndarray, grain: float) -> np.ndarray:
    falloff = 1 + rng.normal(0, 0.12) * (x - 0.5) + rng.normal(-0.06, 0.1) * (y - 0.4)
    glow = np.exp(-(((x - rng.uniform(0, 1)) / 0.5) ** 2) - ((y - rng.uniform(0, 0.6)) / 0.5) ** 2)
    spots = 0.6 * smooth_noise(rng, y.shape, (5, 4), 3) + 0.4 * smooth_noise(rng, y.shape, (120, 90))
    shade = falloff + rng.uniform(0, 0.14) * glow + grain * spots
    return colour * shade[..., None]


def _floor(rng: np.random.Generator, picture: np.ndarray, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    if horizon > 1:
        return picture
    wood = np.array([0.48, 0.34, 0.22], np.float32)
    colour = wood * rng.uniform(0.5, 1.5) if rng.random() < 0.5 else _wall_colour(rng) * 0.7
    depth = 1 / np.maximum(y - horizon + 0.12, 0.02)
    lines = np.abs(((x - 0.5) * depth * 2.2 + 100) % 1 - 0.5)
    streaks = smooth_noise(rng, y.shape, (60, 6), 2)
    floor = colour * (1 + 0.06 * streaks - 0.12 * smooth_step(0.46, 0.5, lines))[..., None]
    skirting = np.exp(-(((y - horizon + 0.012) / 0.012) ** 4))
    picture = mix(picture, np.clip(_wall_colour(rng) * 1.05, 0, 1), 0.85 * skirting * (rng.random() < 0.6))
    return mix(picture, floor, smooth_step(horizon - 0.004, horizon + 0.004, y))


def _studio(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    # A paper backdrop runs into the floor without an edge.
    picture = _plaster(rng, y, x, _wall_colour(rng), 0.006)
    ring = np.hypot(x - 0.5, (y - 0.45) * 0.8)
    return picture * (1.08 - rng.uniform(0.1, 0.5) * ring**1.5)[..., None]


def _wall(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    picture = _plaster(rng, y, x, _wall_colour(rng), rng.uniform(0.01, 0.05))
    if rng.random() < 0.4:
        period = rng.uniform(0.05, 0.2)
        stripe = smooth_step(0.2, 0.3, np.abs((x / period) % 1 - 0.5))
        picture = mix(picture, picture * (1 + rng.choice([-1, 1]) * rng.uniform(0.05, 0.2)), stripe)
    return _floor(rng, picture, y, x, horizon)


def _brick(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    rows = rng.uniform(16, 34)
    row = np.floor(y * rows)
    across = x * rows * 0.36 + 0.5 * (row % 2)
    column = np.floor(across)
    tone = np.sin(row * 12.9898 + column * 78.233) * 43758.5453
    tone = (tone - np.floor(tone)) - 0.5
    base = np.array([0.55, 0.30, 0.23], np.float32) if rng.random() < 0.5 else _wall_colour(rng)
    picture = base * (1 + 0.3 * tone + 0.06 * smooth_noise(rng, y.shape, (90, 70), 2))[..., None]
    joint = np.minimum(np.abs((y * rows) % 1 - 0.5), 0.5)
    gap = np.maximum(smooth_step(0.42, 0.47, joint), smooth_step(0.46, 0.49, np.abs(across % 1 - 0.5)))
    picture = mix(picture, np.array([0.62, 0.60, 0.57], np.float32) * rng.uniform(0.6, 1.2), gap)
    return _floor(rng, cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 4)), y, x, horizon)


def _furnish(rng: np.random.Generator, picture: np.ndarray, count: int, horizon: float) -> np.ndarray:
    h, w = picture.shape[:2]
    picture = np.ascontiguousarray(picture, np.float32)
    ground = min(horizon, 1.1)
    for _ in range(count):
        colour = tuple(float(c) for c in np.clip(_wall_colour(rng) * rng.uniform(0.3, 1.1), 0, 1))
        cx, wide, tall = rng.uniform(0, 1), rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.45)
        standing = rng.random() < 0.55
        bottom = ground + 0.02 if standing else rng.uniform(0.15, 0.7)
        box = [cx - wide / 2, bottom - tall, cx + wide / 2, bottom]
        p, q = (round(box[0] * w), round(box[1] * h)), (round(box[2] * w), round(box[3] * h))
        kind = rng.random()
        if kind < 0.7:
            cv2.rectangle(picture, p, q, colour, -1, cv2.LINE_AA)
            inside = tuple(float(c) for c in np.clip(np.array(colour) * rng.uniform(0.6, 1.5), 0, 1))
            edge = max(2, round(0.012 * w))
            if rng.random() < 0.6:
                cv2.rectangle(picture, (p[0] + edge, p[1] + edge), (q[0] - edge, q[1] - edge), inside, -1, cv2.LINE_AA)
            else:
                for level in np.linspace(p[1], q[1], int(rng.integers(3, 6)))[1:-1]:
                    cv2.line(picture, (p[0], round(level)), (q[0], round(level)), inside, 2, cv2.LINE_AA)
        else:
            leaf = np.array([0.20, 0.36, 0.16]) * rng.uniform(0.6, 1.5)
            centre = np.array([cx * w, (bottom - tall / 2) * h])
            for _ in range(24):
                at = centre + rng.normal(0, 1, 2) * (0.05 * w, 0.22 * tall * h)
                shade = tuple(float(c) for c in np.clip(leaf * rng.uniform(0.6, 1.4), 0, 1))
                axes = (round(0.035 * w), round(0.012 * w))
                cv2.ellipse(picture, np.rint(at).astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, shade, -1)
    return picture


def _room(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    picture = _floor(rng, _plaster(rng, y, x, _wall_colour(rng), 0.012), y, x, horizon)
    picture = _furnish(rng, picture, int(rng.integers(2, 6)), horizon)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(1.5, 7) * y.shape[0] / 640)


def _clutter(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    picture = _floor(rng, _plaster(rng, y, x, _wall_colour(rng), 0.012), y, x, horizon)
    picture = _furnish(rng, picture, int(rng.integers(14, 40)), horizon)
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(2, 14) * y.shape[0] / 640)


def _window(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    picture = _floor(rng, _plaster(rng, y, x, _wall_colour(rng) * 0.85, 0.01), y, x, horizon)
    left, top = rng.uniform(-0.2, 0.75), rng.uniform(-0.1, 0.15)
    wide, tall = rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.75)
    u, v = (x - left) / wide, (y - top) / tall
    inside = (np.minimum(u, 1 - u) > 0) & (np.minimum(v, 1 - v) > 0)
    panes = int(rng.integers(1, 4))
    bars = (np.abs((u * panes) % 1 - 0.5) > 0.475) | (np.abs((v * 2) % 1 - 0.5) > 0.485)
    outside = mix(
        np.broadcast_to(np.array([0.86, 0.93, 1.0], np.float32), picture.shape),
        np.array([0.45, 0.58, 0.40], np.float32),
        smooth_step(0.2, 0.9, v + 0.15 * smooth_noise(rng, y.shape, (6, 6), 3)) * rng.uniform(0, 0.9),
    )
    picture = np.where((inside & ~bars)[..., None], outside * rng.uniform(0.95, 1.25), picture)
    glow = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.07 * y.shape[0])
    picture = picture + rng.uniform(0.05, 0.22) * glow[..., None]
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(1, 6) * y.shape[0] / 640)


def _outdoor(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, horizon: float) -> np.ndarray:
    line = float(np.clip(rng.normal(0.5, 0.08), 0.35, 0.7))
    sky = mix(
        np.broadcast_to(np.array([0.55, 0.70, 0.92], np.float32), (*y.shape, 3)),
        np.array([0.92, 0.94, 0.96], np.float32),
        np.clip(y / line + 0.25 * smooth_noise(rng, y.shape, (4, 3), 4), 0, 1),
    )
    if rng.random() < 0.6:
        low, high = np.array([0.10, 0.17, 0.07], np.float32), np.array([0.42, 0.50, 0.22], np.float32)
        ground = np.array([0.40, 0.45, 0.24], np.float32)
    else:
        low, high = np.array([0.30, 0.29, 0.29], np.float32), np.array([0.66, 0.60, 0.54], np.float32)
        ground = np.array([0.50, 0.49, 0.47], np.float32)
    leaves = smooth_noise(rng, y.shape, (28, 22), 4)
    crowns = smooth_noise(rng, y.shape, (2, 5), 3)
    trees = low + (high - low) * smooth_step(-1.6, 1.8, leaves)[..., None]
    picture = mix(sky, trees, smooth_step(-0.03, 0.03, y - line + 0.22 + 0.11 * crowns))
    earth = ground * (1 + 0.10 * smooth_noise(rng, y.shape, (50, 12), 3))[..., None]
    picture = mix(picture, earth, smooth_step(-0.01, 0.01, y - line - 0.12))
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), rng.uniform(2, 10) * y.shape[0] / 640)


_PAINTERS = {
    "studio": _studio,
    "wall": _wall,
    "brick": _brick,
    "room": _room,
    "clutter": _clutter,
    "window": _window,
    "outdoor": _outdoor,
}
