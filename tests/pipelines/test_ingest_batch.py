"""Ingestion of real files, good and bad: every file is a row, nothing is lost, nothing is done twice.

One module, though long: most of it looks at one batch of every kind of bad input, which is ingested once.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.ingest import batch as batch_module
from pipelines.ingest.batch import IngestReport
from pipelines.ingest.landing import landing_root
from pipelines.ingest.settings import IngestSettings
from pipelines.ingest.workers import WorkerFailure, run_isolated
from pipelines.stage import Progress
from pipelines.store import Commit, DeltaStore
from pipelines.store.blobs import BlobStore, sha256_file
from pipelines.store.errors import DiskFull
from pipelines.store.schemas import GARMENTS, VIDEOS
from tests.pipelines.media import write_audio, write_cut_off, write_rotated, write_timed, write_video

ONE = IngestSettings(workers=1)
LONG = "x" * 240 + ".mp4"


def ingest_batch(store: DeltaStore, batch: str, settings: IngestSettings = ONE, **options: Any) -> IngestReport:
    """One worker: most of a small batch's time is starting them."""
    return batch_module.ingest_batch(store, batch, settings, **options)


def write_garment(path: Path, colour: tuple[int, int, int] = (30, 60, 160)) -> Path:
    rng = np.random.default_rng(sum(colour))
    photo = rng.normal(205, 6, (200, 160, 3))
    photo[40:170, 40:120] = np.asarray(colour) + rng.normal(0, 6, (130, 80, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(path)
    return path


def write_manifest(folder: Path, *lines: object) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "manifest.jsonl").write_text(text + "\n", "utf-8")


def span(action: str = "other", start: float = 0.1, end: float = 0.5) -> dict[str, object]:
    return {"action": action, "start_s": start, "end_s": end, "text": "a hand moves"}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeltaStore, Path, IngestReport]:
    """A batch of every kind of bad input beside good ones, ingested."""
    root = tmp_path_factory.mktemp("bad")
    store = DeltaStore(root / "lake")
    store.ensure_tables()
    folder = landing_root(store) / "bad"
    folder.mkdir(parents=True)
    write_video(folder / "good.mp4")
    (folder / "copy.mp4").write_bytes((folder / "good.mp4").read_bytes())
    (folder / "zero.mp4").touch()
    (folder / "zero2.mp4").touch()
    (folder / "text.mp4").write_text("not a video at all")
    (folder / "playlist.mp4").write_text(f"ffconcat version 1.0\nfile {folder / 'good.mp4'}\n")
    write_audio(folder / "audio.mp4")
    write_cut_off(folder / "cut.mkv")
    write_cut_off(folder / "cut.mp4")
    write_video(folder / "single.mp4", frames=1)
    write_video(folder / "odd.mp4", width=97, height=71, seed=1)
    write_video(folder / "tiny.mp4", width=32, height=32)
    write_video(folder / "uhd.mp4", frames=9, width=3840, height=2160)
    write_rotated(folder / "phone.mov", 90)
    write_timed(folder / "vfr.mkv", [0, 40, 80, 400, 440, 480, 1000, 1040, 1080, 1500])
    write_video(folder / "衣服 и è.mp4", seed=2)
    write_video(folder / LONG, seed=3)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    outside = write_video(root / "outside.mp4", seed=4)
    (folder / "escape.mp4").symlink_to(outside)
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    (folder / "inner.mp4").symlink_to("odd.mp4")
    (folder / "linked.folder").symlink_to(root)
    for i, name in enumerate(("action", "late", "nogarment", "badgarment", "labelled")):
        write_video(folder / f"{name}.mp4", seed=10 + i)
    write_garment(folder / "garments" / "blue_zip-jacket.png")
    (folder / "garments" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    write_manifest(
        folder,
        {
            "video": "labelled.mp4",
            "garment": "garments/blue_zip-jacket.png",
            "garment_category": "dresses",
            "split": "val",
            "global_caption": "a person",
            "actions": [span()],
        },
        "{malformed",
        {"video": "missing.mp4"},
        {"video": "../outside.mp4"},
        {"video": "action.mp4", "actions": [span("dance")]},
        {"video": "late.mp4", "actions": [span(end=60.0)]},
        {"video": "nogarment.mp4", "garment": "garments/none.jpg"},
        {"video": "badgarment.mp4", "garment": "garments/broken.jpg"},
        {"video": "labelled.mp4"},
        {"video": "action.mp4"},
    )
    return store, folder, ingest_batch(store, "bad", IngestSettings(workers=2, timeout_s=60))


def rows(store: DeltaStore, batch: str = "bad") -> dict[str, dict[str, Any]]:
    return {r["source_path"]: r for r in store.read(VIDEOS, where={"batch": batch}).to_pylist()}


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("good.mp4", "rejected", "same bytes as 'copy.mp4'"),
        ("copy.mp4", "ok", None),
        ("zero.mp4", "error", "zero bytes"),
        ("zero2.mp4", "error", "zero bytes"),
        ("text.mp4", "error", "no video at all"),
        ("playlist.mp4", "error", "no video at all"),
        ("audio.mp4", "error", "audio only"),
        ("cut.mkv", "ok", "Cut off or damaged"),
        ("cut.mp4", "error", "cut off"),
        ("single.mp4", "rejected", "Has 1 frame, fewer than 9"),
        ("odd.mp4", "rejected", "same bytes as 'inner.mp4'"),
        ("inner.mp4", "ok", None),
        ("linked.folder", "error", "A link to a folder is not followed"),
        ("tiny.mp4", "rejected", "32x32 pixels, a side is below 64"),
        ("uhd.mp4", "ok", None),
        ("vfr.mkv", "ok", None),
        ("衣服 и è.mp4", "ok", None),
        (LONG, "ok", None),
        ("folder.mp4", "error", "Is a folder"),
        ("pipe.mp4", "error", "no regular file"),
        ("escape.mp4", "error", "leaves the landing folder"),
        ("dangling.mp4", "error", "target is missing"),
        ("labelled.mp4", "ok", None),
        ("manifest.jsonl:2", "error", "manifest.jsonl:2: the line is not JSON"),
        ("manifest.jsonl:3", "error", "there is no file 'missing.mp4'"),
        ("manifest.jsonl:4", "error", "leaves the landing folder"),
        ("action.mp4", "rejected", "manifest.jsonl:5: actions.0: unknown action 'dance'"),
        ("late.mp4", "rejected", "manifest.jsonl:6: action other from 0.1 to 60 s lies outside"),
        ("nogarment.mp4", "rejected", "manifest.jsonl:7: there is no garment photo 'garments/none.jpg'"),
        ("badgarment.mp4", "rejected", "manifest.jsonl:8: garment photo 'garments/broken.jpg' cannot be used"),
        ("manifest.jsonl:9", "error", "was described by line 1 already"),
        ("manifest.jsonl:10", "error", "'action.mp4' was described by line 5 already"),
    ],
)
def test_every_input_is_a_row_that_says_why(bad: tuple, path: str, status: str, says: str | None) -> None:
    row = rows(bad[0])[path]
    assert row["status"] == status, row["reason"]
    assert (row["reason"] is None) if says is None else (says in row["reason"])


