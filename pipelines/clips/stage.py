"""The clips stage: training windows of a video, encoded once by the frozen encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from pipelines.arrays import record_batch
from pipelines.clips.encoders import ClipEncoders, encoder_digest, encoder_weights
from pipelines.clips.settings import CODE_VERSION, ClipsSettings
from pipelines.clips.windows import Window, choose_windows, cut_windows, nearest_size
from pipelines.stage import Stage, VideoTask, digest
from pipelines.store import DeltaStore
from pipelines.store.schemas import CLIPS

if TYPE_CHECKING:
    from pipelines.clips.samples import VideoSource


class ClipsStage(Stage):
    """Windows of a video with latents of target, conditions, hands and garment, and embeddings of their captions."""

    name: ClassVar[str] = "clips"
    code_version: ClassVar[str] = CODE_VERSION
    inputs: ClassVar[tuple[str, ...]] = ("pose", "hands", "agnostic_masks", "captions")
    video_columns: ClassVar[tuple[str, ...]] = ("sha256", "cut_frames", "garment_id", "split", "num_frames")
    blob_columns: ClassVar[tuple[str, ...]] = ("latents_uri", "text_uri")

    settings: ClipsSettings

    def __init__(self, settings: ClipsSettings):
        super().__init__(settings)

    def weights(self) -> Mapping[str, str]:
        """Digests of the encoders; see `pipelines.clips.encoders.encoder_weights`."""
        return encoder_weights(self.settings)

    def beside(self, store: DeltaStore, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Masks of the garments' photos: another one changes the reference. See `pipelines.stage.Stage.beside`."""
        from pipelines.clips.garments import garment_rows

        shown = {r["video_id"]: r["garment_id"] for r in rows if r["garment_id"]}
        photos = garment_rows(store, set(shown.values()), rows[0]["batch"]) if shown else {}
        return {v: [photos[g]["mask_uri"]] if g in photos else [] for v, g in shown.items()}

    def setup(self, threads: int) -> None:
        """Load the encoders, where clips are cached."""
        import torch

        torch.set_num_threads(threads)
        self._encoders = ClipEncoders(self.settings) if self.settings.cache else None
        self._encoder_digest = encoder_digest(self.settings)

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Rows of one video; see `pipelines.stage.Stage.annotate`.

        Raises:
            ValueError: No shot is long enough, a caption lies outside of the video, or no garment was found.
        """
        from pipelines.clips.samples import VideoSource

        source = VideoSource(task)
        windows = choose_windows(
            cut_windows(
                source.num_frames,
                task.row["cut_frames"] or [],
                self.settings.num_frames,
                self.settings.frame_stride,
                self.settings.step_frames,
            ),
            [(a["start_frame"], a["end_frame"]) for a in source.actions],
            self.settings.max_windows,
            self.settings.interaction_share,
        )
        if not windows:
            length = (self.settings.num_frames - 1) * self.settings.frame_stride + 1
            raise ValueError(
                f"No shot of the video has the {length} frames of a training window: use fewer frames or a smaller "
                "frame_stride"
            )
        size = nearest_size(task.row["height"], task.row["width"], self.settings.sizes)
        for number, window in enumerate(windows, 1):
            yield record_batch(self._row(task, source, window, size), CLIPS.schema)
            # Windows overlap or leave gaps: progress is the share of windows, in frames of the video.
            task.advance(source.num_frames * number // len(windows) - task.frames)

    def _row(self, task: VideoTask, source: VideoSource, window: Window, size: tuple[int, int]) -> dict[str, Any]:
        captions = source.captions(window)
        values = {
            "clip_id": clip_id(task.video_id, window, size),
            "start_frame": window.start,
            "num_frames": window.num_frames,
            "bucket": f"{window.num_frames}x{size[0]}x{size[1]}",
            "latents_uri": "",
            "text_uri": "",
            "action_mask": captions.action_mask,
            "actions": captions.actions,
            "global_caption": source.global_caption,
            "garment_id": source.garment_id(window),
            "split": task.row["split"] or "train",
            "encoder_digest": self._encoder_digest,
        }
        if self._encoders is not None:
            from models.training.blobs import NotFinite, pack
            from pipelines.clips.samples import clip_latents, clip_text

            latents = clip_latents(source, window, size, self._encoders)
            text = clip_text(source, captions.segments, self._encoders)
            try:
                packed = pack(latents), pack(text)
            except NotFinite as e:
                raise ValueError(f"The encoders' output for frame {window.start} on is unusable: {e}") from e
            values["latents_uri"], values["text_uri"] = (
                task.store.blobs.put_bytes(blob, ".safetensors") for blob in packed
            )
        return {k: [v] for k, v in values.items()}


def clip_id(video_id: str, window: Window, size: tuple[int, int]) -> str:
    """Identity of a window at a size, 16 hex digits."""
    return digest(video_id, window.start, window.num_frames, window.stride, size)[:16]
