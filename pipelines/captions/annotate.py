"""The kinematic backend applied to one video: tables in, captions out."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from pipelines.captions.base import ActionCaption, GlobalCaption
from pipelines.captions.cloth import Scene, drag_shares
from pipelines.captions.features import Hand, hand_distance
from pipelines.captions.kinematic import caption_actions, contact_evidence, nearness
from pipelines.captions.settings import CaptionSettings
from pipelines.captions.spans import drop_short, frames_of, merge_overlapping, runs
from pipelines.captions.tracks import (
    HAND_COLUMNS,
    MASK_COLUMNS,
    POSE_COLUMNS,
    GarmentRegion,
    Tracks,
    build_tracks,
)
from pipelines.captions.wording import describe
from pipelines.stage import VideoTask
from pipelines.video import VideoReader

# A slower hand moves less than tracking can tell from noise between two pictures.
_MOVING = 0.3
_MASK_HOLD_S = 0.1
# Tips of thumb and index over the length of the palm; an open hand cannot pull cloth.
_GRIP = 0.6


class KinematicBackend:
    """Captions from pose, hands, masks and the motion of cloth."""

    def __init__(self, settings: CaptionSettings):
        self.settings = settings

    def caption(
        self, task: VideoTask, known_actions: list[ActionCaption] | None = None
    ) -> tuple[GlobalCaption, list[ActionCaption]]:
        """Captions of one video.

        Args:
            task: The video.
            known_actions: Interactions that people labelled; they are not looked for then.
        """
        row, settings = task.row, self.settings.kinematic
        size = (row["height"], row["width"])
        pose, hands = task.rows("pose", POSE_COLUMNS), task.rows("hands", HAND_COLUMNS)
        tracks = build_tracks(pose, hands, row["num_frames"], row["fps"], size, settings)
        actions = known_actions
        if actions is None:
            actions = self._actions(
                tracks,
                GarmentRegion(task.rows("agnostic_masks", MASK_COLUMNS), frames_of(_MASK_HOLD_S, row["fps"])),
                task,
            )
        text = describe(tracks.body, list(tracks.hands.values()), [a.text for a in actions], size[0], tracks.fps)
        seen = float(np.nan_to_num(tracks.pose_score).mean()) if len(tracks.pose_score) else 0.0
        return GlobalCaption(text, min(1.0, seen)), actions

    def _actions(self, tracks: Tracks, region: GarmentRegion, task: VideoTask) -> list[ActionCaption]:
        settings, fps = self.settings.kinematic, tracks.fps
        torso = region.category != "lower_body"
        # Masks are decoded only where a bent arm has its hand at the torso or, for trousers, anywhere.
        possible = {
            side: (h.elbow_flexion < 170) & ((h.inside > 0.2) | (h.from_other_forearm < 0.3) | (not torso))
            for side, h in tracks.hands.items()
        }
        around = region.shares_around(tracks.hands, possible)
        near = {side: nearness(hand, around[side], settings, torso) for side, hand in tracks.hands.items()}
        drag = {side: np.full(len(tracks.times_s), np.nan) for side in tracks.hands}
        if settings.cloth_motion:
            self._measure_drag(tracks, near, drag, task)
        apart = hand_distance(tracks.body)
        evidence = {
            side: contact_evidence(hand, near[side], drag[side], apart, fps, settings)
            for side, hand in tracks.hands.items()
        }
        cuts = task.row.get("cut_frames") or ()
        smoothing = self.settings.smoothing
        return caption_actions(tracks.body, tracks.hands, evidence, drag, fps, smoothing, settings, cuts)

    def _measure_drag(
        self, tracks: Tracks, near: dict[str, np.ndarray], drag: dict[str, np.ndarray], task: VideoTask
    ) -> None:
        """Fill `drag` where a hand moves over the garment; only those stretches of the video are decoded."""
        settings, fps = self.settings.kinematic, tracks.fps
        wanted = {side: _may_pull(hand, near[side], settings.speed.centre) for side, hand in tracks.hands.items()}
        # What is shorter than an action has to be is not worth a look.
        shortest = frames_of(self.settings.smoothing.opening_s, fps)
        stretches = []
        for side, moving in wanted.items():
            for start, stop in runs(drop_short(near[side] >= 0.5, shortest)):
                if (at := np.flatnonzero(moving[start:stop])).size:
                    stretches.append((start + int(at[0]), start + int(at[-1]) + 1))
        if not stretches:
            return
        scale = min(1.0, settings.cloth_unit_px / float(np.nanmedian(tracks.body.unit_px)))
        # Pictures that are not compared are decoded, which later ones need, but not converted.
        rate = 1 / settings.cloth_step_s if fps * settings.cloth_step_s > 1 else None
        grid = rate or fps
        with VideoReader(task.path, rate, max(16, round(scale * max(tracks.size))), task.threads) as reader:
            for start, stop in merge_overlapping(stretches):
                before: tuple[int, Scene] | None = None
                first = math.ceil(tracks.times_s[start] * grid - 1e-6) if rate else start
                last = math.ceil(tracks.times_s[stop - 1] * grid - 1e-6) if rate else stop
                for index, scene in _scenes(reader, tracks, first, last):
                    if before is not None:
                        sides = [s for s, moving in wanted.items() if moving[before[0] : index + 1].any()]
                        for side, share in drag_shares(before[1], scene, sides).items():
                            drag[side][index] = share
                    before = (index, scene)


def _scenes(reader: VideoReader, tracks: Tracks, start: int, stop: int) -> Iterator[tuple[int, Scene]]:
    """Frame number in the file, and what is seen there."""
    for frame in reader.frames(start, stop):
        index = frame.source_index
        if index >= len(tracks.times_s):
            return
        scale = frame.rgb.shape[1] / tracks.size[1]
        hands = {
            side: hand.keypoints[index] * scale
            for side, hand in tracks.hands.items()
            if np.isfinite(hand.keypoints[index]).all()
        }
        unit = float(tracks.body.unit_px[index]) * scale
        if np.isfinite(unit):
            grey = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
            yield index, Scene(grey, tracks.body.landmarks[index, :, :2] * scale, hands, unit)


def _may_pull(hand: Hand, near: np.ndarray, passing: float) -> np.ndarray:
    """Where a hand could take cloth along: over the garment, moving, with fingers closed enough to hold something."""
    speed = np.nan_to_num(hand.speed)
    return (near >= 0.5) & (speed > _MOVING) & (speed < passing) & (hand.pinch < _GRIP)
