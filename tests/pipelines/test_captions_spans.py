"""Smoothing of frame evidence into spans, against mathematical morphology from scipy."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipelines.captions.spans import (
    close_gaps,
    drop_short,
    fill,
    frames_of,
    runs,
    smooth,
    smoothed_runs,
    temporal_iou,
)

evidence = st.lists(st.booleans(), max_size=80).map(lambda v: np.array(v, bool))
lengths = st.integers(1, 12)
span = st.tuples(st.integers(0, 50), st.integers(1, 30)).map(lambda s: (s[0], s[0] + s[1]))


@given(evidence, lengths)
def test_closing_is_that_of_mathematical_morphology(series, length):
    # Padding keeps the border from counting as evidence or as its absence.
    padded = np.pad(series, 2 * length)
    expected = ndimage.binary_closing(padded, np.ones(length, bool))[2 * length : len(padded) - 2 * length]
    np.testing.assert_array_equal(close_gaps(series, length), expected)


@given(evidence, lengths)
def test_opening_is_that_of_mathematical_morphology(series, length):
    padded = np.pad(series, 2 * length)
    expected = ndimage.binary_opening(padded, np.ones(length, bool))[2 * length : len(padded) - 2 * length]
    np.testing.assert_array_equal(drop_short(series, length), expected)


@given(evidence)
def test_runs_and_fill_are_inverse(series):
    spans = runs(series)
    np.testing.assert_array_equal(fill(spans, len(series)), series)
    assert all(a < b for a, b in spans)
    assert all(b < c for (_, b), (c, _) in pairwise(spans))


@given(evidence, st.sampled_from([10.0, 24.0, 29.97, 30.0, 60.0]), st.floats(0, 0.5), st.floats(0, 0.5))
def test_smoothing_again_changes_nothing(series, fps, closing_s, opening_s):
    once = smooth(series, fps, closing_s, opening_s)
    np.testing.assert_array_equal(smooth(once, fps, closing_s, opening_s), once)
    assert all(b - a >= frames_of(opening_s, fps) for a, b in runs(once))


def test_lengths_are_seconds():
    series = np.ones(60, bool)
    series[20:25] = False  # a gap of 5 frames
    assert runs(smooth(series, 30, closing_s=0.2, opening_s=0.1)) == [(0, 60)]
    assert runs(smooth(series, 15, closing_s=0.2, opening_s=0.1)) == [(0, 20), (25, 60)]
    assert runs(smooth(series, 30, closing_s=0.0, opening_s=1.0)) == [(25, 60)]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps):
    with pytest.raises(ValueError, match="frames a second"):
        frames_of(0.3, fps)


@given(span, span)
def test_iou_counts_frames(a, b):
    first, second = set(range(*a)), set(range(*b))
    assert temporal_iou(a, b) == pytest.approx(len(first & second) / len(first | second))


@given(evidence, st.lists(st.integers(-5, 90), max_size=4), st.floats(0, 0.3), st.floats(0, 0.3))
def test_no_span_reaches_across_a_cut(series, cuts, closing_s, opening_s):
    found = smoothed_runs(series, 30, closing_s, opening_s, cuts)
    assert not any(a < c < b for a, b in found for c in cuts)
    # Shot by shot by hand.
    labels = np.searchsorted(np.sort(cuts), np.arange(len(series)), side="right")
    for shot in set(labels.tolist()):
        inside = np.flatnonzero(labels == shot)
        expected = runs(smooth(series[inside], 30, closing_s, opening_s))
        assert [(a - inside[0], b - inside[0]) for a, b in found if a in inside] == expected


def test_without_cuts_spans_are_the_runs_of_the_smoothed_evidence():
    series = np.array([0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1], bool)
    assert smoothed_runs(series, 10, 0.2, 0.2) == [(1, 7)]
    assert smoothed_runs(series, 10, 0.2, 0.2, cuts=[5]) == [(1, 5), (5, 7)]
