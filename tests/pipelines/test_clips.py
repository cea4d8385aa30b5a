"""The clips stage: what a clip holds, where its garment comes from, and that training takes it as it is."""

from __future__ import annotations

import io
import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from PIL import Image

from models import weights
from models.itryon.conditioning import encode, hand_point_latents, reference_image, to_model_range
from models.training.data import ClipSet, DataError
from pipelines.arrays import decode_mask
from pipelines.checkpoints.live import LiveClips
from pipelines.clips.conditions import window_frames
from pipelines.clips.encoders import encoder_digest
from pipelines.clips.samples import VideoSource
from pipelines.clips.settings import ClipsSettings
from pipelines.clips.stage import ClipsStage
from pipelines.clips.windows import Window, far_frame
from pipelines.stage import VideoTask
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, CLIPS, GARMENTS, HANDS, POSE, STAGE_STATUS, VIDEOS
from pipelines.training_sets.build import build_training_set, manifest_path
from tests.models.itryon_tiny import tiny_vae
from tests.pipelines.tryon_scene import scene_annotations

VIDEO = "0123456789abcdef"


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random VAE in the layout of a Wan checkpoint."""
    folder = tmp_path_factory.mktemp("vae")
    tiny_vae().save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="session")
def stage(vae_folder: Path) -> ClipsStage:
    try:
        weights.path("minilm")
    except weights.MissingWeights as e:
        pytest.skip(f"the text encoder is not in the cache: {e}")
    stage = ClipsStage(
        ClipsSettings(
            num_frames=9, step_frames=9, sizes=[(48, 32), (32, 48)], vae=str(vae_folder), vae_precision="fp32"
        )
    )
    stage.setup(threads=1)
    return stage


@pytest.fixture
def task(lake: DeltaStore, moving_video: Path) -> VideoTask:
    """A video of 60 frames with the annotations of `scene_annotations` in the lake."""
    scene = scene_annotations()
    tables = {POSE: scene.pose, AGNOSTIC_MASKS: scene.masks, HANDS: scene.hands, CAPTIONS: scene.captions}
    for spec, rows in tables.items():
        rows = rows.set_column(
            rows.schema.get_field_index("video_id"), "video_id", pa.array([VIDEO] * rows.num_rows, pa.string())
        )
        lake.replace(spec, rows.cast(spec.schema), {"batch": "b"}, Commit())
    row = {
        "batch": "b",
        "video_id": VIDEO,
        "uri": lake.blobs.put_file(moving_video),
        "num_frames": 60,
        "width": 96,
        "height": 64,
        "cut_frames": [],
        "garment_id": None,
        "split": "train",
    }
    return VideoTask(lake, row, 1, lambda n: None)


def rows_of(stage: ClipsStage, task: VideoTask) -> list[dict]:
    return [r for batch in stage.annotate(task) for r in batch.to_pylist()]


def tensors(task: VideoTask, uri: str) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(task.store.blobs.read_bytes(uri))


def test_a_clip_holds_its_window_and_nothing_else(stage: ClipsStage, task: VideoTask):
    rows = rows_of(stage, task)
    assert [r["start_frame"] for r in rows] == [0, 9, 18, 27, 36, 45, 51]
    assert len({r["clip_id"] for r in rows}) == 7 and {r["bucket"] for r in rows} == {"9x32x48"}
    assert task.frames == 60 and task.model_seconds > 0
    first, third = tensors(task, rows[0]["latents_uri"]), tensors(task, rows[2]["latents_uri"])
    shapes = {k: (tuple(v.shape), v.dtype) for k, v in first.items()}
    bf16, u8 = torch.bfloat16, torch.uint8
    assert shapes == {
        "target": ((16, 3, 4, 6), bf16),
        "inactive": ((16, 3, 4, 6), bf16),
        "reactive": ((16, 3, 4, 6), bf16),
        "mask": ((64, 3, 4, 6), u8),
        "reference": ((1, 16, 1, 4, 6), bf16),
        "hands": ((16, 3, 4, 6), bf16),
        "hand_points": ((64, 3, 4, 6), torch.int8),
        "hand_present": ((3,), u8),
    }
    scene = scene_annotations()
    frames = window_frames(task.path, 0, 9, 32, 48, pose=scene.pose, masks=scene.masks, hands=scene.hands)
    vae = stage._encoders.vae
    mask = torch.from_numpy(frames.mask)[None, None].float()
    agnostic = to_model_range(frames.agnostic)
    expected = {
        "target": to_model_range(frames.target),
        "inactive": agnostic * (1 - mask),
        "reactive": agnostic * mask,
        "hands": to_model_range(frames.hands),
    }
    with torch.no_grad():
        for key, video in expected.items():
            assert torch.equal(first[key], encode(vae, video)[0].bfloat16()), key
    # The 64 mask channels put back together are the mask of the frames that stand for each latent frame.
    restored = first["mask"].reshape(8, 8, 3, 4, 6).permute(2, 3, 0, 4, 1).reshape(3, 32, 48)
    assert np.array_equal(restored.numpy(), frames.mask[[1, 4, 7]])
    # Nothing is lost in int8: the clip holds what try-on computes.
    points, _ = hand_point_latents(frames.hand_points, frames.hand_present)
    assert torch.equal(first["hand_points"].float() / 127, points[0]) and first["hand_points"][:, 1:].any()
    assert not first["hand_points"][:, 0].any() and not third["hand_points"].any()
    # Hands are in frames 4 to 9: latent frame 1 holds frames 1 to 4, latent frame 2 frames 5 to 8.
    assert first["hand_present"].tolist() == [0, 1, 1] and not third["hand_present"].any()


def test_captions_follow_the_spans(stage: ClipsStage, task: VideoTask):
    with_action, without = rows_of(stage, task)[:2]
    assert with_action["actions"] == ["operate_zipper"] and without["actions"] == []
    # The zip is pulled in frames 5 to 8, which are the third latent frame.
    assert with_action["action_mask"] == [0, 0, 1] and without["action_mask"] == [0, 0, 0]
    text, plain = tensors(task, with_action["text_uri"]), tensors(task, without["text_uri"])
    assert text["segment_index"].tolist() == [1, 1, 2] and text["segment_interactive"].tolist() == [0, 1]
    assert plain["segment_index"].tolist() == [1, 1, 1] and plain["segment_interactive"].tolist() == [0]
    length = text["actions"].shape[1]
    assert torch.equal(text["actions"][0], text["empty"][:length])
    assert torch.equal(text["actions_mask"][0], text["empty_mask"][:length])
    assert not torch.equal(text["actions"][1], text["actions"][0])
    from models.text.minilm import MAX_LENGTH, TextEncoder

    states, mask = TextEncoder().encode(["a person"])
    assert torch.equal(text["global"], states[0].bfloat16()) and text["global"].shape == (MAX_LENGTH, 384)
    assert not text["global"][int(mask.sum()) :].any()


def test_worn_garment_comes_from_a_frame_far_away(stage: ClipsStage, task: VideoTask):
    first = rows_of(stage, task)[0]
    assert first["garment_id"] == f"worn-{VIDEO}"
    from pipelines.ingest.segmentation import garment_from_worn
    from pipelines.video import VideoReader

    masks = task.rows("agnostic_masks").to_pylist()
    frame = far_frame([m["frame"] for m in masks], [m["area_fraction"] for m in masks], Window(0, 9))
    assert frame is not None and frame > 9
    with VideoReader(task.path) as reader:
        rgb = next(iter(reader.frames(start=frame, stop=frame + 1))).rgb
    pose = next(r for r in task.rows("pose").to_pylist() if r["frame"] == frame)
    person = np.pad(decode_mask(pose["person_mask"], 64, 96), 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(person, (3, 3))
    region = next(decode_mask(m["mask"], 64, 96) for m in masks if m["frame"] == frame) & windows.min((2, 3))
    assert 0 < region.sum() < sum(decode_mask(m["mask"], 64, 96).sum() for m in masks if m["frame"] == frame)
    image, mask = garment_from_worn(rgb, region)
    with torch.no_grad():
        expected = encode(stage._encoders.vae, reference_image(image, 32, 48, mask=mask)[None, :, None])
    assert torch.equal(tensors(task, first["latents_uri"])["reference"][0], expected[0].bfloat16())


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def test_known_garment_photo_is_the_reference(stage: ClipsStage, task: VideoTask):
    photo = np.full((40, 30, 3), 90, np.uint8)
    photo[5:35, 5:25] = (200, 30, 30)
    mask = np.zeros((40, 30), np.uint8)
    mask[5:35, 5:25] = 255
    blobs = task.store.blobs
    row = dict.fromkeys(GARMENTS.schema.names) | {
        "batch": "b",
        "garment_id": "g1",
        "uri": blobs.put_bytes(png(photo), ".png"),
        "mask_uri": blobs.put_bytes(png(mask), ".png"),
        "status": "ok",
        "source_path": "g.png",
        "fingerprint": "f",
    }
    task.store.replace(GARMENTS, pa.Table.from_pylist([row], GARMENTS.schema), {"batch": "b"}, Commit())
    task.row["garment_id"] = "g1"
    rows = rows_of(stage, task)
    assert {r["garment_id"] for r in rows} == {"g1"}
    with torch.no_grad():
        expected = encode(stage._encoders.vae, reference_image(photo, 32, 48, mask=mask)[None, :, None])[0].bfloat16()
    for row in rows:
        assert torch.equal(tensors(task, row["latents_uri"])["reference"][0], expected)


def test_a_photo_gets_another_mask_and_clips_are_made_again(stage: ClipsStage, task: VideoTask, lake: DeltaStore):
    def made_of(**photo: str | None) -> str:
        row = dict.fromkeys(GARMENTS.schema.names) | {"batch": "b", "garment_id": "g1", "uri": "u", "mask_uri": "m"}
        row |= {"status": "ok", "source_path": "g.png", "fingerprint": "f"} | photo
        lake.replace(GARMENTS, pa.Table.from_pylist([row], GARMENTS.schema), {"batch": row["batch"]}, Commit())
        return stage.fingerprint(video, {}, stage.beside(lake, [video]).get(VIDEO))

    video = dict.fromkeys(VIDEOS.schema.names) | task.row | {"garment_id": "g1"}
    assert stage.beside(lake, [video | {"garment_id": None}]) == {}
    nothing, first, other = stage.beside(lake, [video]), made_of(), made_of(mask_uri="better")
    assert nothing == {VIDEO: []} and first != other == made_of(mask_uri="better", fingerprint="of ingestion")
    # Another batch's row of the photo counts where the own batch has none.
    assert made_of(batch="a") == other and made_of(status="error") == first


def test_pictures_go_where_the_encoders_are(stage: ClipsStage, task: VideoTask):
    class Encoders:
        device = "meta"
        vae = tiny_vae().to("meta")

    latents = VideoSource(task).reference(Window(0, 9), (32, 48), Encoders())
    assert latents.device.type == "meta" and latents.shape == (1, 16, 1, 4, 6)


def test_clips_are_the_same_when_made_again(stage: ClipsStage, task: VideoTask, lake: DeltaStore):
    again = VideoTask(lake, task.row, 1, lambda n: None)
    assert rows_of(stage, task) == rows_of(stage, again)


def test_training_takes_the_clips_as_they_are(stage: ClipsStage, task: VideoTask, lake: DeltaStore, tmp_path: Path):
    from models.training.config import TrainConfig
    from models.training.loop import train
    from tests.models.training_clips import TINY

    rows = [r | {"batch": "b", "video_id": VIDEO, "fingerprint": "f"} for r in rows_of(stage, task)]
    lake.replace(CLIPS, pa.Table.from_pylist(rows, CLIPS.schema), {"batch": "b"}, Commit())
    row = build_training_set(lake)
    assert (row["num_clips"], row["num_interaction_clips"]) == (7, 1)
    assert row["encoder_digest"] == encoder_digest(stage.settings)
    manifest = str(manifest_path(lake, row))
    batch = ClipSet(manifest, lake.root, "train").collate([*range(7)])
    assert batch.actions.shape[:2] == (7, 2) and batch.action_mask.sum() == 1
    summary = train(
        TrainConfig(
            manifest=manifest,
            blob_root=lake.root,
            output_dir=str(tmp_path / "run"),
            model=TINY | {"text_dim": 384, "in_channels": 16, "out_channels": 16, "vace_in_channels": 96},
            steps=2,
            batch_size=3,
            precision="fp32",
            device="cpu",
        )
    )
    assert np.isfinite(summary["final_loss"]) and summary["encoder_digest"] == row["encoder_digest"]


@pytest.fixture
def pinned(stage: ClipsStage, task: VideoTask, lake: DeltaStore) -> dict:
    """A training set of the video's clips, with the status rows that the stages leave."""
    video = dict.fromkeys(VIDEOS.schema.names) | task.row
    video |= {"sha256": "0" * 64, "status": "ok", "source_path": "v.mp4", "fingerprint": "f"}
    lake.replace(VIDEOS, pa.Table.from_pylist([video], VIDEOS.schema), {"batch": "b"}, Commit())
    task.row = lake.read(VIDEOS).to_pylist()[0]
    for name in stage.inputs:
        status(lake, name, f"of-{name}", 1)
    store_clips(stage, task, lake)
    return build_training_set(lake)


