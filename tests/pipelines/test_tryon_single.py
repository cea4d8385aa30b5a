"""Try-on of a file: real annotators on a real clip, a tiny random model, sound, and what cannot be dressed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from dagster_project.dressing import parse_span
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land
from pipelines.masks.settings import MasksSettings
from pipelines.registry import STAGES
from pipelines.stage import WorkerSettings, run_stage
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import HANDS
from pipelines.tryon.annotate import AnnotationSettings, CannotDress
from pipelines.tryon.settings import NEEDED
from pipelines.tryon.single import tryon_file
from pipelines.tryon.sound import with_sound_of
from pipelines.video import VideoReader, probe
from tests.conftest import moving_frames
from tests.pipelines.media import dancer_frames, write_frames
from tests.pipelines.tryon_scene import SETTINGS, tiny_pipeline

pytestmark = pytest.mark.slow


def add_tone(silent: Path, output: Path, codec: str, seconds: float) -> Path:
    """A copy of a video with a tone."""
    with av.open(str(silent)) as source, av.open(str(output), "w") as result:
        track = source.streams.video[0]
        picture = result.add_stream_from_template(track)
        sound = result.add_stream(codec, rate=16000)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream = picture
                result.mux(packet)
        wave = (np.sin(np.arange(round(16000 * seconds)) * 0.17) * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        resampler = av.AudioResampler(sound.codec_context.format, "mono", 16000)
        for part in resampler.resample(frame):
            result.mux(sound.encode(part))
        result.mux(sound.encode(None))
    return output


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path, DeltaStore]:
    """A dancer with sound, a photo of a red shirt, and a lake for annotations."""
    folder = tmp_path_factory.mktemp("single")
    silent = write_frames(folder / "silent.mp4", dancer_frames(100, 14, max_side=256))
    video = add_tone(silent, folder / "dancer.mp4", "aac", 14 / 25)
    shirt = np.full((160, 140, 3), 255, np.uint8)
    cv2.fillPoly(
        shirt,
        [np.array([[40, 20], [100, 20], [135, 60], [110, 75], [105, 150], [35, 150], [30, 75], [5, 60]])],
        (40, 40, 200),
    )
    cv2.imwrite(str(folder / "shirt.png"), shirt)
    return video, folder / "shirt.png", DeltaStore(folder / "lake")


ANNOTATION = AnnotationSettings(workers=WorkerSettings(workers=1))


def test_a_file_is_annotated_dressed_and_keeps_its_sound(inputs, tmp_path):
    video, garment, lake = inputs
    seen = []
    spans = [(0.1, 0.3, "she smooths the shirt")]
    written = tryon_file(
        tiny_pipeline(),
        video,
        garment,
        tmp_path / "out" / "result.mp4",
        lake,
        SETTINGS,
        spans_s=spans,
        prompt="a dancer",
        annotation=ANNOTATION,
        on_progress=lambda what, done, total: seen.append(what),
    )
    before, after = probe(video), probe(written.video)
    assert (after.width, after.height, after.num_frames) == (before.width, before.height, before.num_frames)
    with av.open(str(written.video)) as result, av.open(str(video)) as source:
        assert result.streams.audio[0].codec_context.name == "aac"
        packets = [[bytes(p) for p in c.demux(audio=0) if p.dts is not None] for c in (result, source)]
        assert packets[0] == packets[1], "the sound is copied, not encoded again"
    record = json.loads(written.record.read_text())
    assert record["spans"] == [{"start": 3, "end": 8, "text": "she smooths the shirt"}]
    assert record["prompt"] == "a dancer" and len(record["garment"]["sha256"]) == 64
    assert {"pose", "hands", "agnostic_masks", "captions", "dressing"} <= set(seen)
    with VideoReader(video) as a, VideoReader(written.video) as b:
        first, second = (next(iter(r.frames())).rgb.astype(int) for r in (a, b))
    difference = np.abs(first - second).max(-1)
    assert np.median(difference[:, :20]) < 12, "away from the person it is the source"
    assert (difference > 40).mean() > 0.01, "the garment region is another one"
    assert record["fingerprints"].keys() == {"pose", "hands", "agnostic_masks", "captions"}
    assert record["seed"] == 0 and record["settings"]["steps"] == 1 and record["versions"]["diffusers"]
    sheet = cv2.imread(str(written.sheet))
    assert sheet is not None and sheet.shape[0] % 6 == 0
    with av.open(str(written.video)) as result:
        assert result.streams.video[0].codec_context.name == "h264" and result.streams.video[0].pix_fmt == "yuv420p"
    head = written.video.read_bytes()
    assert head.index(b"moov") < head.index(b"mdat"), "the index is in front"
    assert not list((tmp_path / "out").glob(".tryon-*"))


def dressed(inputs, out, garment=None, annotation=ANNOTATION, **more):
    """The record of a try-on, and which stages were run for it."""
    video, shirt, lake = inputs
    seen = set()
    written = tryon_file(
        tiny_pipeline(),
        video,
        garment or shirt,
        out,
        lake,
        SETTINGS,
        annotation=annotation,
        on_progress=lambda what, done, total: seen.add(what),
        **more,
    )
    return json.loads(written.record.read_text()), seen - {"dressing"}


def test_annotations_serve_other_garments_and_are_made_again_for_other_settings(inputs, tmp_path):
    first, _ = dressed(inputs, tmp_path / "a.mp4")
    other = cv2.imread(str(inputs[1]))[::-1]
    cv2.imwrite(str(tmp_path / "other.png"), other)
    second, ran = dressed(inputs, tmp_path / "b.mp4", tmp_path / "other.png")
    assert ran == set() and second["fingerprints"] == first["fingerprints"] and second["video"] == first["video"]
    assert second["garment"]["sha256"] != first["garment"]["sha256"]
    assert second["garments"] == [second["garment"]["sha256"][:16]]

    wide = AnnotationSettings(
        workers=WorkerSettings(workers=1), stages={"agnostic_masks": MasksSettings(temporal_window=1)}
    )
    third, ran = dressed(inputs, tmp_path / "c.mp4", annotation=wide)
    changed = {s for s, f in third["fingerprints"].items() if f != first["fingerprints"][s]}
    assert ran == changed == {"agnostic_masks", "captions"}

    lower, ran = dressed(inputs, tmp_path / "d.mp4", category="lower_body", annotation=wide)
    assert "pose" not in ran and "hands" not in ran and "agnostic_masks" in ran
    assert lower["fingerprints"]["agnostic_masks"] != third["fingerprints"]["agnostic_masks"]
    assert lower["category"] == "lower_body" and third["category"] == "upper_body"


def test_rows_of_the_lake_are_taken_with_their_labels_while_they_stand(inputs, tmp_path):
    video, _shirt, lake = inputs
    landing = tmp_path / "landing"
    landing.mkdir()
    shutil.copyfile(video, landing / "mine.mp4")
    said = [{"action": "stretch_fabric", "start_s": 0.2, "end_s": 0.4, "text": "she pulls at it"}]
    entry = {"video": "mine.mp4", "garment_category": "dresses", "global_caption": "a dancer", "actions": said}
    (landing / "manifest.jsonl").write_text(json.dumps(entry))
    land(landing, lake, "mine")
    ingest_batch(lake, "mine")
    for name in NEEDED:
        run_stage(STAGES[name].build(), lake, "mine", settings=ANNOTATION.workers)
    record, ran = dressed(inputs, tmp_path / "a.mp4", category="dresses")
    assert ran == set() and record["video"]["batch"] == "mine" and record["prompt"] == "a dancer"
    assert record["spans"] == [{"start": 5, "end": 10, "text": "she pulls at it"}]
    mine, ran = dressed(inputs, tmp_path / "b.mp4", category="dresses", spans_s=[], prompt="nobody")
    assert ran == set() and mine["spans"] == [] and mine["prompt"] == "nobody"

    # A status that speaks of rows which are not there.
    rows = lake.read(HANDS, where={"batch": "mine"})
    assert rows.num_rows
    lake.replace(HANDS, rows.slice(1), {"batch": "mine"}, Commit())
    record, ran = dressed(inputs, tmp_path / "c.mp4", category="dresses")
    assert record["video"]["batch"] != "mine" and "agnostic_masks" in ran


def test_a_mask_beside_the_photo_says_what_is_the_garment(inputs, tmp_path):
    photo = np.full((120, 90, 3), 240, np.uint8)
    cv2.imwrite(str(tmp_path / "white.png"), photo)
    with pytest.raises(CannotDress, match=r"No garment found.*white_mask\.png"):
        dressed(inputs, tmp_path / "a.mp4", tmp_path / "white.png")
    mask = np.zeros((120, 90), np.uint8)
    mask[20:100, 20:70] = 255
    cv2.imwrite(str(tmp_path / "white_mask.png"), mask)
    record, _ = dressed(inputs, tmp_path / "a.mp4", tmp_path / "white.png")
    assert len(record["garment"]["mask_sha256"]) == 64


def test_a_part_of_a_video_has_its_part_of_the_sound(inputs, tmp_path):
    video, shirt, lake = inputs
    out, few = tmp_path / "part.mp4", SETTINGS.model_copy(update={"max_frames": 6})
    spans = [(0.2, 0.4, "she smooths the shirt")]
    tryon_file(tiny_pipeline(), video, shirt, out, lake, few, spans_s=spans, annotation=ANNOTATION)
    record = json.loads(out.with_suffix(".json").read_text())
    assert (record["start_frame"], record["num_frames"]) == (4, 6) and probe(out).num_frames == 6
    with av.open(str(out)) as result:
        sound = result.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(6 / 25, abs=0.08)


def test_what_cannot_be_dressed_says_why(inputs, tmp_path):
    video, garment, lake = inputs
    loaded, out = tiny_pipeline(), tmp_path / "result.mp4"
    with pytest.raises(CannotDress, match=r"does not fit a video of 0\.56 s"):
        tryon_file(loaded, video, garment, out, lake, SETTINGS, spans_s=[(0.3, 9.0, "x")], annotation=ANNOTATION)
    nobody = write_frames(tmp_path / "nobody.mp4", moving_frames(12, 96, 64))
    with pytest.raises(CannotDress, match=r"nobody\.mp4, pose: .*No person was found in any of 12 frames"):
        tryon_file(loaded, nobody, garment, out, lake, SETTINGS, annotation=ANNOTATION)
    text = tmp_path / "garment.png"
    text.write_text("no picture")
    with pytest.raises(CannotDress, match=r"garment\.png cannot be used"):
        tryon_file(loaded, video, text, out, lake, SETTINGS, annotation=ANNOTATION)
    cut_off = tmp_path / "cut_off.mp4"
    cut_off.write_bytes(video.read_bytes()[:300])
    with pytest.raises(CannotDress, match=r"cut_off\.mp4 cannot be used"):
        tryon_file(loaded, cut_off, garment, out, lake, SETTINGS, annotation=ANNOTATION)
    with pytest.raises(CannotDress, match="no category 'hat'"):
        tryon_file(loaded, video, garment, out, lake, SETTINGS, category="hat", annotation=ANNOTATION)
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((120, 90, 3), 240, np.uint8))
    with pytest.raises(CannotDress, match="No garment found"):
        tryon_file(loaded, video, blank, out, lake, SETTINGS, annotation=ANNOTATION)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        tryon_file(loaded, tmp_path / "nowhere.mp4", garment, out, lake, SETTINGS)
    with pytest.raises(CannotDress, match=r"dancer\.mp4 would be written over"):
        tryon_file(loaded, video, garment, video, lake, SETTINGS)
    photo = Path(shutil.copy(garment, tmp_path / "photo.jpg"))
    with pytest.raises(CannotDress, match=r"photo\.jpg would be written over"):
        tryon_file(loaded, video, photo, photo.with_suffix(".mp4"), lake, SETTINGS)
    assert photo.read_bytes() == garment.read_bytes()
    with pytest.raises(CannotDress, match=r"result\.mp4"):
        tryon_file(loaded, video, garment, tmp_path / "result.avi", lake, SETTINGS)
    assert not out.exists()


def test_a_file_that_kills_what_reads_it_is_refused_and_the_caller_lives(inputs, tmp_path, monkeypatch):
    video, garment, lake = inputs
    for name, broken in (("_probed", video), ("analyse_garment", garment)):
        with monkeypatch.context() as patch:
            patch.setattr(f"pipelines.tryon.single.{name}", crash)
            with pytest.raises(CannotDress, match=rf"{broken.name} cannot be used: The decoder crashed on it"):
                tryon_file(tiny_pipeline(), video, garment, tmp_path / "x.mp4", lake, SETTINGS, annotation=ANNOTATION)


def crash(*_: object) -> None:
    os._exit(9)


def test_sound_that_mp4_cannot_hold_is_encoded(tmp_path):
    silent = write_frames(tmp_path / "silent.mp4", moving_frames(10, 64, 48))
    assert with_sound_of(silent, silent, tmp_path / "same.mp4") == silent
    source = add_tone(silent, tmp_path / "source.mkv", "pcm_s16le", 0.4)
    with av.open(str(with_sound_of(silent, source, tmp_path / "sound.mp4"))) as result:
        assert result.streams.audio[0].codec_context.name == "aac"
        assert sum(f.samples for f in result.decode(audio=0)) >= 0.35 * 16000


def test_spans_are_parsed():
    assert parse_span("1.2,2.8,she zips, slowly") == (1.2, 2.8, "she zips, slowly")
    for text in ("1.2", "a,b,c", "1,2"):
        with pytest.raises(ValueError, match="start,end,caption"):
            parse_span(text)
