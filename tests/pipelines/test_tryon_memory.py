"""Try-on of a long video: annotation rows by window, and memory that does not go with the video's length."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from models.itryon.losses import ActionSpan
from pipelines.arrays import encode_mask
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, HANDS, POSE
from pipelines.tryon.annotations import Annotations, StoredAnnotations
from pipelines.tryon.load import LoadedPipeline
from pipelines.tryon.run import Garment, spans_of, tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoWriter
from tests.conftest import moving_frames
from tests.pipelines.tryon_scene import HEIGHT, SETTINGS, WIDTH, rows_of, scene_annotations, tiny_pipeline

TABLES = (POSE, AGNOSTIC_MASKS, HANDS, CAPTIONS)
VIDEO = {"batch": "b", "video_id": "v"}


@pytest.fixture
def lake(tmp_path) -> DeltaStore:
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables(TABLES)
    for spec, rows in zip(TABLES, vars(scene_annotations()).values()):
        other = rows.set_column(rows.schema.get_field_index("video_id"), "video_id", pa.array(["w"] * len(rows)))
        store.replace(spec, pa.concat_tables([other.cast(spec.schema), rows]), {"batch": "b"}, Commit())
    return store


def test_rows_of_a_window_are_those_of_the_whole(lake):
    whole, stored = scene_annotations(), StoredAnnotations(lake, VIDEO)
    for start, stop in ((0, 5), (2, 9), (45, 55), (200, 205)):
        expected, found = whole.of_frames(start, stop), stored.of_frames(start, stop)
        for name in ("pose", "masks", "hands"):
            assert getattr(found, name).to_pylist() == getattr(expected, name).to_pylist(), name
        assert set(expected.pose["frame"].to_pylist()) == set(range(start, min(stop, 60)))
    for rows in (whole, stored):
        assert rows.has_mask(40, 60) and not rows.has_mask(50, 60)
    assert spans_of(stored.captions) == [ActionSpan(5, 9, "zip up")]


def test_frames_without_anything_to_repaint_have_no_mask(lake):
    rows = scene_annotations()
    empty = rows.masks.set_column(
        rows.masks.schema.get_field_index("area_fraction"), "area_fraction", pa.array([0.0] * len(rows.masks))
    )
    lake.replace(AGNOSTIC_MASKS, empty.cast(AGNOSTIC_MASKS.schema), {"batch": "b"}, Commit())
    assert not StoredAnnotations(lake, VIDEO).has_mask(0, 60)
    assert not Annotations(rows.pose, empty, rows.hands, rows.captions).has_mask(0, 60)


def test_times_of_frames_are_those_of_the_file(lake):
    rows = scene_annotations().pose.slice(0, 50)
    times = np.concatenate([np.arange(30) / 30, 1 + np.arange(20) / 10])
    late = rows.set_column(rows.schema.get_field_index("time_s"), "time_s", pa.array(times))
    lake.replace(POSE, late.cast(POSE.schema), {"batch": "b"}, Commit())
    found = StoredAnnotations(lake, VIDEO).times_s(50, 20.0)
    np.testing.assert_allclose(found, times, atol=1e-6)


def test_a_stage_that_runs_meanwhile_changes_nothing(lake):
    stored = StoredAnnotations(lake, VIDEO)
    before = stored.of_frames(0, 5)
    for spec in TABLES:
        lake.replace(spec, spec.schema.empty_table(), {"batch": "b"}, Commit())
    assert stored.of_frames(0, 5) == before and stored.has_mask(0, 5)
    assert not StoredAnnotations(lake, VIDEO).has_mask(0, 60)


def test_a_video_is_dressed_from_the_lake_as_from_memory(lake, moving_video, tmp_path):
    loaded = tiny_pipeline()
    garment = Garment(np.full((30, 20, 3), (200, 30, 30), np.uint8))
    results = []
    for name, rows in (("memory", scene_annotations()), ("lake", StoredAnnotations(lake, VIDEO))):
        path = tmp_path / f"{name}.mp4"
        tryon_video(loaded, moving_video, [garment], rows, path, SETTINGS, start=2, num_frames=8)
        results.append(path.read_bytes())
    assert results[0] == results[1]


class Copying:
    """A pipeline that dresses nobody: what it is given comes back."""

    def __init__(self):
        self._pipe = tiny_pipeline().pipe

    def __getattr__(self, name):
        return getattr(self._pipe, name)

    def __call__(self, **call):
        return (call["agnostic_video"],)


class Endless:
    """Rows of a mask of noise in every frame, made when they are asked for."""

    captions = CAPTIONS.schema.empty_table()

    def __init__(self):
        self.most = 0

    def has_mask(self, start: int, stop: int) -> bool:
        return True

    def of_frames(self, start: int, stop: int) -> Annotations:
        self.most = max(self.most, stop - start)
        rows = []
        for frame in range(start, stop):
            mask = np.random.default_rng(frame).integers(0, 2, (HEIGHT, WIDTH)).astype(np.uint8)
            sizes = {"height": HEIGHT, "width": WIDTH, "area_fraction": 0.5}
            rows.append(
                {"frame": frame, "mask": encode_mask(mask), "category": "upper_body", "source": "geometric"} | sizes
            )
        nothing = (spec.schema.empty_table() for spec in (POSE, HANDS))
        return Annotations(next(nothing), rows_of(AGNOSTIC_MASKS, rows), next(nothing), self.captions)


@pytest.mark.filterwarnings("ignore")  # pytest keeps every warning
def test_memory_does_not_go_with_the_length(tmp_path: Path):
    loaded = LoadedPipeline(Copying())
    settings = TryOnSettings(steps=1, num_frames=9, overlap_frames=2, sizes=[(32, 48)])
    garment = Garment(np.full((30, 20, 3), (200, 30, 30), np.uint8))

    def peak(frames: int) -> int:
        video, rows = tmp_path / f"{frames}.mp4", Endless()
        with VideoWriter(video, fps=30, width=WIDTH, height=HEIGHT) as writer:
            for picture in moving_frames(frames, WIDTH, HEIGHT):
                writer.write(picture)
        compare = tmp_path / "compare.mp4"
        tracemalloc.start()
        tryon_video(loaded, video, [garment], rows, tmp_path / "o.mp4", settings, side_by_side_output=compare)
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows.most == 9
        return top

    peak(20)  # what is imported and kept on first use
    # A frame is 18 KB, its picture at the model's size 4.6 KB, its row's mask about 6 KB.
    assert peak(240) < peak(60) + 100_000
