"""What one file holds, measured in a worker process: the numbers of a row of `videos` or `garments`.

Only measuring belongs here. Whether the numbers make a video usable is decided by `verdict`, from the settings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pipelines.ingest.cuts import CutDetector
from pipelines.ingest.settings import IngestSettings
from pipelines.video import VideoError, VideoReader

_SCORE_HEIGHT = 360


@dataclass
class VideoAnalysis:
    """Measurements of one video; the fields are columns of `videos`, apart from `missing_frames` and `error`."""

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    num_frames: int | None = None
    duration_s: float | None = None
    codec: str | None = None
    rotation: int | None = None
    variable_frame_rate: bool | None = None
    has_audio: bool | None = None
    sharpness: float | None = None
    brightness: float | None = None
    motion: float | None = None
    bitrate_kbps: float | None = None
    cut_frames: list[int] = field(default_factory=list)
    missing_frames: int = 0
    error: str | None = None


def analyse_video(path: str, settings: IngestSettings) -> dict[str, object]:
    """Decode a video once and measure it; a `VideoAnalysis` as a dict.

    Frames are read at a reduced size and forgotten at once, so memory does not grow with the video.
    """
    try:
        with VideoReader(path) as reader:
            info = reader.info
        scale = min(1.0, _SCORE_HEIGHT / info.height)
        with VideoReader(path, max_side=max(1, round(scale * max(info.width, info.height)))) as reader:
            return asdict(_measure(reader, Path(path).stat().st_size, settings))
    except VideoError as e:
        return asdict(VideoAnalysis(error=e.reason))


def _measure(reader: VideoReader, size: int, settings: IngestSettings) -> VideoAnalysis:
    cuts = CutDetector()
    sharpness: list[float] = []
    brightness: list[float] = []
    motion: list[float] = []
    before: np.ndarray | None = None
    count, end, due = 0, 0.0, 0.0
    for frame in reader.frames():
        count, end = frame.index + 1, frame.time_s
        cuts.add(frame.rgb)
        if frame.time_s + 1e-9 < due:
            continue
        due = frame.time_s + 1 / settings.sample_fps
        luma = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        sharpness.append(float(cv2.Laplacian(luma, cv2.CV_32F).var()))
        brightness.append(float(luma.mean()) / 255)
        if before is not None:
            motion.append(float(cv2.absdiff(luma, before).mean()) / 255)
        before = luma
    if count == 0:
        return VideoAnalysis(error="Not a single frame decodes: the file is damaged or cut off")
    info = reader.info
    duration = end + 1 / info.fps
    return VideoAnalysis(
        width=info.width,
        height=info.height,
        fps=info.fps,
        num_frames=count,
        duration_s=duration,
        codec=info.codec,
        rotation=info.rotation,
        variable_frame_rate=info.variable_frame_rate,
        has_audio=info.has_audio,
        sharpness=float(np.median(sharpness)),
        brightness=float(np.mean(brightness)),
        motion=float(np.mean(motion)) if motion else 0.0,
        bitrate_kbps=size * 8 / 1000 / duration,
        cut_frames=cuts.cuts(settings.cut_threshold, settings.cut_ratio),
        missing_frames=max(0, reader.announced_frames - count),
    )


def verdict(a: VideoAnalysis, s: IngestSettings) -> tuple[str, str | None]:
    """(status, reason) of a video whose measurements are known.

    An `ok` video has a reason too where its file is cut off: what there is of it is used.
    """
    if a.error:
        return "error", a.error
    frames, short, long = a.num_frames or 0, min(a.width or 0, a.height or 0), max(a.width or 0, a.height or 0)
    if frames < s.min_frames:
        return "rejected", f"Has {frames} frame{'s'[: frames != 1]}, fewer than {s.min_frames} (ingest.min_frames)"
    if short < s.min_side:
        return "rejected", f"Is {a.width}x{a.height} pixels, a side is below {s.min_side} (ingest.min_side)"
    if long > s.max_side:
        return "rejected", f"Is {a.width}x{a.height} pixels, a side is above {s.max_side} (ingest.max_side)"
    if not s.score_only and (reason := _poor(a, s)):
        return "rejected", reason
    # Old containers count dropped frames, and a header's duration is rounded: a few are no damage.
    if a.missing_frames > max(2, frames // 100):
        return "ok", f"Cut off or damaged: {frames} of {frames + a.missing_frames} frames decode, and they are used"
    return "ok", None


def _poor(a: VideoAnalysis, s: IngestSettings) -> str | None:
    bounds = (
        (a.sharpness, s.min_sharpness, None, "Is blurred: sharpness", "min_sharpness"),
        (a.brightness, s.min_brightness, None, "Is dark: brightness", "min_brightness"),
        (a.brightness, None, s.max_brightness, "Is overexposed: brightness", "max_brightness"),
        (a.motion, s.min_motion, None, "Does not move: motion", "min_motion"),
        (a.bitrate_kbps, s.min_bitrate_kbps, None, "Is strongly compressed: kbit/s", "min_bitrate_kbps"),
        (len(a.cut_frames), None, s.max_cuts, f"Has shot cuts (at frames {a.cut_frames[:5]}): number", "max_cuts"),
    )
    for value, least, most, what, name in bounds:
        limit = least if least is not None else most
        if value is not None and limit is not None and (value < limit if least is not None else value > limit):
            return f"{what} {value:.4g}, limit {limit:.4g} (ingest.{name})"
    return None
