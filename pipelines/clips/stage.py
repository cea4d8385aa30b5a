"""The clips stage: training windows of a video, encoded once by the frozen encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.arrays import record_batch
from pipelines.captions.rows import global_caption, interactions
from pipelines.clips.encoders import ClipEncoders, encoder_digest, encoder_weights
from pipelines.clips.garments import WORN, garment_photo, worn_garment
from pipelines.clips.settings import CODE_VERSION, ClipsSettings
from pipelines.clips.windows import Window, choose_windows, cut_windows, far_frame, nearest_size
from pipelines.stage import Stage, VideoTask, digest
from pipelines.store.schemas import CLIPS, GARMENTS

if TYPE_CHECKING:
    import torch


class ClipsStage(Stage):
    """Windows of a video with latents of target, conditions, hands and garment, and embeddings of their captions."""

    name: ClassVar[str] = "clips"
    code_version: ClassVar[str] = CODE_VERSION
    inputs: ClassVar[tuple[str, ...]] = ("pose", "hands", "agnostic_masks", "captions")
    video_columns: ClassVar[tuple[str, ...]] = ("sha256", "cut_frames", "garment_id", "split", "num_frames")

    settings: ClipsSettings

    def __init__(self, settings: ClipsSettings):
        super().__init__(settings)

    def weights(self) -> Mapping[str, str]:
        """Digests of the encoders; see `pipelines.clips.encoders.encoder_weights`."""
        return encoder_weights(self.settings)

    def setup(self, threads: int) -> None:
        """Load the encoders."""
        import torch

        torch.set_num_threads(threads)
        self._encoders = ClipEncoders(self.settings)
        self._encoder_digest = encoder_digest(self.settings)

    def annotate(self, task: VideoTask) -> Iterator[pa.RecordBatch]:
        """Rows of one video; see `pipelines.stage.Stage.annotate`.

        Raises:
            ValueError: No shot is long enough, a caption lies outside of the video, or no garment was found.
        """
        source = _Source(task)
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

    def _row(self, task: VideoTask, source: _Source, window: Window, size: tuple[int, int]) -> dict[str, Any]:
        spans = source.spans(window)
        garment_id, latents = self._latents(task, source, window, size)
        from models.itryon.losses import action_mask_per_latent, segments_per_latent

        local = [span for span, _ in spans]
        segments = segments_per_latent(local, window.num_frames)
        text = self._text(task, source.global_caption, segments)
        values = {
            "clip_id": digest(task.video_id, window.start, window.num_frames, window.stride, size)[:16],
            "start_frame": window.start,
            "num_frames": window.num_frames,
            "bucket": f"{window.num_frames}x{size[0]}x{size[1]}",
            "latents_uri": task.store.blobs.put_bytes(_pack(latents), ".safetensors"),
            "text_uri": task.store.blobs.put_bytes(_pack(text), ".safetensors"),
            "action_mask": action_mask_per_latent(local, window.num_frames).tolist(),
            "actions": sorted({action for _, action in spans}),
            "global_caption": source.global_caption,
            "garment_id": garment_id,
            "split": task.row["split"] or "train",
            "encoder_digest": self._encoder_digest,
        }
        return {k: [v] for k, v in values.items()}

    def _latents(
        self, task: VideoTask, source: _Source, window: Window, size: tuple[int, int]
    ) -> tuple[str, dict[str, torch.Tensor]]:
        """The garment's id, and tensors by blob key; T latent frames, R views, h x w an eighth of the pixels."""
        import torch

        from models.itryon.conditioning import (
            control_latents,
            encode,
            hand_latents,
            hand_point_latents,
            mask_to_tensor,
            to_model_range,
        )
        from models.itryon.hand_points import STEPS
        from pipelines.clips.conditions import window_frames

        frames = window_frames(
            task.path,
            window.start,
            window.num_frames,
            *size,
            pose=source.pose,
            masks=source.masks,
            hands=source.hands,
            stride=window.stride,
        )
        garment_id, reference = source.reference(window, size, self._encoders, task)
        vae, device = self._encoders.vae, self._encoders.device
        with torch.no_grad(), task.inference():
            target = encode(vae, to_model_range(frames.target).to(device))
            control = control_latents(
                vae, to_model_range(frames.agnostic).to(device), mask_to_tensor(frames.mask).to(device)
            )
            hands, present = hand_latents(vae, to_model_range(frames.hands).to(device), frames.hand_present)
        points, _ = hand_point_latents(frames.hand_points, frames.hand_present)
        z = target.shape[1]
        values = {
            "target": target[0],
            "inactive": control[0, :z],
            "reactive": control[0, z : 2 * z],
            "reference": reference,
            "hands": hands[0],
        }
        for key, value in values.items():
            if not torch.isfinite(value).all():
                raise ValueError(f"The VAE gave values that are not finite for {key} of frame {window.start} on")
        compact = {k: v.to("cpu", torch.bfloat16).contiguous() for k, v in values.items()}
        compact["mask"] = control[0, 2 * z :].to("cpu", torch.uint8).contiguous()
        compact["hand_points"] = (points[0] * STEPS).round().to(torch.int8)
        compact["hand_present"] = present[0].to("cpu", torch.uint8).contiguous()
        return garment_id, compact

    def _text(self, task: VideoTask, caption: str, segments: Any) -> dict[str, torch.Tensor]:
        import torch

        from models.text.encode import EMPTY_CAPTION

        encoders = self._encoders
        with task.inference():
            (whole, empty), masks = encoders.text([caption, EMPTY_CAPTION], encoders.caption_length)
            actions, actions_mask = encoders.text(segments.captions, encoders.action_length)
        return {
            "global": whole.contiguous(),
            "empty": empty.contiguous(),
            "empty_mask": masks[1].contiguous(),
            "actions": actions,
            "actions_mask": actions_mask,
            "segment_index": torch.from_numpy(segments.index),
            "segment_interactive": torch.from_numpy(segments.interactive.astype(np.uint8)),
        }


