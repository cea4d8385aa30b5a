"""The lake: partition replacement, typed reads, blobs that are whole or absent."""

import dataclasses
import hashlib
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.arrays import (
    decode_mask,
    encode_mask,
    points_to_arrow,
    points_to_numpy,
    record_batch,
    structs_to_arrow,
    structs_to_numpy,
)
from pipelines.checks import check_schema
from pipelines.store import TABLES, BlobStore, Commit, DeltaStore, delta
from pipelines.store.delta import predicate
from pipelines.store.document import tables_markdown
from pipelines.store.schemas import CAMERA, CAPTIONS, LANDMARK, POINT_2D, STAGE_STATUS


def caption_rows(batch: str, texts: list[str]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "batch": batch,
                "video_id": f"{i:016x}",
                "kind": "action",
                "action": "other",
                "start_frame": i,
                "end_frame": i + 1,
                "handedness": None,
                "text": text,
                "confidence": 0.5,
                "source": "manifest",
                "fingerprint": "f",
            }
            for i, text in enumerate(texts)
        ],
        CAPTIONS.schema,
    )


@pytest.fixture
def store(tmp_path) -> DeltaStore:
    return DeltaStore(tmp_path / "lake")


def test_every_table_is_created_with_documented_columns(store):
    store.ensure_tables()
    store.ensure_tables()
    for spec in TABLES.values():
        assert all(spec.column_docs().values()), spec.name
        assert store.read(spec).num_rows == 0
        assert store.read(spec).schema.equals(spec.schema)
        assert store.version(spec) == 0


def test_a_column_of_a_later_release_is_added_to_an_older_table(store):
    fields = [f for f in CAPTIONS.schema if f.name != "handedness"]
    older = dataclasses.replace(CAPTIONS, schema=pa.schema(fields))
    store.ensure_tables([older])
    store.replace(older, caption_rows("a", ["old"]).select(older.schema.names), {"batch": "a"}, Commit())
    store.ensure_tables([CAPTIONS])
    version = store.version(CAPTIONS)
    store.ensure_tables([CAPTIONS])
    assert store.version(CAPTIONS) == version
    new = caption_rows("b", ["new"]).to_pylist()[0] | {"handedness": "left"}
    store.replace(CAPTIONS, pa.Table.from_pylist([new], CAPTIONS.schema), {"batch": "b"}, Commit())
    rows = {r["text"]: r["handedness"] for r in store.read(CAPTIONS).to_pylist()}
    assert rows == {"old": None, "new": "left"}


def test_a_column_of_another_type_is_told_by_the_check(store):
    fields = [f.with_type(pa.float64()) if f.name == "confidence" else f for f in CAPTIONS.schema]
    store.ensure_tables([dataclasses.replace(CAPTIONS, schema=pa.schema(fields))])
    found = check_schema(store, CAPTIONS, {"batch": "a"})
    assert not found.passed and found.description == "confidence is double, declared as float"
    assert all(check_schema(store, spec, {}).passed for spec in TABLES.values() if spec is not CAPTIONS)


def test_replacing_one_batch_leaves_the_others(store):
    store.replace(CAPTIONS, caption_rows("a", ["one", "two"]), {"batch": "a"}, Commit("run-1", "3"))
    store.replace(CAPTIONS, caption_rows("b", ["three"]), {"batch": "b"}, Commit())
    version = store.replace(CAPTIONS, caption_rows("a", ["four"]), {"batch": "a"}, Commit())
    rows = store.read(CAPTIONS)
    assert sorted(zip(rows["batch"].to_pylist(), rows["text"].to_pylist())) == [("a", "four"), ("b", "three")]
    before = store.read(CAPTIONS, version=version - 1)
    assert sorted(before["text"].to_pylist()) == ["one", "three", "two"]
    history = store.open(CAPTIONS).history()
    assert any(h.get("itryon/run_id") == "run-1" and h.get("itryon/code_version") == "3" for h in history)


