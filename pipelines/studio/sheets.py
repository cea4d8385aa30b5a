"""Contact sheets of rendered batches, for people who look.

`python -m pipelines.studio.sheets OUT.jpg` makes the one of the documentation: every garment with everything that can
be done to it, and one clip of each other performance.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipelines.previews.canvas import encode
from pipelines.store.studio_schemas import PERFORMANCES
from pipelines.studio.clip import read_record
from pipelines.studio.garments.spec import KINDS, Kind
from pipelines.studio.mark import TRUTH
from pipelines.studio.motion import ACTIONS_OF
from pipelines.studio.plan import Plan
from pipelines.studio.scene import Scene
from pipelines.studio.sentences import sentence
from pipelines.studio.settings import StudioSettings
from pipelines.video import VideoReader

_ROW_HEIGHT = 200


def clip_row(folder: Path, name: str, columns: int, height: int = _ROW_HEIGHT) -> np.ndarray:
    """One clip as a strip: product picture, frames spread over it, the middle frame in the other garment.

    Args:
        folder: Batch folder.
        name: Clip, such as `clip_00003`.
        columns: Frames to show.
        height: Rows of the strip.

    Raises:
        FileNotFoundError: The clip is not whole.
    """
    record = read_record(folder, name)
    if record is None:
        raise FileNotFoundError(f"{folder} holds no whole clip {name}")
    with VideoReader(folder / record["video"]) as reader:
        frames = [_scaled(f.rgb, height) for f in reader.frames()]
    spans = record["spans"] or [{"start_frame": 0, "end_frame": len(frames)}]
    first, last = spans[0]["start_frame"], spans[-1]["end_frame"] - 1
    # Before, during and after: most frames from where something happens.
    at = [max(first - 8, 0), *np.linspace(first, last, columns - 1).astype(int)]
    tiles = [_scaled(_read(folder / record["garment"]), height), *(frames[i] for i in at)]
    if record["counterfactual"]:
        with VideoReader(folder / record["counterfactual"]) as reader:
            middle = (first + last) // 2
            tiles += [_scaled(f.rgb, height) for f in reader.frames(middle, middle + 1)]
    strip = np.concatenate(tiles, 1)
    words = record["spans"][0]["text"] if record["spans"] else record["performance"]
    if record["performance"] == "pantomime":
        words = f"pantomime of {record['action']}"
    return _captioned(strip, f"{record['garment_type']}: {words}")


def sheet(folder: Path, names: Sequence[str], columns: int = 5, height: int = _ROW_HEIGHT) -> np.ndarray:
    """Strips of several clips below each other, (H, W, 3) uint8 RGB."""
    rows = [clip_row(folder, name, columns, height) for name in names]
    width = max(r.shape[1] for r in rows)
    return np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0))) for r in rows])


def batch_sheet(folder: Path, rows: int = 4) -> bytes | None:
    """A JPEG small enough for metadata: one clip of each performance first; None where nothing is rendered."""
    records = {p.stem: read_record(folder, p.stem) for p in sorted((folder / TRUTH).glob("clip_*.json"))}
    if not records:
        return None
    chosen: list[str] = []
    seen: set[str] = set()
    for name, record in records.items():
        if record and record["performance"] not in seen:
            seen.add(record["performance"])
            chosen.append(name)
    chosen += [n for n in records if n not in chosen]
    return encode(sheet(folder, chosen[:rows], 4, 130))


def every_action(seed: int = 0, columns: int = 4, height: int = 190) -> np.ndarray:
    """Every garment with every action, and every other performance: two strips a row, (H, W, 3) uint8 RGB."""
    settings = StudioSettings()
    plans: list[tuple[str, Kind, str | None]] = [
        ("interaction", kind, action) for kind in KINDS for action in sorted(set(ACTIONS_OF[kind]))
    ]
    plans += [(p, KINDS[i % len(KINDS)], None) for i, p in enumerate(PERFORMANCES) if p != "interaction"]
    strips = []
    for index, (performance, garment, action) in enumerate(plans):
        scene = Scene(settings, Plan(index, seed + index, performance, garment, action, "train"))
        phases = scene.script.phases
        times = np.linspace(phases.arrive, phases.leave - 1 / settings.fps, columns)
        shots = [scene.shoot(min(round(t * settings.fps), settings.frames - 1)) for t in times]
        tiles = [scene.product(0), *(s.frame.rgb for s in shots)]
        if (other := shots[len(shots) // 2].counterfactual) is not None:
            tiles.append(other)
        words = sentence(scene.script, garment) if action else performance
        if performance == "pantomime":
            words = f"pantomime: {sentence(scene.script, garment)}"
        strips.append(_captioned(np.concatenate([_scaled(t, height) for t in tiles], 1), f"{garment}: {words}"))
    if len(strips) % 2:
        strips.append(np.full_like(strips[0], 255))
    return np.concatenate([np.concatenate(strips[i : i + 2], 1) for i in range(0, len(strips), 2)])


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None:
        raise FileNotFoundError(f"{path} is missing or no picture: render the batch again")
    return picture


def _scaled(rgb: np.ndarray, height: int) -> np.ndarray:
    width = round(rgb.shape[1] * height / rgb.shape[0])
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)


def _captioned(strip: np.ndarray, text: str) -> np.ndarray:
    band = np.full((18, strip.shape[1], 3), 255, np.uint8)
    cv2.putText(band, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([band, strip])


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(encode(every_action(), 900_000))
