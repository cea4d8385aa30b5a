"""Body pose of one person through a video: what every estimator yields, and the tracker that follows the main person.

The networks are in `pose_networks`, the mask's way into the frame in `person_mask`.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import Protocol

import numpy as np

from models import weights
from models.perception.hands.networks import Region
from models.perception.identity import TORSO, Identity, IdentityLimits, torso_colours
from models.perception.one_euro import OneEuroFilter
from models.perception.pose_networks import BodyLandmarkNetwork, BodyLandmarks, Person, PersonDetector

WEIGHTS = ("pose_detection.tflite", "pose_landmark_full.tflite")
"""Files of the weights cache that the tracker reads."""

_LOOKAHEAD_FRAMES = 15
_LOOKAHEAD_BYTES = 200 << 20
_SCOUTED_FRAMES = 5
_MARGINS = (0.0, 0.25, 0.5)
_SAME_SPOT = 0.35  # of the region's side: detections nearer than this, in the scouted frames, are one person


class Frame(Protocol):
    """A frame as the project's video reader yields it."""

    @property
    def index(self) -> int:
        """Position from 0."""

    @property
    def time_s(self) -> float:
        """Seconds from the first frame."""

    @property
    def rgb(self) -> np.ndarray:
        """(height, width, 3) uint8 RGB, upright."""


@dataclass(frozen=True)
class Pose:
    """The main person in one frame.

    Attributes:
        points: (33, 4) float: x and y in frame pixels, z in pixels (smaller is nearer, origin between the hips),
            visibility 0 to 1. MediaPipe's order of landmarks.
        world: (33, 3) float, metres, origin between the hips; x right, y down, z away.
        presence: Probability that a person is there.
        mask_logits: (S, S) float32 within `region`, above 0 where the person is.
        region: The square of the frame that the mask covers.
    """

    points: np.ndarray
    world: np.ndarray
    presence: float
    mask_logits: np.ndarray
    region: Region

    @property
    def score(self) -> float:
        """Mean visibility of shoulders and hips, 0 to 1."""
        return float(self.points[TORSO, 3].mean())