class _Source:
    """What the windows of one video share; tables are read once, the garment when it is first asked for."""

    def __init__(self, task: VideoTask):
        self._task = task
        self.num_frames: int = task.row["num_frames"]
        captions = task.rows("captions")
        whole = global_caption(captions)
        if whole is None:
            raise ValueError("The video has no global caption: materialise captions again")
        self.global_caption = whole
        self.actions = interactions(captions)
        for a in self.actions:
            if not 0 <= a["start_frame"] < a["end_frame"] <= self.num_frames:
                raise ValueError(
                    f"Caption {a['action']} of frames {a['start_frame']} to {a['end_frame']} ({a['source']}) lies "
                    f"outside of the video's {self.num_frames} frames: correct the label"
                )
        self._references: dict[int | None, torch.Tensor] = {}

    @cached_property
    def pose(self) -> pa.Table:
        return self._task.rows("pose", ["frame", "landmarks"])

    @cached_property
    def masks(self) -> pa.Table:
        return self._task.rows("agnostic_masks", ["frame", "mask", "height", "width", "area_fraction"])

    @cached_property
    def hands(self) -> pa.Table:
        return self._task.rows("hands")

    def spans(self, window: Window) -> list[tuple[Any, str]]:
        """(`ActionSpan` in window frames, action) of every interaction that the window touches."""
        from models.itryon.losses import ActionSpan

        found = []
        for a in self.actions:
            local = window.local_span(a["start_frame"], a["end_frame"])
            if local:
                found.append((ActionSpan(*local, a["text"]), a["action"]))
        return found

    def reference(
        self, window: Window, size: tuple[int, int], encoders: ClipEncoders, task: VideoTask
    ) -> tuple[str, torch.Tensor]:
        """Garment id and reference latents, (R, z, 1, h, w): of its photo, or else of the worn garment."""
        photo = self._photo
        if photo is not None:
            return photo[0], self._encoded(None, photo[1], photo[2], size, encoders, task)
        frames, areas = (self.masks[c].to_pylist() for c in ("frame", "area_fraction"))
        frame = far_frame(frames, areas, window)
        if frame is None:
            raise ValueError("No frame of the video shows a garment: the agnostic mask is empty throughout")
        if frame not in self._references:
            image, mask = worn_garment(task.store, task.row, frame)
            self._encoded(frame, image, mask, size, encoders, task)
        return f"{WORN}{task.video_id}", self._references[frame]

    def _encoded(
        self,
        key: int | None,
        image: np.ndarray,
        mask: np.ndarray | None,
        size: tuple[int, int],
        encoders: ClipEncoders,
        task: VideoTask,
    ) -> torch.Tensor:
        import torch

        from models.itryon.conditioning import encode_references, reference_image

        if key not in self._references:
            picture = reference_image(image, *size, mask=mask)
            with torch.no_grad(), task.inference():
                latents = encode_references(encoders.vae, [picture])
            self._references[key] = latents[0].transpose(0, 1)[:, :, None]
        return self._references[key]

    @cached_property
    def _photo(self) -> tuple[str, np.ndarray, np.ndarray | None] | None:
        """The garment's id, photo and mask, where the lake has a usable photo of it."""
        garment_id, store = self._task.row["garment_id"], self._task.store
        if not garment_id:
            return None
        rows = store.read(GARMENTS, where={"garment_id": garment_id, "status": "ok"}).to_pylist()
        # The batch's own row first: the same photo may have been ingested with other masks elsewhere.
        rows.sort(key=lambda r: (r["batch"] != self._task.row["batch"], r["batch"]))
        if not rows:
            return None
        image, mask = garment_photo(store, rows[0])
        return garment_id, image, mask


def _pack(tensors: Mapping[str, torch.Tensor]) -> bytes:
    import safetensors.torch

    return safetensors.torch.save(dict(tensors))
