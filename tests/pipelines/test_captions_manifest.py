"""Human labels become captions, and win."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.captions.manifest import frame_span, human_captions, read_labels
from pipelines.ingest.manifest import ActionSpan, ManifestEntry


def _span(start_s, end_s, action="adjust_hem", **more):
    return ActionSpan(action=action, start_s=start_s, end_s=end_s, **more)


@given(st.integers(0, 90), st.integers(1, 50), st.sampled_from([10.0, 23.976, 25.0, 29.97, 30.0, 59.94]))
def test_a_span_written_to_the_millisecond_comes_back_to_the_frame(start, length, fps):
    times = np.arange(200) / fps
    end = start + length
    assert frame_span(round(start / fps, 3), round(end / fps, 3), times) == (start, end)


def test_frame_times_of_variable_rate_count_not_the_average():
    times = np.array([0.0, 0.1, 0.2, 1.0, 1.1, 1.2])
    assert frame_span(0.9, 1.15, times) == (3, 5)


def test_a_span_between_two_frames_still_has_one():
    assert frame_span(0.11, 0.14, np.arange(10) / 10) == (2, 3)


def test_a_span_past_the_end_is_cut_and_one_beyond_it_refused():
    times = np.arange(30) / 30
    assert frame_span(0.9, 7.0, times) == (27, 30)
    with pytest.raises(ValueError, match=r"starts at 2\.0 s, after the last frame \(0\.97 s\)"):
        frame_span(2.0, 3.0, times)


def test_captions_are_in_order_of_time_and_certain():
    labels = [_span(1, 2, "operate_zipper", text="she unzips"), _span(0.5, 0.8)]
    found = human_captions(labels, np.arange(90) / 30)
    assert [(c.action, c.start, c.end, c.text, c.confidence) for c in found] == [
        ("adjust_hem", 15, 24, "a person adjusts the hem of the garment", 1.0),
        ("operate_zipper", 30, 60, "she unzips", 1.0),
    ]


def test_no_labels_are_not_the_same_as_a_label_that_nothing_happens():
    entry = {"video": "a.mp4", "global_caption": " A person turns. "}
    unlabelled = read_labels(ManifestEntry.model_validate(entry).as_json())
    assert unlabelled.actions is None and unlabelled.global_caption == "A person turns."
    nothing = read_labels(ManifestEntry.model_validate({**entry, "actions": []}).as_json())
    assert nothing.actions == ()
    assert read_labels(None) == read_labels("") == read_labels(None, "  ")
    assert read_labels(None, "Column").global_caption == "Column"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "Invalid JSON"),
        (
            json.dumps({"video": "a", "actions": [{"action": "dance", "start_s": 0, "end_s": 1}]}),
            "unknown action 'dance'",
        ),
        (json.dumps({"video": "a", "actions": [{"action": "other", "start_s": 2, "end_s": 1}]}), "not after its start"),
    ],
)
def test_wrong_labels_say_what_is_wrong(manifest, message):
    with pytest.raises(ValueError, match=message) as e:
        read_labels(manifest)
    assert "ingest again" in str(e.value)