def test_no_row_too_many_and_counts_agree(bad: tuple) -> None:
    store, _, report = bad
    found = rows(store)
    assert len(found) == report.rows == 33
    assert found["phone.mov"]["status"] == "rejected"  # 80x48 as stored, 48x80 upright
    assert (report.ok, report.rejected, report.errors) == tuple(
        sum(r["status"] == s for r in found.values()) for s in ("ok", "rejected", "error")
    )
    assert set(report.problems) >= {p for p, r in found.items() if r["status"] != "ok"}


def test_measurements_are_right(bad: tuple) -> None:
    found = rows(bad[0])
    assert (found["uhd.mp4"]["width"], found["uhd.mp4"]["height"], found["uhd.mp4"]["num_frames"]) == (3840, 2160, 9)
    assert (found["inner.mp4"]["width"], found["inner.mp4"]["height"]) == (98, 72)
    phone = found["phone.mov"]
    assert (phone["width"], phone["height"], phone["rotation"]) == (48, 80, 270)
    assert found["vfr.mkv"]["variable_frame_rate"] and not found["copy.mp4"]["variable_frame_rate"]
    copy = found["copy.mp4"]
    assert (copy["num_frames"], copy["codec"], copy["has_audio"], copy["cut_frames"]) == (24, "h264", False, [])
    assert copy["fps"] == pytest.approx(24) and copy["duration_s"] == pytest.approx(1)
    assert copy["bitrate_kbps"] == pytest.approx(copy["bytes"] * 8 / 1000, rel=1e-3)
    assert 0.3 < copy["brightness"] < 0.7 and copy["sharpness"] > 15 and copy["motion"] > 0.001


