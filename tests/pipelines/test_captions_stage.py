"""The captions stage: through the runner on drawn rows, and on real clips with the real stages before it."""

import json

import numpy as np
import pyarrow as pa
import pytest

from models.contact.network import CLASSES
from pipelines.captions.contact import Contact, ContactReader
from pipelines.captions.score import read_truth, score_batch
from pipelines.captions.settings import CODE_VERSION, CaptionSettings
from pipelines.captions.stage import CaptionsStage, vlm_cache
from pipelines.ingest.batch import ingest_batch
from pipelines.registry import STAGES
from pipelines.stage import VideoTask
from pipelines.store import TABLES, Commit
from tests.conftest import REPOSITORY
from tests.pipelines.captions_scene import FPS, HEIGHT, WIDTH, person, raise_and_rub, tables

TRUTH = REPOSITORY / "tests" / "data" / "sample_clips_truth.jsonl"


@pytest.fixture
def drawn(lake, moving_video):
    """The row of a video whose pose, hands and masks are those of a drawn person; and the span of the contact."""
    path, truth = raise_and_rub()
    own = {"batch": "b", "video_id": "v", "fingerprint": "f"}
    for name, rows in tables(person(path)).items():
        spec = TABLES[name]
        columns = {f.name: pa.nulls(rows.num_rows, f.type) for f in spec.schema}
        columns |= {c: rows[c] for c in rows.column_names} | {k: [v] * rows.num_rows for k, v in own.items()}
        table = pa.table(
            {n: pa.array(c, spec.schema.field(n).type) if isinstance(c, list) else c for n, c in columns.items()}
        )
        # What these tables hold beside is of no concern to captions.
        table = table.cast(pa.schema([f.with_nullable(True) for f in spec.schema]))
        needed = {f.name: f.type for f in spec.schema if not f.nullable and table[f.name].null_count}
        for column, kind in needed.items():
            i = table.schema.get_field_index(column)
            table = table.set_column(i, column, pa.array([_ANY[column]] * rows.num_rows, kind))
        lake.replace(spec, table, {"batch": "b"}, Commit())
    row = {
        "batch": "b",
        "video_id": "v",
        "uri": lake.blobs.put_file(moving_video),
        "sha256": "0",
        "num_frames": len(path),
    }
    row |= {"fps": FPS, "width": WIDTH, "height": HEIGHT, "manifest": None, "global_caption": None}
    return row, truth


