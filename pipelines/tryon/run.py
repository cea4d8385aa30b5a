"""Try-on of one video, streamed: windows through the model, results blended into the source at its own size."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from models.itryon.blend import blend_back
from models.itryon.conditioning import reference_image
from models.itryon.losses import ActionSpan
from models.itryon.tiling import set_tiling
from models.itryon.windows import Crossfade, plan_windows
from pipelines.arrays import decode_mask
from pipelines.captions.rows import global_caption, interactions
from pipelines.clips.conditions import window_frames
from pipelines.clips.windows import nearest_size
from pipelines.tryon.annotations import Annotations, StoredAnnotations
from pipelines.tryon.load import LoadedPipeline, resolved
from pipelines.tryon.panels import garment_panel, side_by_side
from pipelines.tryon.provenance import what_was_used
from pipelines.tryon.settings import CODE_VERSION, TryOnSettings
from pipelines.video import VideoInfo, VideoReader, VideoWriter

SHEET_ROWS = 6
"""Moments on the contact sheet."""


@dataclass(frozen=True)
class Garment:
    """A garment to put on.

    Attributes:
        image: Photo, (h, w, 3) uint8 RGB.
        mask: (h, w), nonzero on the garment; None where the photo is on white already.
        garment_id: What the record calls it.
    """

    image: np.ndarray
    mask: np.ndarray | None = None
    garment_id: str = ""


def spans_of(captions: pa.Table) -> list[ActionSpan]:
    """Interactions among rows of `captions`, in time order."""
    return [ActionSpan(r["start_frame"], r["end_frame"], r["text"]) for r in interactions(captions)]


def tryon_video(
    loaded: LoadedPipeline,
    video_path: str | os.PathLike[str],
    garments: Sequence[Garment],
    annotations: Annotations | StoredAnnotations,
    output: str | os.PathLike[str],
    settings: TryOnSettings,
    *,
    side_by_side_output: str | os.PathLike[str] | None = None,
    sheet_output: str | os.PathLike[str] | None = None,
    start: int = 0,
    num_frames: int | None = None,
    spans: Sequence[ActionSpan] | None = None,
    prompt: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the video with its person in another garment.

    The result has the source's upright size and its frames' times; pixels outside the agnostic mask are the source's
    own, up to video coding. Memory does not grow with the video's length.

    Args:
        loaded: The pipeline.
        video_path: Local video file.
        garments: One or more views of the garment.
        annotations: The video's rows.
        output: mp4 to write.
        settings: Steps, guidance, seed, size, blending.
        side_by_side_output: mp4 with source, agnostic frame with pose, garment and result next to each other.
        sheet_output: jpg with a few moments of the side-by-side video, one below the other.
        start: First source frame.
        num_frames: Frames to make; to the end by default.
        spans: Interactions in source frames, in place of those in the captions.
        prompt: Global caption, in place of that in the captions.
        on_progress: Called with denoising steps done and in all.

    Returns:
        Record of the run: spans, prompt, windows, size, seed, category, digests of the model's parts, and what
        `what_was_used` says.

    Raises:
        ValueError: A span outside the video, nothing to repaint, no garment, frames that the video does not have, or
            tiling of an autoencoder without it.
        pipelines.video.VideoError: The file cannot be read.
    """
    if not garments:
        raise ValueError("No garment: pass at least one photo")
    with VideoReader(video_path) as reader:
        info = reader.info
    total = info.num_frames - start if num_frames is None else num_frames
    if start < 0 or total < 1 or start + total > info.num_frames:
        raise ValueError(f"Frames {start} to {start + total} of a video with {info.num_frames} frames")
    spans = spans_of(annotations.captions) if spans is None else list(spans)
    for span in spans:
        if not 0 <= span.start < span.end <= info.num_frames:
            raise ValueError(f"Span [{span.start}, {span.end}) lies outside the video's {info.num_frames} frames")
    prompt = global_caption(annotations.captions) or "" if prompt is None else prompt
    settings = resolved(settings, loaded.pipe)
    assert settings.sizes is not None and settings.num_frames is not None
    height, width = nearest_size(info.height, info.width, settings.sizes)
    if not annotations.has_mask(start, start + total):
        raise ValueError(f"There is no agnostic mask in frames {start} to {start + total}: nothing to repaint")
    set_tiling(loaded.pipe.vae, settings.vae_tiling, height, width)
    references = [reference_image(g.image, height, width, g.mask) for g in garments]
    panel_height = min(settings.side_by_side_height, info.height) // 2 * 2
    shown_garment = garments[0].image.copy()
    if garments[0].mask is not None:
        shown_garment[np.asarray(garments[0].mask) == 0] = 255
    panel = garment_panel(shown_garment, panel_height, max(2, round(info.width * panel_height / info.height)))

    windows = plan_windows(total, settings.num_frames, min(settings.overlap_frames, settings.num_frames - 1))
    generator = torch.Generator().manual_seed(settings.seed)
    edge = settings.blend_edge * min(info.height, info.width)
    # Of the frames that are made and not yet written.
    agnostic: dict[int, np.ndarray] = {}
    masks: dict[int, dict[str, Any]] = {}
    fade = Crossfade()
    shown = set(np.linspace(0, total - 1, min(total, SHEET_ROWS)).round().astype(int).tolist())
    sheet: list[np.ndarray] = []
    first_s = 0.0
    written = 0
    made: np.ndarray | None = None
    category: str | None = None

    with (
        VideoReader(video_path) as reader,
        VideoWriter(
            output, fps=info.fps, width=info.width, height=info.height, timed=info.variable_frame_rate
        ) as writer,
        _writer(side_by_side_output, info, 4 * panel.shape[1], panel_height) as compare,
    ):
        source = reader.frames(start=start, stop=start + total)

        def emit(generated: np.ndarray) -> None:
            nonlocal written, first_s
            if written >= total:
                return
            frame = next(source, None)
            if frame is None:
                raise ValueError(f"The video ends at frame {start + written}, before its {info.num_frames} frames")
            drawn = agnostic.pop(frame.index)
            row = masks.pop(frame.index, None)
            result = frame.rgb
            if row is not None:
                mask = decode_mask(row["mask"], row["height"], row["width"])
                result = blend_back(frame.rgb, box.restore(generated), mask, edge)
            if not written:
                first_s = frame.time_s
            time_s = frame.time_s - first_s if info.variable_frame_rate else None
            writer.write(result, time_s)
            if compare is not None or written in shown:
                row_of_panels = side_by_side(frame.rgb, box.restore(drawn), panel, result)
                if compare is not None:
                    compare.write(row_of_panels, time_s)
                if written in shown:
                    sheet.append(row_of_panels)
            written += 1

        for number, (begin, end) in enumerate(windows):
            rows = annotations.of_frames(start + begin, start + end)
            conditions = window_frames(
                video_path,
                start + begin,
                end - begin,
                height,
                width,
                pose=rows.pose,
                masks=rows.masks,
                hands=rows.hands,
                pad=True,
            )
            box = conditions.letterbox
            agnostic |= dict(zip(conditions.frames.tolist(), conditions.agnostic))
            if category is None and rows.masks.num_rows:
                category = rows.masks["category"][0].as_py()
            masks |= {r["frame"]: r for r in rows.masks.select(["frame", "mask", "height", "width"]).to_pylist()}
            offset = start + begin
            previous = None
            if made is not None and begin < windows[number - 1][1]:
                previous = made[begin - windows[number - 1][0] :]
            (made,) = loaded.pipe(
                video=conditions.target,
                mask=conditions.mask,
                agnostic_video=conditions.agnostic,
                garments=references,
                hand_video=conditions.hands if loaded.use_hands else None,
                hand_points=conditions.hand_points if loaded.use_hands else None,
                hand_present=conditions.hand_present if loaded.use_hands else None,
                prompt=prompt,
                actions=[ActionSpan(s.start - offset, s.end - offset, s.text) for s in spans]
                if loaded.use_actions
                else [],
                negative_action=settings.negative_action if loaded.use_actions else None,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                conditioning_scale=settings.conditioning_scale,
                num_frames=settings.num_frames,
                previous_frames=previous,
                generator=generator,
                blend_edge=None,
                callback_on_step_end=_report(on_progress, number * settings.steps, len(windows) * settings.steps),
                return_dict=False,
            )
            for generated in fade.add(begin, made):
                emit(generated)
        for generated in fade.finish():
            emit(generated)
    if sheet_output is not None:
        Image.fromarray(np.concatenate(sheet)).save(sheet_output, "JPEG", quality=90)
    return {
        "code_version": CODE_VERSION,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "numpy", "av")},
        "start_frame": start,
        "num_frames": total,
        "fps": info.fps,
        "source_size": [info.height, info.width],
        "model_size": [height, width],
        "windows": [[start + a, start + b] for a, b in windows],
        "prompt": prompt,
        "spans": [asdict(s) for s in spans],
        "garments": [g.garment_id for g in garments],
        "seed": settings.seed,
        "category": category,
        **what_was_used(loaded, settings),
        "checkpoint": loaded.source,
        "digests": dict(loaded.digests),
    }


class _writer:
    """A `VideoWriter`, or None without a path, as a context."""

    def __init__(self, path: str | os.PathLike[str] | None, info: VideoInfo, width: int, height: int):
        self._inner = (
            None
            if path is None
            else VideoWriter(path, fps=info.fps, width=width, height=height, timed=info.variable_frame_rate)
        )

    def __enter__(self) -> VideoWriter | None:
        return None if self._inner is None else self._inner.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._inner is not None:
            self._inner.__exit__(*error)


def _report(on_progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[..., dict[str, Any]]:
    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if on_progress is not None:
            on_progress(before + step + 1, total)
        return {}

    return callback
