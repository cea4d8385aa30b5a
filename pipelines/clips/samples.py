"""The tensors of one training clip, from a video of the lake: for the cache, and for training without one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from models.itryon.conditioning import (
    control_latents,
    encode,
    encode_references,
    hand_latents,
    hand_point_latents,
    mask_to_tensor,
    reference_image,
    to_model_range,
)
from models.itryon.hand_points import STEPS
from models.itryon.losses import ActionSpan, action_mask_per_latent, segments_per_latent
from models.text.encode import EMPTY_CAPTION
from pipelines.captions.rows import global_caption, interactions
from pipelines.clips.conditions import window_frames
from pipelines.clips.garments import WORN, garment_photo, garment_rows, worn_garment
from pipelines.clips.windows import Window, far_frame
from pipelines.stage import VideoTask

if TYPE_CHECKING:
    from pipelines.clips.encoders import ClipEncoders


@dataclass(frozen=True)
class WindowCaptions:
    """Captions of one window.

    Attributes:
        segments: Its segments and the caption of each; `models.itryon.losses.segments_per_latent`.
        action_mask: M_action per latent frame, 0 or 1.
        actions: Interaction categories, sorted.
    """

    segments: Any
    action_mask: list[float]
    actions: list[str]


class VideoSource:
    """What the windows of one video share; tables are read once, the garment when it is first asked for.

    Args:
        task: The video.

    Attributes:
        num_frames: Frames of the video.
        global_caption: Its caption.
        actions: Its interactions: rows of `captions`.

    Raises:
        ValueError: It has no global caption, or a caption lies outside of it.
    """

    def __init__(self, task: VideoTask):
        self.task = task
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
        self._references: dict[tuple[int | None, tuple[int, int]], torch.Tensor] = {}

    @cached_property
    def pose(self) -> pa.Table:
        return self.task.rows("pose", ["frame", "landmarks"])

    @cached_property
    def masks(self) -> pa.Table:
        return self.task.rows("agnostic_masks", ["frame", "mask", "height", "width", "area_fraction"])

    @cached_property
    def hands(self) -> pa.Table:
        return self.task.rows("hands")

    def captions(self, window: Window) -> WindowCaptions:
        """Captions of a window."""
        spans, names = [], set()
        for a in self.actions:
            local = window.local_span(a["start_frame"], a["end_frame"])
            if local:
                spans.append(ActionSpan(*local, a["text"]))
                names.add(a["action"])
        mask = action_mask_per_latent(spans, window.num_frames).tolist()
        return WindowCaptions(segments_per_latent(spans, window.num_frames), mask, sorted(names))

    def garment_id(self, window: Window) -> str:
        """Garment that a window's reference shows.

        Raises:
            ValueError: There is none.
        """
        if self._photo:
            return self._photo[0]
        self._worn_frame(window)
        return f"{WORN}{self.task.video_id}"

    def reference(self, window: Window, size: tuple[int, int], encoders: ClipEncoders) -> torch.Tensor:
        """Reference latents, (R, z, 1, h, w): of the garment's photo, or else of the worn garment.

        Raises:
            ValueError: No garment was found.
        """
        frame = None if self._photo else self._worn_frame(window)
        key = frame, size
        if key not in self._references:
            if self._photo:
                image, mask = self._photo[1:]
            else:
                assert frame is not None
                image, mask = worn_garment(self.task.store, self.task.row, frame)
            picture = reference_image(image, *size, mask=mask)
            with torch.no_grad(), self.task.inference():
                latents = encode_references(encoders.vae, [picture.to(encoders.device)])
            self._references[key] = latents[0].transpose(0, 1)[:, :, None]
        return self._references[key]

    def _worn_frame(self, window: Window) -> int:
        frames, areas = (self.masks[c].to_pylist() for c in ("frame", "area_fraction"))
        frame = far_frame(frames, areas, window)
        if frame is None:
            raise ValueError("No frame of the video shows a garment: the agnostic mask is empty throughout")
        return frame

    @cached_property
    def _photo(self) -> tuple[str, np.ndarray, np.ndarray | None] | None:
        """The garment's id, photo and mask, where the lake has a usable photo of it."""
        garment_id, store = self.task.row["garment_id"], self.task.store
        if not garment_id:
            return None
        row = garment_rows(store, [garment_id], self.task.row["batch"]).get(garment_id)
        if row is None:
            return None
        image, mask = garment_photo(store, row)
        return garment_id, image, mask


def clip_latents(
    source: VideoSource, window: Window, size: tuple[int, int], encoders: ClipEncoders
) -> dict[str, torch.Tensor]:
    """Tensors of a window by blob key, on the CPU; latents in bf16.

    T latent frames, R views, h x w an eighth of the pixels: target, inactive, reactive and hands (z, T, h, w), mask and
    hand_points (64, T, h, w), reference (R, z, 1, h, w), hand_present (T,).

    Args:
        source: The video.
        window: Frames.
        size: Height and width that the model works at, pixels.
        encoders: The frozen encoders.

    Raises:
        ValueError: The window does not lie in the video, or no garment was found.
    """
    task = source.task
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
    reference = source.reference(window, size, encoders)
    vae, device = encoders.vae, encoders.device
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
    compact = {k: v.to("cpu", torch.bfloat16).contiguous() for k, v in values.items()}
    compact["mask"] = control[0, 2 * z :].to("cpu", torch.uint8).contiguous()
    compact["hand_points"] = (points[0] * STEPS).round().to(torch.int8)
    compact["hand_present"] = present[0].to("cpu", torch.uint8).contiguous()
    return compact


def clip_text(source: VideoSource, segments: Any, encoders: ClipEncoders) -> dict[str, torch.Tensor]:
    """Caption embeddings of a window by blob key, in bf16 on the CPU.

    Args:
        source: The video.
        segments: Segments of the window's captions.
        encoders: The frozen encoders.
    """
    with source.task.inference():
        (whole, empty), masks = encoders.text([source.global_caption, EMPTY_CAPTION], encoders.caption_length)
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
