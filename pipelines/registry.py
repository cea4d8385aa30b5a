"""Which annotation stages there are, in order, without importing any of them.

The orchestration needs names, inputs, versions and settings at start-up and must not load cv2 or torch for it; each
family therefore keeps those in its light `settings` module, and its stage class is imported by whoever runs it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel

from models import weights
from models.weights.embedded import EMBEDDED

if TYPE_CHECKING:
    from pipelines.stage import Stage


@dataclass(frozen=True)
class StageEntry:
    """Where one stage lives.

    Attributes:
        name: Stage, table and asset.
        family: Package below `pipelines`, with modules `settings` and `stage`.
        stage_class: Class in the family's `stage` module.
        settings_class: Class in the family's `settings` module, which also holds `CODE_VERSION`.
        inputs: Upstream stages.
        title: What it does, for people who have never seen the code.
        networks: Networks of its default settings, by their names in `models.weights`.
    """

    name: str
    family: str
    stage_class: str
    settings_class: str
    inputs: tuple[str, ...]
    title: str
    networks: tuple[str, ...] = ()

    @property
    def settings(self) -> type[BaseModel]:
        """The stage's settings model."""
        return getattr(importlib.import_module(f"pipelines.{self.family}.settings"), self.settings_class)

    @property
    def code_version(self) -> str:
        """Version of the stage's code."""
        return importlib.import_module(f"pipelines.{self.family}.settings").CODE_VERSION

    @property
    def release(self) -> str:
        """Version of code and networks together: another one makes the asset stale in the UI.

        It speaks of default settings, from digests that are pinned: no file is read and no library loaded. Which rows
        are redone is decided by their fingerprints, which hold settings and networks as they are.
        """
        if not self.networks:
            return self.code_version
        pinned = {name: EMBEDDED.get(name) or weights.digest(name) for name in self.networks}
        return f"{self.code_version}+{hashlib.sha256(json.dumps(pinned, sort_keys=True).encode()).hexdigest()[:12]}"

    def build(self, settings: BaseModel | None = None) -> Stage:
        """The stage, with its default settings unless given."""
        cls = getattr(importlib.import_module(f"pipelines.{self.family}.stage"), self.stage_class)
        return cls(settings if settings is not None else self.settings())


STAGES: dict[str, StageEntry] = {
    s.name: s
    for s in (
        StageEntry(
            "pose",
            "pose",
            "PoseStage",
            "PoseSettings",
            (),
            "Body pose of the main person in every frame: 33 landmarks in pixels and in metres, and the person mask",
            ("pose_detection.tflite", "pose_landmark_full.tflite"),
        ),
        StageEntry(
            "hands",
            "hands",
            "HandsStage",
            "HandsSettings",
            ("pose",),
            "Both hands in every frame as 21 keypoints and a posed 3D mesh, identity kept, gaps filled and flagged",
            ("palm_detection_full.tflite", "hand_landmark_full.tflite", "hand_lifter"),
        ),
        StageEntry(
            "agnostic_masks",
            "masks",
            "AgnosticMaskStage",
            "MasksSettings",
            ("pose", "hands"),
            "The region a try-on model may repaint: the garment, with hands kept visible and held cloth inside",
        ),
        StageEntry(
            "captions",
            "captions",
            "CaptionsStage",
            "CaptionSettings",
            ("pose", "hands", "agnostic_masks"),
            "One caption of the whole video, and timestamped captions of what the hands do to the garment",
            ("contact",),
        ),
        StageEntry(
            "clips",
            "clips",
            "ClipsStage",
            "ClipsSettings",
            ("pose", "hands", "agnostic_masks", "captions"),
            "Training windows with latents of video, conditions and garment, and embeddings of their captions",
            ("nano_vae", "minilm"),
        ),
    )
}
"""Every annotation stage in an order in which each comes after its inputs."""
