"""The agnostic mask stage: from rows of `pose` and `hands` to one mask a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from typing import ClassVar, TypeVar

import cv2
import numpy as np
import pyarrow as pa

from pipelines.arrays import encode_mask, record_batch
from pipelines.masks.base import MaskBackend, Observation, Region
from pipelines.masks.hands import held_cloth, keep_hands_visible
from pipelines.masks.observations import HAND_COLUMNS, POSE_COLUMNS, observations
from pipelines.masks.settings import CODE_VERSION, MasksSettings
from pipelines.masks.temporal import RunningVote
from pipelines.stage import Stage, VideoTask
from pipelines.store.schemas import GARMENT_CATEGORIES

T = TypeVar("T")
_ROWS = 512  # rows of one record batch
_BLUR = 1 / 64  # side of the blur before the vote, fraction of the working width


def make_backend(settings: MasksSettings) -> MaskBackend:
    """The backend that the settings name."""
    if settings.backend == "geometric":
        from pipelines.masks.geometric import GeometricBackend

        return GeometricBackend(settings)
    from pipelines.masks.parsing import ParsingBackend

    return ParsingBackend(settings)


class AgnosticMaskStage(Stage):
    """Which pixels of each frame are repainted. The category comes from `videos.garment_category`."""

    name: ClassVar[str] = "agnostic_masks"
    code_version: ClassVar[str] = CODE_VERSION
    inputs: ClassVar[tuple[str, ...]] = ("pose", "hands")
    video_columns: ClassVar[tuple[str, ...]] = ("sha256", "garment_category", "cut_frames")

    settings: MasksSettings

    def __init__(self, settings: MasksSettings):
        super().__init__(settings)
        self.backend = make_backend(settings)

    def weights(self) -> Mapping[str, str]:
        """Weights of the backend's network, if it has one."""
        return self.backend.weights()

    def setup(self, threads: int) -> None:
        """Load the backend's network, if it has one."""
        self.backend.setup(threads)

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Rows of one video; see `pipelines.stage.Stage.annotate`.

        Raises:
            ValueError: No person in any frame, or an unknown garment category.
        """
        category = task.row.get("garment_category") or "upper_body"
        if category not in GARMENT_CATEGORIES:
            raise ValueError(f"Garment category {category!r} is none of {', '.join(GARMENT_CATEGORIES)}")
        size = (task.row["height"], task.row["width"])
        pose = task.rows("pose", POSE_COLUMNS)
        hands = task.rows("hands", HAND_COLUMNS)
        seen = observations(pose, hands, size, self.settings, task.row.get("cut_frames") or ())
        rows: dict[str, list] = {"frame": [], "mask": [], "area_fraction": []}
        for observation, mask in compose(self._regions(seen, category, task), self.settings):
            rows["frame"].append(observation.frame)
            rows["mask"].append(encode_mask(mask))
            rows["area_fraction"].append(cv2.countNonZero(mask) / mask.size)
            task.advance()
            if len(rows["frame"]) == _ROWS:
                yield self._batch(rows, size, category)
                rows = {k: [] for k in rows}
        if rows["frame"]:
            yield self._batch(rows, size, category)

    def _batch(self, rows: dict[str, list], size: tuple[int, int], category: str) -> pa.RecordBatch:
        count = len(rows["frame"])
        constants = {"height": size[0], "width": size[1], "category": category, "source": self.backend.name}
        return record_batch({**rows, **{k: [v] * count for k, v in constants.items()}}, self.spec.schema)

    def _regions(
        self, seen: Iterator[Observation], category: str, task: VideoTask
    ) -> Iterator[tuple[Observation, Region]]:
        if not self.backend.needs_video:
            for o in seen:
                yield o, self.backend.regions([o], None, category, task.inference)[0]
            return
        from pipelines.video import VideoReader

        with VideoReader(task.path, threads=task.threads) as reader:
            pairs = _aligned(seen, reader)
            while chunk := list(islice(pairs, self.settings.parsing.batch_size)):
                group = [o for o, _ in chunk]
                frames = [rgb for _, rgb in chunk]
                yield from zip(group, self.backend.regions(group, frames, category, task.inference))


def _aligned(seen: Iterator[Observation], reader) -> Iterator[tuple[Observation, np.ndarray]]:
    """Observations with the picture of their frame; frames without a pose row are passed over."""
    pictures = iter(reader.frames())
    for o in seen:
        picture = next((p for p in pictures if p.index == o.frame), None)
        if picture is None:
            raise ValueError(f"pose has frame {o.frame}, the video does not: materialise `pose` again")
        yield o, picture.rgb


def compose(
    regions: Iterable[tuple[Observation, Region]], settings: MasksSettings
) -> Iterator[tuple[Observation, np.ndarray]]:
    """Full-size masks from regions: steadied in time, with the hand policy; shared by all backends.

    Smoothing only decides the outline around the worn cloth, within one shot. What a frame shows as cloth stays masked
    however fast it moves, and hands and face stay visible exactly where that frame has them.

    Args:
        regions: Consecutive frames of one video.
        settings: Settings of the stage.

    Yields:
        (observation, (height, width) uint8 of 0 and 1), in the same order.
    """
    for _, shot in groupby(regions, lambda pair: pair[0].shot):
        vote: RunningVote[tuple[Observation, Region]] | None = None
        for observation, region in shot:
            if vote is None:
                blur = round(observation.working_size[1] * _BLUR) | 1
                vote = RunningVote(settings.temporal_window, blur)
            for steady, (o, r) in vote.push(region.garment, (observation, region)):
                yield o, _full(steady, o, r, settings)
        if vote is not None:
            for steady, (o, r) in vote.finish():
                yield o, _full(steady, o, r, settings)


def _full(steady: np.ndarray, o: Observation, region: Region, settings: MasksSettings) -> np.ndarray:
    mask = (steady | region.cloth | held_cloth(o, region, settings)) & (1 - region.protect)
    height, width = o.size
    if mask.shape != o.size:
        large = cv2.resize(mask * np.uint8(255), (width, height), interpolation=cv2.INTER_LINEAR)
        mask = cv2.threshold(large, 127, 1, cv2.THRESH_BINARY)[1]
    keep_hands_visible(mask, o, settings)
    return mask
