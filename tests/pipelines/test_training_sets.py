"""Training sets: what is selected, that it is pinned, and what is refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.store import Commit, DeltaStore
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


def test_damaged_manifest_is_noticed(lake: DeltaStore):
    write(lake, "b1", clip("v1-0"))
    row = build_training_set(lake)
    manifest_path(lake, row).write_bytes(b"other")
    with pytest.raises(OSError, match="damaged"):
        manifest_path(lake, row)
