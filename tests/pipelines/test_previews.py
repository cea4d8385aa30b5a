"""Pictures of the stages: they decode, are small, and show what the tables say."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.perception.hand_mesh import NUM_SHAPE, HandMesh
from pipelines.arrays import encode_mask, points_to_arrow
from pipelines.previews import canvas, pictures, plots, sheets, skeleton, timeline
from pipelines.store import TABLES, Commit, DeltaStore
from pipelines.store.schemas import (
    AGNOSTIC_MASKS,
    CAPTIONS,
    CLIPS,
    GARMENTS,
    HANDS,
    LANDMARK,
    POSE,
    STAGE_STATUS,
    TRAINING_METRICS,
    TRYON_VIDEOS,
    VIDEOS,
)
from pipelines.video import VideoWriter

WIDTH, HEIGHT, FRAMES = 160, 120, 30
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def opened(data: bytes | None, kind: str = "JPEG") -> np.ndarray:
    assert data is not None
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind
        image.load()
        return np.asarray(image.convert("RGB"))


def close(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 40) -> np.ndarray:
    return (np.abs(picture.astype(int) - colour) <= tolerance).all(-1)


def reddish(picture: np.ndarray) -> int:
    """Pixels of vermilion writing, whose colour the encoder smears."""
    r, g, b = np.moveaxis(picture.astype(int), -1, 0)
    return int(((r - b > 60) & (r - g > 30)).sum())


def filled(spec, rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist([{"batch": "b", "fingerprint": "x", **r} for r in rows], spec.schema)


def landmarks() -> np.ndarray:
    points = np.ones((33, 4), np.float32)
    points[:, 0] = 80 + 25 * np.cos(np.arange(33))
    points[:, 1] = 60 + 40 * np.sin(np.arange(33) * 1.7)
    return points


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty frames whose grey value tells the frame: 60 + 4 x number."""
    path = tmp_path_factory.mktemp("previews") / "grey.mp4"
    with VideoWriter(path, fps=30, width=WIDTH, height=HEIGHT) as writer:
        for i in range(FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 60 + 4 * i, np.uint8))
    return path


@pytest.fixture
def store(lake: DeltaStore, video_file: Path) -> DeltaStore:
    """A batch of three videos: one good, one that failed in every stage, one rejected at ingest."""
    uri = lake.blobs.put_file(video_file)
    common = {"width": WIDTH, "height": HEIGHT, "fps": 30.0, "num_frames": FRAMES, "duration_s": 1.0, "codec": "h264"}
    rows = [
        {"video_id": "good", "source_path": "Ωμέγα good.mp4", "uri": uri, "status": "ok", **common, "cut_frames": [9]},
        {"video_id": "bad", "source_path": "bad.mp4", "uri": uri, "status": "ok", **common},
        {"video_id": "text", "source_path": "text.mp4", "status": "error", "reason": "not a video: it is a text file"},
    ]
    lake.replace(VIDEOS, filled(VIDEOS, rows), {"batch": "b"}, Commit())
    for stage in ("pose", "hands", "agnostic_masks", "captions", "clips"):
        entries = [
            {"stage": stage, "video_id": v, "status": s, "reason": r, "rows": 1, "frames": 30, "seconds": 1.5}
            | {"model_seconds": 1.2, "created_at": NOW, "run_id": ""}
            for v, s, r in (("good", "ok", None), ("bad", "error", "the worker ran out of memory"))
        ]
        lake.replace(STAGE_STATUS, filled(STAGE_STATUS, entries), {"batch": "b", "stage": stage}, Commit())
    return lake


def put(store: DeltaStore, spec, rows: list[dict]) -> None:
    store.replace(spec, filled(spec, [{"video_id": "good", **r} for r in rows]), {"batch": "b"}, Commit())


def put_pose(store: DeltaStore) -> None:
    person = np.zeros((HEIGHT, WIDTH), np.uint8)
    person[20:110, 50:110] = 1
    points = points_to_arrow(landmarks()[None], LANDMARK).to_pylist()[0]
    base = {"landmarks": points, "world_landmarks": [], "person_mask": encode_mask(person), "score": 0.9}
    put(store, POSE, [{"frame": i, "time_s": i / 30, "detected": True, **base} for i in range(FRAMES)])


