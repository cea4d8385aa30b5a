"""Sound under the picture that was made of a video: in step where tracks start apart, cut to a part of the video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.tryon.sound import with_sound_of
from pipelines.video import VideoReader, VideoWriter, probe

FPS, SECONDS, FLASH_S = 25, 2.0, 1.0
WIDTH, HEIGHT = 96, 64
CODECS = {"aac": 16000, "pcm_s16le": 16000, "libopus": 48000, "libmp3lame": 16000}


def write_flash(path: Path, picture_s: float, sound_s: float, codec: str = "aac", sound_seconds: float = 9.0) -> Path:
    """A file whose tracks start at the given times of its clock: a white frame, and a tone that begins with it."""
    rate = CODECS[codec]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        audio = container.add_stream(codec, rate=rate, layout="mono")
        packets = []
        for i in range(round(SECONDS * FPS)):
            rgb = np.full((HEIGHT, WIDTH, 3), 255 * (i == round(FLASH_S * FPS)), np.uint8)
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round((picture_s + i / FPS) * 1000), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        length = round(min(sound_seconds, SECONDS + picture_s - sound_s) * rate)
        wave = np.zeros(length, np.int16)
        begin = round((picture_s + FLASH_S - sound_s) * rate)
        wave[begin : begin + rate // 50] = 20_000 * np.sin(np.arange(rate // 50) * 0.9)[: max(0, length - begin)]
        whole = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        whole.sample_rate, whole.pts = rate, 0
        for part in av.AudioResampler(audio.codec_context.format, "mono", rate).resample(whole):
            part.pts += round(sound_s * rate)
            packets += audio.encode(part)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            container.mux(packet)
    return path


def without_sound(source: Path, start: int = 0, num_frames: int | None = None) -> Path:
    """The picture of a part of a video, as the try-on writes it: from time 0."""
    path = source.with_suffix(".picture.mp4")
    with VideoReader(source) as reader, VideoWriter(path, fps=FPS, width=WIDTH, height=HEIGHT) as writer:
        for frame in reader.frames(start, None if num_frames is None else start + num_frames):
            writer.write(frame.rgb)
    return path


def flash_and_tone(path: Path) -> tuple[float, float]:
    """When the white frame is shown and when the tone begins, by the clock of the file as players read it."""
    with av.open(str(path)) as container:
        flash = next(f.time for f in container.decode(video=0) if f.to_ndarray(format="gray").mean() > 128)
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = frame.to_ndarray().astype(float)
            loud = np.abs(samples).max(0) > 0.2 * (32768 if frame.format.name.startswith("s16") else 1)
            if loud.any():
                return flash, frame.time + int(loud.argmax()) / frame.sample_rate
    raise AssertionError("there is no tone")


@pytest.mark.parametrize(
    ("name", "picture_s", "sound_s", "codec"),
    [
        ("late_picture.mkv", 0.58, 0.0, "aac"),
        ("late_picture.mp4", 0.58, 0.0, "aac"),
        ("late_sound.mp4", 0.0, 0.4, "aac"),
        ("broadcast.ts", 1.4, 1.2, "aac"),
        ("late_picture_pcm.mkv", 0.58, 0.0, "pcm_s16le"),
        ("late_sound_pcm.mkv", 0.0, 0.4, "pcm_s16le"),
        ("opus.mkv", 0.58, 0.0, "libopus"),
        ("mp3.mkv", 0.58, 0.0, "libmp3lame"),
    ],
)
@pytest.mark.parametrize(("start", "num_frames"), [(0, None), (10, 30)])
def test_sound_stays_in_step(tmp_path, name, picture_s, sound_s, codec, start, num_frames):
    source = write_flash(tmp_path / name, picture_s, sound_s, codec)
    flash, tone = flash_and_tone(source)
    assert flash == pytest.approx(picture_s + FLASH_S, abs=0.002) and tone == pytest.approx(flash, abs=0.01)
    assert probe(source).start_s == pytest.approx(picture_s, abs=0.002)
    picture = without_sound(source, start, num_frames)
    result = with_sound_of(picture, source, tmp_path / "result.mp4", start=start, num_frames=num_frames)
    assert result == tmp_path / "result.mp4" and not list(tmp_path.glob(".*"))
    flash, tone = flash_and_tone(result)
    assert flash == pytest.approx(FLASH_S - start / FPS, abs=0.002)
    # Far below a frame, which is 40 ms.
    assert tone == pytest.approx(flash, abs=0.003)
    with av.open(str(result)) as container:
        picture_track, sound = container.streams
        assert picture_track.type == "video" and float(sound.start_time * sound.time_base) >= 0
        ends = float((sound.start_time + sound.duration) * sound.time_base)
    assert ends == pytest.approx(probe(result).duration_s, abs=0.1)


@pytest.mark.parametrize("codec", ["aac", "libmp3lame"])
def test_what_is_copied_is_copied_to_the_byte(tmp_path, codec):
    source = write_flash(tmp_path / "source.mp4", 0.0, 0.0, codec)
    result = with_sound_of(without_sound(source), source, tmp_path / "result.mp4")
    packets = []
    for path in (result, source):
        with av.open(str(path)) as container:
            packets.append([(bytes(p), p.pts) for p in container.demux(audio=0) if p.dts is not None])
    assert len(packets[0]) > 20 and packets[0] == packets[1]


def test_without_a_sound_to_add_the_picture_is_the_result(tmp_path):
    source = write_flash(tmp_path / "source.mp4", 0.0, 0.0, sound_seconds=0.3)
    silent = without_sound(source)
    assert with_sound_of(silent, silent, tmp_path / "result.mp4") == silent
    # The sound is over before the part begins.
    assert with_sound_of(silent, source, tmp_path / "result.mp4", start=40, num_frames=10) == silent
    assert not (tmp_path / "result.mp4").exists() and not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="no frame 90"):
        with_sound_of(silent, source, tmp_path / "result.mp4", start=90)


def test_a_damaged_track_gives_what_can_be_read(tmp_path):
    source = write_flash(tmp_path / "source.ts", 0.0, 0.0)
    data = bytearray(source.read_bytes())
    picture = without_sound(source)
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    source.write_bytes(bytes(data[: int(len(data) * 0.9)]))
    result = with_sound_of(picture, source, tmp_path / "result.mp4")
    assert probe(result).num_frames == 50 and probe(result).has_audio
