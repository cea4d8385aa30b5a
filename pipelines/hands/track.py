"""One hand through time: outliers dropped, gaps filled, jitter smoothed without lag.

Works on fitted meshes of any topology: rotations per joint, the wrist's place, and 2D keypoints. Nothing here crosses a
cut, and nothing is invented before the first or after the last frame in which a hand was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.signal import savgol_filter
from scipy.spatial.transform import Rotation

from models.perception.hands.base import Camera, HandFit, HandTrack

_NEIGHBOURS = 4  # frames each side that a detection is compared with
_MAX_JUMP = 1.2  # hand sizes from their median
_JITTER = 0.05  # hand sizes: what a keypoint may move from noise alone
_ANGLE_JITTER = np.radians(12.0)


@dataclass
class FilledTrack:
    """A fitted hand in every frame from which it is known.

    Attributes:
        frames: (T,) frame numbers, rising.
        interpolated: (T,) whether the hand was not seen here.
        score: (T,), 0 where interpolated.
        fit: Mesh parameters, T rows.
        points: (T, 21, 2) seen keypoints, smoothed; NaN where interpolated.
    """

    frames: np.ndarray
    interpolated: np.ndarray
    score: np.ndarray
    fit: HandFit
    points: np.ndarray


def drop_outliers(track: HandTrack) -> HandTrack:
    """The track without detections that jump away from their neighbours in time and back."""
    centres, frames = track.points.mean(1), track.frames
    size = np.median(np.ptp(track.points, axis=1).max(-1)) if len(frames) else 1.0
    keep = np.ones(len(frames), bool)
    first = np.searchsorted(frames, frames - _NEIGHBOURS)
    end = np.searchsorted(frames, frames + _NEIGHBOURS, side="right")
    for t in range(len(frames)):
        # Both sides must testify, and agree: the start of a quick move is no jump there and back.
        if min(t - first[t], end[t] - t - 1) >= 2:
            before, after = np.median(centres[first[t] : t], axis=0), np.median(centres[t + 1 : end[t]], axis=0)
            away = min(np.hypot(*(centres[t] - before)), np.hypot(*(centres[t] - after)))
            keep[t] = away <= _MAX_JUMP * size or np.hypot(*(before - after)) > 0.5 * away
    return track.keep(keep)


def runs(frames: np.ndarray, max_gap: int, cuts: Sequence[int] = ()) -> list[np.ndarray]:
    """Split rising frame numbers where more than `max_gap` are missing or a shot begins; row indices of each run."""
    shot = np.searchsorted(np.asarray(sorted(cuts), int), frames, side="right")
    breaks = np.flatnonzero((np.diff(frames) > max_gap + 1) | (np.diff(shot) != 0)) + 1
    return [r for r in np.split(np.arange(len(frames)), breaks) if len(r)]


def fill_and_smooth(
    track: HandTrack,
    fit: HandFit,
    camera: Camera,
    fps: float,
    wrists: np.ndarray | None = None,
    *,
    keypoints: Callable[[HandFit], np.ndarray],
    cuts: Sequence[int] = (),
    max_gap: int = 10,
    smoothing_s: float = 0.17,
    depth_smoothing_s: float = 0.5,
) -> FilledTrack:
    """Fill gaps and smooth a fitted track.

    Args:
        track: Where the hand was seen.
        fit: Its mesh, a row for each row of `track`.
        camera: Camera of the fit.
        fps: Frames a second.
        wrists: (F, 2) wrist of the body pose in every frame of the video, NaN where unknown; a filled hand follows it.
        keypoints: Posed keypoints (T, 21, 3) of fitted hands of this side, camera frame.
        cuts: First frames of shots.
        max_gap: Longest gap that is filled, frames.
        smoothing_s: Window for rotations and image positions.
        depth_smoothing_s: Window for depth.
    """
    parts = [
        _run(track.keep(rows), HandFit(fit.pose[rows], fit.shape, fit.translation[rows]), camera, wrists)
        for rows in runs(track.frames, max_gap, cuts)
    ]
    windows = [round(s * fps) for s in (smoothing_s, depth_smoothing_s)]
    for part in parts:
        _smooth(part, camera, *windows)
        _settle(part, camera, keypoints)
    if not parts:
        empty = np.zeros(0)
        return FilledTrack(empty.astype(int), empty.astype(bool), empty, fit, track.points)
    return FilledTrack(
        np.concatenate([p.frames for p in parts]),
        np.concatenate([p.interpolated for p in parts]),
        np.concatenate([p.score for p in parts]),
        HandFit(
            np.concatenate([p.fit.pose for p in parts]), fit.shape, np.concatenate([p.fit.translation for p in parts])
        ),
        np.concatenate([p.points for p in parts]),
    )


def _image_place(translation: np.ndarray, camera: Camera) -> np.ndarray:
    """(T, 3): wrist in pixels, and the logarithm of its depth."""
    return np.concatenate([camera.project(translation), np.log(translation[:, 2:])], -1)


def _world_place(place: np.ndarray, camera: Camera) -> np.ndarray:
    z = np.exp(place[:, 2:])
    return np.concatenate([(place[:, :2] - (camera.cx, camera.cy)) / (camera.fx, camera.fy) * z, z], -1)


def _run(track: HandTrack, fit: HandFit, camera: Camera, wrists: np.ndarray | None) -> FilledTrack:
    """Every frame of one run: spherical interpolation of rotations, the wrist led by the body pose."""
    frames = np.arange(track.frames[0], track.frames[-1] + 1)
    row = np.searchsorted(track.frames, frames, side="right") - 1
    seen = track.frames[row] == frames
    follow = np.minimum(row + 1, len(track.frames) - 1)
    share = np.where(seen, 0.0, (frames - track.frames[row]) / np.maximum(track.frames[follow] - track.frames[row], 1))
    place = _image_place(fit.translation, camera)
    filled = place[row] * (1 - share[:, None]) + place[follow] * share[:, None]
    if wrists is not None:
        size = float(np.median(np.ptp(track.points, axis=1).max(-1)))
        filled[:, :2] = _led(filled[:, :2], place[:, :2], wrists, track.frames, frames, row, follow, share, size)
    pose = fit.pose[row].copy()
    gap = np.flatnonzero(~seen)
    if len(gap):
        start = Rotation.from_rotvec(fit.pose[row[gap]].reshape(-1, 3))
        end = Rotation.from_rotvec(fit.pose[follow[gap]].reshape(-1, 3))
        part = np.repeat(share[gap], fit.pose.shape[1])[:, None]
        turn = start * Rotation.from_rotvec((start.inv() * end).as_rotvec() * part)
        pose[gap] = turn.as_rotvec().reshape(len(gap), -1, 3)
    points = np.where(seen[:, None, None], track.points[row], np.nan)
    score = np.where(seen, track.score[row], 0.0)
    return FilledTrack(frames, ~seen, score, HandFit(pose, fit.shape, _world_place(filled, camera)), points)


def _led(
    filled: np.ndarray,
    place: np.ndarray,
    wrists: np.ndarray,
    known: np.ndarray,
    frames: np.ndarray,
    row: np.ndarray,
    follow: np.ndarray,
    share: np.ndarray,
    size: float,
) -> np.ndarray:
    """Wrist pixels that keep their offset from the body pose's wrist, where that is known and agrees at both ends."""
    offset = place - wrists[known]
    blended = offset[row] * (1 - share[:, None]) + offset[follow] * share[:, None]
    led = wrists[frames] + blended
    apart = np.hypot(*(offset[follow] - offset[row]).T)
    with np.errstate(invalid="ignore"):
        trust = (share > 0) & np.isfinite(led).all(-1) & (apart < size)
    return np.where(trust[:, None], led, filled)


