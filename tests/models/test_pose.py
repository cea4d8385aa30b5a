"""The pose tracker: agrees with MediaPipe's own task, and stays with one person where the task would not."""

from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import weights
from models.perception import pose_networks
from models.perception.hands.networks import Region
from models.perception.identity import TORSO, torso_colours
from models.perception.one_euro import OneEuroFilter
from models.perception.person_mask import person_mask
from models.perception.pose import Pose, PoseTracker
from models.perception.pose_task import PoseTask
from pipelines.video import VideoReader


@dataclass
class Still:
    """A frame made by a test."""

    index: int
    time_s: float
    rgb: np.ndarray


def stills(images, fps: float = 25.0):
    return [Still(i, i / fps, rgb) for i, rgb in enumerate(images)]


def read(name: str, stop: int, start: int = 0, step: int = 1) -> list[np.ndarray]:
    with VideoReader(weights.path(name)) as reader:
        return [f.rgb for f in islice(reader.frames(start, stop), 0, None, step)]


@pytest.fixture(scope="module")
def tracker() -> PoseTracker:
    return PoseTracker()


@pytest.fixture(scope="module")
def dancer() -> list[np.ndarray]:
    """A woman before a blue screen, arms moving."""
    return read("demo/dancer.avi", 140, 100)


def torso(pose: Pose) -> np.ndarray:
    return pose.points[TORSO, :2].mean(0)


@pytest.mark.parametrize("clip", ["demo/dancer.avi", "demo/jwpIntro.mp4"])
def test_networks_agree_with_the_mediapipe_task(clip):
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    detector = pose_networks.PersonDetector(weights.path("pose_detection.tflite"))
    network = pose_networks.BodyLandmarkNetwork(weights.path("pose_landmark_full.tflite"))
    options = vision.PoseLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(weights.path("pose_landmarker_full.task"))),
        output_segmentation_masks=True,
    )
    with vision.PoseLandmarker.create_from_options(options) as task:
        for rgb in read(clip, 161, step=80):
            height, width = rgb.shape[:2]
            theirs = task.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=rgb))
            (person, *_) = detector(rgb)
            ours = network(rgb, person.region)
            landmarks = np.array([[p.x * width, p.y * height, p.z * width] for p in theirs.pose_landmarks[0]])
            visibility = np.array([p.visibility for p in theirs.pose_landmarks[0]])
            world = np.array([[p.x, p.y, p.z] for p in theirs.pose_world_landmarks[0]])
            seen = visibility > 0.5
            unit = person.region.size / 256  # one pixel of the network
            error = np.abs(ours.points[:, :2] - landmarks[:, :2])[seen]
            assert error.mean() < 0.25 * unit and error.max() < 1.5 * unit
            np.testing.assert_allclose(ours.points[seen, 2], landmarks[seen, 2], atol=8 * unit)
            np.testing.assert_allclose(ours.points[:, 3], visibility, atol=0.05)
            np.testing.assert_allclose(ours.world, world, atol=0.03)
            mask = person_mask(
                Pose(ours.points, ours.world, ours.presence, ours.mask_logits, ours.region), height, width
            )
            reference = theirs.segmentation_masks[0].numpy_view().reshape(height, width) > 0.5
            assert (mask & reference).sum() / (mask | reference).sum() > 0.97


def test_every_frame_has_a_pose_from_the_first_on(tracker, dancer):
    found = list(tracker.track(stills(dancer)))
    assert [f.index for f, _ in found] == list(range(len(dancer)))
    assert all(pose is not None for _, pose in found)
    assert all(pose.score > 0.9 for _, pose in found)
    # Raising the arms moves wrists, not the torso.
    centres = np.array([torso(p) for _, p in found])
    assert np.ptp(centres, 0).max() < 40
    area = [person_mask(p, *dancer[0].shape[:2]).mean() for _, p in found]
    assert min(area) > 0.05 and max(area) < 0.3


