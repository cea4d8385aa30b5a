"""Training sets: what is selected, that it is pinned, and what is refused."""

from __future__ import annotations

import json
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest.private import private_batch
from pipelines.store import Commit, DeltaStore
from pipelines.store.errors import DamagedTable
from pipelines.store.schemas import CLIPS, TRAINING_SETS
from pipelines.training_sets.build import (
    TrainingSetError,
    build_training_set,
    manifest_path,
    training_set_row,
)
from pipelines.training_sets.settings import TrainingSetSettings


def clip(name: str, batch: str = "b1", **values) -> dict:
    return {
        "batch": batch,
        "video_id": name.split("-")[0],
        "clip_id": name,
        "start_frame": 0,
        "num_frames": 17,
        "bucket": "17x128x96",
        "latents_uri": f"blobs/aa/{name}.safetensors",
        "text_uri": "blobs/aa/text.safetensors",
        "action_mask": [0.0, 1.0, 1.0, 0.0, 0.0],
        "actions": ["adjust_hem"],
        "global_caption": "A person adjusts the hem.",
        "garment_id": "g",
        "split": "train",
        "encoder_digest": "e1",
        "fingerprint": "f",
        **values,
    }


def write(store: DeltaStore, batch: str, *clips: dict) -> None:
    store.replace(CLIPS, pa.Table.from_pylist(list(clips), CLIPS.schema), {"batch": batch}, Commit())


def ids(store: DeltaStore, row: dict) -> list[str]:
    return pq.read_table(manifest_path(store, row))["clip_id"].to_pylist()


def test_same_selection_is_the_same_set_and_writes_nothing(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"), clip("v1-8"))
    first = build_training_set(lake)
    version = lake.version(TRAINING_SETS)
    # Another way to the same rows: a new table version, another fingerprint, a batch that the filters leave out.
    write(lake, "b1", clip("v1-8", fingerprint="f2"), clip("v1-0", fingerprint="f2"))
    write(lake, "b2", clip("v2-0", "b2", split="test"))
    again = build_training_set(lake)
    assert again == first
    assert lake.version(TRAINING_SETS) == version
    assert first["num_clips"] == 2 and first["batches"] == ["b1"]


def test_clips_of_a_video_that_was_dressed_by_itself_take_part_only_where_it_is_named(lake: DeltaStore):
    private = private_batch("0" * 64, ".mp4")
    write(lake, "b1", clip("v1-0"))
    write(lake, private, clip("v2-0", private))
    assert ids(lake, build_training_set(lake)) == ["v1-0"]
    for named in ({"batches": ["b1", private]}, {"new_batches": [private]}):
        assert ids(lake, build_training_set(lake, TrainingSetSettings(**named))) == ["v1-0", "v2-0"]


def test_set_stays_as_it_was_when_the_lake_moves_on(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"))
    old = build_training_set(lake)
    write(lake, "b1", clip("v3-0"))
    write(lake, "b2", clip("v2-0", "b2"))
    new = build_training_set(lake)
    assert new["training_set_id"] != old["training_set_id"]
    assert ids(lake, old) == ["v1-0"] and ids(lake, new) == ["v2-0", "v3-0"]
    # The pinned Delta version gives the rows again, not only the copy in the manifest.
    pinned = lake.read(CLIPS, where={"batch": old["batches"]}, version=old["table_versions"]["clips"])
    assert pinned["clip_id"].to_pylist() == ["v1-0"]
    assert training_set_row(lake, old["training_set_id"]) == old


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"fingerprint": "other"}, True),
        ({"latents_uri": "blobs/bb/new.safetensors"}, False),
        ({"action_mask": [1.0, 1.0, 1.0, 0.0, 0.0]}, False),
    ],
)
def test_identity_follows_content(lake: DeltaStore, change: dict, same: bool):
    write(lake, "b1", clip("v1-0"))
    before = build_training_set(lake)
    write(lake, "b1", clip("v1-0", **change))
    assert (build_training_set(lake)["training_set_id"] == before["training_set_id"]) == same


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["v1-0", "v1-8", "v2-0"]),
        ({"splits": ["test"]}, ["v3-0"]),
        ({"interaction": True}, ["v1-0", "v2-0"]),
        ({"interaction": False}, ["v1-8"]),
        ({"actions": ["operate_zipper"]}, ["v2-0"]),
        ({"batches": ["b2"]}, ["v2-0"]),
        ({"buckets": ["17x96x128"]}, ["v2-0"]),
        ({"exclude_videos": ["v1"]}, ["v2-0"]),
    ],
)
def test_filters(lake: DeltaStore, settings: dict, expected: list[str]):
    write(lake, "b1", clip("v1-0"), clip("v1-8", action_mask=[0.0] * 5, actions=[]))
    write(
        lake,
        "b2",
        clip("v2-0", "b2", actions=["operate_zipper"], bucket="17x96x128"),
        clip("v3-0", "b2", split="test"),
    )
    row = build_training_set(lake, TrainingSetSettings(**settings))
    assert ids(lake, row) == expected
    assert row["num_interaction_clips"] == sum(c != "v1-8" for c in expected)


