"""A small lake with cases to judge, and judges that see what they were made of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from models.judges.base import Judge, JudgeRequest, Verdict
from pipelines.store import DeltaStore
from pipelines.store.schemas import VIDEOS
from pipelines.store.studio_schemas import STUDIO_CLIPS
from pipelines.studio.motion import Script
from pipelines.studio.motion.timeline import Phases
from pipelines.video import VideoWriter
from tests.pipelines.annotator_scene import HEIGHT, WIDTH, fill, whole_scene

FRAMES = 24
DONE_GREY, UNDONE_GREY = 200, 60
SPAN = (2, 7)
"""When the zip is pulled in the scene's clip `acts`."""


def script(performance: str) -> Script:
    """The zip is pulled, or mimed, from frame 2 to 7 at 25 frames a second."""
    return Script(performance, "operate_zipper", "right", Phases(0.0, 0.08, 0.28, 0.5))


def grey_video(path: Path, value: int, frames: int = FRAMES) -> Path:
    """A video of one grey."""
    with VideoWriter(path, fps=25, width=WIDTH, height=HEIGHT) as writer:
        for _ in range(frames):
            writer.write(np.full((HEIGHT, WIDTH, 3), value, np.uint8))
    return path


def fill_cases(store: DeltaStore, folder: Path) -> None:
    """One clip that pulls a zip, one that mimes it, one that walks; results are light where the zip opens."""
    source = store.blobs.put_file(grey_video(folder / "source.mp4", 128))
    done = store.blobs.put_file(grey_video(folder / "done.mp4", DONE_GREY))
    undone = store.blobs.put_file(grey_video(folder / "undone.mp4", UNDONE_GREY))
    rows = whole_scene(source, FRAMES)
    for seed, row in enumerate(rows[STUDIO_CLIPS]):
        acts = row["performance"] == "interaction"
        row |= {"garment_type": "zip_jacket", "seed": seed, "counterfactual_uri": done if acts else undone}
        row |= {"undone_uri": undone if acts else None}
        if row["action"] is not None:
            row["look"] = json.dumps({"script": dataclasses.asdict(script(row["performance"]))})
        else:
            row["look"] = json.dumps({"script": dataclasses.asdict(dataclasses.replace(script("walk"), action=None))})
    assert len(rows[VIDEOS]) == 3
    fill(store, rows)


class Oracle(Judge):
    """Knows what the scene is made of.

    Args:
        blind_to: What it does not look at: nothing, pictures, action or time; or `silent`, then it says nothing at all.
    """

    digest = "0123456789abcdef"
    picture_height = 64

    def __init__(self, blind_to: str = ""):
        self.blind_to = blind_to
        self.name = f"oracle {blind_to or 'whole'}"
        self.requests: list[JudgeRequest] = []

    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        return np.arange(start, end)

    def judge(self, request: JudgeRequest) -> Verdict:
        self.requests.append(request)
        if self.blind_to == "silent":
            return Verdict(None, None, "nothing to say")
        if self.blind_to == "broken":
            raise RuntimeError("broken")
        light = self.blind_to == "pictures" or float(request.result.mean()) > 128
        named = self.blind_to == "action" or request.action == "operate_zipper"
        timely = self.blind_to == "time" or (request.start, request.end) == SPAN
        success = light and named and timely
        return Verdict(success, 0.9 if success else 0.1, "seen", [success], 5, 1)