def other_dancer(frame: np.ndarray, scale: float = 1.1) -> tuple[np.ndarray, np.ndarray]:
    """The dancer cut from the blue screen, mirrored, larger and in orange; (rgb, mask)."""
    frame = np.ascontiguousarray(frame[:, ::-1])
    mask = (frame[..., 2].astype(int) - frame[..., 0] < 45).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask)
    x, y, w, h, _ = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    cut, mask = frame[y : y + h, x : x + w], mask[y : y + h, x : x + w]
    orange = np.clip(cut[..., ::-1].astype(int) + np.array([150, 60, 0]), 0, 255).astype(np.uint8)
    face = np.arange(h)[:, None, None] < h // 7
    size = (int(w * scale), int(h * scale))
    return cv2.resize(np.where(face, cut, orange), size), cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)


def paste(background: np.ndarray, cut: np.ndarray, mask: np.ndarray, left: int, bottom: int) -> np.ndarray:
    out = background.copy()
    width = background.shape[1]
    h, w = mask.shape
    x0, x1, y0 = max(left, 0), min(left + w, width), max(bottom - h, 0)
    if x1 > x0:
        part, where = cut[h - (bottom - y0) :, x0 - left : x1 - left], mask[h - (bottom - y0) :, x0 - left : x1 - left]
        region = out[y0:bottom, x0:x1]
        region[where > 0] = part[where > 0]
    return out


def wide(frame: np.ndarray, extra: int = 220) -> np.ndarray:
    return cv2.copyMakeBorder(frame, 0, 0, extra, extra, cv2.BORDER_REPLICATE)


def test_a_second_person_who_walks_through_is_never_followed(tracker, dancer):
    cut, mask = other_dancer(dancer[0])
    alone = [wide(f) for f in dancer]
    width = alone[0].shape[1]
    crossing = [
        paste(f, cut, mask, int(width - i * (width + mask.shape[1]) / len(alone)), f.shape[0] - 8)
        for i, f in enumerate(alone)
    ]
    truth = [torso(p) for _, p in tracker.track(stills(alone))]
    found = list(tracker.track(stills(crossing)))
    size = found[0][1].region.size
    off = [np.hypot(*(torso(p) - t)) / size for (_, p), t in zip(found, truth) if p is not None]
    assert max(off) < 0.12
    assert len(off) > 0.6 * len(found)  # frames in which the other one covers her have no pose
    assert found[-1][1] is not None and found[0][1] is not None


def test_the_mediapipe_task_follows_the_same_person_as_the_tracker(tracker, dancer):
    cut, mask = other_dancer(dancer[0])
    images = [paste(wide(f), cut, mask, 900 - 30 * i, f.shape[0] - 8) for i, f in enumerate(dancer[:14])]
    ours = [p for _, p in tracker.track(stills(images), cuts=[7])]
    theirs = [p for _, p in PoseTask().track(stills(images), cuts=[7])]
    for a, b, rgb in zip(ours, theirs, images):
        assert np.hypot(*(torso(a) - torso(b))) < 8
        assert np.abs(a.world - b.world).mean() < 0.05
        one, two = (person_mask(p, *rgb.shape[:2]) for p in (a, b))
        assert (one & two).sum() / (one | two).sum() > 0.85


def test_after_the_main_person_is_gone_nobody_else_takes_the_place(tracker, dancer):
    cut, mask = other_dancer(dancer[0])
    stage = wide(dancer[0])
    empty = np.broadcast_to(stage[:, :1], stage.shape).copy()
    both = paste(stage, cut, mask, 620, stage.shape[0] - 8)
    only_other = paste(empty, cut, mask, 600, stage.shape[0] - 8)
    alone = list(tracker.track(stills([only_other] * 2)))
    assert alone[0][1] is not None  # the other one is somebody who can be found
    found = [p for _, p in tracker.track(stills([both] * 20 + [only_other] * 30 + [both] * 6))]
    assert all(p is not None for p in found[:20])
    assert all(p is None for p in found[20:50])
    assert found[-1] is not None
    assert np.hypot(*(torso(found[-1]) - torso(found[0]))) < 0.1 * found[0].region.size


