"""Stages for testing the runner: real rows in the real tables, made without any model."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.arrays import record_batch
from pipelines.stage import Stage, StageSettings, VideoTask
from pipelines.store.schemas import AGNOSTIC_MASKS, CLIPS, POSE


class FakeSettings(StageSettings):
    shift: int = 0
    delay_s: float = 0.0


class FakePose(Stage):
    """One row a frame; what a video's `source_path` says decides how it fails."""

    name = "pose"
    code_version = "1"
    offset = 0.0

    def setup(self, threads: int) -> None:
        if self.settings.shift < 0:
            raise FileNotFoundError("weights are missing: run `itryon weights`")

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        name = task.row["source_path"]
        if log := os.environ.get("FAKE_STAGE_LOG"):
            with Path(log).open("a") as f:
                f.write(f"{task.video_id}\n")
        if "bad" in name:
            raise ValueError("no person in the video")
        if "crash" in name:
            os._exit(9)
        if "huge" in name:
            np.ones(3 << 30, np.uint8)
        if "hang" in name:
            time.sleep(60)
        frames = np.arange(task.row["num_frames"])
        for part in np.array_split(frames, 3):
            time.sleep(self.settings.delay_s)
            with task.inference():
                score = part / 10 + self.settings.shift + self.offset
            task.advance(len(part))
            columns = {
                "frame": part,
                "time_s": part / 30,
                "detected": np.ones(len(part), bool),
                "landmarks": [[]] * len(part),
                "world_landmarks": [[]] * len(part),
                "score": score,
                "person_mask": [b""] * len(part),
                "person_area": score,
            }
            yield record_batch(columns, POSE.schema)


class FakeMasks(Stage):
    """Reads the pose rows and copies their score."""

    name = "agnostic_masks"
    code_version = "1"
    inputs = ("pose",)

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        pose = task.rows("pose", ["frame", "score"])
        n = pose.num_rows
        columns = {
            "frame": pose["frame"].combine_chunks(),
            "mask": [b""] * n,
            "height": [1] * n,
            "width": [1] * n,
            "area_fraction": pose["score"].combine_chunks(),
            "category": ["upper_body"] * n,
            "source": ["geometric"] * n,
        }
        task.advance(n)
        yield record_batch(columns, AGNOSTIC_MASKS.schema)


class WeighedPose(FakePose):
    """A pose stage whose weights are named by an attribute, as a release that brings other ones would change them."""

    net = "net 1"

    @property
    def offset(self) -> float:
        """What other weights change in the rows."""
        return float(self.net.split()[-1])

    def weights(self) -> dict[str, str]:
        return {"net": self.net}


class FakeClips(Stage):
    """One clip a video, whose latents are the areas of its masks."""

    name = "clips"
    code_version = "1"
    inputs = ("agnostic_masks",)
    blob_columns = ("latents_uri", "text_uri")

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        areas = task.rows("agnostic_masks", ["frame", "area_fraction"])["area_fraction"].to_pylist()
        row = {
            "clip_id": f"{task.video_id}-0",
            "start_frame": 0,
            "num_frames": 5,
            "bucket": "5x128x96",
            "latents_uri": task.store.blobs.put_bytes(repr(areas).encode(), ".safetensors"),
            "text_uri": task.store.blobs.put_bytes(b"text", ".safetensors"),
            "action_mask": [0.0, 1.0],
            "actions": ["adjust_hem"],
            "global_caption": "A person adjusts the hem.",
            "garment_id": "g",
            "split": "train",
            "encoder_digest": "e1",
        }
        names = [n for n in CLIPS.schema.names if n not in ("batch", "video_id", "fingerprint")]
        schema = pa.schema([CLIPS.schema.field(n) for n in names])
        yield pa.RecordBatch.from_pylist([{n: row.get(n) for n in names}], schema)
