"""The generated lakes are taken by the pipeline as its own: a batch is committed, and nothing is done twice."""

from __future__ import annotations

import pytest

from benchmarks.scale import measure
from benchmarks.scale.lake import Source
from benchmarks.scale.rows import BatchRows
from pipelines.store.schemas import CLIPS, VIDEOS

FRAMES, VIDEOS_OF_A_BATCH = 33, 5


def test_a_lake_grows_and_a_batch_is_added_once(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "BATCH_VIDEOS", VIDEOS_OF_A_BATCH)
    source, rows = Source(tmp_path / "source", FRAMES), BatchRows(VIDEOS_OF_A_BATCH, FRAMES)
    monkeypatch.setattr(measure, "_child", lambda *args: {})
    stores = measure.build(tmp_path / "lakes", {"empty": 0, "some": 12}, source, rows)
    assert [store.read(VIDEOS, ["batch"]).num_rows for store in stores.values()] == [0, 12]
    for store in stores.values():
        taken = measure._one_round(store, source, rows, 0)
        assert {"commit a batch's annotations", "stages, nothing to do", "status of the lake"} <= set(taken)
        assert store.read(CLIPS, ["video_id"], {"batch": "new-0"})["video_id"].unique().to_pylist()
        with pytest.raises(RuntimeError, match="asked for blobs"), monkeypatch.context() as patch:
            patch.setattr(measure, "_stages", lambda store, *args: store.blobs.put_bytes(b"x", "png"))
            measure._one_round(store, source, rows, 1)