class PoseEstimator(Protocol):
    """Follows the main person through a video."""

    def track(
        self,
        frames: Iterable[Frame],
        cuts: Collection[int] = (),
        inference: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[tuple[Frame, Pose | None]]:
        """Each frame with the pose of the main person, or None where that person was not found.

        Args:
            frames: Frames in order; few are held at a time.
            cuts: Indices of frames that begin a new shot; nothing is carried over a cut.
            inference: Entered around the networks' work, for accounting.
        """
        ...


@dataclass(frozen=True)
class _Sighting:
    """Somebody in a frame, and what tells him from others."""

    body: BodyLandmarks
    centre: np.ndarray
    colours: np.ndarray | None


def shot_counter(cuts: Collection[int]) -> Callable[[Frame], int]:
    """A key for `itertools.groupby` over frames in order: how many cuts lie at or before the frame."""
    starts = sorted(set(cuts))
    return lambda frame: bisect_right(starts, frame.index)


class PoseTracker:
    """Follows one person with Google's pose networks.

    Who: at the start of each shot people are searched in several of the first frames, and the one who is largest, most
    central and most often seen is followed. That also tells where to look in the very first frames, in which the
    detector often fails. After a loss only somebody at the expected place with the same colours on the torso is taken;
    otherwise the frame has no pose.

    Args:
        threads: Threads of each network.
        min_presence: Below it there is no person in the region.
        limits: How much the same person may change from frame to frame.
        smooth: Whether to filter landmarks as MediaPipe's video mode does.

    Raises:
        MissingWeights: The networks are not in the weights cache.
    """

    def __init__(
        self,
        threads: int = 1,
        min_presence: float = 0.5,
        limits: IdentityLimits | None = None,
        smooth: bool = True,
    ):
        self.min_presence = min_presence
        self.limits = limits or IdentityLimits()
        self.smooth = smooth
        self._detector = PersonDetector(weights.path(WEIGHTS[0]), threads)
        self._landmarks = BodyLandmarkNetwork(weights.path(WEIGHTS[1]), threads)

    def track(
        self,
        frames: Iterable[Frame],
        cuts: Collection[int] = (),
        inference: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[tuple[Frame, Pose | None]]:
        """See `PoseEstimator.track`."""
        for _, group in groupby(frames, shot_counter(cuts)):
            yield from self._track_shot(group, inference)

    def _track_shot(
        self, frames: Iterator[Frame], inference: Callable[[], AbstractContextManager[None]]
    ) -> Iterator[tuple[Frame, Pose | None]]:
        first = next(frames)
        ahead = int(np.clip(_LOOKAHEAD_BYTES // first.rgb.nbytes, 1, _LOOKAHEAD_FRAMES))
        head = [first, *islice(frames, ahead - 1)]
        with inference():
            follower = _Follower(self, self._main_person(head), len(head))
        for frame in chain(_drain(head), frames):
            with inference():
                pose = follower.step(frame)
            yield frame, pose

    def _main_person(self, head: list[Frame]) -> Region | None:
        """Where the main person of these frames is when first seen."""
        chosen = sorted({round(i) for i in np.linspace(0, len(head) - 1, min(_SCOUTED_FRAMES, len(head)))})
        for margin in _MARGINS:
            tracks: list[list[Person]] = []
            for i in chosen:
                for person in self._detector(head[i].rgb, margin):
                    near = [t for t in tracks if _distance(t[-1].region, person.region) < _SAME_SPOT]
                    if near:
                        min(near, key=lambda t: _distance(t[-1].region, person.region)).append(person)
                    else:
                        tracks.append([person])
            if tracks:
                best = max(tracks, key=lambda t: sum(_prominence(p, head[0].rgb.shape) for p in t))
                return best[0].region
        return None

    def find(self, rgb: np.ndarray, margin: float) -> list[Person]:
        """People in a frame, the most prominent first."""
        return sorted(self._detector(rgb, margin), key=lambda p: -_prominence(p, rgb.shape))

    def look(self, rgb: np.ndarray, region: Region) -> _Sighting | None:
        """The person in the region; None if there is nobody."""
        found = self._landmarks(rgb, region)
        if found.presence < self.min_presence:
            return None
        return _Sighting(found, found.points[TORSO, :2].mean(0), torso_colours(rgb, found.points))


class _Follower:
    """Follows one person through one shot.

    Args:
        tracker: The networks and limits.
        start: Where the main person is when first seen; None where nobody was.
        ahead: Frames from the start of the shot in which this was looked for. Until somebody is known, nobody who is
            elsewhere is followed in them: the main person may come into view only in the last of them.
    """

    def __init__(self, tracker: PoseTracker, start: Region | None, ahead: int):
        self._tracker = tracker
        self._start = self._region = start
        self._ahead = ahead
        self._settled = False
        self._identity = Identity(tracker.limits)
        self._searches = 0
        self._reset_filters()

    def _reset_filters(self) -> None:
        # Cutoffs of MediaPipe's `pose_landmark_filtering` graph.
        self._points, self._auxiliary = OneEuroFilter(0.05, 80.0), OneEuroFilter(0.01, 10.0)
        self._world = OneEuroFilter(0.1, 40.0)

    def step(self, frame: Frame) -> Pose | None:
        """The person in the next frame."""
        found = self._follow(frame) or self._search(frame)
        self._ahead -= 1
        if found is not None or self._ahead <= 0:
            self._start = None
        if found is None:
            self._settled = False
            self._reset_filters()
            return None
        self._searches = 0
        if not self._settled:
            # A region from the detector is a guess; the network's own second look is the one to trust.
            found = self._accept(self._tracker.look(frame.rgb, found.body.next_region), frame) or found
            self._settled = True
        return self._remember(found, frame)

    def _follow(self, frame: Frame) -> _Sighting | None:
        if self._region is None:
            return None
        return self._accept(self._tracker.look(frame.rgb, self._region), frame)

    def _search(self, frame: Frame) -> _Sighting | None:
        self._region = self._start
        self._settled = False
        margin = _MARGINS[self._searches % len(_MARGINS)]
        self._searches += 1
        for person in self._tracker.find(frame.rgb, margin):
            found = self._accept(self._tracker.look(frame.rgb, person.region), frame)
            if found:
                return found
        return None

    def _accept(self, found: _Sighting | None, frame: Frame) -> _Sighting | None:
        """The sighting, unless it cannot be the person followed so far, or the one to follow."""
        if found is None:
            return None
        if self._start is not None and _distance(self._start, found.body.next_region) >= _SAME_SPOT:
            return None
        size = found.body.next_region.size
        same = self._identity.accepts(found.centre, size, found.colours, frame.time_s, sure=self._settled)
        return found if same else None

    def _remember(self, found: _Sighting, frame: Frame) -> Pose:
        body = found.body
        if self._tracker.smooth:
            scale = 1 / max(body.region.size, 1.0)
            xyz = self._points(body.points[:, :3], frame.time_s, scale)
            body = replace(
                body,
                points=np.column_stack([xyz, body.points[:, 3]]),
                world=self._world(body.world, frame.time_s),
                auxiliary=self._auxiliary(body.auxiliary, frame.time_s, scale),
            )
        self._region = body.next_region
        self._identity.remember(found.centre, self._region.size, found.colours, frame.time_s)
        return Pose(body.points, body.world, body.presence, body.mask_logits, body.region)


def _drain(items: list[Frame]) -> Iterator[Frame]:
    # Lets go of each frame as it is handed on.
    items.reverse()
    while items:
        yield items.pop()


def _distance(a: Region, b: Region) -> float:
    return float(np.hypot(a.x - b.x, a.y - b.y)) / max(min(a.size, b.size), 1.0)


def _prominence(person: Person, shape: tuple[int, ...]) -> float:
    height, width = shape[:2]
    region = person.region
    off_centre = min(abs(region.x - width / 2) / (width / 2), 1.0)
    return person.score * region.size / max(height, width) * (1 - 0.5 * off_centre)
