"""Rows of `tryon_videos`: which garment for whom, what is kept, what an error leaves."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import cv2
import numpy as np
import pyarrow as pa
import pytest

from pipelines.checkpoints.train import CheckpointMissing
from pipelines.ingest.private import private_batch
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import (
    AGNOSTIC_MASKS,
    CAPTIONS,
    CHECKPOINTS,
    GARMENTS,
    HANDS,
    POSE,
    STAGE_STATUS,
    TRYON_VIDEOS,
    VIDEOS,
)
from pipelines.tryon.batch import NothingToDress, choose_pairs, run_tryon
from pipelines.video import VideoReader
from tests.pipelines.test_tryon_sound import FLASH_S, flash_and_tone, write_flash
from tests.pipelines.tryon_scene import HEIGHT, SETTINGS, WIDTH, scene_annotations, tiny_pipeline

FAST = SETTINGS.model_copy(update={"max_frames": 5, "guidance_scale": 1.0, "checkpoint": "c1"})


def of_video(table: pa.Table, video_id: str, batch: str = "b") -> pa.Table:
    for name, value in (("video_id", video_id), ("batch", batch)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), [[value] * len(table)])
    return table


def fill(store: DeltaStore, moving_video, garments: list[dict], videos: list[dict], batch: str = "b") -> None:
    """A lake with a batch: the scene's annotations for every video, and one checkpoint."""
    uri = store.blobs.put_file(moving_video)
    common = {
        "batch": batch,
        "uri": uri,
        "width": WIDTH,
        "height": HEIGHT,
        "fps": 30.0,
        "num_frames": 60,
        "status": "ok",
        "fingerprint": "f",
        "garment_category": "upper_body",
    }
    rows = [
        common
        | {"source_path": f"{v['video_id']}.mp4", "sha256": v["video_id"] * 4}
        | {k: x for k, x in v.items() if k != "state"}
        for v in videos
    ]
    commit, where = Commit(), {"batch": batch}
    store.replace(VIDEOS, pa.Table.from_pylist(rows, VIDEOS.schema), where, commit)
    store.replace(GARMENTS, pa.Table.from_pylist(garments, GARMENTS.schema), where, commit)
    scene = scene_annotations()
    tables = zip((POSE, AGNOSTIC_MASKS, HANDS, CAPTIONS), vars(scene).values())
    for spec, table in tables:
        parts = [of_video(table, v["video_id"], batch) for v in videos]
        store.replace(spec, pa.concat_tables(parts), where, commit)
        states = [
            {
                "batch": batch,
                "stage": spec.name,
                "video_id": v["video_id"],
                "status": v.get("state", "ok"),
                "rows": 1,
                "frames": 60,
                "seconds": 1.0,
                "model_seconds": 1.0,
                "fingerprint": f"{spec.name}-1",
                "created_at": datetime.now(UTC),
            }
            for v in videos
        ]
        table = pa.Table.from_pylist(states, STAGE_STATUS.schema)
        store.replace(STAGE_STATUS, table, where | {"stage": spec.name}, commit)
    checkpoint = {
        "checkpoint_id": "c1",
        "training_set_id": "t",
        "preset": "nano",
        "uri": "checkpoints/c1",
        "weights_sha256": "0" * 64,
        "config": json.dumps({"use_hands": True}),
        "steps": 1,
        "final_loss": 1.0,
        "seconds": 1.0,
        "created_at": datetime.now(UTC),
    }
    table = pa.Table.from_pylist([checkpoint], CHECKPOINTS.schema)
    store.replace(CHECKPOINTS, table, {"checkpoint_id": "c1"}, commit)


def garment(store: DeltaStore, name: str, category: str = "upper_body", **more) -> dict:
    picture = np.full((40, 30, 3), 250, np.uint8)
    picture[5:35, 5:25] = np.frombuffer(name.encode()[:1] * 3, np.uint8)
    mask = np.zeros((40, 30), np.uint8)
    mask[5:35, 5:25] = 255
    return {
        "batch": "b",
        "garment_id": name,
        "source_path": f"{name}.png",
        "uri": store.blobs.put_bytes(cv2.imencode(".png", picture)[1].tobytes(), ".png"),
        "mask_uri": store.blobs.put_bytes(cv2.imencode(".png", mask)[1].tobytes(), ".png"),
        "category": category,
        "status": "ok",
        "fingerprint": "f",
    } | more


@pytest.fixture(scope="module")
def loaded():
    return tiny_pipeline()


def test_garments_are_chosen_by_wish_then_category_then_another_video(lake, moving_video):
    photos = [garment(lake, "red"), garment(lake, "blue"), garment(lake, "skirt", "lower_body")]
    videos = [
        {"video_id": "a", "split": "train", "garment_id": "red", "tryon_garment_id": "skirt"},
        {"video_id": "b", "split": "test", "garment_id": "red"},
        {"video_id": "c", "split": "val", "garment_category": "dresses"},
        {"video_id": "d", "split": "val", "garment_category": "dresses"},
        {"video_id": "e", "split": "test", "state": "error"},
        {"video_id": "f", "split": "test", "status": "rejected"},
    ]
    fill(lake, moving_video, photos, videos)
    found = [(p.video["video_id"], p.garment_id, p.paired) for p in choose_pairs(lake, FAST)]
    assert found == [
        ("b", "red", True),
        ("b", "blue", False),
        ("c", "worn-c", True),
        ("c", "worn-d", False),
        ("d", "worn-d", True),
        ("d", "worn-c", False),
        ("a", "red", True),
        ("a", "skirt", False),
    ]
    only = choose_pairs(lake, FAST.model_copy(update={"pairs": "unpaired", "max_videos": 1}))
    assert [(p.video["video_id"], p.paired) for p in only] == [("b", False)]


