"""`itryon demo`: what it lands before the DAG runs, and what it says afterwards."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from rich.console import Console

from dagster_project import demo
from models import weights
from pipelines.ingest.landing import landing_folder
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import TRYON_VIDEOS, VIDEOS
from pipelines.video import VideoReader
from tests.conftest import frame_number
from tests.pipelines.annotator_scene import table, video
from tests.pipelines.media import write_video


@pytest.fixture
def store(tmp_path, monkeypatch) -> DeltaStore:
    monkeypatch.setenv("ITRYON_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ITRYON_LANDING", raising=False)
    store = DeltaStore()
    store.ensure_tables()
    return store


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(said) -> Console:
    return Console(file=said, width=200)


def test_the_parts_of_real_clips_land_with_rendered_ones(store, said, console, tmp_path, monkeypatch):
    sources = {"demo/jwpIntro.mp4": (50, 0, 20), "demo/dancer.avi": (60, 25, 55)}
    for name, (frames, _, _) in sources.items():
        write_video(tmp_path / name.replace("/", "_"), frames)
    monkeypatch.setattr(weights, "path", lambda name: tmp_path / name.replace("/", "_"))
    clips = {n: (demo._CLIPS[n][0], start, stop) for n, (_, start, stop) in sources.items()}
    monkeypatch.setattr(demo, "_CLIPS", clips)
    small = demo._STUDIO | {"clips": 1, "frames": 18, "width": 64, "height": 96, "workers": 1}
    monkeypatch.setattr(demo, "_STUDIO", small | {"fps": 12.0})
    settings = demo.prepare("try", console)
    assert "landed 2 real and 1 rendered clips as batch 'try'" in said.getvalue()
    # The settings make a run short; the resources know them.
    assert settings == {"training": {"steps": 100}, "tryon": {"max_videos": 2}}
    folder = landing_folder(store, "try")
    manifest = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert {line["video"] for line in manifest} == {"talking.mp4", "dancer.mp4", "clip_00000.mp4"}
    for _, (name, start, stop) in clips.items():
        with VideoReader(folder / name) as reader:
            assert [frame_number(f.rgb) for f in reader.frames()] == list(range(start, stop))
    assert (folder / "truth" / "clip_00000.json").is_file()
    # Landed again it is the same batch.
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    demo.prepare("try", console)
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before


def test_the_labelled_interaction_lies_in_the_part_that_is_shown():
    _, start, stop = demo._CLIPS["demo/dancer.avi"]
    (entry,) = [e for e in demo._MANIFEST if e["video"] == "dancer.mp4"]
    (action,) = entry["actions"]
    assert 0 <= action["start_s"] < action["end_s"] <= (stop - start) / 25


def test_results_name_every_table_and_where_the_videos_are(store, said, console):
    store.replace(VIDEOS, table(VIDEOS, [video("a"), video("b")], "try"), {"batch": "try"}, Commit())
    store.replace(VIDEOS, table(VIDEOS, [video("c")], "other"), {"batch": "other"}, Commit())
    uri = store.blobs.put_bytes(b"a video", ".mp4")
    common = {"checkpoint_id": "k", "batch": "try", "created_at": datetime.now(UTC)}
    common |= {"garment_id": "g", "start_frame": 0, "num_frames": 9, "record": "{}", "run_id": "", "fingerprint": "f"}
    done = {"video_id": "a", "tryon_id": "1", "paired": True, "status": "ok", "uri": uri, "side_by_side_uri": uri}
    failed = {"video_id": "b", "tryon_id": "2", "paired": False, "status": "error", "reason": "no person was found"}
    rows = pa.Table.from_pylist([common | done, common | failed], TRYON_VIDEOS.schema)
    store.replace(TRYON_VIDEOS, rows, {"checkpoint_id": "k"}, Commit())
    demo.print_results("try", console)
    text = said.getvalue()
    (line,) = [x for x in text.splitlines() if x.startswith("│ videos ")]
    assert [c.strip() for c in line.split("│")[1:5]] == ["videos", "2", "the batch", str(store.version(VIDEOS))]
    assert f"try-on of a (paired): {store.blobs.local_path(uri)}" in text
    assert "try-on of b failed: no person was found" in text
    assert f"lake          {store.root}" in text and "http://127.0.0.1:3000" in text