def put_hands(store: DeltaStore) -> None:
    mesh = HandMesh("left")
    joints = np.zeros((21, 3))
    joints[:, :2] = 0.09 * np.stack([np.cos(np.arange(21)), np.sin(np.arange(21))], 1)
    joints[:, 2] = 0.5
    base = {
        "handedness": "left", "score": 0.9, "source": "mediapipe", "mesh_topology": "cc0_hand",
        "keypoints_3d": [{"x_m": x, "y_m": y, "z_m": z} for x, y, z in joints],
        "keypoints_2d": [{"x_px": 80 + 300 * x, "y_px": 60 + 300 * y} for x, y, _ in joints],
        "mesh_pose": [0.0] * 3 * len(mesh.joints), "mesh_shape": [1.0] * NUM_SHAPE,
        "mesh_translation": {"x_m": 0.0, "y_m": 0.05, "z_m": 0.5},
        "camera": {"fx": 150.0, "fy": 150.0, "cx": 80.0, "cy": 60.0}, "reprojection_error_px": 1.0,
    }  # fmt: skip
    put(store, HANDS, [{"frame": i, "interpolated": i > 25, **base} for i in range(10, FRAMES)])


def put_masks(store: DeltaStore) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[40:100, 40:120] = 1
    base = {"mask": encode_mask(mask), "height": HEIGHT, "width": WIDTH, "area_fraction": 0.25}
    put(
        store,
        AGNOSTIC_MASKS,
        [{"frame": i, "category": "upper_body", "source": "geometric", **base} for i in range(30)],
    )


def test_no_rows_no_picture(lake: DeltaStore):
    for stage in ("videos", "garments", "pose", "hands", "agnostic_masks", "captions", "clips"):
        assert sheets.contact_sheet(lake, "b", stage) is None
    assert sheets.tryon_sheet(lake, "none") is None
    assert plots.loss_curve(lake, "none") is None
    assert plots.stage_times(lake, "b") is None
    with pytest.raises(ValueError, match="No contact sheet for 'leaderboard'"):
        sheets.contact_sheet(lake, "b", "leaderboard")


def test_videos_show_thumbnails_and_reasons(store: DeltaStore):
    picture = opened(sheets.contact_sheet(store, "b", "videos"))
    assert picture.shape[1] == 1092
    assert reddish(picture) > 200, "the rejected video's reason is not there"
    shown = [60 + 4 * f for f in pictures.spread(5, FRAMES)]
    for grey in shown:
        assert (np.abs(picture.astype(int) - grey).max(-1) <= 3).sum() > 3000, f"no thumbnail of grey {grey}"


def test_only_shown_frames_are_decoded(store: DeltaStore, monkeypatch: pytest.MonkeyPatch):
    from pipelines.video import VideoReader

    asked: list[tuple[int, int]] = []
    original = VideoReader.frames

    def counted(self, start=0, stop=None):
        asked.append((start, stop))
        return original(self, start, stop)

    monkeypatch.setattr(VideoReader, "frames", counted)
    put_pose(store)
    sheets.contact_sheet(store, "b", "pose", columns=3)
    assert asked == [(5, 6), (15, 16), (25, 26)]


def test_pose_sheet_shows_both_sides_of_the_skeleton(store: DeltaStore):
    put_pose(store)
    picture = opened(sheets.contact_sheet(store, "b", "pose"))
    for colour in (skeleton.LEFT, skeleton.RIGHT):
        assert close(picture, colour, 60).sum() > 50


def test_hands_sheet_shows_mesh_and_interpolation(store: DeltaStore):
    put_hands(store)
    picture = opened(sheets.contact_sheet(store, "b", "hands"))
    thumbnails = picture[60:]
    assert close(thumbnails, canvas.SKY, 60).sum() > 30, "no keypoints of the left hand"
    assert close(thumbnails, canvas.VERMILION, 60).sum() > 10, "interpolated hands look like seen ones"
    assert (thumbnails[..., 1].astype(int) - thumbnails[..., 0] > 25).sum() > 100, "no green mesh"


def test_mask_sheet_shows_overlay_and_agnostic_frame(store: DeltaStore):
    put_masks(store)
    picture = opened(sheets.contact_sheet(store, "b", "agnostic_masks"))
    assert close(picture, (128, 128, 128), 6).sum() > 5000
    tinted = (picture[..., 0].astype(int) - picture[..., 1] > 20) & (picture[..., 2].astype(int) - picture[..., 1] > 5)
    assert tinted.sum() > 5000


