"""The videos that benchmarks run on."""

from __future__ import annotations

from pathlib import Path

import cv2

from models import weights
from pipelines.video import VideoReader, VideoWriter

SAMPLES = Path(__file__).parents[2] / "shared" / "samples" / "videos"


def bench_videos(folder: Path) -> tuple[str, list[Path]]:
    """What to annotate, with a description: real sample clips beside the repository, else the demonstration's."""
    clips = sorted(SAMPLES.glob("*.mkv")) if SAMPLES.is_dir() else []
    if clips:
        return f"{len(clips)} sample clips, 640x480", clips
    weights.fetch(["demo"])
    made = []
    for part in range(4):
        target = folder / f"part{part}.mp4"
        with VideoReader(weights.path("demo/dancer.avi")) as reader:
            info = reader.info
            with VideoWriter(target, fps=info.fps, width=info.width, height=info.height) as writer:
                for frame in reader.frames(120 * part + 240, 120 * part + 360):
                    writer.write(frame.rgb)
        made.append(target)
    return "four parts of the dancer clip, 518x496", made


def long_video(source: Path, target: Path, seconds: float, fps: float, height: int = 1080) -> Path:
    """A clip played to and fro until it lasts `seconds`, enlarged to `height` rows."""
    with VideoReader(source) as reader:
        frames = [f.rgb for f in reader.frames()]
    scale = height / frames[0].shape[0]
    width = round(frames[0].shape[1] * scale / 2) * 2
    there_and_back = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    with VideoWriter(target, fps=fps, width=width, height=height) as writer:
        for i in range(round(seconds * fps)):
            rgb = frames[there_and_back[i % len(there_and_back)]]
            writer.write(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR))
    return target
