"""Published data-set layouts, rendered small: what lands, with which labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.importers import LAYOUTS, land_catv2ton, land_vivid, parse_list
from pipelines.ingest.landing import LandReport
from pipelines.ingest.manifest import ManifestEntry, parse_manifest
from pipelines.store import DeltaStore
from pipelines.store.schemas import GARMENT_CATEGORIES
from tests.pipelines.media import write_video


def touch(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def vivid(tmp_path: Path) -> Path:
    """The layout of the published folder, with its conditions, which are not taken."""
    root = tmp_path / "ViViD"
    for category, identity in (("upper_body", "1222020"), ("dresses", "77"), ("lower_body", "5")):
        for kind in ("videos", "agnostic", "agnostic_mask", "densepose"):
            touch(root / category / kind / f"{identity}_detail.mp4", f"{kind} {identity}")
        touch(root / category / "images" / f"{identity}_in_xl.jpg", f"photo {identity}")
    touch(root / "upper_body" / "videos" / "99_detail.mp4", "no photo")
    touch(root / "upper_body" / "images" / "88_in_xl.jpg", "no video")
    return root


def entries(report: LandReport) -> dict[str, ManifestEntry]:
    with (report.folder / "manifest.jsonl").open("rb") as stream:
        lines = list(parse_manifest(stream))
    assert not [line.error for line in lines if line.error]
    return {line.entry.video: line.entry for line in lines if line.entry}


def write_list(path: Path, *lines: object) -> None:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def test_vivid(vivid: Path, lake: DeltaStore) -> None:
    report = land_vivid(vivid, lake, "v")
    found = entries(report)
    assert set(found) == {
        "upper_body/videos/1222020_detail.mp4",
        "upper_body/videos/99_detail.mp4",
        "dresses/videos/77_detail.mp4",
        "lower_body/videos/5_detail.mp4",
    }
    shirt = found["upper_body/videos/1222020_detail.mp4"]
    assert shirt.garment == "upper_body/images/1222020_in_xl.jpg" and shirt.garment_category == "upper_body"
    assert found["upper_body/videos/99_detail.mp4"].garment is None
    assert report.refused == {"upper_body/images/99_*": "There is no garment photo for upper_body/videos/99_detail.mp4"}
    assert len(report.added) == 7 and not any("agnostic" in a or "densepose" in a or "88_" in a for a in report.added)
    assert (report.folder / "dresses/videos/77_detail.mp4").read_text() == "videos 77"


def test_one_category_of_vivid(vivid: Path, lake: DeltaStore) -> None:
    assert list(entries(land_vivid(vivid / "dresses", lake, "d"))) == ["dresses/videos/77_detail.mp4"]


def test_the_demonstration_layout_with_masks(tmp_path: Path, lake: DeltaStore) -> None:
    touch(tmp_path / "data/dresses/videos/a.mp4", "v")
    touch(tmp_path / "data/dresses/cloth/a.jpg", "p")
    touch(tmp_path / "data/dresses/cloth_mask/a.jpg", "m")
    entry = entries(land_vivid(tmp_path / "data", lake, "c"))["dresses/videos/a.mp4"]
    assert (entry.garment, entry.garment_mask) == ("dresses/cloth/a.jpg", "dresses/cloth_mask/a.jpg")


def test_catv2ton_lists(vivid: Path, lake: DeltaStore) -> None:
    write_list(
        vivid / "upper_body" / "train_data.jsonl",
        {
            "video": "1222020_detail.mp4",
            "image": "1222020_in_xl.jpg",
            "type": "video",
            "front_seqs": [[35, 89], [120, 184]],
        },
        "{broken",
        {"video": "gone.mp4", "image": "1222020_in_xl.jpg", "type": "video"},
    )
    dress = {"video": "77_detail.mp4", "image": "77_in_xl.jpg", "type": "video", "subdir": "dresses"}
    write_list(vivid / "test_data_180.jsonl", dress | {"front_seqs": [0, 64]})
    write_list(vivid / "test_data_180_unpaired.jsonl", dress | {"front_seqs": [0, 64], "image": "77_in_xl.jpg"})
    report = land_catv2ton(vivid, lake, "c")
    found = entries(report)
    shirt = found["upper_body/videos/1222020_detail.mp4"]
    assert (shirt.split, shirt.garment) == ("train", "upper_body/images/1222020_in_xl.jpg")
    assert shirt.model_extra == {"front_seqs": [[35, 89], [120, 184]]}
    dress_entry = found["dresses/videos/77_detail.mp4"]
    assert (dress_entry.split, dress_entry.garment_category) == ("test", "dresses")
    assert dress_entry.garment == dress_entry.tryon_garment == "dresses/images/77_in_xl.jpg"
    assert len(found) == 2
    assert "not JSON" in report.refused["upper_body/train_data.jsonl:2"]
    assert report.refused["upper_body/train_data.jsonl:3"] == "The data set has no 'gone.mp4'"


def test_a_test_video_is_never_trained_on(vivid: Path, lake: DeltaStore) -> None:
    line = {"video": "77_detail.mp4", "image": "77_in_xl.jpg", "type": "video", "subdir": "dresses"}
    write_list(vivid / "dresses" / "train_data.jsonl", line)
    write_list(vivid / "test_data_180.jsonl", line)
    assert entries(land_catv2ton(vivid, lake, "c"))["dresses/videos/77_detail.mp4"].split == "test"


def test_an_unpaired_list_with_both_photos(vivid: Path, lake: DeltaStore) -> None:
    touch(vivid / "dresses" / "images" / "78_in_xl.jpg", "another")
    line = {"video": "77_detail.mp4", "image": "78_in_xl.jpg", "paired_image": "77_in_xl.jpg", "subdir": "dresses"}
    write_list(vivid / "test_data_180_unpaired.jsonl", line)
    entry = entries(land_catv2ton(vivid / "test_data_180_unpaired.jsonl", lake, "u"))["dresses/videos/77_detail.mp4"]
    assert (entry.garment, entry.tryon_garment) == ("dresses/images/77_in_xl.jpg", "dresses/images/78_in_xl.jpg")


def test_the_unified_list(tmp_path: Path, lake: DeltaStore) -> None:
    touch(tmp_path / "s/videos/a.mp4", "v")
    touch(tmp_path / "s/images/a.jpg", "p")
    line = {"video": "a.mp4", "image": "a.jpg", "densepose": "a.mp4", "masks": "a.mp4", "total_frames": 80}
    write_list(tmp_path / "s" / "train_data.jsonl", line | {"category": "overall"})
    entry = entries(land_catv2ton(tmp_path / "s", lake, "u"))["videos/a.mp4"]
    assert (entry.garment_category, entry.garment, entry.split) == ("dresses", "images/a.jpg", "train")


def test_what_is_no_data_set_says_so(tmp_path: Path, lake: DeltaStore) -> None:
    for importer in (land_vivid, land_catv2ton):
        with pytest.raises(FileNotFoundError):
            importer(tmp_path / "absent", lake, "x")
        with pytest.raises(FileNotFoundError, match="holds no"):
            importer(tmp_path, lake, "x")
    touch(tmp_path / "train_data.jsonl", '{"video": "a.mp4", "image": "b.jpg"}')
    with pytest.raises(FileNotFoundError, match=r"has no 'a\.mp4', 'b\.jpg'"):
        land_catv2ton(tmp_path, lake, "x")
    assert set(LAYOUTS) == {"landing", "vivid", "catv2ton"}


def test_a_list_cannot_reach_out_of_its_folder(vivid: Path, lake: DeltaStore, tmp_path: Path) -> None:
    touch(tmp_path / "secret.mp4", "secret")
    (vivid / "dresses" / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    image = {"image": "77_in_xl.jpg", "subdir": "dresses"}
    write_list(
        vivid / "test_data.jsonl",
        {"video": "../../../secret.mp4"} | image,
        {"video": str(tmp_path / "secret.mp4")} | image,
        {"video": "link.mp4"} | image,
        {"video": "77_detail.mp4"} | image,
    )
    report = land_catv2ton(vivid, lake, "x")
    assert set(report.refused) == {"test_data.jsonl:1", "test_data.jsonl:2", "dresses/videos/link.mp4"}
    assert not [p for p in report.folder.rglob("*") if p.is_file() and p.read_bytes() == b"secret"]


def test_a_landed_data_set_is_ingested(tmp_path: Path, lake: DeltaStore) -> None:
    from pipelines.ingest.batch import ingest_batch
    from pipelines.ingest.settings import IngestSettings
    from pipelines.store.schemas import VIDEOS
    from tests.pipelines.test_ingest_batch import write_garment

    root = tmp_path / "ViViD" / "lower_body"
    (root / "videos").mkdir(parents=True)
    write_video(root / "videos" / "12_detail.mp4")
    write_garment(root / "images" / "12_in_xl.png")
    land_vivid(tmp_path / "ViViD", lake, "v")
    report = ingest_batch(lake, "v", IngestSettings(workers=1))
    [row] = lake.read(VIDEOS).to_pylist()
    assert (report.ok, report.garments) == (1, 1)
    assert row["garment_category"] == "lower_body" and row["garment_id"]


frames = st.integers(0, 10_000)
span_lists = st.lists(st.tuples(frames, st.integers(1, 500)).map(lambda p: [p[0], p[0] + p[1]]), max_size=4)
file_names = st.from_regex(r"[a-z0-9_]{1,10}\.(mp4|jpg)", fullmatch=True)


@given(
    st.fixed_dictionaries(
        {"video": file_names, "image": file_names},
        optional={"front_seqs": span_lists, "subdir": st.sampled_from(GARMENT_CATEGORIES), "type": st.just("video")},
    )
)
def test_right_lines_come_back_as_they_were(line: dict) -> None:
    [item] = parse_list([json.dumps(line).encode()])
    assert item.line is not None, item.error
    assert (item.line.video, item.line.image, item.line.subdir) == (line["video"], line["image"], line.get("subdir"))
    assert [list(s) for s in item.line.front_seqs] == line.get("front_seqs", [])


@given(start=frames, length=st.integers(1, 500))
def test_one_span_and_a_list_of_one_mean_the_same(start: int, length: int) -> None:
    def spans(value: object) -> object:
        [item] = parse_list([json.dumps({"video": "a", "image": "b", "front_seqs": value}).encode()])
        return item.line and item.line.front_seqs

    assert spans([start, start + length]) == spans([[start, start + length]]) == [(start, start + length)]
    assert spans([start + length, start]) is None and spans([[start, start]]) is None


@given(st.lists(st.one_of(st.binary(max_size=30), st.text(max_size=30).map(lambda s: json.dumps(s).encode()))))
def test_no_line_raises(raw: list[bytes]) -> None:
    parsed = list(parse_list(raw))
    assert [p.number for p in parsed] == [i for i, r in enumerate(raw, start=1) if r.strip()]
    assert all((p.line is None) == (p.error is not None) for p in parsed)
