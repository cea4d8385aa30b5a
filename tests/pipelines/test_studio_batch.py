"""Rendered batches: files, truth that agrees with itself, determinism, resuming, loading into a lake, bad options."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from models.perception.hands.base import Camera
from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.ingest.batch import ingest_batch
from pipelines.ingest.landing import land, scan
from pipelines.ingest.settings import IngestSettings
from pipelines.store import DeltaStore
from pipelines.store.blobs import sha256_file
from pipelines.store.schemas import GARMENTS, VIDEOS
from pipelines.store.studio_schemas import STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS
from pipelines.studio.batch import render_batch, settings_to_render
from pipelines.studio.body import load_rig
from pipelines.studio.clip import clip_files, read_record, render_clip, settings_digest
from pipelines.studio.depth import read_depth
from pipelines.studio.garments import Garment, GarmentSpec
from pipelines.studio.load import load_truth
from pipelines.studio.people import sample_shape
from pipelines.studio.plan import plan_clip
from pipelines.studio.settings import StudioSettings
from pipelines.studio.truth import mesh_vertices
from pipelines.video import VideoReader

SMALL = StudioSettings(clips=2, seed=4, width=240, height=320, frames=21, fps=12, interaction_share=0.5, workers=2)


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio") / "batch"
    report = render_batch(SMALL, folder)
    assert not report.failures
    return folder, report


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def table(folder, index, what):
    return pq.read_table(folder / "truth" / f"clip_{index:05d}.{what}.parquet")


def test_a_batch_is_a_landing_folder_with_everything_in_it(batch):
    folder, report = batch
    lines = manifest(folder)
    assert [line["video"] for line in lines] == ["clip_00000.mp4", "clip_00001.mp4"]
    for line in lines:
        for name in (line["video"], line["garment"], line["tryon_garment"]):
            assert (folder / name).is_file()
        with VideoReader(folder / line["video"]) as reader:
            assert (reader.info.width, reader.info.height) == (240, 320)
            assert sum(1 for _ in reader.frames()) == 21
    assert report.frames == 42 and 0 < report.interaction_frames < 42
    assert sum(report.performances.values()) == 2
    # With a share of one half every clip interacts.
    spans = [line["actions"] for line in lines]
    assert all(len(s) == 1 and s[0]["text"] for s in spans)


def test_truth_agrees_with_itself(batch):
    folder, _ = batch
    for index in range(2):
        frames, hands = table(folder, index, "frames"), table(folder, index, "hands")
        record = read_record(folder, f"clip_{index:05d}")
        depths = list(read_depth(folder / record["depth"]))
        assert frames["frame"].to_pylist() == list(range(21)) and hands.num_rows == 42
        landmarks = points_to_numpy(frames["landmarks"], 33)
        world = points_to_numpy(frames["world_landmarks"], 33)
        acting = [a is not None for a in frames["action"].to_pylist()]
        (span,) = record["spans"]
        assert acting == [span["start_frame"] <= i < span["end_frame"] for i in range(21)]
        assert {a for a in frames["action"].to_pylist() if a} == {span["action"]}
        for i in range(0, 21, 5):
            row = {c: frames[c][i].as_py() for c in frames.column_names if c.endswith("_mask") or c == "camera"}
            masks = {k: decode_mask(v, 320, 240).astype(bool) for k, v in row.items() if k != "camera"}
            person = masks["person_mask"]
            assert 0.05 < person.mean() < 0.9
            # What the other garment covers need not be person in this one.
            assert (masks["agnostic_mask"] & ~person).sum() < 0.05 * person.sum()
            for part in ("garment_mask", "skin_mask"):
                assert masks[part].any() and not (masks[part] & ~person).any()
            assert not (masks["garment_mask"] & masks["skin_mask"]).any()
            assert not (masks["garment_mask"] & ~masks["agnostic_mask"]).any()
            # Depth is where the person is, and nowhere else.
            assert np.array_equal(np.isfinite(depths[i]), person)
            # Landmarks in space project to landmarks in the picture, up to where the hips are.
            camera = Camera(*(row["camera"][k] for k in ("fx", "fy", "cx", "cy")))
            nose = landmarks[i, 0]
            hips = np.linalg.lstsq(*_rays(camera, landmarks[i, :, :2], world[i]), rcond=None)[0]
            assert np.allclose(camera.project(world[i] + hips), landmarks[i, :, :2], atol=0.05)
            if nose[3]:
                assert person[round(float(nose[1])), round(float(nose[0]))]


def _rays(camera, pixels, points):
    """Linear equations for the translation that brings points onto their pixels' rays."""
    slope = (pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    zero, one = np.zeros(len(points)), np.ones(len(points))
    a = np.concatenate([np.stack([one, zero, -slope[:, 0]], 1), np.stack([zero, one, -slope[:, 1]], 1)])
    b = np.concatenate([slope[:, k] * points[:, 2] - points[:, k] for k in range(2)])
    return a, b


def test_hands_of_the_truth_project_and_touch_when_the_manifest_says_so(batch):
    folder, _ = batch
    for index in range(2):
        frames, hands = table(folder, index, "frames"), table(folder, index, "hands")
        flat, space = points_to_numpy(hands["keypoints_2d"], 21), points_to_numpy(hands["keypoints_3d"], 21)
        record = read_record(folder, f"clip_{index:05d}")
        (span,) = record["spans"]
        for k in range(hands.num_rows):
            row = hands.slice(k, 1).to_pylist()[0]
            c = frames["camera"][row["frame"]].as_py()
            camera = Camera(c["fx"], c["fy"], c["cx"], c["cy"])
            assert np.allclose(camera.project(space[k].astype(float)), flat[k], atol=0.05)
            vertices = mesh_vertices(row["vertices"], space[k, 0])
            # Each finger's end lies in the mesh's surface, and the mesh is as large as a hand.
            assert 0.12 < np.linalg.norm(np.ptp(vertices, axis=0)) < 0.35
            for tip in (4, 8, 12, 16, 20):
                assert np.linalg.norm(vertices - space[k, tip], axis=1).min() < 0.02
            inside = span["start_frame"] <= row["frame"] < span["end_frame"]
            if row["handedness"] == record["side"]:
                assert (row["action"] == span["action"]) == inside
            assert row["contact"] == (row["action"] is not None)
            assert 0 <= row["visible"] <= 1


def test_the_other_garment_changes_the_garment_and_nothing_else(batch):
    folder, _ = batch
    record = read_record(folder, "clip_00000")
    frames = table(folder, 0, "frames")
    with VideoReader(folder / record["video"]) as a, VideoReader(folder / record["counterfactual"]) as b:
        pairs = [(x.rgb.astype(int), y.rgb.astype(int)) for x, y in zip(a.frames(), b.frames())]
    assert len(pairs) == 21
    changed = np.abs(pairs[10][0] - pairs[10][1]).mean(-1)
    agnostic = decode_mask(frames["agnostic_mask"][10].as_py(), 320, 240).astype(bool)
    person = decode_mask(frames["person_mask"][10].as_py(), 320, 240).astype(bool)
    assert changed[agnostic].mean() > 10
    # Behind the person only the codec differs.
    assert changed[~person].mean() < 3


def test_the_same_seed_gives_the_same_frames_whatever_else_is_rendered(batch, tmp_path):
    folder, _ = batch
    again = render_clip(SMALL.model_copy(update={"clips": 7, "workers": 1}), 1, tmp_path)
    assert again["frames_sha256"] == read_record(folder, "clip_00001")["frames_sha256"]
    assert (tmp_path / again["video"]).read_bytes() == (folder / again["video"]).read_bytes()
    other = render_clip(SMALL.model_copy(update={"seed": 5}), 1, tmp_path / "other")
    assert other["frames_sha256"] != again["frames_sha256"]


def test_what_is_whole_is_not_rendered_again_and_what_is_not_is(batch, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(batch[0], folder)
    kept, lost = folder / "clip_00000.mp4", folder / "truth" / "clip_00001.json"
    before = kept.stat().st_mtime_ns
    # A run that was killed leaves a video without its record.
    lost.unlink()
    report = render_batch(SMALL, folder)
    assert report.clips == 2 and lost.is_file() and kept.stat().st_mtime_ns == before
    assert not [p for p in folder.rglob("*") if ".tmp" in p.name]


def test_what_a_whole_clip_lacks_is_made_again(batch, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(batch[0], folder)
    names = clip_files(read_record(folder, "clip_00000"))
    assert {folder / name for name in names} == {p for p in folder.rglob("clip_00000*") if p.name != "clip_00000.json"}
    before = {name: (folder / name).read_bytes() for name in names}
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables()
    land(folder, store, "b")
    landed = tmp_path / "lake" / "landing" / "b"
    for name in names:
        (landed / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{Path(name).name} is missing: render the batch again"):
            load_truth(store, "b")
        shutil.copy(folder / name, landed / name)
    for name in names[1:]:
        (folder / name).unlink()
    render_clip(SMALL, 0, folder)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_clips_that_are_not_of_the_batch_leave_it(batch, tmp_path):
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables()
    land(batch[0], store, "b")
    folder = tmp_path / "lake" / "landing" / "b"
    for name in ("clip_00000_other.mp4", "clip_00007.mp4", "garments/clip_00007.png", "mine.mp4", "clip_art.mp4"):
        (folder / name).write_bytes(b"-")
    stale = read_record(folder, "clip_00001") | {"settings": "others"}
    (folder / "truth" / "clip_00001.json").write_text(json.dumps(stale))
    assert load_truth(store, "b").rows["studio_clips"] == 1
    (folder / "truth" / "clip_00001.json").write_text(json.dumps(stale | {"settings": settings_digest(SMALL)}))
    assert load_truth(store, "b").rows["studio_clips"] == 2
    fewer = SMALL.model_copy(update={"clips": 1})
    assert render_batch(fewer, folder).clips == 1
    assert sorted(p.name for p in folder.glob("*.mp4")) == ["clip_00000.mp4", "clip_art.mp4", "mine.mp4"]
    assert not list(folder.rglob("clip_00001*")) and not list(folder.rglob("clip_00007*"))
    assert load_truth(store, "b").rows["studio_clips"] == 1


def test_a_batch_keeps_its_settings_and_says_so(batch):
    folder, _ = batch
    assert settings_to_render(folder, SMALL) == SMALL
    assert settings_to_render(folder, StudioSettings(workers=1)) == SMALL.model_copy(update={"workers": 1})
    with pytest.raises(FileExistsError, match=r"rendered with clips 2 and not 3, seed 4 and not 5: name another batch"):
        settings_to_render(folder, SMALL.model_copy(update={"clips": 3, "seed": 5}))
    assert settings_to_render(folder / "none", SMALL) == SMALL


def test_annotators_do_not_see_the_truth_but_the_lake_gets_it(batch, tmp_path):
    folder, _ = batch
    assert not [f.path for f in scan(folder) if f.path.startswith("truth")]
    store = DeltaStore(tmp_path / "lake")
    store.ensure_tables()
    with pytest.raises(LookupError, match="no truth"):
        load_truth(store, "b")
    land(folder, store, "b")
    ingest_batch(store, "b", IngestSettings())
    videos = {v["source_path"]: v for v in store.read(VIDEOS).to_pylist()}
    assert set(videos) == {"clip_00000.mp4", "clip_00001.mp4"} and all(v["status"] == "ok" for v in videos.values())
    assert store.read(GARMENTS).num_rows == 4 and all(g["status"] == "ok" for g in store.read(GARMENTS).to_pylist())
    report = load_truth(store, "b")
    clips = {c["source_path"]: c for c in store.read(STUDIO_CLIPS).to_pylist()}
    assert {p: c["video_id"] for p, c in clips.items()} == {p: v["video_id"] for p, v in videos.items()}
    assert store.read(STUDIO_FRAMES).num_rows == 42 and store.read(STUDIO_HANDS).num_rows == 84
    assert report.rows == {"studio_clips": 2, "studio_frames": 42, "studio_hands": 84}
    for clip in clips.values():
        assert store.blobs.exists(clip["counterfactual_uri"]) and store.blobs.exists(clip["depth_uri"])
    assert load_truth(store, "b").data_version == report.data_version


def test_plans_hold_to_the_share_and_cover_every_action():
    settings = StudioSettings(clips=400, interaction_share=0.08)
    plans = [plan_clip(settings, i) for i in range(400)]
    share = sum(p.performance == "interaction" for p in plans) / 400
    assert abs(share - 0.16) < 0.02
    assert {p.performance for p in plans} == {"interaction", "pantomime", "hover", "rest", "walk", "idle"}
    assert {p.action for p in plans if p.performance == "interaction"} == set(settings.actions)
    assert {p.split for p in plans} == {"train", "val", "test"}
    assert plans == [plan_clip(settings.model_copy(update={"clips": 10}), i) for i in range(400)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clips": 0}, "greater than or equal to 1"),
        ({"frames": 20, "fps": 25}, "a hand needs 1.5 s"),
        ({"interaction_share": 0.9}, "less than or equal to 0.5"),
        ({"actions": ["juggle"]}, "unknown actions juggle"),
        ({"val_share": 0.6, "test_share": 0.6}, "leave nothing"),
        ({"width": 481}, "multiple of 2"),
        ({"fabrics": "/nowhere/at/all"}, "no folder"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_bad_options_are_refused_with_a_reason(values, message):
    with pytest.raises(ValidationError, match=message):
        StudioSettings.model_validate(values)


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="no studio batch"):
        render_batch(SMALL, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.mp4"]


def test_undone_is_the_other_garment_left_alone(tmp_path):
    settings = SMALL.model_copy(update={"clips": 1, "undone": True, "actions": ["operate_zipper"], "workers": 1})
    record = render_clip(settings, 0, tmp_path)
    assert record["undone"] == "truth/clip_00000.undone.mp4"
    frames = {}
    for name in ("counterfactual", "undone"):
        with VideoReader(tmp_path / record[name]) as reader:
            frames[name] = np.stack([f.rgb for f in reader.frames()]).astype(int)
    (span,) = record["spans"]
    apart = (np.abs(frames["counterfactual"] - frames["undone"]).max(-1) > 40).mean((1, 2))
    before, end = apart[: span["start_frame"]], apart[span["end_frame"] - 1]
    # Up to the action both are the same video, up to what the encoder leaves; a zip that was pulled stays so.
    assert before.max() < 0.001 and end > 0.005 and apart[-1] > 0.005
    without = render_clip(settings.model_copy(update={"undone": False}), 0, tmp_path / "without")
    assert without["undone"] is None and without["spans"] == record["spans"]
    with pytest.raises(ValidationError, match="needs counterfactual"):
        StudioSettings(undone=True, counterfactual=False)


def test_twins_are_clips_of_their_own(tmp_path):
    alone = SMALL.model_copy(update={"clips": 1, "workers": 1, "undone": True})
    render_batch(alone.model_copy(update={"twins": True}), tmp_path / "twins")
    render_batch(alone, tmp_path / "alone")
    first, other, undone = manifest(tmp_path / "twins")
    (only,) = manifest(tmp_path / "alone")
    assert first == only and first["actions"] and not undone["actions"]
    for line, name in ((other, "other"), (undone, "undone")):
        assert line["video"] == f"clip_00000_{name}.mp4"
        assert (line["garment"], line["tryon_garment"]) == (first["tryon_garment"], first["garment"])
        shown = sha256_file(tmp_path / "twins" / line["video"])
        assert shown == sha256_file(tmp_path / "alone" / "truth" / f"clip_00000.{name}.mp4")
    assert other["actions"] == first["actions"] and other["global_caption"] == first["global_caption"]
    assert first["actions"][0]["text"] in first["global_caption"] and "moves a hand" in undone["global_caption"]
    render_batch(alone.model_copy(update={"twins": True, "neutral": True}), tmp_path / "twins")
    lines = manifest(tmp_path / "twins")
    assert len({line["global_caption"] for line in lines}) == 1 and lines[0]["actions"] == first["actions"]
    with pytest.raises(ValidationError, match="need counterfactual"):
        StudioSettings(twins=True, counterfactual=False)


YOUNGER = ("undone", "pantomime_share", "twins", "plain", "white_beneath", "neutral")


def test_younger_settings_at_their_defaults_keep_older_clips_whole():
    known = json.loads(json.dumps(SMALL.model_dump(exclude={"clips", "workers", "labels", "val_share", "test_share"})))
    old = {k: v for k, v in known.items() if k not in YOUNGER}
    assert settings_digest(SMALL) == hashlib.sha256(json.dumps(["1", old], sort_keys=True).encode()).hexdigest()[:16]
    changed = [
        SMALL.model_copy(update=u)
        for u in ({"undone": True}, {"pantomime_share": 0.5}, {"twins": True}, {"plain": True}, {"white_beneath": True})
    ]
    assert len({settings_digest(s) for s in (SMALL, *changed)}) == 6


def test_photos_of_fabrics_count_by_what_they_show(tmp_path):
    def digest(folder: str) -> str:
        return settings_digest(SMALL.model_copy(update={"fabrics": str(tmp_path / folder)}))

    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tweed.jpg").write_bytes(b"one")
        (tmp_path / folder / "notes.txt").write_text(folder)
    assert digest("here") == digest("there") != settings_digest(SMALL)
    (tmp_path / "there" / "tweed.jpg").write_bytes(b"another")
    assert digest("here") != digest("there")


def test_plain_clothes_have_one_colour():
    rig = load_rig()
    jacket = Garment(rig, sample_shape(rig, np.random.default_rng(3)), GarmentSpec("zip_jacket", fabric="plaid"))
    for name in ("garment", "inner"):
        cloth = jacket.textures(plain=True)[name].astype(int)
        assert np.abs(cloth - np.median(cloth, (0, 1))).mean() < 8
    coloured, white = (jacket.textures(plain=True, white_beneath=w) for w in (False, True))
    assert [n for n in coloured if not np.array_equal(coloured[n], white[n])] == ["inner"]
    assert (white["inner"] == 235).all()
    plaid = jacket.textures()["garment"].astype(int)
    assert np.abs(plaid - np.median(plaid, (0, 1))).mean() > 16
    with pytest.raises(ValidationError, match="either of one colour or from photos"):
        StudioSettings(plain=True, fabrics=".")


def test_share_of_pantomime_is_kept():
    for share in (0.0, 0.5, 1.0):
        settings = StudioSettings(interaction_share=0.0, pantomime_share=share)
        shown = [plan_clip(settings, i).performance for i in range(200)]
        assert abs(shown.count("pantomime") / 200 - share) < 0.03
