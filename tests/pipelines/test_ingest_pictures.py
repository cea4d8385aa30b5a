"""Shot cuts, garment masks and cut-outs, against pictures whose truth is known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.clips.garments import garment_photo
from pipelines.ingest.cuts import CutDetector
from pipelines.ingest.garments import analyse_garment, read_photo
from pipelines.ingest.segmentation import garment_from_worn, segment_garment
from pipelines.ingest.settings import IngestSettings
from pipelines.store import DeltaStore

SETTINGS = IngestSettings()


def cuts(frames: list[np.ndarray]) -> list[int]:
    detector = CutDetector()
    for frame in frames:
        detector.add(frame)
    return detector.cuts(SETTINGS.cut_threshold, SETTINGS.cut_ratio)


def scene(seed: int, count: int, speed: float = 1.0) -> list[np.ndarray]:
    """A camera that pans over coloured noise with sensor noise on it."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(30, 220, (6, 12, 3)) * rng.uniform(0.5, 1.2, 3)
    wide = np.kron(coarse, np.ones((16, 32, 1))).clip(0, 255)
    shots = [wide[:, round(i * speed) : round(i * speed) + 128] for i in range(count)]
    return [(s + rng.normal(0, 4, s.shape)).clip(0, 255).astype(np.uint8) for s in shots]


@pytest.mark.parametrize("seed", range(5))
def test_cuts_are_found_at_the_frame(seed: int) -> None:
    frames = scene(3 * seed, 20) + scene(3 * seed + 1, 1) + scene(3 * seed + 1, 14)[1:] + scene(3 * seed + 2, 9)
    assert cuts(frames) == [20, 34]


@pytest.mark.parametrize("speed", [0.0, 1.0, 6.0])
def test_a_turning_camera_is_no_cut(speed: float) -> None:
    assert cuts(scene(7, 40, speed)) == []


def test_a_flash_is_no_cut() -> None:
    frames = scene(3, 30, 0.0)
    frames[12] = np.full_like(frames[12], 250)
    assert cuts(frames) == []


def test_noise_in_the_dark_is_no_cut() -> None:
    rng = np.random.default_rng(0)
    assert cuts([rng.integers(0, 14, (60, 80, 3)).astype(np.uint8) for _ in range(30)]) == []


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_frames_have_no_cuts(count: int) -> None:
    assert cuts(scene(1, count)) == []


def test_splices_of_real_clips(samples: Path) -> None:
    from pipelines.video import VideoReader

    ends = []
    for name in ("bird", "walk", "hungry"):
        with VideoReader(samples / "videos" / f"intel_asl_{name}.mkv", max_side=320) as reader:
            ends.append([f.rgb for f in reader.frames(10, 30)])
    assert cuts(ends[0] + ends[1] + ends[2]) == [20, 40]


