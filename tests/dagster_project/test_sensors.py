"""The landing-zone sensor: settled folders once, changed ones again, half-copied ones not yet."""

import json
import os
import time
from pathlib import Path

import dagster as dg
import pytest

from assets.partitions import video_batches
from dagster_project import sensors
from dagster_project.resources import LakeResource
from dagster_project.sensors import LOOKED_AT_PER_TICK, MAX_RUNS_PER_TICK, landing_zone
from pipelines.ingest.landing import scan
from pipelines.ingest.private import private_batch


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def tick(tmp_path, instance):
    cursor = None

    def run() -> dg.SensorResult:
        nonlocal cursor
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"lake": LakeResource(root=str(tmp_path))}
        )
        result = landing_zone(context)
        cursor = result.cursor
        for request in result.dynamic_partitions_requests or []:
            instance.add_dynamic_partitions(video_batches.name, list(request.partition_keys))
        return result

    return run


def put(root: Path, batch: str, name: str, age_s: float = 3600) -> Path:
    file = root / "landing" / batch / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * 10)
    age(root, file, age_s)
    return file


def age(root: Path, file: Path, age_s: float) -> None:
    """Let the file, if it is there, and the folders around it have been as they are for so long."""
    then = time.time() - age_s
    for path in (file, *file.parents):
        if path == root / "landing":
            break
        if path.exists():
            os.utime(path, (then, then))


def test_a_settled_folder_is_requested_once(tick, tmp_path):
    assert tick().run_requests == []
    put(tmp_path, "b1", "a.mp4")
    put(tmp_path, "b2", "a.mp4", age_s=0)
    (tmp_path / "landing" / "empty").mkdir()
    result = tick()
    assert [r.partition_key for r in result.run_requests] == ["b1"]
    assert [list(r.partition_keys) for r in result.dynamic_partitions_requests] == [["b1"]]
    result = tick()
    assert result.run_requests == []
    # The page Automation shows why nothing came of a tick.
    assert result.skip_reason.skip_message.endswith("wait until nothing changes for 30 s: b2")


def test_a_video_that_was_dressed_by_itself_is_left_alone(tick, tmp_path):
    put(tmp_path, private_batch("0" * 64, ".mp4"), "video.mp4")
    put(tmp_path, "tryon-of-mine", "a.mp4")
    assert [r.partition_key for r in tick().run_requests] == ["tryon-of-mine"]


def test_a_changed_folder_is_requested_again_under_another_run_key(tick, tmp_path):
    put(tmp_path, "b1", "a.mp4")
    first = tick().run_requests[0].run_key
    put(tmp_path, "b1", "b.mp4", age_s=100)
    again = tick()
    assert [r.partition_key for r in again.run_requests] == ["b1"] and again.run_requests[0].run_key != first
    assert not again.dynamic_partitions_requests


def test_a_folder_that_is_again_as_it_was_is_requested_again_and_once(tick, tmp_path, instance):
    """A wrong file comes and is taken out: its rows are still there, and the daemon answers a key once."""
    keys = []
    put(tmp_path, "b1", "a.mp4")
    keys += [r.run_key for r in tick().run_requests]
    wrong = put(tmp_path, "b1", "wrong.mp4", age_s=200)
    keys += [r.run_key for r in tick().run_requests]
    wrong.unlink()
    age(tmp_path, wrong, 100)
    keys += [r.run_key for r in tick().run_requests]
    assert len(keys) == len(set(keys)) == 3
    # A cursor that got lost asks under the key that was answered.
    context = dg.build_sensor_context(instance, resources={"lake": LakeResource(root=str(tmp_path))})
    assert [r.run_key for r in landing_zone(context).run_requests] == keys[-1:]