def test_captions_sheet_shows_spans_in_their_place(store: DeltaStore):
    base = {"confidence": 0.8, "source": "kinematic", "text": "closes the zip"}
    rows = [
        {"kind": "global", "start_frame": 0, "end_frame": FRAMES, **base},
        {"kind": "action", "action": "operate_zipper", "start_frame": 15, "end_frame": 30, **base},
    ]
    put(store, CAPTIONS, rows)
    picture = opened(sheets.contact_sheet(store, "b", "captions"))
    bar = close(picture[picture.shape[0] // 2 :], timeline.ACTION_COLOURS["operate_zipper"], 40)
    columns = np.flatnonzero(bar.sum(0) >= 8)
    assert columns.min() == pytest.approx(6 + 1080 / 2, abs=4)
    assert columns.max() == pytest.approx(6 + 1080, abs=4)


def test_clips_sheet_shows_the_window_with_most_interaction(store: DeltaStore):
    base = {
        "num_frames": 17, "bucket": "17x96x128", "latents_uri": "l", "text_uri": "t", "global_caption": "g",
        "garment_id": "g", "split": "train", "encoder_digest": "e",
    }  # fmt: skip
    quiet = {"clip_id": "a", "start_frame": 0, "action_mask": [0.0] * 5, "actions": [], **base}
    busy = {"clip_id": "c", "start_frame": 8, "action_mask": [0, 0, 0, 1, 1], "actions": ["other"], **base}
    put(store, CLIPS, [quiet, busy])
    picture = opened(sheets.contact_sheet(store, "b", "clips"))
    strip = close(picture[-20:], canvas.VERMILION, 40).any(0)
    assert strip[:600].sum() == 0 and strip[680:1060].mean() > 0.95
    first = 60 + 4 * (8 + pictures.spread(6, 17)[0])
    assert (np.abs(picture.astype(int) - first).max(-1) <= 3).sum() > 2000


def test_garments_fade_outside_their_mask(lake: DeltaStore):
    photo, mask = np.full((60, 40, 3), (200, 20, 20), np.uint8), np.zeros((60, 40), np.uint8)
    mask[10:50, 5:35] = 255
    data = []
    for array in (photo, mask):
        out = io.BytesIO()
        Image.fromarray(array).save(out, "PNG")
        data.append(lake.blobs.put_bytes(out.getvalue(), ".png"))
    row = {"garment_id": "g", "source_path": "garments/red.png", "uri": data[0], "mask_uri": data[1], "status": "ok"}
    failed = {"garment_id": "h", "source_path": "garments/empty.png", "status": "error", "reason": "no bytes"}
    lake.replace(GARMENTS, filled(GARMENTS, [row, failed]), {"batch": "b"}, Commit())
    picture = opened(sheets.contact_sheet(lake, "b", "garments"))
    red, faded = close(picture, (200, 20, 20), 20).sum(), close(picture, (237, 192, 192), 20).sum()
    assert red / (red + faded) == pytest.approx(0.5, abs=0.15)
    assert reddish(picture) > 100


def test_tryon_sheet_shows_results_and_failures(lake: DeltaStore, video_file: Path):
    uri = lake.blobs.put_file(video_file)
    base = {
        "checkpoint_id": "c", "garment_id": "g", "paired": True, "start_frame": 0, "num_frames": FRAMES,
        "record": "{}", "created_at": NOW,
    }  # fmt: skip
    rows = [
        {"tryon_id": "1", "video_id": "v1", "status": "ok", "uri": uri, "side_by_side_uri": uri, **base},
        {"tryon_id": "2", "video_id": "v2", "status": "error", "reason": "the checkpoint diverged", **base},
    ]
    lake.replace(TRYON_VIDEOS, pa.Table.from_pylist(rows, TRYON_VIDEOS.schema), {"checkpoint_id": "c"}, Commit())
    picture = opened(sheets.tryon_sheet(lake, "c"))
    for frame in pictures.spread(2, FRAMES):
        assert (np.abs(picture.astype(int) - (60 + 4 * frame)).max(-1) <= 3).sum() > 3000
    assert reddish(picture) > 100


def test_a_picture_that_fails_is_a_line_and_not_an_error(store: DeltaStore):
    put_pose(store)
    uri = store.read(VIDEOS, ["video_id", "uri"], {"batch": "b"}).to_pylist()[0]["uri"]
    store.blobs.local_path(uri).unlink()
    picture = opened(sheets.contact_sheet(store, "b", "pose"))
    assert reddish(picture) > 300


def test_many_noisy_videos_stay_below_the_limit(lake: DeltaStore, tmp_path: Path):
    rng = np.random.default_rng(0)
    path = tmp_path / "noise.mp4"
    with VideoWriter(path, fps=30, width=322, height=242) as writer:
        for _ in range(12):
            writer.write(rng.integers(0, 256, (242, 322, 3), dtype=np.uint8))
    uri = lake.blobs.put_file(path)
    common = {
        "uri": uri,
        "width": 322,
        "height": 242,
        "fps": 30.0,
        "num_frames": 12,
        "duration_s": 0.4,
        "codec": "h264",
    }
    rows = [{"video_id": f"v{i}", "source_path": f"{'long ' * 30}{i}.mp4", "status": "ok", **common} for i in range(9)]
    lake.replace(VIDEOS, filled(VIDEOS, rows), {"batch": "b"}, Commit())
    data = sheets.contact_sheet(lake, "b", "videos", max_videos=8)
    assert data is not None and len(data) <= canvas.MAX_BYTES
    assert min(opened(data).shape[:2]) > 200


@given(width=st.integers(1, 300), height=st.integers(1, 300), limit=st.integers(3_000, 60_000), seed=st.integers(0, 9))
def test_encoding_keeps_its_limit(width, height, limit, seed):
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    data = canvas.encode(picture, limit)
    assert len(data) <= limit
    opened(data)


@given(count=st.integers(1, 12), available=st.integers(0, 200))
def test_spread_is_even_ordered_and_within(count, available):
    picks = pictures.spread(count, available)
    assert len(picks) == min(count, available)
    assert picks == sorted(set(picks)) and all(0 <= p < available for p in picks)
    if len(picks) > 1:
        assert np.ptp(np.diff(picks)) <= 1


@given(text=st.text(max_size=120), limit=st.integers(5, 60))
def test_shortened_text_keeps_its_limit_and_both_ends(text, limit):
    out = canvas.shortened(text, limit)
    assert len(out) <= limit
    plain = " ".join(text.split())
    assert out == plain or (out[0] == plain[0] and out[-1] == plain[-1] and "…" in out)


def test_skeleton_leaves_out_what_is_not_visible():
    picture = np.zeros((120, 160, 3), np.uint8)
    points = landmarks()
    points[:, 3] = 0.1
    skeleton.draw_skeleton(picture, points)
    assert not picture.any()
    points[[11, 13], 3] = 0.9
    skeleton.draw_skeleton(picture, points)
    ys, xs = np.nonzero(picture.any(-1))
    low, high = points[[11, 13], :2].min(0) - 4, points[[11, 13], :2].max(0) + 4
    assert len(xs) and (xs >= low[0]).all() and (xs <= high[0]).all() and (ys >= low[1]).all() and (ys <= high[1]).all()
    with pytest.raises(ValueError, match="33"):
        skeleton.draw_skeleton(picture, points[:17])


def test_loss_curve_and_stage_times_are_small_pngs(store: DeltaStore):
    rows = [
        {"checkpoint_id": "c", "step": i, "loss": 1 / (i + 1), "loss_std": 0.9 / (i + 1), "loss_action": None}
        | {"learning_rate": 1e-3, "step_seconds": 0.5}
        for i in range(200)
    ]
    store.replace(
        TRAINING_METRICS, pa.Table.from_pylist(rows, TRAINING_METRICS.schema), {"checkpoint_id": "c"}, Commit()
    )
    for data in (plots.loss_curve(store, "c"), plots.stage_times(store, "b")):
        picture = opened(data, "PNG")
        assert data is not None and len(data) < canvas.MAX_BYTES
        assert (picture < 250).any(-1).sum() > 1000


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=60), share=st.floats(0.01, 1))
def test_smoothed_is_a_running_mean(values, share):
    half = max(1, int(len(values) * share / 2))
    expected = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    assert np.allclose(plots.smoothed(np.array(values), share), expected, atol=1e-9)


def test_every_annotation_stage_has_a_sheet():
    from pipelines.registry import STAGES

    assert set(sheets._ROWS) == set(STAGES) <= set(TABLES)