def test_a_video_that_was_dressed_by_itself_is_chosen_only_by_name(lake, moving_video):
    private = private_batch("0" * 64, ".mp4")
    fill(lake, moving_video, [], [{"video_id": "mine", "split": "test"}], private)
    with pytest.raises(NothingToDress):
        choose_pairs(lake, FAST)
    fill(lake, moving_video, [], [{"video_id": "a", "split": "test"}])
    assert [(p.video["video_id"], p.garment_id) for p in choose_pairs(lake, FAST)] == [("a", "worn-a")]
    named = choose_pairs(lake, FAST.model_copy(update={"batches": [private]}))
    assert [p.video["video_id"] for p in named] == ["mine"]


def test_rows_videos_and_reuse(lake, moving_video, loaded):
    fill(lake, moving_video, [garment(lake, "red")], [{"video_id": "a", "split": "test"}])
    steps = []
    report = run_tryon(lake, FAST, commit=Commit("run-1"), loaded=loaded, on_progress=lambda *a: steps.append(a))
    assert (report.made, report.reused, report.failures) == (2, 0, {}) and steps == [("a", 1, 1)] * 2
    rows = lake.read(TRYON_VIDEOS, where={"checkpoint_id": "c1"}).to_pylist()
    assert sorted((r["garment_id"], r["paired"], r["status"]) for r in rows) == [
        ("red", False, "ok"),
        ("worn-a", True, "ok"),
    ]
    for row in rows:
        record = json.loads(row["record"])
        # Around the middle of the interaction, frames 5 to 8.
        assert (row["start_frame"], row["num_frames"]) == (5, 5) == (record["start_frame"], record["num_frames"])
        assert record["digests"]["transformer"] == "0" * 64 and record["table_versions"]["pose"] == 1
        with VideoReader(lake.blobs.local_path(row["uri"])) as reader:
            assert (reader.info.width, reader.info.height, reader.info.num_frames) == (WIDTH, HEIGHT, 5)
        assert lake.blobs.exists(row["side_by_side_uri"])
        sheet = cv2.imread(str(lake.blobs.local_path(row["sheet_uri"])))
        assert sheet.shape == (5 * HEIGHT, 4 * WIDTH, 3), "five moments of source, agnostic, garment and result"

    again = run_tryon(lake, FAST, loaded=loaded)
    assert (again.made, again.reused) == (0, 2) and again.table_version == report.table_version
    assert lake.read(TRYON_VIDEOS, where={"checkpoint_id": "c1"}).to_pylist() == rows

    other = run_tryon(lake, FAST.model_copy(update={"seed": 3, "pairs": "paired"}), loaded=loaded)
    assert (other.made, other.reused) == (1, 0) and lake.read(TRYON_VIDEOS).num_rows == 1


def test_the_sound_of_the_part_that_is_made_comes_along(lake, loaded, tmp_path):
    """A flash and a tone that begins with it, in a file whose picture starts 0.58 s after its sound."""
    source = write_flash(tmp_path / "source.mkv", 0.58, 0.0)
    fill(lake, source, [garment(lake, "red")], [{"video_id": "a", "split": "test", "num_frames": 50}])
    part = FAST.model_copy(update={"max_frames": 45, "pairs": "paired"})
    report = run_tryon(lake, part, loaded=loaded)
    assert report.failures == {}
    (row,) = lake.read(TRYON_VIDEOS).to_pylist()
    assert (row["start_frame"], row["num_frames"]) == (0, 45)
    flash, tone = flash_and_tone(lake.blobs.local_path(row["uri"]))
    assert flash == pytest.approx(FLASH_S, abs=0.002) and tone == pytest.approx(flash, abs=0.003)


def test_one_bad_garment_is_a_row_and_the_rest_goes_on(lake, moving_video, loaded):
    broken = garment(lake, "bad", uri=lake.blobs.put_bytes(b"no picture", ".png"))
    fill(lake, moving_video, [broken], [{"video_id": "a", "split": "test"}])
    report = run_tryon(lake, FAST, loaded=loaded)
    assert report.made == 1 and list(report.failures.values()) == [
        "ValueError: The picture of garment bad cannot be read: ingest it again"
    ]
    rows = {r["garment_id"]: r for r in lake.read(TRYON_VIDEOS).to_pylist()}
    assert rows["bad"]["status"] == "error" and rows["bad"]["uri"] is None and rows["worn-a"]["status"] == "ok"
    # What failed is tried again.
    assert len(run_tryon(lake, FAST, loaded=loaded).failures) == 1


def test_a_killed_run_goes_on(lake, moving_video, loaded):
    fill(lake, moving_video, [garment(lake, "red")], [{"video_id": "a", "split": "test"}])
    calls = []

    def die_in_the_second(*progress):
        calls.append(progress)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tryon(lake, FAST, loaded=loaded, on_progress=die_in_the_second)
    assert lake.read(TRYON_VIDEOS).num_rows == 1
    report = run_tryon(lake, FAST, loaded=loaded)
    assert (report.made, report.reused) == (1, 1)


def test_nothing_to_do_says_what_to_do(lake, moving_video):
    with pytest.raises(CheckpointMissing):
        run_tryon(lake, FAST.model_copy(update={"checkpoint": "latest"}))
    with pytest.raises(CheckpointMissing, match="c1"):
        run_tryon(lake, FAST)
    with pytest.raises(NothingToDress, match="agnostic_masks"):
        choose_pairs(lake, FAST)
    fill(lake, moving_video, [], [{"video_id": "a", "split": "test"}])
    with pytest.raises(NothingToDress, match="garment photos"):
        choose_pairs(lake, FAST.model_copy(update={"pairs": "unpaired"}))