def test_a_copy_under_way_that_keeps_old_times_is_not_taken_for_a_whole_batch(tick, tmp_path):
    file = put(tmp_path, "b1", "a.mp4")
    os.utime(file.parent)
    assert tick().run_requests == [], "it came just now, however old it is"
    age(tmp_path, file, 3600)
    partial = file.with_name(".b.mp4.Xq3vY1")
    partial.write_bytes(b"x")
    age(tmp_path, partial, 3600)
    os.utime(partial)
    assert tick().run_requests == [], "the next one is being written under a hidden name"
    os.utime(partial, (0, 0))
    assert [r.partition_key for r in tick().run_requests] == ["b1"]


def test_a_flood_is_spread_over_ticks(tick, tmp_path):
    for i in range(MAX_RUNS_PER_TICK + 3):
        put(tmp_path, f"b{i:03}", "a.mp4")
    assert len(tick().run_requests) == MAX_RUNS_PER_TICK
    result = tick()
    assert len(result.run_requests) == 3
    assert len(json.loads(result.cursor)["seen"]) == MAX_RUNS_PER_TICK + 3


def test_what_was_annotated_by_hand_is_left_alone_until_it_changes(tick, tmp_path, instance, monkeypatch):
    put(tmp_path, "done", "a.mp4")
    put(tmp_path, "half", "a.mp4")
    for asset, batch in (("clips", "done"), ("pose", "half"), ("clips", "newer")):
        instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=batch))
    assert [r.partition_key for r in tick().run_requests] == ["half"]
    put(tmp_path, "done", "b.mp4", age_s=100)
    assert [r.partition_key for r in tick().run_requests] == ["done"]
    # Files that came after the batch was annotated, in the eyes of a tick ten minutes later.
    put(tmp_path, "newer", "a.mp4", age_s=-60)
    now = time.time()
    monkeypatch.setattr("dagster_project.sensors.time.time", lambda: now + 600)
    assert [r.partition_key for r in tick().run_requests] == ["newer"]


@pytest.fixture
def scanned(monkeypatch):
    """Batches whose files were looked at."""
    seen: list[str] = []
    monkeypatch.setattr(sensors, "scan", lambda folder: seen.append(folder.name) or scan(folder))
    return seen


def test_a_tick_looks_at_the_files_of_a_few_known_batches_only(tick, tmp_path, scanned):
    names = [f"b{i:03}" for i in range(3 * LOOKED_AT_PER_TICK)]
    for name in names:
        put(tmp_path, name, "a.mp4")
    while tick().run_requests:
        pass
    scanned.clear()
    for _ in range(3):
        assert tick().run_requests == []
    assert sorted(scanned) == names, "each in its turn, and none twice"
    put(tmp_path, names[-1], "garments/new.png")
    put(tmp_path, names[-2], "b.mp4")
    scanned.clear()
    assert sorted(r.partition_key for r in tick().run_requests) == names[-2:], "what came or went is seen at once"
    assert len(set(scanned)) <= LOOKED_AT_PER_TICK + 2


def test_a_file_written_in_place_is_found_within_a_turn(tick, tmp_path):
    for i in range(2 * LOOKED_AT_PER_TICK):
        put(tmp_path, f"b{i:03}", "garments/a.png")
    while tick().run_requests:
        pass
    file = tmp_path / "landing" / "b033" / "garments" / "a.png"
    with file.open("r+b") as stream:
        stream.write(b"other")
    os.utime(file, (time.time() - 100,) * 2)
    asked = [r.partition_key for _ in range(2) for r in tick().run_requests]
    assert asked == ["b033"]


def test_the_cursor_of_an_earlier_release_asks_for_nothing_again(tick, tmp_path):
    put(tmp_path, "b1", "a.mp4")
    signature = tick().run_requests[0].run_key.split(":")[1]
    instance = dg.DagsterInstance.ephemeral()
    context = dg.build_sensor_context(
        instance=instance, cursor=json.dumps({"b1": signature}), resources={"lake": LakeResource(root=str(tmp_path))}
    )
    assert landing_zone(context).run_requests == []
