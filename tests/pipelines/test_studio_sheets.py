"""Contact sheets of rendered batches: which clips they show, which frames, and what they say without any."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.studio import sheets
from pipelines.studio.batch import render_batch
from pipelines.studio.mark import TRUTH
from pipelines.studio.settings import StudioSettings
from pipelines.video import VideoReader
from tests.conftest import frame_number
from tests.pipelines.media import write_video

BAND = 18
SMALL = StudioSettings(clips=2, seed=4, width=96, height=128, frames=21, fps=12, interaction_share=0.5, workers=1)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sheets") / "batch"
    assert not render_batch(SMALL, folder).failures
    return folder


@pytest.fixture
def numbered(tmp_path) -> Path:
    """Four clips whose frames carry their number, with records as the studio writes them."""
    (tmp_path / TRUTH).mkdir()
    for index, performance in enumerate(("walk", "walk", "pantomime", "interaction")):
        name = f"clip_{index:05d}"
        write_video(tmp_path / f"{name}.mp4", 60, seed=index)
        cv2.imwrite(str(tmp_path / "garment.png"), np.full((64, 48, 3), 90, np.uint8))
        acting = performance == "interaction"
        record = {
            "video": f"{name}.mp4",
            "garment": "garment.png",
            "garment_type": "hoodie",
            "performance": performance,
            "action": None if performance == "walk" else "operate_zipper",
            "counterfactual": None,
            "spans": [{"start_frame": 20, "end_frame": 41, "text": "she zips"}] if acting else [],
        }
        (tmp_path / TRUTH / f"{name}.json").write_text(json.dumps(record))
    return tmp_path


def _tiles(strip: np.ndarray, width: int, product: int) -> list[np.ndarray]:
    body = strip[BAND:, product:]
    return [body[:, x : x + width] for x in range(0, body.shape[1], width)]


def test_a_strip_shows_the_moments_of_the_interaction(numbered):
    strip = sheets.clip_row(numbered, "clip_00003", columns=4, height=64)
    assert strip.shape == (BAND + 64, 48 + 4 * 96, 3)
    shown = [frame_number(tile) for tile in _tiles(strip, 96, 48)]
    # One from before, then from its first frame to its last.
    assert shown == [12, 20, 30, 40]


def test_a_strip_without_an_interaction_goes_over_the_whole_clip(numbered):
    strip = sheets.clip_row(numbered, "clip_00000", columns=3, height=64)
    shown = [frame_number(tile) for tile in _tiles(strip, 96, 48)]
    assert shown == [0, 0, 59]


def test_a_sheet_begins_with_one_clip_of_each_performance(numbered):
    picture = sheets.batch_sheet(numbered, rows=4)
    assert picture is not None
    shown = np.array(Image.open(io.BytesIO(picture))).astype(int)
    names = ["clip_00000", "clip_00002", "clip_00003", "clip_00001"]
    expected = sheets.sheet(numbered, names, 4, 130)
    assert shown.shape == expected.shape
    # JPEG loses little; clips in another order differ all over.
    assert np.abs(shown - expected).mean() < 6 < np.abs(shown - sheets.sheet(numbered, sorted(names), 4, 130)).mean()


def test_rendered_clips_end_with_the_other_garment(rendered):
    strip = sheets.clip_row(rendered, "clip_00000", columns=3, height=128)
    product = cv2.imread(str(rendered / sheets.read_record(rendered, "clip_00000")["garment"])).shape
    shown = round(product[1] * 128 / product[0])
    tiles = _tiles(strip, 96, shown)
    assert len(tiles) == 4
    record = sheets.read_record(rendered, "clip_00000")
    middle = (record["spans"][0]["start_frame"] + record["spans"][-1]["end_frame"] - 1) // 2
    with VideoReader(rendered / record["counterfactual"]) as reader:
        (frame,) = reader.frames(middle, middle + 1)
    np.testing.assert_array_equal(tiles[-1], frame.rgb)


def test_narrow_strips_are_filled_up(rendered):
    both = sheets.sheet(rendered, ["clip_00000", "clip_00001"], columns=2, height=64)
    rows = [sheets.clip_row(rendered, f"clip_0000{i}", 2, 64) for i in range(2)]
    assert both.shape == (2 * (BAND + 64), max(r.shape[1] for r in rows), 3)
    for i, row in enumerate(rows):
        part = both[i * (BAND + 64) : (i + 1) * (BAND + 64)]
        np.testing.assert_array_equal(part[:, : row.shape[1]], row)
        assert not part[:, row.shape[1] :].any()


def test_nothing_rendered_is_no_sheet_and_half_a_clip_says_so(rendered, numbered, tmp_path):
    assert sheets.batch_sheet(tmp_path / "nowhere") is None
    with pytest.raises(FileNotFoundError, match="no whole clip clip_00009"):
        sheets.clip_row(rendered, "clip_00009", 3)
    (numbered / "garment.png").write_bytes(b"no picture")
    with pytest.raises(FileNotFoundError, match="render the batch again"):
        sheets.clip_row(numbered, "clip_00000", 3)