def status(lake: DeltaStore, stage_name: str, fingerprint: str, rows: int) -> None:
    row = dict.fromkeys(STAGE_STATUS.schema.names) | {"batch": "b", "stage": stage_name, "video_id": VIDEO}
    row |= {"status": "ok", "rows": rows, "frames": 60, "seconds": 1.0, "model_seconds": 1.0}
    row |= {"fingerprint": fingerprint, "created_at": datetime.now(UTC), "run_id": ""}
    table = pa.Table.from_pylist([row], STAGE_STATUS.schema)
    lake.replace(STAGE_STATUS, table, {"batch": "b", "stage": stage_name}, Commit())


def store_clips(stage: ClipsStage, task: VideoTask, lake: DeltaStore) -> None:
    fingerprint = stage.fingerprint(task.row, {name: f"of-{name}" for name in stage.inputs})
    rows = [r | {"batch": "b", "video_id": VIDEO, "fingerprint": fingerprint} for r in rows_of(stage, task)]
    lake.replace(CLIPS, pa.Table.from_pylist(rows, CLIPS.schema), {"batch": "b"}, Commit())
    status(lake, "clips", fingerprint, len(rows))


def test_frames_encoded_on_the_fly_are_the_cached_samples(stage: ClipsStage, pinned: dict, lake: DeltaStore):
    manifest = str(manifest_path(lake, pinned))
    cached = ClipSet(manifest, lake.root, "train")
    live = ClipSet(manifest, lake.root, "train", pickle.loads(pickle.dumps(LiveClips(lake, stage.settings))))
    assert (live.buckets, live.latent_channels, live.text_channels) == (cached.buckets, 16, 384)
    for index, row in enumerate(cached.rows):
        one, other = cached.reader.read(row), live.reader.read(row)
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert value.dtype == other[key].dtype and value.shape == other[key].shape
            torch.testing.assert_close(other[key], value, msg=lambda m, k=key, i=index: f"{k} of clip {i}: {m}")
    a, b = cached.collate([0, 4]), live.collate([0, 4])
    torch.testing.assert_close(a.target, b.target)
    assert torch.equal(a.action_mask, b.action_mask) and torch.equal(a.segment_index, b.segment_index)