def shirt(height: int = 240, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A photo of a T shape on textured cloth, and its mask."""
    rng = np.random.default_rng(5)
    mask = np.zeros((height, width), bool)
    mask[int(0.2 * height) : int(0.85 * height), int(0.3 * width) : int(0.7 * width)] = True
    mask[int(0.2 * height) : int(0.42 * height), int(0.1 * width) : int(0.9 * width)] = True
    y, x = np.mgrid[:height, :width]
    photo = np.stack([190 + 8 * np.sin(x / 5), 185 + 8 * np.cos(y / 6), 170 + 0 * x], -1)
    photo[mask] = (40, 70, 130)
    photo[mask & ((y // 12) % 3 == 0)] = (200, 60, 50)  # stripes
    photo += rng.normal(0, 5, photo.shape)
    return photo.clip(0, 255).astype(np.uint8), mask


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("size", [(240, 200), (900, 700), (61, 50)])
def test_a_garment_is_found(size: tuple[int, int]) -> None:
    photo, truth = shirt(*size)
    mask = segment_garment(photo)
    assert mask.shape == truth.shape and set(np.unique(mask)) <= {0, 255}
    assert overlap(mask > 0, truth) > 0.93
    np.testing.assert_array_equal(mask, segment_garment(photo))


def test_garments_of_real_photos_fill_the_middle_and_not_the_border(samples: Path) -> None:
    for name in ("longsleeve_02", "outwear_33", "shirt_17"):
        rgb, _ = read_photo(str(samples / "garments" / f"{name}.jpg"))
        mask = segment_garment(rgb) > 0
        height, width = mask.shape
        assert mask[height // 3 : 2 * height // 3, 2 * width // 5 : 3 * width // 5].mean() > 0.95
        assert np.concatenate([mask[:3].ravel(), mask[-3:].ravel()]).mean() < 0.02
        assert 0.25 < mask.mean() < 0.65


def png(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_mask_beside_the_photo_and_transparency_win(tmp_path: Path) -> None:
    photo, truth = shirt()
    path = tmp_path / "a.png"
    path.write_bytes(png(photo))
    given = np.zeros_like(truth, np.uint8)
    given[50:150, 50:150] = 255
    (tmp_path / "a_mask.png").write_bytes(png(given))
    result = analyse_garment(str(path), str(tmp_path / "a_mask.png"), SETTINGS)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(result["mask_png"]))), given)
    assert result["foreground_fraction"] == pytest.approx(100 * 100 / given.size)

    path.write_bytes(png(np.dstack([photo, truth.astype(np.uint8) * 255])))
    result = analyse_garment(str(path), None, SETTINGS)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(result["mask_png"]))) > 0, truth)


# Pillow hands it to Ghostscript, whatever the file is called.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 200 240\n%%EndComments\nshowpage\n"


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(shirt()[0])
    exif = image.getexif()
    exif[0x0112] = 6  # turn 90 degrees clockwise
    image.save(tmp_path / "p.jpg", exif=exif)
    result = analyse_garment(str(tmp_path / "p.jpg"), None, SETTINGS)
    assert (result["width"], result["height"]) == (240, 200) and result["error"] is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Not a readable photo"),
        (b"no picture", "damaged, or none of JPEG, PNG"),
        (EPS, "damaged, or none of JPEG, PNG"),
        (png(shirt()[0])[:900], "Not a readable photo"),
        (png(np.full((90, 90, 3), 128, np.uint8)), "No garment found"),
        (png(np.zeros((4, 300, 3), np.uint8)), "a side is above 256"),
    ],
)
def test_bad_photos_say_why(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(content)
    result = analyse_garment(str(path), None, IngestSettings(max_photo_side=256))
    assert says in result["error"]


def test_a_mask_of_another_size_or_format_or_an_empty_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(shirt()[0]))
    for mask, says in ((np.zeros((9, 9), np.uint8), "Its mask is 9x9"), (np.zeros((240, 200), np.uint8), "0%")):
        (tmp_path / "m.png").write_bytes(png(mask))
        assert says in analyse_garment(str(tmp_path / "p.png"), str(tmp_path / "m.png"), SETTINGS)["error"]
    (tmp_path / "m.png").write_bytes(EPS)
    found = analyse_garment(str(tmp_path / "p.png"), str(tmp_path / "m.png"), SETTINGS)
    assert "none of JPEG, PNG" in found["error"]


def test_a_photo_that_a_higher_limit_accepted_is_read_again(lake: DeltaStore) -> None:
    uri = lake.blobs.put_bytes(png(np.zeros((2, 20_001, 3), np.uint8)), ".png")
    assert garment_photo(lake, {"garment_id": "g", "uri": uri, "mask_uri": None})[0].shape == (2, 20_001, 3)


def test_a_worn_garment_is_cut_out_on_white() -> None:
    frame, truth = shirt()
    picture, mask = garment_from_worn(frame, truth, margin=0.1)
    ys, xs = np.nonzero(truth)
    pad = round(0.1 * max(np.ptp(ys) + 1, np.ptp(xs) + 1))
    assert picture.shape[:2] == mask.shape == (np.ptp(ys) + 1 + 2 * pad, np.ptp(xs) + 1 + 2 * pad)
    assert (mask > 0).sum() == truth.sum()
    assert (picture[mask == 0] == 255).all()
    inner = np.zeros_like(truth)
    inner[1:-1, 1:-1] = truth[1:-1, 1:-1] & truth[:-2, 1:-1] & truth[2:, 1:-1] & truth[1:-1, :-2] & truth[1:-1, 2:]
    inner[1:-1, 1:-1] &= truth[:-2, :-2] & truth[2:, 2:] & truth[:-2, 2:] & truth[2:, :-2]
    top, left = ys.min() - pad, xs.min() - pad
    whole = np.full((*truth.shape, 3), 255, np.uint8)
    whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    np.testing.assert_array_equal(whole[inner], frame[inner])


def test_a_cut_out_needs_a_garment() -> None:
    frame, truth = shirt()
    with pytest.raises(ValueError, match="empty"):
        garment_from_worn(frame, np.zeros_like(truth))
    with pytest.raises(ValueError, match="The mask is"):
        garment_from_worn(frame, truth[:-1])
