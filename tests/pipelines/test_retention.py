"""Tidying a lake: what is current or pinned stays whatever happens, and what nothing needs goes."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.stage import WorkerSettings, run_stage
from pipelines.stage.base import scratch
from pipelines.stage.pool import staged_file, staging_folder
from pipelines.store import TABLES, BlobStore, Commit, DeltaStore
from pipelines.store import blobs as blobs_module
from pipelines.store.blobs import TEMPORARY
from pipelines.store.retention import RetentionSettings, needed_blobs, tidy
from pipelines.store.schemas import CAPTIONS, CLIPS, POSE, STAGE_STATUS, TRAINING_SETS
from pipelines.training_sets.build import build_training_set, manifest_path
from pipelines.training_sets.settings import TrainingSetSettings
from tests.pipelines.fake_stages import FakePose, FakeSettings
from tests.pipelines.test_stage import BATCH, add_videos
from tests.pipelines.test_store import caption_rows

NAMED = ("latents_uri", "text_uri")


def put_clips(store: DeltaStore, batch: str, contents: Iterable[Any]) -> None:
    """Replace a batch's clips by one for each of `contents`, with blobs of its own."""
    rows = [
        {
            "batch": batch,
            "video_id": f"{batch}-v{i}",
            "clip_id": f"{batch}-{content}-{i}",
            "start_frame": 0,
            "num_frames": 9,
            "bucket": "9x64x48",
            "latents_uri": store.blobs.put_bytes(f"latents {batch} {content} {i}".encode(), ".safetensors"),
            "text_uri": store.blobs.put_bytes(f"text {batch} {content}".encode(), ".safetensors"),
            "action_mask": [0.0, 1.0, 0.0],
            "actions": ["adjust_hem"],
            "global_caption": "A person.",
            "garment_id": "g",
            "split": "train",
            "encoder_digest": "e",
            "fingerprint": "f",
        }
        for i, content in enumerate(contents)
    ]
    store.replace(CLIPS, pa.Table.from_pylist(rows, CLIPS.schema), {"batch": batch}, Commit())


def make_old(store: DeltaStore, days: float = 400) -> None:
    """Blobs look as if they had been stored long ago."""
    then = time.time() - days * 86400
    for blob in store.blobs.list():
        os.utime(Path(store.root) / blob.uri, (then, then))


def named(table: pa.Table) -> set[str]:
    return {uri for name in NAMED for uri in table[name].to_pylist()}


def there(store: DeltaStore) -> set[str]:
    return {b.uri for b in store.blobs.list()}


def data_files(store: DeltaStore, name: str) -> set[str]:
    return {p.name for p in Path(store.root, "tables", name).rglob("*.parquet") if "_delta_log" not in p.parts}


class Pin:
    """A training set and what it read when it was built."""

    def __init__(self, store: DeltaStore, **filters: Any):
        self.store = store
        self.row = build_training_set(store, TrainingSetSettings(**filters))
        self.manifest = pq.read_table(manifest_path(store, self.row))
        self.version = self.row["table_versions"]["clips"]
        self.table = store.read(CLIPS, version=self.version)

    def check(self) -> None:
        """The manifest and the pinned version read the same, and every blob that they name is there and whole."""
        assert pq.read_table(manifest_path(self.store, self.row)).equals(self.manifest)
        assert self.store.read(CLIPS, version=self.version).equals(self.table)
        for uri in named(self.manifest) | named(self.table):
            assert self.store.blobs.read_bytes(uri)


def test_what_a_pinned_training_set_needs_outlives_everything_else(lake):
    put_clips(lake, "a", ["one", "two"])
    put_clips(lake, "b", ["one"])
    pin = Pin(lake, batches=["a"])
    for generation in range(4):
        put_clips(lake, "a", [f"generation {generation}"])
    make_old(lake)
    files, current = data_files(lake, "clips"), named(lake.read(CLIPS))
    shown = tidy(lake, scratch(lake), 0, dry_run=True)
    assert data_files(lake, "clips") == files and len(there(lake)) == shown.blobs
    report = tidy(lake, scratch(lake), 0)
    pin.check()
    # Batch b's clips were not selected, but the pinned version and the current one hold them.
    assert there(lake) == current | named(pin.table) | {pin.row["manifest_uri"]}
    assert data_files(lake, "clips") == {
        Path(f).name for v in (None, pin.version) for f in lake.open(CLIPS, v).file_uris()
    }
    assert report.removed_blobs == shown.removed_blobs == 2 * 3, "of the three generations between"
    assert report.removed_files["clips"] == 3 and report.kept_versions == {"clips": [pin.version]}
    assert report.missing_blobs == 0 and not report.lost_versions
    version = lake.version(CLIPS)
    again = tidy(lake, scratch(lake), 0)
    assert lake.version(CLIPS) == version, "nothing to do is no commit"
    assert again.removed_blobs == 0 and not again.removed_files and not again.merged