def test_a_reader_is_streamed_and_rows_outside_the_partition_are_refused(store):
    table = caption_rows("a", ["x"] * 10)
    store.replace(CAPTIONS, table.to_reader, {"batch": "a"}, Commit())
    assert store.read(CAPTIONS).num_rows == 10
    with pytest.raises(DeltaError, match="10 rows failed validation"):
        store.replace(CAPTIONS, table, {"batch": "b"}, Commit())
    assert store.read(CAPTIONS).num_rows == 10
    with pytest.raises(ValueError, match="is replaced by"):
        store.replace(CAPTIONS, table, {"video_id": "b"}, Commit())


WRITERS, ROUNDS = 8, 10


def _overwrite(root: str, batch: str) -> None:
    store = DeltaStore(root)
    for i in range(ROUNDS):
        store.replace(CAPTIONS, caption_rows(batch, [str(i)] * 3), {"batch": batch}, Commit(f"{batch}-{i}"))


def test_eighty_writes_of_eight_processes_lose_nothing(store):
    store.ensure_tables([CAPTIONS])
    context = multiprocessing.get_context("spawn")
    batches = [f"b{i}" for i in range(WRITERS)]
    workers = [context.Process(target=_overwrite, args=(store.root, b)) for b in batches]
    for w in workers:
        w.start()
    for w in workers:
        w.join(600)
    assert [w.exitcode for w in workers] == [0] * WRITERS
    rows = store.read(CAPTIONS)
    assert sorted(rows["batch"].to_pylist()) == sorted(batches * 3), "no row is lost or doubled"
    assert set(rows["text"].to_pylist()) == {str(ROUNDS - 1)}
    # Each commit is a version of its own, and none was written over by another.
    assert store.version(CAPTIONS) == WRITERS * ROUNDS
    history = [h.get("itryon/run_id") for h in store.open(CAPTIONS).history()]
    assert sorted(r for r in history if r) == sorted(f"{b}-{i}" for b in batches for i in range(ROUNDS))


def test_a_store_sees_what_others_wrote_however_long_it_remembers(store):
    other = DeltaStore(store.root)
    for i in range(3 * delta._REOPENED_AFTER):
        writer, reader = (store, other) if i % 2 else (other, store)
        version = writer.replace(CAPTIONS, caption_rows(f"b{i % 5}", [str(i)]), {"batch": f"b{i % 5}"}, Commit())
        assert reader.version(CAPTIONS) == version == i + 1
        assert reader.read(CAPTIONS, where={"batch": f"b{i % 5}"})["text"].to_pylist() == [str(i)]
    assert store.read(CAPTIONS).num_rows == 5


def test_a_lake_made_again_in_the_same_folder_is_another_one(store):
    for text in ("one", "two"):
        store.replace(CAPTIONS, caption_rows("a", [text]), {"batch": "a"}, Commit())
    shutil.rmtree(store.root)
    DeltaStore(store.root).replace(CAPTIONS, caption_rows("b", ["new"]), {"batch": "b"}, Commit())
    assert store.read(CAPTIONS)["text"].to_pylist() == ["new"]
    assert store.replace(CAPTIONS, caption_rows("a", ["three"]), {"batch": "a"}, Commit()) == 2


@pytest.mark.parametrize("folder", ["", "tables/captions"])
def test_what_was_deleted_under_a_living_process_is_made_anew(store, folder):
    store.replace(CAPTIONS, caption_rows("a", ["one"]), {"batch": "a"}, Commit())
    shutil.rmtree(Path(store.root) / folder)
    assert store.read(CAPTIONS).num_rows == 0
    assert store.replace(CAPTIONS, caption_rows("a", ["two"]), {"batch": "a"}, Commit()) == 1


def test_a_version_of_a_table_that_is_not_there_is_refused(store):
    with pytest.raises(ValueError, match="captions has no version 12"):
        store.open(CAPTIONS, 12)
    assert not store.has(CAPTIONS)


