"""The whole DAG on a few seconds of real video: raw file to interaction success rates, and what it does in trouble."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from dagster_project.cli import app
from dagster_project.instance import run_job
from models import weights
from pipelines.ingest.landing import land
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import CHECKPOINTS, PIPELINE_TABLES, STAGE_STATUS, TRYON_VIDEOS, VIDEO_METRICS, VIDEOS
from pipelines.video import VideoReader, VideoWriter, probe

pytestmark = pytest.mark.slow

FAST = {
    "training": {"steps": 3, "batch_size": 2},
    "tryon": {"steps": 2, "max_videos": 1, "max_frames": 17, "pairs": "paired"},
}


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    return [str(e.step_failure_data.error) for e in result.all_events if e.is_step_failure]


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> DeltaStore:
    """A lake in which job `everything` ran on one good clip and two bad files."""
    root = tmp_path_factory.mktemp("e2e")
    source = root / "source"
    source.mkdir()
    with VideoReader(weights.path("demo/jwpIntro.mp4"), max_side=480) as reader:
        frames = [f.rgb for f in reader.frames(0, 34)]
        fps = reader.info.fps
    with VideoWriter(source / "talking.mp4", fps=fps, width=frames[0].shape[1], height=frames[0].shape[0]) as writer:
        for rgb in frames:
            writer.write(rgb)
    (source / "empty.mp4").write_bytes(b"")
    (source / "text.mp4").write_text("this is no video")
    entry = {
        "video": "talking.mp4",
        "actions": [{"action": "adjust_collar", "start_s": 0.3, "end_s": 0.7, "text": "x"}],
    }
    (source / "manifest.jsonl").write_text(json.dumps(entry) + "\nnot json\n")
    patch = pytest.MonkeyPatch()
    patch.setenv("ITRYON_LAKE", str(root / "lake"))
    patch.delenv("DAGSTER_HOME", raising=False)
    store = DeltaStore()
    store.ensure_tables()
    land(source, store, "b1")
    result = run_job("everything", batch="b1", resources=FAST)
    assert result.success, failures(result)
    yield store
    patch.undo()


def test_every_table_has_rows(lake):
    # The studio's tables speak of rendered videos only.
    empty = {spec.name for spec in PIPELINE_TABLES if lake.read(spec).num_rows == 0}
    # Nobody decided anything: that is what `itryon promote` and the retraining loop do.
    assert empty <= {"garments", "hands", "promotions"}, "a clip without hands and without product photos"


def test_bad_files_are_rows_and_the_good_one_went_through(lake):
    rows = {r["source_path"]: r for r in lake.read(VIDEOS).to_pylist()}
    assert rows["talking.mp4"]["status"] == "ok"
    bad = [r for path, r in rows.items() if path != "talking.mp4"]
    assert len(bad) == 3 and all(r["status"] == "error" and r["reason"] for r in bad)
    status = lake.read(STAGE_STATUS).to_pylist()
    assert {s["stage"]: s["status"] for s in status} == dict.fromkeys(
        ("pose", "hands", "agnostic_masks", "captions", "clips"), "ok"
    )


def test_the_tryon_video_plays_at_the_size_of_its_source(lake):
    row = lake.read(TRYON_VIDEOS).to_pylist()[0]
    assert row["status"] == "ok", row["reason"]
    source = lake.read(VIDEOS, where={"video_id": row["video_id"]}).to_pylist()[0]
    info = probe(lake.blobs.local_path(row["uri"]))
    assert (info.width, info.height, info.num_frames) == (source["width"], source["height"], row["num_frames"])
    metrics = {m["metric"]: m for m in lake.read(VIDEO_METRICS).to_pylist() if m["tryon_id"] == row["tryon_id"]}
    assert 0 < metrics["ssim"]["value"] <= 1 and metrics["lpips"]["value"] >= 0


def test_a_second_run_writes_nothing_but_reports(lake):
    names = ("videos", "pose", "hands", "agnostic_masks", "captions", "clips", "training_sets", "checkpoints")
    before = {n: lake.version(TABLES[n]) for n in names}
    result = run_job("everything", batch="b1", resources=FAST)
    assert result.success, failures(result)
    assert {n: lake.version(TABLES[n]) for n in names} == before
    versions = {}
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        versions[made.asset_key.to_user_string()] = made.tags["dagster/data_version"]
    assert set(versions) >= {"pose", "clips", "training_set", "itryon_checkpoint", "tryon_videos", "isr_scores"}


def test_checks_are_recorded_and_pictures_are_small(lake):
    result = run_job("annotate", batch="b1", assets=["pose", "captions"])
    checks = result.get_asset_check_evaluations()
    assert {c.check_name for c in checks} == {"coverage", "schema", "referential_integrity"}
    assert all(c.passed for c in checks)
    for event in result.get_asset_materialization_events():
        preview = event.step_materialization_data.materialization.metadata["preview"].value
        assert preview.startswith("![](data:image/") and len(preview) < 200_000


def test_a_batch_without_usable_video_stops_at_its_check(lake, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").write_bytes(b"nothing")
    land(tmp_path / "bad", lake, "bad")
    result = run_job("annotate", batch="bad")
    assert not result.success
    failed = [c for c in result.get_asset_check_evaluations() if not c.passed]
    assert [c.check_name for c in failed] == ["usable_videos"]
    made = {e.asset_key.to_user_string() for e in result.get_asset_materialization_events()}
    assert "pose" not in made


def test_an_unknown_batch_fails_with_what_to_do(lake):
    result = run_job("annotate", batch="nobody", assets=["pose"])
    assert not result.success
    assert "ingest it first" in failures(result)[0]


def test_the_command_line(lake, tmp_path):
    run = CliRunner().invoke
    status = run(app, ["status", "--json"])
    assert status.exit_code == 0
    report = json.loads(status.stdout)
    assert report["batches"]["b1"]["videos"] == {"ok": 1, "error": 3}
    assert report["checkpoints"][0]["checkpoint_id"] == lake.read(CHECKPOINTS)["checkpoint_id"][0].as_py()
    assert run(app, ["status"]).exit_code == 0
    refused = run(app, ["ingest", str(tmp_path / "nothing"), "--batch", "b2"])
    assert refused.exit_code == 1 and "nothing" in refused.output
    assert run(app, ["ingest", str(tmp_path), "--batch", "../up"]).exit_code == 1
    wrong = run(app, ["materialize", "--batch", "b1", "--to", "poze"])
    assert wrong.exit_code == 1 and "agnostic_masks" in wrong.output
    assert "either a folder" in run(app, ["studio"]).output
    assert "unknown actions" in run(app, ["studio", "--out", str(tmp_path / "s"), "--action", "juggle"]).output
    assert run(app, ["materialize", "--batch", "b1", "--to", "hands"]).exit_code == 0


def test_the_lake_can_be_moved(lake, tmp_path):
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(Path(lake.root), moved)
    store = DeltaStore(moved)
    row = store.read(TRYON_VIDEOS).to_pylist()[0]
    assert store.blobs.local_path(row["uri"]).is_relative_to(moved)
    assert store.blobs.read_bytes(row["uri"])


def test_a_terminal_shows_a_progress_bar(lake, tmp_path):
    """Dagster captures what steps print, so the bar is checked on a real pseudo-terminal, from outside."""
    config = tmp_path / "config.yaml"
    config.write_text("pose: {smooth: false}\n")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "dagster_project.cli", "materialize", "--batch", "b1", "--only", "pose"]
    child = subprocess.Popen(
        [*command, "--config", str(config)], stdin=follower, stdout=subprocess.DEVNULL, stderr=follower
    )
    os.close(follower)
    seen = b""
    with contextlib.suppress(OSError):  # a closed terminal ends the reading
        while chunk := os.read(leader, 4096):
            seen += chunk
    os.close(leader)
    assert child.wait(timeout=120) == 0
    assert b"34/34" in seen and b"1/1 videos" in seen