def test_usable_files_are_kept_by_content_and_refused_ones_are_not(bad: tuple) -> None:
    store, folder, _ = bad
    for path, row in rows(store).items():
        if row["status"] == "ok":
            assert sha256_file(store.blobs.local_path(row["uri"])) == row["sha256"] == sha256_file(folder / path)
            assert row["video_id"] == row["sha256"][:16]
        elif row["status"] == "error":
            assert row["uri"] is None
    secret = sha256_file(folder.parents[2] / "outside.mp4")
    assert not store.blobs.exists(store.blobs.uri_for(secret, ".mp4"))
    copy = rows(store)["good.mp4"]
    assert copy["duplicate_of"] == rows(store)["copy.mp4"]["video_id"] and copy["uri"] == rows(store)["copy.mp4"]["uri"]


def test_labels_reach_the_row(bad: tuple) -> None:
    store = bad[0]
    row = rows(store)["labelled.mp4"]
    garments = {g["source_path"]: g for g in store.read(GARMENTS, where={"batch": "bad"}).to_pylist()}
    jacket = garments["garments/blue_zip-jacket.png"]
    assert (row["split"], row["global_caption"], row["garment_category"]) == ("val", "a person", "dresses")
    assert row["garment_id"] == jacket["garment_id"]
    assert json.loads(row["manifest"])["actions"] == [span()]
    assert (jacket["category"], jacket["caption"], jacket["status"]) == ("dresses", "blue zip jacket", "ok")
    assert garments["garments/broken.jpg"]["status"] == "error"
    assert "Not a readable photo" in garments["garments/broken.jpg"]["reason"]


