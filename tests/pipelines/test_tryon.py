"""Try-on of videos: conditions, letterbox, streaming, rows. Tiny random models of the real classes."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from diffusers import UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from models.itryon.losses import ActionSpan
from pipelines.arrays import decode_mask, encode_mask, points_to_numpy, structs_to_numpy
from pipelines.captions.rows import global_caption
from pipelines.clips.conditions import hands_on_canvas, window_frames
from pipelines.clips.letterbox import Letterbox
from pipelines.store.schemas import AGNOSTIC_MASKS
from pipelines.tryon.annotations import Annotations
from pipelines.tryon.load import LoadedPipeline
from pipelines.tryon.run import Garment, spans_of, tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoReader, VideoWriter
from tests.conftest import frame_number, moving_frames
from tests.pipelines.media import write_rotated
from tests.pipelines.tryon_scene import HEIGHT, SETTINGS, WIDTH, rows_of, scene_annotations, tiny_pipeline


@pytest.fixture(scope="module")
def annotations() -> Annotations:
    return scene_annotations()


@pytest.fixture(scope="module")
def loaded() -> LoadedPipeline:
    return tiny_pipeline()


GARMENT = Garment(np.full((30, 20, 3), (200, 30, 30), np.uint8), None, "red")


def window(path, annotations, start=0, count=5, **more):
    return window_frames(
        path, start, count, 32, 48, pose=annotations.pose, masks=annotations.masks, hands=annotations.hands, **more
    )


@settings(max_examples=80, deadline=None)
@given(*[st.integers(1, 200)] * 4)
def test_letterbox_fits_and_keeps_the_aspect_ratio(h, w, height, width):
    box = Letterbox.fit(h, w, height, width)
    assert box.inner_height == height or box.inner_width == width
    assert box.top >= 0 and box.top + box.inner_height <= height and box.left >= 0
    assert abs(box.inner_width - w * min(height / h, width / w)) <= 1
    image = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    assert box.frame(image).shape == (height, width, 3) and box.restore(box.frame(image)).shape == image.shape
    # Corners of the source are corners of the picture.
    corners = box.points(np.array([[-0.5, -0.5], [w - 0.5, h - 0.5]]))
    expected = [
        [box.left - 0.5, box.top - 0.5],
        [box.left + box.inner_width - 0.5, box.top + box.inner_height - 0.5],
    ]
    np.testing.assert_allclose(corners, expected, atol=1e-9)


def test_letterbox_inverts_exactly_without_scaling():
    image = np.random.default_rng(0).integers(0, 256, (32, 20, 3), np.uint8)
    box = Letterbox.fit(32, 20, 32, 48)
    canvas = box.frame(image)
    assert np.array_equal(box.restore(canvas), image) and box.mask(np.ones((32, 20))).sum() == 32 * 20
    assert (canvas[:, : box.left] == image[:, :1]).all()  # the border repeats the edge


def test_letterbox_marks_where_a_point_lands():
    image = np.zeros((200, 100, 3), np.uint8)
    cv2.circle(image, (70, 40), 6, (255, 255, 255), -1)
    box = Letterbox.fit(200, 100, 96, 128)
    canvas = box.frame(image)[..., 0].astype(float)
    y, x = np.mgrid[:96, :128]
    centre = [(canvas * x).sum() / canvas.sum(), (canvas * y).sum() / canvas.sum()]
    np.testing.assert_allclose(box.points([70, 40]), centre, atol=0.3)


def test_conditions_of_a_window(moving_video, annotations):
    result = window(moving_video, annotations, start=2)
    assert result.frames.tolist() == [2, 3, 4, 5, 6] and result.hand_present.tolist() == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert result.target.shape == result.agnostic.shape == result.hands.shape == (5, 32, 48, 3)
    expected = np.zeros((32, 48), np.uint8)
    expected[8:28, 12:36] = 1
    assert (result.mask == expected).all()
    outside = result.mask == 0
    assert np.array_equal(result.agnostic[outside], result.target[outside])
    # Frame 3 has no pose: plain grey inside. The others have a skeleton on it.
    flat = [np.ptp(a[m > 0].reshape(-1, 3), axis=0).max() == 0 for a, m in zip(result.agnostic, result.mask)]
    assert flat == [False, True, False, False, False]
    assert not result.hands[:2].any() and all(h.any() for h in result.hands[2:])
    # The source's frames, in order.
    assert [frame_number(f) for f in result.target] == [2, 3, 4, 5, 6]


def test_conditions_do_not_depend_on_the_window(moving_video, annotations):
    a, b = window(moving_video, annotations, 2, 9), window(moving_video, annotations, 5, 5)
    for name in ("target", "agnostic", "mask", "hands", "hand_present"):
        assert np.array_equal(getattr(a, name)[3:8], getattr(b, name)), name


def test_stride_and_padding(moving_video, annotations):
    assert window(moving_video, annotations, 1, 5, stride=3).frames.tolist() == [1, 4, 7, 10, 13]
    padded = window(moving_video, annotations, 57, 5, pad=True)
    assert padded.frames.tolist() == [57, 58, 59, 59, 59] and not padded.mask.any()
    with pytest.raises(ValueError, match="ends at frame 59"):
        window(moving_video, annotations, 57, 5)
    with pytest.raises(ValueError, match="no frame 60"):
        window(moving_video, annotations, 60, 5, pad=True)
    with pytest.raises(ValueError, match="No window"):
        window(moving_video, annotations, -1)


def test_a_window_without_any_rows(moving_video, annotations):
    empty = Annotations(*(t.slice(0, 0) for t in vars(annotations).values()))
    result = window(moving_video, empty)
    assert not result.mask.any() and not result.hands.any() and np.array_equal(result.agnostic, result.target)


def test_hands_move_to_the_canvas_with_their_camera(annotations):
    box = Letterbox.fit(HEIGHT, WIDTH, 128, 128)
    moved = hands_on_canvas(annotations.hands, box)
    camera = structs_to_numpy(moved["camera"])[0]
    points = np.array([[0.1, -0.05, 0.6], [0.0, 0.0, 0.5]])
    source = points[:, :2] / points[:, 2:] * 90 + [48, 32]
    projected = points[:, :2] / points[:, 2:] * camera[:2] + camera[2:]
    np.testing.assert_allclose(projected, box.points(source), atol=1e-4)
    expected = box.points(points_to_numpy(annotations.hands["keypoints_2d"], 21))
    np.testing.assert_allclose(points_to_numpy(moved["keypoints_2d"], 21), expected, atol=1e-4)


def read(path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([f.rgb for f in reader.frames()])


def test_tryon_writes_the_source_with_another_garment(moving_video, annotations, loaded, tmp_path):
    progress = []
    record = tryon_video(
        loaded,
        moving_video,
        [GARMENT],
        annotations,
        tmp_path / "out.mp4",
        SETTINGS,
        side_by_side_output=tmp_path / "compare.mp4",
        sheet_output=tmp_path / "sheet.jpg",
        start=3,
        num_frames=12,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    source, result, compare = read(moving_video), read(tmp_path / "out.mp4"), read(tmp_path / "compare.mp4")
    assert result.shape == (12, HEIGHT, WIDTH, 3) and compare.shape == (12, HEIGHT, 4 * WIDTH, 3)
    mask = decode_mask(annotations.masks["mask"][0].as_py(), HEIGHT, WIDTH) > 0
    difference = np.abs(result.astype(int) - source[3:15]).mean(-1)
    # Coding bleeds a few pixels over the mask's edge.
    far = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) == 0
    assert difference[:, far].mean() < 4 and difference[:, mask].mean() > 20
    np.testing.assert_allclose(compare[:, :, :WIDTH].mean(), source[3:15].mean(), atol=3)
    assert np.abs(compare[:, 5:-5, 2 * WIDTH + 40 : 3 * WIDTH - 40].mean((0, 1, 2)) - (200, 30, 30)).max() < 12
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))[..., ::-1].reshape(6, HEIGHT, 4 * WIDTH, 3)
    moments = compare[[0, 2, 4, 7, 9, 11]]
    assert np.abs(sheet.astype(int) - moments).mean() < 4 and np.abs(sheet[::-1].astype(int) - moments).mean() > 5
    with VideoReader(tmp_path / "out.mp4") as made, VideoReader(moving_video) as original:
        assert made.info.fps == pytest.approx(original.info.fps)
    assert record["windows"] == [[3, 8], [6, 11], [9, 14], [10, 15]] and progress[-1] == (4, 4)
    assert record["spans"] == [{"start": 5, "end": 9, "text": "zip up"}] and record["prompt"] == "a person"
    assert record["garments"] == ["red"] and record["digests"] == {"vae": "tiny"} and json.dumps(record)


def test_the_record_says_what_was_used(moving_video, annotations, loaded, tmp_path):
    def record(changed):
        return tryon_video(
            changed, moving_video, [GARMENT], annotations, tmp_path / "out.mp4", SETTINGS, start=4, num_frames=5
        )

    first = record(loaded)
    assert first["category"] == "upper_body" and first["use_hands"] is True and first["use_actions"] is True
    assert first["device"] == "cpu" and first["dtype"].keys() == {"vae", "transformer", "text_encoder"}
    assert (
        set(first["dtype"].values()) == {"float32"} and first["scheduler"]["class"] == "FlowMatchEulerDiscreteScheduler"
    )
    # The setting leaves it to the checkpoint, whose scheduler was built with its own default.
    assert SETTINGS.flow_shift is None and first["scheduler"]["shift"] == first["settings"]["flow_shift"] == 1.0

    before = loaded.pipe.scheduler
    try:
        loaded.pipe.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
        )
        other = record(replace(loaded, use_hands=False, use_actions=False))
    finally:
        loaded.pipe.scheduler = before
    assert other["scheduler"]["class"] == "UniPCMultistepScheduler" and other["settings"]["flow_shift"] == 5.0
    assert other["use_hands"] is False and other["use_actions"] is False and json.dumps(other)


def test_tryon_is_reproducible_and_follows_seed_and_spans(moving_video, annotations, loaded, tmp_path):
    def run(name, settings=SETTINGS, **more):
        tryon_video(
            loaded, moving_video, [GARMENT], annotations, tmp_path / name, settings, num_frames=5, start=4, **more
        )
        return (tmp_path / name).read_bytes()

    base = run("a.mp4")
    assert run("b.mp4") == base
    assert run("c.mp4", SETTINGS.model_copy(update={"seed": 1})) != base
    assert run("d.mp4", spans=[]) != base


def test_frames_keep_their_times(annotations, loaded, tmp_path):
    """Variable frame rate: ten frames at 25 a second, then ten at 10."""
    times = [*(i / 25 for i in range(10)), *(0.4 + i / 10 for i in range(10))]
    frames = moving_frames(20, WIDTH, HEIGHT)
    with VideoWriter(tmp_path / "vfr.mp4", fps=14.0, width=WIDTH, height=HEIGHT, timed=True) as writer:
        for frame, time_s in zip(frames, times):
            writer.write(frame, time_s)
        with pytest.raises(ValueError, match="not later"):
            writer.write(frames[0], times[-1])
        with pytest.raises(ValueError, match="Times belong"):
            writer.write(frames[0])
    for start in (0, 8):
        tryon_video(
            loaded,
            tmp_path / "vfr.mp4",
            [GARMENT],
            annotations,
            tmp_path / "out.mp4",
            SETTINGS,
            side_by_side_output=tmp_path / "compare.mp4",
            start=start,
        )
        expected = np.array(times[start:]) - times[start]
        for name in ("out.mp4", "compare.mp4"):
            with VideoReader(tmp_path / name) as reader:
                assert reader.info.variable_frame_rate
                np.testing.assert_allclose([f.time_s for f in reader.frames()], expected, atol=1e-3)


@pytest.mark.parametrize("width, height, rotation", [(90, 50, 0), (64, 96, 90), (71, 53, 0)])
def test_any_size_and_rotation_comes_back(loaded, tmp_path, width, height, rotation):
    """Upright size of the source, and the source's own pixels without a mask row."""
    path = tmp_path / "in.mp4"
    write_rotated(path, rotation, frames=moving_frames(6, width, height))
    with VideoReader(path) as reader:
        source = [f.rgb for f in reader.frames()]
    tall, wide = source[0].shape[:2]
    mask = np.zeros((tall, wide), np.uint8)
    mask[tall // 4 : tall // 2, wide // 4 : wide // 2] = 1
    rows = [
        {"frame": f, "mask": encode_mask(mask), "height": tall, "width": wide, "area_fraction": float(mask.mean()),
         "category": "upper_body", "source": "geometric"} for f in range(6)
    ]  # fmt: skip
    empty = scene_annotations()
    annotations = Annotations(
        empty.pose.slice(0, 0), rows_of(AGNOSTIC_MASKS, rows), empty.hands.slice(0, 0), empty.captions.slice(0, 0)
    )
    tryon_video(loaded, path, [GARMENT], annotations, tmp_path / "out.mp4", SETTINGS)
    result = read(tmp_path / "out.mp4")
    # yuv420p has even sides only: an odd side is one pixel longer.
    assert result.shape[1:3] == (tall + tall % 2, wide + wide % 2) and len(result) == 6
    far = cv2.dilate(mask, np.ones((9, 9))) == 0
    difference = np.abs(result[:, :tall, :wide].astype(int) - np.stack(source)).mean(-1)
    assert difference[:, far].mean() < 5 < difference[:, mask > 0].mean()


def test_a_video_shorter_than_a_window(moving_video, annotations, loaded, tmp_path):
    tryon_video(loaded, moving_video, [GARMENT], annotations, tmp_path / "o.mp4", SETTINGS, start=0, num_frames=2)
    assert len(read(tmp_path / "o.mp4")) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"garments": []}, "No garment"),
        ({"start": 58, "num_frames": 5}, "with 60 frames"),
        ({"spans": [ActionSpan(50, 61, "x")]}, "outside the video"),
        ({"start": 52, "num_frames": 5}, "no agnostic mask"),
    ],
)
def test_bad_requests_leave_no_file(moving_video, annotations, loaded, tmp_path, change, message):
    call = {"garments": [GARMENT]} | change
    garments = call.pop("garments")
    with pytest.raises(ValueError, match=message):
        tryon_video(loaded, moving_video, garments, annotations, tmp_path / "out.mp4", SETTINGS, **call)
    assert not list(tmp_path.iterdir())


def test_captions_become_spans_and_prompt(annotations):
    assert spans_of(annotations.captions) == [ActionSpan(5, 9, "zip up")]
    assert global_caption(annotations.captions) == "a person"
    assert global_caption(annotations.captions.slice(0, 0)) is None


@pytest.mark.parametrize("bad", [{"num_frames": 16}, {"sizes": [(100, 96)]}, {"sizes": []}, {"steps": 0}])
def test_settings_refuse_what_the_model_cannot_do(bad):
    with pytest.raises(ValidationError):
        TryOnSettings(**bad)
