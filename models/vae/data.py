"""Clips to fit the nano autoencoder to: random crops of real video and photos, and drawn moving patterns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.random import Generator

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".avi", ".mov", ".webm"})
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})

# Crops are reduced by at most this factor: what lies beyond is finer than any video that is dressed.
_MOST_REDUCED = 3.5


class NoClipsError(ValueError):
    """The given paths hold nothing to train on."""


def media_files(paths: Iterable[Path]) -> list[Path]:
    """Videos and photos among `paths` and in the folders among them, sorted by name so that a seed means one order."""
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise NoClipsError(f"{path} does not exist")
        # Hidden files are what other programs have not finished writing.
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.name[0] != "."]
        found.update(p for p in files if p.suffix.lower() in VIDEO_SUFFIXES | PHOTO_SUFFIXES)
    return sorted(found, key=lambda p: (p.name, str(p)))


def read_clip(path: Path, short_side: int, max_frames: int) -> np.ndarray:
    """Frames of a video or the one of a photo, reduced to at most `short_side` px on the short side.

    Args:
        path: Video or photo.
        short_side: Pixels; smaller pictures keep their size.
        max_frames: Frames kept, taken from the start.

    Returns:
        `[T, H, W, 3]` uint8 RGB.
    """
    frames: list[np.ndarray] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            picture: np.ndarray = frame.to_ndarray(format="rgb24")
            scale = short_side / min(picture.shape[:2])
            if scale < 1:
                size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
                picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            frames.append(picture)
            if len(frames) == max_frames:
                break
    if not frames:
        raise NoClipsError(f"{path} holds no frame that decodes")
    return np.stack(frames)


def centre_clip(source: np.ndarray, frames: int, height: int, width: int) -> torch.Tensor:
    """Middle frames of a source, cropped to the clip's shape and reduced, as `[1, 3, T, H, W]` in [-1, 1]."""
    frames = min(frames, 1 + 4 * ((len(source) - 1) // 4))
    start = (len(source) - frames) // 2
    full_h, full_w = source.shape[1:3]
    scale = min(full_h / height, full_w / width)
    crop_h, crop_w = round(height * scale), round(width * scale)
    y, x = (full_h - crop_h) // 2, (full_w - crop_w) // 2
    window = source[start : start + frames, y : y + crop_h, x : x + crop_w]
    small = np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in window])
    return torch.from_numpy(small.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)[None]


@dataclass(frozen=True)
class ClipShape:
    """Batch size and clip size of one training step."""

    batch: int
    frames: int
    height: int
    width: int


class ClipSampler:
    """Draws training batches; the same seed and step give the same batch, in whatever order they are asked for.

    Args:
        clips: `[T, H, W, 3]` uint8 arrays, photos with T = 1.
        seed: Seed of everything drawn.
        synthetic: Share of clips that are drawn patterns.
    """

    def __init__(self, clips: Sequence[np.ndarray], seed: int, synthetic: float = 0.25):
        if not clips:
            raise NoClipsError("no clips to draw from")
        self._clips = list(clips)
        self._seed = seed
        self._synthetic = synthetic
        # Long videos repeat themselves, so that their share grows with the root of their length only.
        weights = np.sqrt([len(c) for c in clips])
        self._weights = weights / weights.sum()

    def batch(self, step: int, shape: ClipShape) -> np.ndarray:
        """Clips of one training step.

        Returns:
            `[B, 3, T, H, W]` float32 in [-1, 1].
        """
        clips = []
        for index in range(shape.batch):
            rng = np.random.default_rng((self._seed, step, index))
            clip = self._drawn(rng, shape) if rng.random() < self._synthetic else self._real(rng, shape)
            clips.append(_jitter(rng, clip))
        return np.stack(clips).transpose(0, 4, 1, 2, 3) * 2 - 1

    def _real(self, rng: Generator, shape: ClipShape) -> np.ndarray:
        source = self._clips[rng.choice(len(self._clips), p=self._weights)]
        if len(source) < shape.frames:
            return _pan(rng, source[rng.integers(len(source))], shape)
        start = rng.integers(len(source) - shape.frames + 1)
        window = source[start : start + shape.frames]
        y, x, crop_h, crop_w = _crop(rng, window.shape[1:3], shape)
        size = (shape.width, shape.height)
        crops = [cv2.resize(f[y : y + crop_h, x : x + crop_w], size, interpolation=cv2.INTER_AREA) for f in window]
        clip = np.stack(crops).astype(np.float32) / 255
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        return clip[::-1] if rng.random() < 0.5 else clip

    def _drawn(self, rng: Generator, shape: ClipShape) -> np.ndarray:
        clip = _moving(rng, _texture(rng, 2 * max(shape.height, shape.width)), shape)
        for _ in range(rng.integers(1, 4)):
            side = max(shape.height, shape.width)
            layer = _moving(rng, _texture(rng, 2 * side), shape)
            mask = _moving(rng, _silhouette(rng, 2 * side), shape)
            clip = clip * (1 - mask) + layer * mask
        return clip


def _crop(rng: Generator, size: tuple[int, int], shape: ClipShape) -> tuple[int, int, int, int]:
    height, width = size
    largest = min(height / shape.height, width / shape.width)
    largest = min(largest, _MOST_REDUCED)
    # Never magnified, except where the picture itself is smaller than the clip.
    scale = math.exp(rng.uniform(math.log(min(1.0, largest)), math.log(largest)))
    crop_h, crop_w = min(height, round(shape.height * scale)), min(width, round(shape.width * scale))
    return int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1)), crop_h, crop_w


