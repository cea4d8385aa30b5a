"""The captions stage: human labels where there are some, else what the configured backend sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa
from platformdirs import user_cache_path

from pipelines.arrays import record_batch
from pipelines.captions.base import ActionCaption, GlobalCaption
from pipelines.captions.manifest import human_captions, read_labels
from pipelines.captions.settings import CODE_VERSION, CaptionSettings
from pipelines.captions.tracks import frame_times
from pipelines.stage import Stage, VideoTask
from pipelines.store.schemas import CAPTIONS

if TYPE_CHECKING:
    from pipelines.captions.annotate import KinematicBackend


class CaptionsStage(Stage):
    """One global caption and the timestamped action captions of each video."""

    name: ClassVar[str] = "captions"
    code_version: ClassVar[str] = CODE_VERSION
    inputs: ClassVar[tuple[str, ...]] = ("pose", "hands", "agnostic_masks")
    video_columns: ClassVar[tuple[str, ...]] = ("sha256", "manifest", "global_caption", "cut_frames")

    settings: CaptionSettings

    def __init__(self, settings: CaptionSettings):
        super().__init__(settings)
        self._backend: KinematicBackend | None = None

    def weights(self) -> Mapping[str, str]:
        """Name -> SHA-256 of the networks."""
        if self.settings.backend != "kinematic":
            return {}
        from models.contact.network import weights_digest

        return {"contact": weights_digest()}

    def setup(self, threads: int) -> None:
        """Make the backend, before any video fails for what it lacks."""
        if self.settings.backend == "vlm":
            from models.vlm.client import ChatClient

            ChatClient(self.settings.vlm.endpoint)
            return
        import torch

        from pipelines.captions.annotate import KinematicBackend

        torch.set_num_threads(threads)
        self._backend = KinematicBackend(self.settings)

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Rows of one video; see `pipelines.stage.Stage.annotate`.

        Raises:
            ValueError: A human label is wrong.
            models.vlm.client.VlmError: The vision-language model cannot be asked or gives no usable answer. Nothing
                is guessed in its place.
        """
        row = task.row
        labels = read_labels(row.get("manifest"), row.get("global_caption"))
        whole = GlobalCaption(labels.global_caption, 1.0) if labels.global_caption else None
        actions: list[ActionCaption] | None = None
        if labels.actions is not None:
            pose = task.rows("pose", ["frame", "time_s"])
            actions = human_captions(labels.actions, frame_times(pose, row["num_frames"], row["fps"]))
        sources = {"global": "manifest" if whole else self.settings.backend}
        sources["action"] = "manifest" if actions is not None else self.settings.backend
        if whole is None or actions is None:
            seen_whole, seen_actions = self._see(task, whole, actions)
            whole, actions = whole or seen_whole, seen_actions if actions is None else actions
        task.advance(row["num_frames"] - task.frames)
        yield _rows(whole, actions, sources, row["num_frames"])

    def _see(
        self, task: VideoTask, whole: GlobalCaption | None, actions: list[ActionCaption] | None
    ) -> tuple[GlobalCaption, list[ActionCaption]]:
        if self.settings.backend == "vlm":
            from pipelines.captions.vlm import VlmBackend

            backend = VlmBackend(self.settings, vlm_cache(task.store.root))
            return backend.caption(task, want_global=whole is None, want_actions=actions is None)
        if self._backend is None:
            raise RuntimeError("CaptionsStage.setup() was not called")
        return self._backend.caption(task, known_actions=actions)


def vlm_cache(lake_root: str) -> Path:
    """Folder for answers of vision-language models: in a local lake, or in the user's cache for a remote one."""
    return (user_cache_path("itryon") / "vlm") if "://" in lake_root else Path(lake_root) / "cache" / "vlm"


def _rows(
    whole: GlobalCaption, actions: list[ActionCaption], sources: Mapping[str, str], num_frames: int
) -> pa.RecordBatch:
    columns = {
        "kind": ["global", *["action"] * len(actions)],
        "action": [None, *[a.action for a in actions]],
        "start_frame": [0, *[a.start for a in actions]],
        "end_frame": [num_frames, *[a.end for a in actions]],
        "handedness": [None, *[a.hand for a in actions]],
        "text": [whole.text, *[a.text for a in actions]],
        "confidence": [whole.confidence, *[a.confidence for a in actions]],
        "source": [sources["global"], *[sources["action"]] * len(actions)],
    }
    return record_batch(columns, CAPTIONS.schema)