def test_a_second_run_decodes_nothing_and_commits_nothing(bad: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, report = bad
    versions = store.version(VIDEOS), store.version(GARMENTS)

    def no_work(tasks: dict, *_: object) -> Any:
        assert not tasks, f"decodes {list(tasks)} again"
        return iter(())

    monkeypatch.setattr(batch_module, "run_isolated", no_work)
    again = ingest_batch(store, "bad", IngestSettings(workers=1, timeout_s=99))
    assert (store.version(VIDEOS), store.version(GARMENTS)) == versions and again.committed == []
    assert again.reused == report.rows + report.garments and again.frames == 0


@pytest.fixture
def small(lake: DeltaStore) -> tuple[DeltaStore, Path]:
    folder = landing_root(lake) / "b"
    folder.mkdir(parents=True)
    write_video(folder / "a.mp4", seed=20)
    write_video(folder / "b.mp4", seed=21)
    write_garment(folder / "garments" / "lower_body" / "trousers.png", (120, 30, 40))
    return lake, folder


def test_only_what_changed_is_done_again(small: tuple[DeltaStore, Path]) -> None:
    store, folder = small
    seen: list[Progress] = []
    first = ingest_batch(store, "b", commit=Commit("run-1"), on_progress=seen.append)
    assert first.frames == 48 and first.committed == ["garments", "videos"]
    assert (seen[0].videos_done, seen[-1].videos_done, seen[-1].videos_total) == (0, 2, 2)
    assert seen[-1].frames_done == seen[-1].frames_total == 48
    history = store.open(VIDEOS).history(1)[0]
    assert history["itryon/run_id"] == "run-1" and history["itryon/code_version"]

    write_video(folder / "c.mp4", seed=22)
    (folder / "a.mp4").unlink()
    second = ingest_batch(store, "b")
    assert second.frames == 24 and second.committed == ["videos"] and second.reused == 2
    assert set(rows(store, "b")) == {"b.mp4", "c.mp4"}

    write_manifest(folder, {"video": "b.mp4", "garment": "garments/lower_body/trousers.png"})
    third = ingest_batch(store, "b")
    assert third.committed == ["videos"]
    row = rows(store, "b")["b.mp4"]
    assert row["garment_id"] and row["garment_category"] == "lower_body"

    strict = ingest_batch(store, "b", IngestSettings(workers=1, min_frames=25))
    assert strict.rejected == 2


def test_a_video_has_the_category_of_its_garment_else_of_its_folder(lake: DeltaStore) -> None:
    folder = landing_root(lake) / "b"
    (folder / "dresses").mkdir(parents=True)
    for seed, name in enumerate(("dresses/a.mp4", "dresses/b.mp4", "c.mp4")):
        write_video(folder / name, seed=30 + seed)
    write_garment(folder / "garments" / "gown.png")
    write_garment(folder / "garments" / "lower_body" / "trousers.png", (120, 30, 40))
    write_manifest(
        folder,
        {"video": "dresses/a.mp4", "garment": "garments/gown.png"},
        {"video": "dresses/b.mp4", "garment": "garments/lower_body/trousers.png"},
        {"video": "c.mp4", "garment": "garments/gown.png"},
    )
    assert ingest_batch(lake, "b").ok == 3
    found = {path: row["garment_category"] for path, row in rows(lake, "b").items()}
    assert found == {"dresses/a.mp4": "dresses", "dresses/b.mp4": "lower_body", "c.mp4": "upper_body"}


def test_other_batches_stay(small: tuple[DeltaStore, Path]) -> None:
    store, folder = small
    ingest_batch(store, "b")
    other = folder.with_name("other")
    other.mkdir()
    write_video(other / "z.mp4", seed=30)
    ingest_batch(store, "other")
    assert set(rows(store, "b")) == {"a.mp4", "b.mp4"} and set(rows(store, "other")) == {"z.mp4"}


def test_scores_reject_only_when_asked_to(small: tuple[DeltaStore, Path]) -> None:
    store, _ = small
    assert ingest_batch(store, "b", IngestSettings(workers=1, min_sharpness=1e6)).ok == 2
    report = ingest_batch(store, "b", IngestSettings(workers=1, min_sharpness=1e6, score_only=False))
    assert report.rejected == 2 and "ingest.min_sharpness" in report.problems["a.mp4"]


def test_batches_that_cannot_be(lake: DeltaStore, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="has no landing folder"):
        ingest_batch(lake, "absent")
    with pytest.raises(ValueError, match="cannot name a batch"):
        ingest_batch(lake, "../x")
    (landing_root(lake) / "empty").mkdir(parents=True)
    with pytest.raises(LookupError, match="holds no videos"):
        ingest_batch(lake, "empty")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_video(elsewhere / "v.mp4")
    (landing_root(lake) / "linked").symlink_to(elsewhere)
    with pytest.raises(LookupError, match="has no landing folder"):
        ingest_batch(lake, "linked")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_an_unreadable_file_is_a_row(small: tuple[DeltaStore, Path]) -> None:
    store, folder = small
    (folder / "a.mp4").chmod(0)
    report = ingest_batch(store, "b")
    assert report.ok == 1 and "Cannot be read" in report.problems["a.mp4"]


def test_a_file_that_reads_with_an_error_is_tried_again(
    small: tuple[DeltaStore, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.ingest import inventory

    def broken(path: Path) -> str:
        if Path(path).name == "a.mp4":
            raise PermissionError(13, "Permission denied")
        return sha256_file(path)

    monkeypatch.setattr(inventory, "sha256_file", broken)
    store, _ = small
    report = ingest_batch(store, "b")
    assert (report.ok, report.errors) == (1, 1) and report.problems["a.mp4"] == "Cannot be read (Permission denied)"
    monkeypatch.undo()
    assert ingest_batch(store, "b").ok == 2


def test_a_file_that_changes_while_it_is_read_is_tried_again(
    small: tuple[DeltaStore, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = small

    def changing(tasks: dict, *options: Any) -> Any:
        yield from run_isolated(tasks, *options)
        write_video(folder / "a.mp4", seed=40)

    monkeypatch.setattr(batch_module, "run_isolated", changing)
    report = ingest_batch(store, "b")
    assert report.errors == 1 and "Changed while it was being read" in report.problems["a.mp4"]
    monkeypatch.undo()
    assert ingest_batch(store, "b").ok == 2


def test_a_file_that_cannot_be_stored_is_tried_again_and_a_full_disk_stops(
    small: tuple[DeltaStore, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = small

    def grown(path: Path) -> str:
        return "0" * 64 if Path(path).name == "a.mp4" else sha256_file(path)

    monkeypatch.setattr("pipelines.store.blobs.sha256_file", grown)
    report = ingest_batch(store, "b")
    assert (report.ok, report.errors) == (1, 1) and "changed while it was being stored" in report.problems["a.mp4"]
    monkeypatch.undo()

    def fails_with(number: int) -> None:
        def fill(*_: object) -> str:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(BlobStore, "_fill", fill)

    fails_with(errno.EIO)
    report = ingest_batch(store, "b")
    assert report.ok == 1 and report.problems["a.mp4"] == "Could not be stored (Input/output error); run again"
    fails_with(errno.ENOSPC)
    with pytest.raises(DiskFull):
        ingest_batch(store, "b")
    monkeypatch.undo()
    assert ingest_batch(store, "b").ok == 2


def hang(seconds: float) -> None:
    time.sleep(seconds)


def crash(_: float) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def double(x: float) -> float:
    return 2 * x


def test_a_decoder_that_crashes_or_hangs_costs_one_file() -> None:
    tasks = {"hangs": (hang, (60.0,)), "crashes": (crash, (0.0,)), "works": (double, (21.0,))}
    done = dict(run_isolated(tasks, 2, 4.0))
    assert done["works"] == 42.0
    assert isinstance(done["hangs"], WorkerFailure) and "Took longer than 4 s" in done["hangs"].reason
    assert isinstance(done["crashes"], WorkerFailure) and "crashed" in done["crashes"].reason


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_while_it_starts_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.workers._start_worker", die)
    done = dict(run_isolated({"waits": (double, (21.0,))}, 1, 60.0))
    assert "died before they read it; the next run tries again" in done["waits"].reason


def test_a_killed_run_is_taken_up_and_ends_with_the_same_rows(small: tuple[DeltaStore, Path], tmp_path: Path) -> None:
    store, folder = small
    for i in range(4):
        write_video(folder / f"more{i}.mp4", seed=50 + i)
    script = tmp_path / "kill.py"
    # Dies by SIGKILL when the first measurement is on disk, before any table is written.
    script.write_text(
        "import os, signal, sys\n"
        "from pipelines.ingest import batch\n"
        "from pipelines.store import DeltaStore\n"
        "keep = batch.save\n"
        "def save(path, result):\n"
        "    keep(path, result)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "batch.save = save\n"
        "if __name__ == '__main__':\n"
        "    batch.ingest_batch(DeltaStore(sys.argv[1]), 'b')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    killed = subprocess.run([sys.executable, script, store.root], env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert store.read(VIDEOS).num_rows == 0
    staged = list((Path(store.root) / "staging" / "ingest" / "b").glob("*.json"))
    assert len(staged) == 1
    ingest_batch(store, "b")
    assert not (Path(store.root) / "staging" / "ingest" / "b").exists()

    fresh = DeltaStore(tmp_path / "fresh")
    fresh.ensure_tables()
    landing_root(fresh).mkdir(parents=True)
    folder.rename(landing_root(fresh) / "b")
    ingest_batch(fresh, "b")
    for spec in (VIDEOS, GARMENTS):
        assert store.read(spec).equals(fresh.read(spec))


def test_the_sample_clips(lake: DeltaStore, samples: Path) -> None:
    from pipelines.ingest.landing import land

    report = land(samples / "videos", lake, "asl")
    assert len(report.added) == 11
    done = ingest_batch(lake, "asl")
    assert (done.ok, done.rows, done.frames) == (11, 11, 738)
    assert all(r["cut_frames"] == [] for r in rows(lake, "asl").values())
