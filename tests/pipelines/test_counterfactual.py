"""Which rendered clips the measurement of unpaired try-on takes, and what it counts."""

import json

import numpy as np
import pytest

from pipelines.evaluation.counterfactual import compare, counterfactuals


def _folder(tmp_path, *lines):
    (tmp_path / "truth").mkdir()
    _record(tmp_path, "a", "truth/a.other.mp4")
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (tmp_path / "manifest.jsonl").write_text(text)
    return tmp_path


def _record(folder, name, counterfactual):
    (folder / "truth" / f"{name}.json").write_text(json.dumps({"counterfactual": counterfactual}))


_SPAN = {"action": "adjust_hem", "start_s": 0.5, "end_s": 1, "text": "she lifts the hem"}
_CLIP = {"video": "a.mp4", "tryon_garment": "garments/red.jpg", "actions": [_SPAN]}


def test_takes_the_clips_with_another_garment(tmp_path):
    without_video = {"video": "b.mp4", "tryon_garment": "garments/red.jpg", "actions": []}
    without_photo = {"video": "c.mp4", "actions": []}
    twin = {"video": "a_other.mp4", "tryon_garment": "garments/blue.jpg", "actions": []}
    folder = _folder(tmp_path, _CLIP, without_video, without_photo, twin)
    _record(folder, "b", None)
    _record(folder, "c", "truth/c.other.mp4")
    [(entry, photo, other)] = counterfactuals(folder)
    assert (entry.video, photo, other) == ("a.mp4", "garments/red.jpg", folder / "truth" / "a.other.mp4")
    assert [a.model_dump() for a in entry.actions] == [_SPAN]


@pytest.mark.parametrize(
    ("lines", "error", "says"),
    [
        ((_CLIP, "{"), ValueError, "manifest.jsonl:2: the line is not JSON"),
        (({k: v for k, v in _CLIP.items() if k != "actions"},), ValueError, "without --no-labels"),
        (({"video": "b.mp4", "actions": []},), FileNotFoundError, "without --no-counterfactual"),
    ],
)
def test_says_what_is_wrong_with_a_folder(tmp_path, lines, error, says):
    with pytest.raises(error, match=says):
        counterfactuals(_folder(tmp_path, *lines))


def test_errors_count_where_the_garments_differ():
    truth = np.zeros((1, 2, 2, 3), np.uint8)
    source, result, best = truth.copy(), truth.copy(), truth.copy()
    source[0, 0, 0] = 51  # the one pixel that the other garment changes
    result[0, 0, 0], result[0, 1, 1] = (30, 0, 0), 255
    best[0, 0, 0] = 5
    assert compare(result, source, truth, best) == pytest.approx((10 / 255, 0.2, 5 / 255, 0.25))
