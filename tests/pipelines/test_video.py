"""The reader against frames that know their own number, and against sequential reading."""

from __future__ import annotations

import pickle
import resource
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.video import VideoError, VideoReader, VideoWriter, probe
from tests.conftest import frame_number, moving_frames
from tests.pipelines.media import write_audio, write_cut_off, write_rotated, write_timed, write_video


def test_every_frame_once_in_order_with_its_time(moving_video: Path) -> None:
    with VideoReader(moving_video) as reader:
        frames = list(reader.frames())
    assert [f.index for f in frames] == list(range(60)) == [frame_number(f.rgb) for f in frames]
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(60) / 30, atol=1e-6)
    original = moving_frames(60, 96, 64)
    assert max(np.abs(f.rgb.astype(int) - o).mean() for f, o in zip(frames, original)) < 4


def test_probe_tells_what_was_written(moving_video: Path) -> None:
    info = probe(moving_video)
    assert (info.width, info.height, info.num_frames, info.codec) == (96, 64, 60, "h264")
    assert (info.rotation, info.variable_frame_rate, info.has_audio) == (0, False, False)
    assert info.fps == pytest.approx(30) and info.duration_s == pytest.approx(2)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 70), length=st.integers(0, 12), threads=st.sampled_from([1, 3]))
def test_seeking_gives_the_frames_of_a_pass_from_the_start(
    moving_video: Path, start: int, length: int, threads: int
) -> None:
    with VideoReader(moving_video, threads=threads) as reader:
        part = list(reader.frames(start, start + length))
    assert [f.index for f in part] == list(range(start, min(start + length, 60)))
    assert [frame_number(f.rgb) for f in part] == [f.index for f in part]


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "libx264"), (".avi", "mpeg4"), (".ts", "libx264")])
def test_seeking_is_exact_in_other_containers(tmp_path: Path, suffix: str, codec: str) -> None:
    path = write_timed(tmp_path / f"a{suffix}", list(range(45)), Fraction(1, 25), codec)
    with VideoReader(path) as reader:
        whole = [f.rgb for f in reader.frames()]
        assert len(whole) == 45
        for start in (1, 12, 13, 44):
            part = list(reader.frames(start, start + 2))
            assert part[0].index == start
            assert all(np.array_equal(f.rgb, whole[f.index]) for f in part)