def _window(wanted: int, length: int) -> int:
    """Odd filter length, at least 5 to have any effect at order 2, not longer than the data; 0 for none."""
    limit = length if length % 2 else length - 1
    window = min(max(wanted | 1, 5), limit) if wanted >= 2 else 0
    return window if window >= 5 else 0


def _smooth(part: FilledTrack, camera: Camera, window: int, depth_window: int) -> None:
    """Savitzky-Golay filters of order 2, in place: no lag, and quick moves keep their height."""
    length = len(part.frames)
    place = _image_place(part.fit.translation, camera)
    if w := _window(window, length):
        size = float(np.nanmedian(np.ptp(part.points, axis=1).max(-1)))
        place[:, :2] = _gently(place[:, :2], savgol_filter(place[:, :2], w, 2, axis=0), _JITTER * size)
        part.fit.pose = smooth_rotations(part.fit.pose, w)
        part.points = _smooth_seen(part.points, w, _JITTER * size)
    if w := _window(depth_window, length):
        place[:, 2] = savgol_filter(place[:, 2], w, 2)
    part.fit.translation = _world_place(place, camera)


def _gently(values: np.ndarray, smooth: np.ndarray, jitter: float) -> np.ndarray:
    """Towards the filtered values (..., D): all the way where they are within `jitter`, hardly where they are far.

    A change much larger than the noise is motion faster than the filter.
    """
    change = smooth - values
    return values + change / (1 + (np.linalg.norm(change, axis=-1, keepdims=True) / jitter) ** 2)


def smooth_rotations(pose: np.ndarray, window: int) -> np.ndarray:
    """Filter axis-angle vectors (T, J, 3) over time as unit quaternions: weighted rotation averages."""
    length, joints = pose.shape[:2]
    given = Rotation.from_rotvec(pose.reshape(-1, 3))
    quaternions = given.as_quat().reshape(length, joints, 4)
    # q and -q are one rotation: signs follow from frame to frame.
    flips = np.sign((quaternions[1:] * quaternions[:-1]).sum(-1))
    flips[flips == 0] = 1
    quaternions[1:] *= np.cumprod(flips, axis=0)[..., None]
    smooth = Rotation.from_quat(savgol_filter(quaternions, window, 2, axis=0).reshape(-1, 4))
    change = (given.inv() * smooth).as_rotvec()
    change = _gently(np.zeros_like(change), change, _ANGLE_JITTER)
    return (given * Rotation.from_rotvec(change)).as_rotvec().reshape(pose.shape)


def _smooth_seen(points: np.ndarray, window: int, jitter: float) -> np.ndarray:
    """The filter over runs of seen frames (T, 21, 2), NaN elsewhere."""
    out = points.copy()
    seen = np.flatnonzero(np.isfinite(points[:, 0, 0]))
    for rows in runs(seen, 0):
        stretch = seen[rows]
        if w := _window(window, len(stretch)):
            out[stretch] = _gently(points[stretch], savgol_filter(points[stretch], w, 2, axis=0), jitter)
    return out


def _settle(part: FilledTrack, camera: Camera, keypoints: Callable[[HandFit], np.ndarray]) -> None:
    """Move the smoothed mesh across the image, at its depth, to where its keypoints were seen; in place."""
    posed = keypoints(part.fit)
    inverse = 1.0 / posed[..., 2:]
    seen = (part.points - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    shift = ((seen - posed[..., :2] * inverse) * inverse).sum(1) / (inverse**2).sum(1)
    part.fit.translation[:, :2] += np.where(part.interpolated[:, None], 0.0, np.nan_to_num(shift))
