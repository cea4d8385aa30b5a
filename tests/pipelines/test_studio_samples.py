"""Training data of annotators: which clips are taken, and which files are made anew."""

import json

import numpy as np
import pytest

from pipelines.stage import digest
from pipelines.store import DeltaStore
from pipelines.store.schemas import VIDEOS
from pipelines.store.studio_schemas import STUDIO_CLIPS
from pipelines.studio.samples import SampleKind, UnusableClip, run, write_batch
from tests.pipelines.annotator_scene import BATCH, clip, fill, video


@pytest.fixture
def lake(tmp_path, monkeypatch):
    monkeypatch.setenv("ITRYON_LAKE", str(tmp_path / "lake"))
    store = DeltaStore()
    store.ensure_tables()
    fill(store, _rows("a", "b"), done=("pose", "hands"))
    return store


def _rows(*videos):
    return {VIDEOS: [video(v) for v in videos], STUDIO_CLIPS: [clip(v, "walk") for v in videos]}


class Measured:
    """Measures a clip's frames and remembers whose."""

    def __init__(self, useless=()):
        self.asked, self.useless = [], useless

    def __call__(self, task):
        self.asked.append(task.video_id)
        if task.video_id in self.useless:
            raise UnusableClip("nobody is there")
        return {"frames": np.arange(task.row["num_frames"])}


def _kind(measure, version=("1",), stages=("pose", "hands")):
    return SampleKind(stages, ("performance", "seed"), version, measure)


def test_a_file_holds_arrays_and_where_they_come_from(lake, tmp_path):
    assert list(write_batch(lake, BATCH, tmp_path / "out", _kind(Measured()))) == [("a", None), ("b", None)]
    with np.load(tmp_path / "out" / "a.npz") as file:
        assert (file["frames"] == np.arange(10)).all()
        notes = json.loads(str(file["notes"]))
    prints = digest("f", "f", "f", "1")[:32]
    assert notes == {"performance": "walk", "seed": 0, "video_id": "a", "batch": BATCH, "fingerprint": prints}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.npz", "b.npz"]


def test_only_files_that_no_longer_hold_are_made_anew(lake, tmp_path):
    measure = Measured()
    list(write_batch(lake, BATCH, tmp_path, _kind(measure)))
    list(write_batch(lake, BATCH, tmp_path, _kind(measure)))
    assert measure.asked == ["a", "b"]
    (tmp_path / "b.npz").unlink()
    list(write_batch(lake, BATCH, tmp_path, _kind(measure)))
    assert measure.asked == ["a", "b", "b"]
    list(write_batch(lake, BATCH, tmp_path, _kind(measure, version=("2",))))
    assert measure.asked == ["a", "b", "b", "a", "b"]


def test_clips_that_cannot_be_used_are_named(lake, tmp_path):
    measure = Measured(useless=("b",))
    assert list(write_batch(lake, BATCH, tmp_path, _kind(measure))) == [("a", None), ("b", "nobody is there")]
    assert not (tmp_path / "b.npz").exists()
    stages = ("pose", "agnostic_masks", "captions")
    without = "no rows of agnostic_masks: materialise the batch to captions"
    assert list(write_batch(lake, BATCH, tmp_path, _kind(measure, stages=stages))) == [("a", without), ("b", without)]
    with pytest.raises(LookupError, match="itryon studio"):
        list(write_batch(lake, "other", tmp_path, _kind(measure)))


def test_the_command_says_what_was_left_out(lake, tmp_path, capsys):
    arguments = ["--batch", BATCH, "--out", str(tmp_path / "out")]
    assert run("x", None, lambda: _kind(Measured(useless=("b",))), arguments) == 1
    assert "left out b: nobody is there" in capsys.readouterr().out
    assert run("x", None, lambda: _kind(Measured()), arguments) == 0