def test_the_trainer_makes_the_same_steps_of_frames(stage: ClipsStage, pinned: dict, lake: DeltaStore, tmp_path: Path):
    from models.training.config import TrainConfig
    from models.training.loop import train
    from pipelines.checkpoints.live import main
    from tests.models.training_clips import TINY
    from tests.models.training_runs import curve

    cfg = TrainConfig(
        manifest=str(manifest_path(lake, pinned)),
        blob_root=lake.root,
        output_dir=str(tmp_path / "live"),
        model=TINY | {"text_dim": 384, "in_channels": 16, "out_channels": 16, "vace_in_channels": 96},
        steps=2,
        batch_size=2,
        precision="fp32",
        device="cpu",
    )
    clips, config = tmp_path / "clips.json", tmp_path / "config.json"
    clips.write_text(stage.settings.model_dump_json())
    config.write_text(cfg.model_dump_json())
    assert main(["--clips", str(clips), "--config", str(config)]) == 0
    train(cfg.model_copy(update={"output_dir": str(tmp_path / "cached")}))
    np.testing.assert_allclose(curve(tmp_path / "live"), curve(tmp_path / "cached"), rtol=1e-5)


def test_without_cache_clips_have_rows_and_no_tensors(
    stage: ClipsStage, pinned: dict, task: VideoTask, lake: DeltaStore
):
    before = lake.read(CLIPS).to_pylist()
    bare = ClipsStage(stage.settings.model_copy(update={"cache": False}))
    bare.setup(threads=1)
    store_clips(bare, task, lake)
    after = lake.read(CLIPS).to_pylist()
    tensors_of = ("latents_uri", "text_uri", "fingerprint")
    assert [{k: v for k, v in r.items() if k not in tensors_of} for r in after] == [
        {k: v for k, v in r.items() if k not in tensors_of} for r in before
    ]
    assert {(r["latents_uri"], r["text_uri"]) for r in after} == {("", "")}
    manifest = str(manifest_path(lake, build_training_set(lake)))
    with pytest.raises(DataError, match=r"video 0123456789abcdef, .*its tensors were not cached"):
        ClipSet(manifest, lake.root, "train")
    live = ClipSet(manifest, lake.root, "train", LiveClips(lake, bare.settings))
    batch = live.collate([1])
    uri = next(r["latents_uri"] for r in before if r["clip_id"] == live.rows[1]["clip_id"])
    torch.testing.assert_close(batch.target[0].bfloat16(), tensors(task, uri)["target"])