_ANY = {
    "mesh_pose": [0.0],
    "mesh_shape": [1.0],
    "mesh_translation": {"x_m": 0.0, "y_m": 0.0, "z_m": 1.0},
    "camera": {"fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0},
    "mesh_topology": "cc0_hand",
    "reprojection_error_px": 1.0,
    "source": "mediapipe",
    "interpolated": False,
    "area_fraction": 0.1,
}


def _captions(lake, row):
    """Rows as the runner would write them."""
    stage = CaptionsStage(CaptionSettings())
    stage.setup(1)
    done = []
    (rows,) = stage.annotate(VideoTask(lake, row, 1, done.append))
    assert sum(done) == row["num_frames"]
    assert set(rows.schema.names) == set(TABLES["captions"].schema.names) - {"batch", "video_id", "fingerprint"}
    return rows.to_pylist()


def test_what_is_seen_becomes_rows(lake, drawn, monkeypatch):
    row, truth = drawn

    def read(self, task, tracks, region):
        count = len(tracks.times_s)
        touching, doing = np.zeros((2, count)), np.zeros((count, len(CLASSES)))
        touching[1, truth[0] : truth[1]], doing[:, CLASSES.index("other")] = 0.8, 1.0
        return {"left": Contact(touching[0], doing), "right": Contact(touching[1], doing)}

    # What the network sees on real pictures is measured on real clips below.
    monkeypatch.setattr(ContactReader, "read", read)
    whole, action = _captions(lake, row)
    assert (whole["kind"], whole["action"], whole["start_frame"], whole["end_frame"]) == (
        "global",
        None,
        0,
        row["num_frames"],
    )
    assert (action["kind"], action["action"], action["handedness"]) == ("action", "other", "right")
    assert (action["start_frame"], action["end_frame"]) == truth
    assert action["confidence"] == pytest.approx(0.8)
    assert {whole["source"], action["source"]} == {"kinematic"}


def test_human_labels_win(lake, drawn):
    row, _ = drawn
    label = {"action": "adjust_hem", "start_s": 0.5, "end_s": 1.0, "text": "tidies the hem"}
    row["manifest"] = json.dumps({"video": "a.mp4", "actions": [label]})
    whole, action = _captions(lake, row)
    assert (action["action"], action["start_frame"], action["end_frame"], action["text"]) == (
        "adjust_hem",
        15,
        30,
        "tidies the hem",
    )
    assert (action["source"], action["confidence"]) == ("manifest", 1.0)
    # Nobody captioned the whole: that is seen, and says what the people said.
    assert whole["source"] == "kinematic" and whole["text"].endswith("Tidies the hem.")
    row["manifest"] = json.dumps({"video": "a.mp4", "actions": []})
    row["global_caption"] = "A person stands."
    (whole,) = _captions(lake, row)
    assert (whole["source"], whole["text"], whole["confidence"]) == ("manifest", "A person stands.", 1.0)


def test_a_label_after_the_end_is_the_videos_error(lake, drawn):
    row, _ = drawn
    late = {"action": "other", "start_s": 99, "end_s": 100}
    row["manifest"] = json.dumps({"video": "plain.mp4", "actions": [late]})
    with pytest.raises(ValueError, match=r"starts at 99\.0 s, after the last frame"):
        list(CaptionsStage(CaptionSettings()).annotate(VideoTask(lake, row, 1, lambda n: None)))


def test_the_registry_knows_the_stage():
    entry = STAGES["captions"]
    stage = entry.build()
    assert isinstance(stage, CaptionsStage)
    assert (stage.name, stage.inputs, stage.code_version) == (entry.name, entry.inputs, CODE_VERSION)
    assert {"manifest", "global_caption"} <= set(stage.video_columns)


def test_labels_change_the_fingerprint():
    stage = CaptionsStage(CaptionSettings())
    row = {"sha256": "a", "manifest": None, "global_caption": None, "cut_frames": None}
    prints = {stage.fingerprint(r, {}) for r in (row, row | {"manifest": "{}"}, row | {"global_caption": "b"})}
    assert len(prints) == 3


def test_answers_are_kept_in_a_local_lake_only(tmp_path):
    assert vlm_cache(str(tmp_path)) == tmp_path / "cache" / "vlm"
    assert "s3" not in str(vlm_cache("s3://bucket/lake"))


def test_the_labels_of_the_sample_clips_can_be_read():
    truth = read_truth(TRUTH)
    assert len(truth) == 11
    assert sum(map(len, truth.values())) == 4


@pytest.mark.slow
def test_contact_on_real_clips_is_told_from_gestures(lake, samples, tmp_path):
    """One clip with contact, and the one without whose hands move in front of the garment for longest."""
    clips = ("intel_asl_please.mkv", "intel_asl_walk.mkv")
    landing = tmp_path / "lake" / "landing" / "asl"
    landing.mkdir(parents=True)
    for clip in clips:
        (landing / clip).write_bytes((samples / "videos" / clip).read_bytes())
    ingest_batch(lake, "asl")
    videos = lake.read(TABLES["videos"]).to_pylist()
    for name in ("pose", "hands", "agnostic_masks", "captions"):
        stage, spec = STAGES[name].build(), TABLES[name]
        stage.setup(2)
        done = []
        for row in videos:
            own = {"batch": "asl", "video_id": row["video_id"], "fingerprint": "f"}
            for chunk in stage.annotate(VideoTask(lake, row, 2, lambda n: None)):
                table = pa.Table.from_batches([chunk])
                for column, value in own.items():
                    table = table.append_column(column, pa.array([value] * chunk.num_rows))
                done.append(table.select(spec.schema.names).cast(spec.schema))
        lake.replace(spec, pa.concat_tables(done), {"batch": "asl"}, Commit())
    score = score_batch(lake, "asl", {n: s for n, s in read_truth(TRUTH).items() if n in clips})
    assert (score.matched, score.false_in_negatives, score.predicted) == (1, 0, 1)