@pytest.mark.parametrize("late", [3, 6])
def test_the_main_person_is_waited_for_while_only_somebody_else_is_there(tracker, dancer, late):
    cut, mask = other_dancer(dancer[0], 0.9)
    stage = wide(dancer[0])
    empty = np.broadcast_to(stage[:, :1], stage.shape).copy()
    bottom = stage.shape[0] - 8
    only_other = paste(empty, cut, mask, 760, bottom)
    both = paste(stage, cut, mask, 760, bottom)
    (_, truth), *_ = tracker.track(stills([stage]))
    found = [p for _, p in tracker.track(stills([only_other] * late + [both] * (22 - late)))]
    assert all(p is None for p in found[:late])
    assert all(np.hypot(*(torso(p) - torso(truth))) < 0.1 * truth.region.size for p in found[late:])


def test_the_main_person_is_waited_for_as_long_as_was_looked_ahead(tracker, dancer, monkeypatch):
    cut, mask = other_dancer(dancer[0])
    stage = wide(dancer[0])
    empty = np.broadcast_to(stage[:, :1], stage.shape).copy()
    only_other = paste(empty, cut, mask, 600, stage.shape[0] - 8)
    monkeypatch.setattr(tracker, "_main_person", lambda head: Region(200, 250, 300))
    found = [p is not None for _, p in tracker.track(stills([only_other] * 18))]
    assert not any(found[:15]) and found[-1]


def test_a_cut_starts_anew(tracker, dancer):
    talk = [cv2.resize(f, (dancer[0].shape[1], dancer[0].shape[0])) for f in read("demo/jwpIntro.mp4", 12)]
    clip = stills(dancer[:12] + talk)
    found = [p for _, p in tracker.track(clip, cuts=[12])]
    assert all(p is not None for p in found)
    assert found[12].region.size > 1.5 * found[11].region.size
    without = [p for _, p in tracker.track(clip)]
    assert without[12] is None  # that far in one frame nobody moves


def test_a_video_of_nobody_has_no_pose(tracker):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (120, 160, 3), np.uint8) for _ in range(4)]
    assert [p for _, p in tracker.track(stills(images))] == [None] * 4
    assert list(tracker.track([])) == []


@pytest.mark.slow
def test_the_sample_clips_have_a_pose_in_nearly_every_frame(tracker, samples):
    for path in sorted((samples / "videos").glob("*"))[:2]:
        with VideoReader(path) as reader:
            found = [p is not None for _, p in tracker.track(reader.frames(0, 40))]
        assert np.mean(found) >= 0.99, path.name


def pose_with(logits: np.ndarray, region: Region, points: np.ndarray) -> Pose:
    landmarks = np.zeros((33, 4))
    landmarks[: len(points), :2], landmarks[: len(points), 3] = points, 1
    return Pose(landmarks, np.zeros((33, 3)), 1.0, logits.astype(np.float32), region)


@given(st.floats(-0.6, 0.6), st.floats(60, 200), st.floats(20, 140), st.floats(20, 100))
def test_mask_lands_where_the_region_is(rotation, size, x, y):
    region = Region(x, y, size, rotation)
    disc = np.hypot(*(np.mgrid[:256, :256] - 128.0)) < 80
    logits = np.where(disc, 50.0, -900.0)
    mask = person_mask(pose_with(logits, region, np.array([[x, y]])), 120, 160)
    rows, columns = np.indices((120, 160))
    expected = np.hypot(columns - x, rows - y) < 80 / 256 * size  # a disc stays one under rotation
    ring = np.abs(np.hypot(columns - x, rows - y) - 80 / 256 * size) < 1.5
    assert mask.shape == (120, 160) and mask.flags.f_contiguous and mask.dtype == np.uint8
    np.testing.assert_array_equal(mask[~ring], expected[~ring])