BATCHES = ("a", "b")
STEPS = st.one_of(
    st.tuples(st.just("replace"), st.sampled_from(BATCHES), st.integers(0, 3), st.integers(0, 4)),
    st.tuples(st.just("pin"), st.sampled_from([None, "a", "b"])),
    st.tuples(st.just("tidy")),
)


@given(st.lists(STEPS, min_size=2, max_size=9))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_keeps_exactly_what_is_current_or_pinned(tmp_path_factory, steps):
    lake = DeltaStore(tmp_path_factory.mktemp("lake"))
    lake.ensure_tables([CLIPS, TRAINING_SETS])
    pins: list[Pin] = []
    for kind, *what in [*steps, ("tidy",)]:
        if kind == "replace":
            batch, content, count = what
            put_clips(lake, batch, [content] * count)
        elif kind == "pin":
            held = set(lake.read(CLIPS, ["batch"])["batch"].to_pylist())
            if what[0] in held or (what[0] is None and held):
                pins.append(Pin(lake, batches=None if what[0] is None else [what[0]]))
        else:
            make_old(lake)
            before = lake.read(CLIPS)
            tidy(lake, scratch(lake), 0)
            assert lake.read(CLIPS).equals(before)
            needed = named(before)
            for pin in pins:
                pin.check()
                needed |= named(pin.table) | {pin.row["manifest_uri"]}
            assert there(lake) == needed


def test_a_pinned_version_whose_log_is_gone_is_told_as_lost(lake):
    put_clips(lake, "a", ["one"])
    pin = Pin(lake)
    put_clips(lake, "a", ["two"])
    table = lake.open(CLIPS)
    table.create_checkpoint()
    for entry in Path(lake.root, "tables", "clips", "_delta_log").iterdir():
        os.utime(entry, (0, 0))
    table.cleanup_metadata()
    with pytest.raises(ValueError, match=f"clips has no version {pin.version}, or its log entries were removed"):
        lake.read(CLIPS, version=pin.version)
    make_old(lake)
    report = tidy(lake, scratch(lake), 0)
    assert report.lost_versions == {"clips": [pin.version]} and not report.kept_versions
    assert named(pin.manifest) <= there(lake), "the manifest still holds the rows"


def test_replaced_rows_can_be_read_with_their_blobs_for_as_long_as_was_asked(lake):
    put_clips(lake, "a", ["old"])
    version = lake.version(CLIPS)
    old = lake.read(CLIPS)
    put_clips(lake, "a", ["new"])
    make_old(lake)
    report = tidy(lake, scratch(lake), 14)
    assert report.removed_blobs == 0 and not report.removed_files
    assert lake.read(CLIPS, version=version).equals(old)
    assert all(lake.blobs.exists(uri) for uri in named(old))


def test_young_blobs_stay_and_storing_one_again_makes_it_young(lake):
    old, again, unfinished = (lake.blobs.put_bytes(data, ".bin") for data in (b"old", b"again", b"unfinished"))
    half = Path(lake.root) / TEMPORARY / "half"
    make_old(lake, days=20)
    half.parent.mkdir(exist_ok=True)
    (Path(lake.root) / unfinished).rename(half)
    young = lake.blobs.put_bytes(b"young", ".bin")
    assert lake.blobs.put_bytes(b"again", ".bin") == again
    report = tidy(lake, scratch(lake), 14)
    assert there(lake) == {again, young} and report.removed_blobs == 1 and report.removed_bytes == len(b"old")
    assert [Path(p).name for p in report.leftovers] == ["half"] and not half.exists()
    assert not lake.blobs.exists(old)


def test_a_blob_that_became_young_while_rows_were_read_is_not_removed(lake, monkeypatch):
    uri = lake.blobs.put_bytes(b"about to be named", ".bin")
    make_old(lake)
    remove = BlobStore.remove

    def stored_again(self: BlobStore, uri: str, before: float) -> bool:
        self.put_bytes(b"about to be named", ".bin")
        return remove(self, uri, before)

    monkeypatch.setattr(BlobStore, "remove", stored_again)
    assert tidy(lake, scratch(lake), 14).removed_blobs == 0
    assert lake.blobs.exists(uri)


def test_a_damaged_manifest_stops_the_removal_of_blobs(lake):
    put_clips(lake, "a", ["one"])
    pin = Pin(lake)
    put_clips(lake, "a", ["two"])
    (Path(lake.root) / pin.row["manifest_uri"]).write_bytes(b"damaged")
    make_old(lake)
    blobs = there(lake)
    with pytest.raises(OSError, match="damaged"):
        tidy(lake, scratch(lake), 0)
    assert there(lake) == blobs


