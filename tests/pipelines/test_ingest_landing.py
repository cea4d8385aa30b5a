"""Placing files in the landing zone, and finding them there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipelines.ingest.landing import by_key, land, landing_root, scan, validate_batch
from pipelines.store import DeltaStore


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(b"a")
    (folder / "deep" / "er" / "b.MOV").write_bytes(b"b")
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.mp4").write_bytes(b"h")
    (folder / "manifest.jsonl").write_text('{"video": "a.mp4", "split": "train"}\n{broken\n')
    return folder


@pytest.mark.parametrize("name", ["a", "2026-11-22_x.y", "-", "A" * 128])
def test_batch_names(name: str) -> None:
    assert validate_batch(name) == name


@pytest.mark.parametrize("name", ["", ".a", "..", "a/b", "a b", "é", "a'b", "a\n", "A" * 129, "a\\b"])
def test_names_that_cannot_be_batches(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a batch"):
        validate_batch(name)


def test_landing_a_folder(source: Path, lake: DeltaStore) -> None:
    report = land(source, lake, "one")
    assert report.added == ["a.mp4", "deep/er/b.MOV", "notes.txt"] and not report.refused
    assert report.folder == landing_root(lake) / "one"
    assert {f.path for f in scan(report.folder)} == {*report.added, "manifest.jsonl"}
    again = land(source, lake, "one")
    assert not again.added and again.unchanged == report.added
    assert not [p for p in report.folder.parent.iterdir() if p.name.startswith(".")]


def test_landing_survives_the_source_and_other_file_systems(
    source: Path, lake: DeltaStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    folder = land(source / "a.mp4", lake, "copied").folder
    (source / "a.mp4").write_bytes(b"changed")
    assert (folder / "a.mp4").read_bytes() == b"a"
    assert land(source, lake, "copied").added == ["a.mp4", "deep/er/b.MOV", "notes.txt"]
    assert (folder / "a.mp4").read_bytes() == b"changed"


def test_manifests_are_merged(source: Path, lake: DeltaStore, tmp_path: Path) -> None:
    folder = land(source, lake, "m").folder
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.mp4").write_bytes(b"c")
    # With a byte order mark, as some editors write it.
    (other / "manifest.jsonl").write_text('{"video": "c.mp4"}\n{"video": "a.mp4", "split": "test"}', "utf-8-sig")
    land(other, lake, "m")
    land(other, lake, "m")
    text = (folder / "manifest.jsonl").read_text().splitlines()
    assert text == ["{broken", '{"video": "c.mp4"}', '{"video": "a.mp4", "split": "test"}']


def test_links_out_of_the_source_are_refused(source: Path, lake: DeltaStore, tmp_path: Path) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"s")
    (source / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (source / "inner.mp4").symlink_to("a.mp4")
    (source / "all").symlink_to(tmp_path)
    report = land(source, lake, "links")
    assert set(report.refused) == {"link.mp4", "all"}
    assert (report.folder / "inner.mp4").read_bytes() == b"a" and not (report.folder / "inner.mp4").is_symlink()


@pytest.mark.parametrize("batch", ["../evil", ".x", ""])
def test_no_batch_escapes(source: Path, lake: DeltaStore, batch: str) -> None:
    with pytest.raises(ValueError, match="cannot name a batch"):
        land(source, lake, batch)


def test_what_cannot_be_landed(source: Path, lake: DeltaStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing at"):
        land(tmp_path / "absent", lake, "x")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="no videos or photos"):
        land(empty, lake, "x")
    land(source, lake, "x")
    with pytest.raises(ValueError, match="contain one another"):
        land(landing_root(lake) / "x", lake, "x")
    with pytest.raises(ValueError, match="contain one another"):
        land(Path(lake.root).parent, lake, "x")


def test_a_remote_lake_needs_a_local_landing_zone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = DeltaStore("s3://bucket/lake")
    monkeypatch.delenv("ITRYON_LANDING", raising=False)
    with pytest.raises(LookupError, match="ITRYON_LANDING"):
        landing_root(store)
    monkeypatch.setenv("ITRYON_LANDING", str(tmp_path))
    assert landing_root(store) == tmp_path


def test_names_that_differ_in_composition_only_are_both_kept(tmp_path: Path) -> None:
    for name in ("e\u0301.mp4", "\u00e9.mp4"):
        (tmp_path / name).write_text(name)
    found = by_key(scan(tmp_path))
    assert len(found) == 2 and found["\u00e9.mp4"].path == "\u00e9.mp4"


def test_a_name_that_is_no_text_becomes_one(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/bad\xff.mp4"
    with open(path, "wb"):  # noqa: PTH123 - pathlib has no names of bytes
        pass
    [file] = scan(tmp_path)
    assert json.dumps(file.path).isascii() and file.path == "bad\\xff.mp4"
    assert file.location.exists()
