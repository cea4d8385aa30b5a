"""Videos of anyone's folders are decoded where a crash does no harm, before metrics read them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipelines.evaluation.cache import ArrayCache, content_digest
from pipelines.evaluation.first_look import decode_whole, harmful_videos
from pipelines.evaluation.metrics import evaluate_folders
from pipelines.evaluation.settings import EvaluationSettings
from pipelines.ingest.settings import IngestSettings
from tests.pipelines.media import write_video

LIMITS = IngestSettings(workers=1)


def rough(video: Path) -> int:
    """`decode_whole` of a decoder that does not survive some files."""
    if "crash" in video.name:
        os._exit(9)
    if "stall" in video.name:
        time.sleep(60)
    return decode_whole(video)


@pytest.fixture
def rough_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.evaluation.first_look.decode_whole", rough)


def test_what_a_video_does_to_its_decoder_is_found_out(tmp_path: Path, rough_decoder: None) -> None:
    names = ("a", "crash", "stall")
    good, crashes, stalls = (write_video(tmp_path / f"{n}.mp4", 6, seed=i) for i, n in enumerate(names))
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    seen: list[str] = []
    limits = LIMITS.model_copy(update={"timeout_s": 8.0})
    found = harmful_videos([good, crashes, stalls, text], limits, on_video=seen.append)
    assert found.keys() == {crashes, stalls}
    assert found[crashes].startswith("cannot be read: The decoder crashed") and "exit code 9" in found[crashes]
    assert "longer than 8 s" in found[stalls] and "ingest.timeout_s" in found[stalls]
    assert sorted(seen) == ["a.mp4", "crash.mp4", "stall.mp4", "text.mp4"]


def test_a_harmless_video_is_looked_at_once(tmp_path: Path, rough_decoder: None) -> None:
    cache = ArrayCache(tmp_path / "cache")
    good, bad = write_video(tmp_path / "a.mp4", 6), write_video(tmp_path / "crash.mp4", 6, seed=1)
    assert harmful_videos([good, bad], LIMITS, cache).keys() == {bad}
    # The same bytes under a name that the decoder would crash on.
    known = good.rename(tmp_path / "crash too.mp4")
    seen: list[str] = []
    assert harmful_videos([known, bad], LIMITS, cache, seen.append).keys() == {bad}
    assert seen == ["crash.mp4"], "and a harmful one every time"


def test_a_file_that_cannot_be_read_is_left_to_those_who_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, locked = write_video(tmp_path / "a.mp4", 6), write_video(tmp_path / "locked.mp4", 6)

    def digest(path: Path) -> str:
        if path == locked:
            raise PermissionError("not yours")
        return content_digest(path)

    monkeypatch.setattr("pipelines.evaluation.first_look.content_digest", digest)
    seen: list[str] = []
    assert harmful_videos([good, locked], LIMITS, ArrayCache(tmp_path / "cache"), seen.append) == {}
    assert seen == ["a.mp4"]


def test_frames_of_a_whole_video_are_decoded(tmp_path: Path) -> None:
    assert decode_whole(write_video(tmp_path / "a.mp4", 7)) == 7
    (tmp_path / "text.mp4").write_text("no video")
    assert decode_whole(tmp_path / "text.mp4") == 0


@pytest.mark.parametrize("setting", ["paired", "unpaired"])
def test_a_crash_leaves_out_one_video_of_a_folder(
    tmp_path: Path, rough_decoder: None, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path / "none"))
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "a.mp4", 6)
        write_video(tmp_path / folder / ("crash.mp4" if folder == "ours" else "crash.mkv"), 6, seed=1)
    report = evaluate_folders(
        tmp_path / "ours", tmp_path / "theirs", EvaluationSettings(cache=False), setting=setting, limits=LIMITS
    )
    names = {"paired": {"crash"}, "unpaired": {"ours/crash", "theirs/crash"}}[setting]
    assert report.left_out.keys() >= names and all("crashed on it" in report.left_out[n] for n in names)
    if setting == "paired":
        assert {n: m[0].value for n, m in report.videos.items()} == {"a": pytest.approx(1, abs=1e-4), "crash": None}