def test_mask_of_a_neighbour_is_dropped():
    logits = np.full((256, 256), -100.0)
    logits[50:200, 40:100] = 100
    logits[50:220, 150:220] = 100  # larger, but without a landmark
    mask = person_mask(pose_with(logits, Region(128, 128, 256), np.array([[60, 100], [80, 150]])), 256, 256)
    assert mask[100, 60] == 1 and mask[100, 180] == 0


def test_detector_anchors_follow_the_published_layout():
    anchors = pose_networks.person_anchors()
    assert anchors.shape == (2254, 2)
    np.testing.assert_allclose(anchors[:3], [[0.5 / 28, 0.5 / 28], [0.5 / 28, 0.5 / 28], [1.5 / 28, 0.5 / 28]])
    np.testing.assert_allclose(anchors[-1], [6.5 / 7, 6.5 / 7])
    assert ((anchors > 0) & (anchors < 1)).all()


@pytest.mark.parametrize("seed", range(3))
def test_heat_map_refinement_against_plain_loops(seed):
    rng = np.random.default_rng(seed)
    heatmap = rng.normal(-3 + 2 * seed, 2, (64, 64, 39)).astype(np.float32)
    unit = rng.uniform(-0.1, 1.1, (39, 2))
    expected = unit.copy()
    for i, (u, v) in enumerate(unit):
        column, row = int(np.floor(u * 64)), int(np.floor(v * 64))
        if not (0 <= column < 64 and 0 <= row < 64):
            continue
        total = peak = across = down = 0.0
        for r in range(max(0, row - 3), min(64, row + 4)):
            for c in range(max(0, column - 3), min(64, column + 4)):
                confidence = 1 / (1 + np.exp(-float(heatmap[r, c, i])))
                total, peak = total + confidence, max(peak, confidence)
                across, down = across + c * confidence, down + r * confidence
        if peak >= 0.5:
            expected[i] = across / total / 64, down / total / 64
    np.testing.assert_allclose(pose_networks._refined(unit, heatmap), expected, atol=1e-9)


def scalar_one_euro(values, times, min_cutoff, beta):
    """The algorithm as the paper's pseudo-code has it."""
    filtered, previous, speed = values[0], values[0], 0.0
    out = [filtered]
    for value, now, before in zip(values[1:], times[1:], times):
        rate = 1 / (now - before)

        def alpha(cutoff, rate=rate):
            return 1 / (1 + rate / (2 * np.pi * cutoff))

        speed += alpha(1.0) * ((value - previous) * rate - speed)
        filtered += alpha(min_cutoff + beta * abs(speed)) * (value - filtered)
        previous = value
        out.append(filtered)
    return out


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12), st.floats(0.01, 2), st.floats(0, 80))
def test_one_euro_filter_against_the_published_pseudo_code(values, min_cutoff, beta):
    times = np.cumsum(np.linspace(0.02, 0.05, len(values)))
    smooth = OneEuroFilter(min_cutoff, beta)
    ours = [smooth(np.array([v, -v]), t) for v, t in zip(values, times)]
    expected = scalar_one_euro(values, times, min_cutoff, beta)
    np.testing.assert_allclose([o[0] for o in ours], expected, atol=1e-9)
    np.testing.assert_allclose([o[1] for o in ours], np.negative(expected), atol=1e-9)


def test_torso_colours_tell_people_apart_and_forgive_light():
    points = np.zeros((33, 4))
    points[TORSO, :2] = [[70, 20], [30, 20], [35, 80], [65, 80]]
    rng = np.random.default_rng(0)
    red = np.clip(rng.normal((170, 40, 40), 12, (100, 100, 3)), 0, 255).astype(np.uint8)
    blue = np.ascontiguousarray(red[..., ::-1])

    def likeness(a, b):
        return np.minimum(torso_colours(a, points), torso_colours(b, points)).sum()

    assert likeness(red, (red * 0.9).astype(np.uint8)) > 0.8
    assert likeness(red, blue) < 0.5
    assert torso_colours(red, points).sum() == pytest.approx(1)
    assert torso_colours(red, points + np.array([200, 0, 0, 0])) is None