def test_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    ticks = [0, 33, 66, 300, 333, 1000, 1033, 1066]
    path = write_timed(tmp_path / "vfr.mkv", ticks)
    with VideoReader(path) as reader:
        assert reader.info.variable_frame_rate
        np.testing.assert_allclose([f.time_s for f in reader.frames()], np.array(ticks) / 1000, atol=1e-6)
        assert [f.time_s for f in reader.frames(5, 6)] == [1.0]


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.integers(8, 400), min_size=2, max_size=20), fps=st.sampled_from([5.0, 10.0, 24.0, 30.0]))
def test_resampling_shows_the_latest_frame_at_each_grid_time(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], fps: float
) -> None:
    times = np.cumsum([0, *steps]) / 1000
    path = write_timed(tmp_path_factory.mktemp("vfr") / "v.mkv", [round(t * 1000) for t in times])
    with VideoReader(path, fps=fps) as reader:
        frames = list(reader.frames())
        end = times[-1] + 1 / reader.info.fps
        tail = list(reader.frames(len(frames) // 2))
    # Matroska rounds to milliseconds; a frame within that of a grid time may count as there.
    expected = {k: np.searchsorted(times, [k / fps, k / fps + 0.001], side="right") - 1 for k in range(len(frames))}
    assert [f.index for f in frames] == list(range(len(frames)))
    assert abs(len(frames) - end * fps) <= 1
    assert all(f.source_index in expected[f.index] and frame_number(f.rgb) == f.source_index for f in frames)
    assert all(f.time_s == f.index / fps for f in frames)
    assert [(f.index, f.source_index) for f in tail] == [(f.index, f.source_index) for f in frames[len(frames) // 2 :]]


def test_resampling_to_its_own_rate_changes_nothing(moving_video: Path) -> None:
    with VideoReader(moving_video, fps=30) as reader:
        assert [f.source_index for f in reader.frames()] == list(range(60))
    with VideoReader(moving_video, fps=10) as reader:
        assert [f.source_index for f in reader.frames(2, 6)] == [6, 9, 12, 15]


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_display_matrix_is_applied(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    path, stored = write_rotated(tmp_path / "r.mp4", degrees, mirrored)
    with VideoReader(path) as reader:
        frame = next(reader.frames()).rgb
        info = reader.info
    # `set_display_rotation` counts counter-clockwise; `rotation` clockwise.
    assert info.rotation == (-degrees) % 360 if not mirrored else info.rotation in (0, 90, 180, 270)
    options = [np.rot90(stored[:, ::-1] if mirrored else stored, k) for k in range(4)]
    upright = np.rot90(stored, degrees // 90)
    if mirrored:
        upright = next(o for o in options if o.shape == frame.shape and np.abs(o.astype(int) - frame).mean() < 12)
    assert frame.shape == upright.shape == (info.height, info.width, 3)
    assert np.abs(frame.astype(int) - upright).mean() < 12


def test_scaling_down_keeps_shape_and_never_scales_up(moving_video: Path) -> None:
    with VideoReader(moving_video, max_side=48) as reader:
        frames = list(reader.frames(10, 12))
        assert frames[0].rgb.shape == (32, 48, 3) and frame_number(frames[0].rgb) == 10
        assert (reader.info.width, reader.info.height) == (96, 64)
    with VideoReader(moving_video, max_side=4000) as reader:
        assert next(reader.frames()).rgb.shape == (64, 96, 3)


@pytest.mark.parametrize(("width", "height"), [(63, 47), (64, 47), (1, 1), (97, 64)])
def test_odd_sizes_are_written_padded_and_open_again(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "odd.mp4"
    picture = np.full((height, width, 3), (200, 90, 30), np.uint8)
    with VideoWriter(path, fps=25, width=width, height=height) as writer:
        for _ in range(3):
            writer.write(picture)
    with VideoReader(path) as reader:
        frames = list(reader.frames())
    assert len(frames) == 3
    assert frames[0].rgb.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(frames[0].rgb[:height, :width].astype(int) - picture).max() <= 4


def test_written_files_are_playable_everywhere(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", frames=5)
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat"), "the index must come first"
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace, context.name) == ("yuv420p", 1, "h264")
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


def test_nothing_is_left_of_a_video_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with pytest.raises(RuntimeError), VideoWriter(path, fps=5, width=8, height=8) as writer:
        writer.write(np.zeros((8, 8, 3), np.uint8))
        raise RuntimeError
    with pytest.raises(ValueError, match="at least one frame"), VideoWriter(path, fps=5, width=8, height=8):
        pass
    with pytest.raises(ValueError, match="shape"), VideoWriter(path, fps=5, width=8, height=8) as writer:
        writer.write(np.zeros((8, 9, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("frames", [1, 40])
def test_nothing_is_left_of_a_video_that_does_not_fit_on_the_disk(tmp_path: Path, frames: int) -> None:
    # Files that may not grow fail as those on a full disk do: the longer one in a frame, the short one at its end.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 255, (frames, 64, 64, 3), np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError), VideoWriter(tmp_path / "v.mp4", fps=5, width=64, height=64, crf=1) as writer:
            for rgb in noise:
                writer.write(rgb)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_memory_is_flat(tmp_path: Path) -> None:
    import tracemalloc

    def peak(frames: int) -> int:
        path = tmp_path / f"{frames}.mp4"
        with VideoWriter(path, fps=30, width=320, height=240) as writer:
            picture = np.zeros((240, 320, 3), np.uint8)
            for i in range(frames):
                picture[:, :] = i % 256
                writer.write(picture)
        tracemalloc.start()
        with VideoReader(path) as reader:
            assert sum(1 for _ in reader.frames()) == frames
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    assert peak(400) < peak(40) + 200_000  # one frame alone is 230,400 bytes


def test_a_file_that_is_cut_off_gives_the_frames_it_has(tmp_path: Path) -> None:
    path = write_cut_off(tmp_path / "short.mkv")
    with VideoReader(path) as reader:
        frames = list(reader.frames())
        assert 20 < len(frames) < 60
        assert [f.index for f in frames] == list(range(len(frames)))
        # The last frame before the cut may have lost the ones between; its time is right all the same.
        assert [frame_number(f.rgb) for f in frames] == [round(f.time_s / 0.04) for f in frames]
        assert reader.announced_frames > len(frames)


@pytest.mark.parametrize(
    ("name", "codec", "mark", "skipped", "length"),
    [
        ("d.avi", "mjpeg", b"\xff\xd8", 0, None),
        # A version of the format that ffmpeg says is not yet implemented, which is no error of the data to it.
        ("d.mov", "prores_ks", b"icpf", 6, 2),
    ],
)
def test_a_damaged_packet_is_bridged_and_indices_after_it_stay(
    tmp_path: Path, name: str, codec: str, mark: bytes, skipped: int, length: int | None
) -> None:
    path = write_timed(tmp_path / name, list(range(30)), Fraction(1, 25), codec)
    with av.open(str(path)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    position, size = places[10]
    length = length or size - 8
    start = data.find(mark, position, position + 32) + skipped
    data[start : start + length] = b"\xff" * length
    path.write_bytes(data)
    with VideoReader(path) as reader:
        frames = list(reader.frames())
        assert [f.index for f in frames] == list(range(30))
        assert [frame_number(f.rgb) for f in frames] == [*range(10), 9, *range(11, 30)]
        assert [frame_number(f.rgb) for f in reader.frames(12, 14)] == [12, 13]


def test_codecs_are_named_after_themselves_and_not_their_decoders(tmp_path: Path) -> None:
    path = write_timed(tmp_path / "a.mp4", list(range(30)), Fraction(1, 25), "libsvtav1")
    with av.open(str(path)) as container:
        position, size = [(p.pos, p.size) for p in container.demux(video=0) if p.size][10]
    data = bytearray(path.read_bytes())
    data[position : position + size] = bytes(size)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        assert reader.info.codec == "av1"
        # So the one packet that is lost moves no index.
        assert [(f.index, round(f.time_s * 25)) for f in reader.frames()] == [(i, i) for i in range(30)]
        assert next(iter(reader.frames(29))).index == 29


def _bad(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "x.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("This is not a video.\n" * 50)
    elif kind == "audio":
        write_audio(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut":
        write_cut_off(path)
    elif kind == "playlist":
        good = write_video(tmp_path / "good.mp4", frames=3)
        path.write_text(f"ffconcat version 1.0\nfile {good.name}\n")
    elif kind == "hls":
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.ts\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("empty", "zero bytes"),
        ("text", "no video at all"),
        ("audio", "audio only"),
        ("folder", "is a folder"),
        ("cut", "cut off"),
        ("playlist", "no video at all"),
        ("hls", "no video at all"),
        ("missing", "No such file"),
    ],
)
def test_what_is_no_video_says_so(tmp_path: Path, kind: str, says: str) -> None:
    with pytest.raises(VideoError, match=says) as caught:
        probe(_bad(tmp_path, kind))
    assert str(caught.value).startswith("x.mp4: ")
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_wrong_arguments(moving_video: Path) -> None:
    for options in ({"fps": 0.0}, {"fps": float("nan")}, {"max_side": 0}):
        with pytest.raises(ValueError, match="positive"):
            VideoReader(moving_video, **options)
    with VideoReader(moving_video) as reader, pytest.raises(ValueError, match="from 0"):
        next(reader.frames(-1))


def test_names_with_anything_in_them(tmp_path: Path, moving_video: Path) -> None:
    for name in ("衣服 è.mp4", "concat:a|b.mp4", "100%d.mp4", "a" * 250 + ".mp4"):
        path = tmp_path / name
        path.write_bytes(moving_video.read_bytes())
        assert probe(path).num_frames == 60


def test_real_clips(samples: Path) -> None:
    for path in sorted((samples / "videos").iterdir())[:3]:
        with VideoReader(path) as reader:
            whole = [f.rgb for f in reader.frames()]
            assert len(whole) == reader.info.num_frames
            part = list(reader.frames(31, 33))
        assert [f.index for f in part] == [31, 32]
        assert all(np.array_equal(f.rgb, whole[f.index]) for f in part)