def test_a_remembered_table_that_another_writer_changed_is_written_on_top(store):
    """What a store remembers is never what it overwrites others with."""
    store.replace(CAPTIONS, caption_rows("a", ["one"]), {"batch": "a"}, Commit())
    DeltaStore(store.root).replace(CAPTIONS, caption_rows("a", ["two"]), {"batch": "a"}, Commit())
    store.replace(CAPTIONS, caption_rows("a", ["three"]), {"batch": "a"}, Commit())
    assert store.read(CAPTIONS)["text"].to_pylist() == ["three"] and store.version(CAPTIONS) == 3


def test_copies_in_one_process_share_what_they_remember(store):
    twin = pickle.loads(pickle.dumps(store))
    assert twin is pickle.loads(pickle.dumps(store)) and twin.root == store.root
    named = DeltaStore(store.root, {"timeout": "9 s"})
    assert pickle.loads(pickle.dumps(named)).storage_options == {"timeout": "9 s"}


def test_a_table_of_an_earlier_release_gets_its_properties_once(store):
    DeltaTable.create(
        store.uri(CAPTIONS), schema=CAPTIONS.schema, partition_by=["batch"], configuration={"delta.appendOnly": "false"}
    )
    store.ensure_tables([CAPTIONS])
    configuration = store.open(CAPTIONS).metadata().configuration
    assert configuration == {"delta.appendOnly": "false", **delta.PROPERTIES}
    store.ensure_tables([CAPTIONS])
    assert store.version(CAPTIONS) == 1


@given(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=4))
def test_predicates_quote_what_they_are_given(value, values):
    text = predicate({"a": value, "b": values})
    assert text.startswith("a = '" + value.replace("'", "''") + "' AND ")
    assert text.endswith("false" if not values else ")")


def test_predicates_select_exactly(store):
    names = ["it's", "x' OR '1'='1", "plain"]
    store.replace(CAPTIONS, caption_rows("a", names), {"batch": "a"}, Commit())
    for name in names:
        assert store.read(CAPTIONS, ["text"], {"text": name})["text"].to_pylist() == [name]
    assert store.read(CAPTIONS, ["text"], {"text": []}).num_rows == 0


def test_status_is_partitioned_so_that_stages_do_not_conflict():
    assert STAGE_STATUS.partition_by == ("batch", "stage")


# --- blobs ---


@given(data=st.binary(max_size=5000))
@settings(max_examples=20, deadline=None)
def test_blobs_round_trip_under_their_digest(tmp_path_factory, data):
    blobs = BlobStore(str(tmp_path_factory.mktemp("lake")))
    uri = blobs.put_bytes(data, ".bin")
    assert uri == f"blobs/{hashlib.sha256(data).hexdigest()[:2]}/{hashlib.sha256(data).hexdigest()}.bin"
    assert blobs.read_bytes(uri) == data
    assert blobs.put_bytes(data, ".bin") == uri


def test_a_damaged_blob_is_named(store, tmp_path):
    source = tmp_path / "Video Ü.MP4"
    source.write_bytes(b"abc")
    uri = store.blobs.put_file(source)
    assert uri.endswith(".mp4") and store.blobs.local_path(uri).read_bytes() == b"abc"
    store.blobs.local_path(uri).write_bytes(b"abd")
    with pytest.raises(OSError, match="damaged"):
        store.blobs.read_bytes(uri)


@pytest.mark.parametrize("uri", ["../x", "/etc/passwd", "blobs/../../x", "", "tables/x"])
def test_no_uri_leaves_the_blob_folder(store, uri):
    with pytest.raises(ValueError, match="Not a blob"):
        store.blobs.read_bytes(uri)


def test_an_interrupted_write_leaves_nothing(store):
    class Broken:
        def read(self, _):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.blobs._write(Broken(), BlobStore.uri_for("ab" * 32, ".bin"), "ab" * 32)
    assert [p for p in Path(store.root).rglob("*") if p.is_file()] == []


