"""Which windows are cut: properties over arbitrary videos, cuts and settings."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.clips.settings import ClipsSettings
from pipelines.clips.windows import Window, choose_windows, cut_windows, far_frame, nearest_size

SHAPES = {
    "video_frames": st.integers(0, 300),
    "cuts": st.lists(st.integers(-5, 310), max_size=5),
    "latents": st.integers(1, 6),
    "stride": st.integers(1, 4),
    "step": st.integers(1, 60),
}


@given(**SHAPES)
def test_windows_cover_every_long_shot_and_cross_no_cut(video_frames, cuts, latents, stride, step):
    num_frames = 4 * latents + 1
    length = (num_frames - 1) * stride + 1
    windows = cut_windows(video_frames, cuts, num_frames, stride, step)
    edges = [0, *sorted({c for c in cuts if 0 < c < video_frames}), video_frames]
    covered: set[int] = set()
    for w in windows:
        assert w.start >= 0 and w.last < video_frames
        assert not any(w.start < c <= w.last for c in cuts)
        covered |= set(range(w.start, w.last + 1))
    for begin, end in pairwise(edges):
        frames = set(range(begin, end))
        # All of a shot, its last frame included, or nothing where it is too short for one window.
        assert frames <= covered if end - begin >= length else not frames & covered
    starts = [w.start for w in windows]
    assert starts == sorted(set(starts))


@given(
    starts=st.lists(st.integers(0, 400), unique=True, max_size=60).map(sorted),
    spans=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)).map(lambda t: (t[0], t[0] + t[1])), max_size=4),
    limit=st.integers(1, 20),
    share=st.floats(0, 1),
)
def test_choice_keeps_the_limit_and_both_kinds(starts, spans, limit, share):
    windows = [Window(s, 17) for s in starts]
    chosen = choose_windows(windows, spans, limit, share)
    assert len(chosen) == min(limit, len(windows)) == len(set(chosen))
    assert set(chosen) <= set(windows)
    touching = {w for w in windows if any(w.start < e and s <= w.last for s, e in spans)}
    kept = len(touching & set(chosen))
    if limit < len(windows):
        both = limit > 1 and 0 < len(touching) < len(windows)
        wanted = min(round(limit * share), limit - 1) if both else round(limit * share)
        assert kept >= min(len(touching), wanted)
        if both:
            assert kept and len(chosen) > kept


@given(
    start=st.integers(0, 50),
    latents=st.integers(1, 6),
    stride=st.integers(1, 4),
    span=st.tuples(st.integers(0, 120), st.integers(1, 60)),
)
def test_local_span_holds_exactly_the_frames_of_the_span(start, latents, stride, span):
    window = Window(start, 4 * latents + 1, stride)
    begin, end = span[0], span[0] + span[1]
    inside = [i for i in range(window.num_frames) if begin <= start + i * stride < end]
    found = window.local_span(begin, end)
    assert (list(range(*found)) if found else []) == inside


def test_last_window_is_shifted_back():
    assert [w.start for w in cut_windows(40, [], 17, 1, 17)] == [0, 17, 23]
    assert cut_windows(16, [], 17, 1, 8) == []


@given(height=st.integers(1, 4000), width=st.integers(1, 4000))
def test_nearest_size_has_the_nearest_aspect(height, width):
    sizes = ((128, 96), (96, 128), (112, 112))
    chosen = nearest_size(height, width, sizes)
    ratio = math.log(height / width)
    assert abs(math.log(chosen[0] / chosen[1]) - ratio) == pytest.approx(
        min(abs(math.log(h / w) - ratio) for h, w in sizes)
    )


@given(areas=st.lists(st.floats(0, 1), min_size=1, max_size=80), start=st.integers(0, 60), num=st.sampled_from([5, 17]))
def test_reference_frame_is_outside_the_window_where_possible(areas, start, num):
    window = Window(start, num)
    frame = far_frame(range(len(areas)), areas, window)
    usable = [i for i, a in enumerate(areas) if a > 0]
    assert (frame is None) == (not usable)
    assume(usable)
    outside = [i for i in usable if not window.start <= i <= window.last]
    assert frame in (outside or usable)


@pytest.mark.parametrize("bad", [{"num_frames": 16}, {"sizes": [(120, 96)]}, {"sizes": []}, {"step_frames": 0}])
def test_settings_refuse_what_the_networks_cannot_take(bad):
    with pytest.raises(ValidationError):
        ClipsSettings(**bad)