def test_a_clip_in_two_batches_counts_once(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"))
    write(lake, "b2", clip("v1-0", "b2"))
    assert build_training_set(lake)["num_clips"] == 1


def test_refusals(lake: DeltaStore):
    with pytest.raises(TrainingSetError, match=r"empty.*materialise clips"):
        build_training_set(lake)
    write(lake, "b1", clip("v1-0"))
    write(lake, "b2", clip("v2-0", "b2", encoder_digest="e2"))
    with pytest.raises(TrainingSetError, match=r"several encoders.*e1 in b1; e2 in b2"):
        build_training_set(lake)
    assert build_training_set(lake, TrainingSetSettings(encoder_digest="e2"))["encoder_digest"] == "e2"
    with pytest.raises(TrainingSetError, match="batch b9"):
        build_training_set(lake, TrainingSetSettings(batches=["b1", "b9"]))
    with pytest.raises(LookupError, match="no training set nothing"):
        training_set_row(lake, "nothing")
    assert lake.read(TRAINING_SETS).num_rows == 1


def test_a_set_outlives_the_table_version_it_came_from(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"))
    row = build_training_set(lake)
    pinned = row["table_versions"]["clips"]
    write(lake, "b1", clip("v3-0"))
    lake.open(CLIPS).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(DamagedTable, match="vacuumed"):
        lake.read(CLIPS, version=pinned)
    assert ids(lake, row) == ["v1-0"]


def test_damaged_manifest_is_noticed(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"))
    row = build_training_set(lake)
    manifest_path(lake, row).write_bytes(b"other")
    with pytest.raises(OSError, match="damaged"):
        manifest_path(lake, row)


def test_missing_manifest_names_the_set_and_comes_back(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"))
    row = build_training_set(lake)
    manifest_path(lake, row).unlink()
    with pytest.raises(TrainingSetError, match=rf"{row['training_set_id']}: its manifest .*clips 1.*vacuumed"):
        manifest_path(lake, row)
    assert ids(lake, build_training_set(lake)) == ["v1-0"]


# --- replay -------------------------------------------------------------------------------------------------------


def replayed(row: dict) -> dict:
    return json.loads(row["filters"])["drawn"]


def test_replay_takes_a_share_of_older_clips_and_marks_them(lake: DeltaStore):
    write(lake, "old", *(clip(f"v{i}-0", "old") for i in range(20)))
    # v3 comes again in the new batch, and is new there.
    write(lake, "new", *(clip(f"v{i}-0", "new") for i in (3, *range(30, 35))))
    settings_ = TrainingSetSettings(new_batches=["new"], replay_share=0.25)
    row = build_training_set(lake, settings_)
    assert replayed(row) == {"new": 6, "replayed": 2} and row["batches"] == ["new", "old"] and row["num_clips"] == 8
    rows = pq.read_table(manifest_path(lake, row)).to_pylist()
    assert {r["clip_id"]: r["replay"] for r in rows if r["batch"] == "new"} == dict.fromkeys(
        ["v3-0", *(f"v{i}-0" for i in range(30, 35))], False
    )
    assert all(r["replay"] == (r["batch"] == "old") for r in rows)
    assert build_training_set(lake, settings_) == row
    # A larger share holds the smaller one; without a share everything takes part.
    larger = build_training_set(lake, settings_.model_copy(update={"replay_share": 0.5}))
    assert set(ids(lake, row)) < set(ids(lake, larger)) and replayed(larger) == {"new": 6, "replayed": 6}
    assert replayed(build_training_set(lake, settings_.model_copy(update={"replay_share": 0.0})))["replayed"] == 0
    assert replayed(build_training_set(lake, TrainingSetSettings(new_batches=["new"])))["replayed"] == 19


@settings(max_examples=12, deadline=None)
@given(new=st.integers(1, 8), old=st.integers(0, 30), share=st.floats(0, 0.9), reverse=st.booleans())
def test_share_is_met_within_rounding_and_the_draw_is_fixed(new: int, old: int, share: float, reverse: bool):
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        drawn = []
        for folder, order in ((first, 1), (second, -1 if reverse else 1)):
            store = DeltaStore(folder)
            write(store, "new", *[clip(f"n{i}-0", "new") for i in range(new)][::order])
            write(store, "old", *[clip(f"o{i}-0", "old") for i in range(old)][::order])
            row = build_training_set(store, TrainingSetSettings(new_batches=["new"], replay_share=share))
            drawn.append(ids(store, row))
        assert drawn[0] == drawn[1] and len(set(drawn[0])) == len(drawn[0])
        taken = sum(c.startswith("o") for c in drawn[0])
        assert len(drawn[0]) == new + taken
        if taken < old:
            # One clip more or less would be farther from the share than half a clip is.
            assert abs(taken - share / (1 - share) * new) <= 0.5
        else:
            assert taken <= round(share / (1 - share) * new)


def test_replay_refusals(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"))
    with pytest.raises(TrainingSetError, match="batch b9"):
        build_training_set(lake, TrainingSetSettings(new_batches=["b9"], replay_share=0.5))
    write(lake, "b2", clip("v2-0", "b2"))
    narrow = TrainingSetSettings(new_batches=["b2"], replay_share=0.5, exclude_videos=["v2"])
    with pytest.raises(TrainingSetError, match="No clip of the new batches b2"):
        build_training_set(lake, narrow)
    with pytest.raises(ValueError, match="name new_batches too"):
        TrainingSetSettings(replay_share=0.5)
    with pytest.raises(ValueError, match="b2 are not among batches"):
        TrainingSetSettings(batches=["b1"], new_batches=["b2"])