def test_clips_that_would_be_others_now_are_refused(stage: ClipsStage, pinned: dict, lake: DeltaStore):
    manifest = str(manifest_path(lake, pinned))
    reader = LiveClips(lake, stage.settings.model_copy(update={"frame_stride": 2}))
    with pytest.raises(DataError, match=r"Clip .*annotations or settings changed since it was pinned"):
        ClipSet(manifest, lake.root, "train", reader)
    status(lake, "hands", "other hands", 1)
    with pytest.raises(DataError, match=r"Clip .*annotations or settings changed since it was pinned"):
        ClipSet(manifest, lake.root, "train", LiveClips(lake, stage.settings))
    status(lake, "hands", "of-hands", 1)
    rows = [r | {"action_mask": [1.0, 1.0, 1.0]} for r in lake.read(CLIPS).to_pylist()]
    lake.replace(CLIPS, pa.Table.from_pylist(rows, CLIPS.schema), {"batch": "b"}, Commit())
    with pytest.raises(DataError, match=r"Clip .*annotations or settings changed since it was pinned"):
        ClipSet(manifest, lake.root, "train", LiveClips(lake, stage.settings))


def test_other_latent_channels_split_where_they_end(stage: ClipsStage, task: VideoTask, tmp_path: Path):
    tiny_vae(z_dim=8).save_pretrained(tmp_path / "vae")
    other = ClipsStage(stage.settings.model_copy(update={"vae": str(tmp_path), "max_windows": 1}))
    other.setup(threads=1)
    (row,) = rows_of(other, task)
    found = {k: v.shape[0] for k, v in tensors(task, row["latents_uri"]).items() if v.ndim == 4}
    assert found == {"target": 8, "inactive": 8, "reactive": 8, "mask": 64, "hands": 8, "hand_points": 64}