def test_blobs_that_are_missing_are_counted(lake):
    put_clips(lake, "a", ["one"])
    uri = lake.read(CLIPS)["latents_uri"][0].as_py()
    assert lake.blobs.remove(uri, time.time() + 1)
    assert tidy(lake, scratch(lake), 14).missing_blobs == 1


def test_every_blob_that_a_table_can_name_is_looked_for(lake):
    """By the columns' documentation, so that a new column that holds blobs under another name is noticed."""
    for spec in TABLES.values():
        for name, doc in spec.column_docs().items():
            if "blob" in doc.lower():
                assert name == "uri" or name.endswith("_uri"), f"{spec.name}.{name} is not looked for"
    assert needed_blobs(lake) == set()


def test_small_files_of_a_partition_become_one_with_the_same_rows(lake):
    for i in range(4):
        table = caption_rows("a", [f"text {i}"])
        plain = pa.schema([f.remove_metadata() for f in table.schema])
        write_deltalake(lake.open(CAPTIONS), table.cast(plain), mode="append")
    lake.replace(CAPTIONS, caption_rows("b", ["alone"]), {"batch": "b"}, Commit())
    before = lake.read(CAPTIONS).sort_by([("text", "ascending")])
    report = tidy(lake, scratch(lake), 14)
    assert report.merged == {"captions": 4}
    assert lake.read(CAPTIONS).sort_by([("text", "ascending")]).equals(before)
    assert len(lake.open(CAPTIONS).file_uris()) == 2


def _write(root: str, batch: str) -> None:
    store = DeltaStore(root)
    for i in range(6):
        put_clips(store, batch, [f"{i}", "shared"])


def test_writers_that_work_meanwhile_lose_nothing(lake):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(lake.root, batch)) for batch in BATCHES]
    for w in writers:
        w.start()
    reports = []
    while any(w.is_alive() for w in writers):
        make_old_blobs_nobody_names(lake)
        reports.append(tidy(lake, scratch(lake), 14))
    for w in writers:
        w.join(60)
    assert [w.exitcode for w in writers] == [0, 0]
    rows = lake.read(CLIPS)
    written = sorted(f"{b}-{c}-{i}" for b in BATCHES for i, c in enumerate(["5", "shared"]))
    assert sorted(rows["clip_id"].to_pylist()) == written
    assert named(rows) <= there(lake)
    assert sum(r.removed_blobs for r in reports) > 0


def make_old_blobs_nobody_names(store: DeltaStore) -> None:
    uri = store.blobs.put_bytes(os.urandom(8), ".bin")
    os.utime(Path(store.root) / uri, (0, 0))


def test_staged_rows_are_used_for_a_week_and_swept_later(lake, monkeypatch, tmp_path):
    log = tmp_path / "log"
    monkeypatch.setenv("FAKE_STAGE_LOG", str(log))
    (video_id,) = add_videos(lake, "a.mp4")
    stage = FakePose(FakeSettings())
    run_stage(stage, lake, BATCH, settings=WorkerSettings(workers=1))
    rows, row = lake.read(POSE), lake.read(STAGE_STATUS).to_pylist()[0]
    folder = staging_folder(lake, stage, BATCH)
    file = staged_file(folder, video_id, row["fingerprint"])

    def staged_again(age_days: float) -> int:
        log.write_text("")
        for spec, where in ((POSE, {"batch": BATCH}), (STAGE_STATUS, {"batch": BATCH, "stage": "pose"})):
            lake.replace(spec, spec.schema.empty_table(), where, Commit())
        folder.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(file, rows.schema) as writer:
            writer.write_table(rows)
            writer.add_key_value_metadata({"itryon": '{"rows": 7, "frames": 7, "seconds": 1.0, "model_seconds": 0.5}'})
        then = time.time() - age_days * 86400
        os.utime(file, (then, then))
        run_stage(stage, lake, BATCH, settings=WorkerSettings(workers=1))
        assert lake.read(POSE).equals(rows)
        return len(log.read_text().split())

    assert staged_again(6) == 0, "taken over as they were"
    assert staged_again(8) == 1, "made anew"
    for batch, days in (("young", 5), ("old", 8)):
        left = folder.with_name(batch)
        left.mkdir(parents=True)
        for path in (left / "file", left):
            path.touch()
            os.utime(path, (time.time() - days * 86400,) * 2)
    assert tidy(lake, scratch(lake), 14).leftovers == [str(folder.with_name("old"))]
    assert [p.name for p in folder.parent.iterdir()] == ["young"]


def test_days_that_are_fewer_than_work_may_take_are_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 14"):
        RetentionSettings(days=13)
    assert blobs_module._YOUNG_S < 86400 * 7, "a blob stays young for as long as staged rows that name it"