def _warp(picture: np.ndarray, centre: np.ndarray, scale: float, angle: float, shape: ClipShape) -> np.ndarray:
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    half = np.array([shape.width / 2, shape.height / 2])
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    matrix[:, 2] = centre - matrix[:, :2] @ half
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, matrix, (shape.width, shape.height), flags=flags, borderMode=cv2.BORDER_REFLECT)


def _path(rng: Generator, picture: np.ndarray, shape: ClipShape, scale: float) -> np.ndarray:
    times = np.linspace(-0.5, 0.5, shape.frames)[:, None]
    centre = np.array([picture.shape[1] / 2, picture.shape[0] / 2]) + rng.normal(size=2) * 0.1 * picture.shape[0]
    if rng.random() < 0.15:
        return np.repeat(centre[None], shape.frames, 0)
    speed = rng.normal(size=2) * rng.exponential(0.35) * shape.frames * scale * 2
    wave = np.sin(times * rng.uniform(0, 8) + rng.uniform(0, 6)) * rng.normal(size=2) * 2 * scale
    return centre + times * speed + wave


def _pan(rng: Generator, picture: np.ndarray, shape: ClipShape) -> np.ndarray:
    largest = min(picture.shape[0] / shape.height, picture.shape[1] / shape.width)
    scale = math.exp(rng.uniform(0, math.log(max(largest, 1.001))))
    # Averaged before sampling: plain bilinear sampling of a bigger picture aliases.
    factor = 1 / scale
    reduced = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return _moving(rng, reduced.astype(np.float32) / 255, shape)


def _moving(rng: Generator, picture: np.ndarray, shape: ClipShape) -> np.ndarray:
    scale = rng.uniform(0.7, 1.1)
    angle, turn = rng.normal() * 0.3, rng.normal() * 0.01
    path = _path(rng, picture, shape, scale)
    frames = [_warp(picture, c, scale, angle + turn * t, shape) for t, c in enumerate(path)]
    return np.stack(frames).reshape(shape.frames, shape.height, shape.width, -1)


def _texture(rng: Generator, side: int) -> np.ndarray:
    """A garment-like surface: flat, shaded, striped, checked, dotted or noisy, `[side, side, 3]` in [0, 1]."""
    base, other = rng.random((2, 3)).astype(np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), math.exp(rng.uniform(math.log(3), math.log(40)))
    along = (x * math.cos(angle) + y * math.sin(angle)) / period
    across = (y * math.cos(angle) - x * math.sin(angle)) / period
    kind = rng.integers(6)
    if kind == 0:
        mix = np.zeros_like(x)
    elif kind == 1:
        mix = (np.sin(along * 2 * math.pi) > rng.uniform(-0.8, 0.8)).astype(np.float32)
    elif kind == 2:
        mix = 0.5 * (np.mod(along, 1) < 0.5) + 0.5 * (np.mod(across, 1) < 0.5)
    elif kind == 3:
        mix = (np.hypot(np.mod(along, 1) - 0.5, np.mod(across, 1) - 0.5) < rng.uniform(0.1, 0.4)).astype(np.float32)
    elif kind == 4:
        cells = max(2, int(side / period))
        mix = cv2.resize(rng.random((cells, cells)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    else:
        mix = 0.5 + 0.5 * np.sin(along * 2 * math.pi)
    mix = cv2.GaussianBlur(np.asarray(mix, np.float32), (0, 0), rng.uniform(0.4, 1.0))[..., None]
    surface = base + (other - base) * mix
    folds = cv2.resize(rng.random((5, 5)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    surface = surface * (1 + rng.uniform(0, 0.6) * (folds[..., None] - 0.5))
    return np.clip(surface + rng.normal(0, rng.uniform(0, 0.02), surface.shape), 0, 1).astype(np.float32)


def _silhouette(rng: Generator, side: int) -> np.ndarray:
    """A blob, bar or polygon with a soft edge, `[side, side]` in [0, 1]."""
    canvas = np.zeros((side, side), np.uint8)
    count = int(rng.integers(3, 12))
    angles = np.sort(rng.uniform(0, 2 * math.pi, count))
    radii = side * rng.uniform(0.05, 0.3, count)
    points = side / 2 + np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)
    kind = rng.integers(3)
    if kind == 0:
        cv2.fillPoly(canvas, [points.astype(np.int32)], 255)
    elif kind == 1:
        axes = tuple(int(v) for v in side * rng.uniform(0.03, 0.25, 2))
        cv2.ellipse(canvas, (side // 2, side // 2), axes, rng.uniform(0, 180), 0, 360, 255, -1)
    else:
        ends = [tuple(int(v) for v in p) for p in points[:2]]
        cv2.line(canvas, ends[0], ends[1], 255, int(rng.integers(2, max(3, side // 8))))
    return cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 1.2)).astype(np.float32) / 255


def _jitter(rng: Generator, clip: np.ndarray) -> np.ndarray:
    """Exposure, contrast, tint and saturation, each drawn once for the whole clip."""
    if rng.random() < 0.3:
        return np.ascontiguousarray(clip, np.float32)
    grey = clip.mean(-1, keepdims=True)
    clip = grey + (clip - grey) * rng.uniform(0.5, 1.5)
    clip = (clip - 0.5) * rng.uniform(0.7, 1.25) + 0.5 + rng.normal(0, 0.06)
    clip = clip * (1 + rng.normal(0, 0.08, 3))
    return np.clip(clip, 0, 1).astype(np.float32)