def test_refusals(stage: ClipsStage, task: VideoTask):
    task.row["cut_frames"] = list(range(5, 60, 5))
    with pytest.raises(ValueError, match="No shot of the video has the 9 frames"):
        rows_of(stage, task)
    task.row["cut_frames"], task.row["num_frames"] = [], 8
    with pytest.raises(ValueError, match=r"operate_zipper of frames 5 to 9 \(manifest\) lies outside"):
        rows_of(stage, task)


def test_digest_follows_whatever_changes_a_tensor(stage: ClipsStage, tmp_path: Path):
    base = encoder_digest(stage.settings)
    assert encoder_digest(stage.settings.model_copy(update={"max_windows": 2, "step_frames": 3})) == base
    assert encoder_digest(stage.settings.model_copy(update={"vae_precision": "bf16"})) != base
    tiny_vae(seed=1).save_pretrained(tmp_path / "vae")
    other = stage.settings.model_copy(update={"vae": str(tmp_path)})
    assert encoder_digest(other) != base
    assert ClipsStage(other).fingerprint(dict.fromkeys(stage.video_columns), {}) != stage.fingerprint(
        dict.fromkeys(stage.video_columns), {}
    )
    with pytest.raises(FileNotFoundError, match="no folder vae"):
        encoder_digest(stage.settings.model_copy(update={"vae": str(tmp_path / "nowhere")}))