# --- arrays ---


@given(st.integers(0, 5), st.integers(1, 4), st.randoms(use_true_random=False))
def test_points_round_trip_with_gaps(rows, count, random):
    points = np.random.default_rng(random.randrange(1 << 30)).normal(size=(rows, count, 4)).astype(np.float32)
    valid = np.array([random.random() < 0.7 for _ in range(rows)], bool)
    back = points_to_numpy(points_to_arrow(points, LANDMARK, valid), count)
    np.testing.assert_array_equal(back[valid], points[valid])
    assert np.isnan(back[~valid]).all()


def test_points_survive_chunks_and_slices():
    points = np.arange(5 * 2 * 2, dtype=np.float32).reshape(5, 2, 2)
    column = points_to_arrow(points, POINT_2D)
    chunked = pa.chunked_array([column.slice(1, 2), column.slice(3, 2)])
    np.testing.assert_array_equal(points_to_numpy(chunked, 2), points[1:])
    np.testing.assert_array_equal(
        structs_to_numpy(structs_to_arrow(points.reshape(5, 4), CAMERA).slice(2)), points.reshape(5, 4)[2:]
    )


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1 << 30))
def test_masks_round_trip(height, width, seed):
    mask = (np.random.default_rng(seed).random((height, width)) < 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), height, width), mask)


def test_record_batches_take_the_declared_types():
    batch = record_batch({"text": ["a"], "start_frame": np.array([3])}, CAPTIONS.schema)
    assert batch.schema.field("start_frame").type == pa.int32()


def test_the_documentation_of_the_tables_is_current():
    written = (Path(__file__).parents[2] / "docs" / "tables.md").read_text()
    assert written == tables_markdown(), "run: python -m pipelines.store.document docs/tables.md"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_lake_made_with_other_column_comments_can_be_written(tmp_path, streamed):
    lake = DeltaStore(tmp_path)
    spec = TABLES["captions"]
    fields = [f.with_metadata({"comment": f"old: {f.name}"}) for f in spec.schema]
    old = dataclasses.replace(spec, schema=pa.schema(fields))
    lake.ensure_tables([old])
    row = {f.name: None if f.nullable else {"string": "x", "float": 0.5}.get(str(f.type), 0) for f in spec.schema}
    table = pa.Table.from_pylist([{**row, "batch": "b"}], spec.schema)
    rows = table if not streamed else lambda: pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    lake.replace(spec, rows, {"batch": "b"}, Commit())
    assert lake.read(spec).num_rows == 1


def test_columns_that_a_table_lacks_are_added_and_old_rows_have_null(tmp_path):
    lake = DeltaStore(tmp_path)
    spec = TABLES["video_metrics"]
    added = ("low", "high", "note")
    old = dataclasses.replace(spec, schema=pa.schema([f for f in spec.schema if f.name not in added]))
    lake.ensure_tables([old])

    def row(schema, checkpoint):
        made = {f.name: None if f.nullable else {"string": "x"}.get(str(f.type), 0) for f in schema}
        return pa.Table.from_pylist([made | {"checkpoint_id": checkpoint}], schema)

    before = lake.replace(old, row(old.schema, "a"), {"checkpoint_id": "a"}, Commit())
    lake.ensure_tables([spec])
    lake.ensure_tables([spec])
    assert lake.version(spec) == before + 1
    new = row(spec.schema, "b").drop_columns(["low"]).append_column("low", pa.array([0.5])).select(spec.schema.names)
    lake.replace(spec, new, {"checkpoint_id": "b"}, Commit())
    rows = {r["checkpoint_id"]: r for r in lake.read(spec).to_pylist()}
    assert rows["a"]["low"] is None and rows["b"]["low"] == 0.5
    assert lake.read(spec, ["low", "note"], version=before).to_pylist() == [{"low": None, "note": None}]
