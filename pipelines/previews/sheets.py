"""Contact sheets: what a stage made of a batch, on one picture of at most 100 KB.

Only layout belongs here. A sheet shows the first videos of the batch, failed ones first with the reason, and says how
many more there are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.previews import canvas, pictures, timeline
from pipelines.previews.canvas import FAINT, PURPLE, VERMILION, encode, fitted, heading, label, paragraph, strip
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import GARMENTS, STAGE_STATUS, TRYON_VIDEOS, VIDEOS

_log = logging.getLogger(__name__)
_WIDTH = 1080
_MOST_BYTES = 400_000
"""Of a picture that stands in a file of its own."""
_PANELS = "each picture: source | agnostic | garment | result"
_GAP = 6
_COLUMNS_READ = {
    "pose": ["frame", "detected", "landmarks", "score", "person_mask"],
    "hands": None,
    "agnostic_masks": ["frame", "mask", "height", "width", "area_fraction", "category"],
    "captions": None,
    "clips": None,
}


@dataclass(frozen=True)
class _Sheet:
    store: DeltaStore
    batch: str
    stage: str
    columns: int

    @property
    def tile_width(self) -> int:
        return (_WIDTH + _GAP) // self.columns - _GAP

    def rows(self, video: dict[str, Any]) -> pa.Table:
        where = {"batch": self.batch, "video_id": video["video_id"]}
        return self.store.read(TABLES[self.stage], _COLUMNS_READ[self.stage], where)

    def tiles(self, video: dict[str, Any]) -> int:
        """Thumbnails in the video's row: more of those that are narrow, so that they fill it."""
        # A tall video would fill the sheet: its tiles are as high as those of a wide one are wide.
        width = self.tile_width * min(1.0, video["width"] / video["height"])
        return max(self.columns, int((_WIDTH + _GAP) / (width + _GAP)))

    def frames(self, video: dict[str, Any], frames: Sequence[int]) -> dict[int, np.ndarray]:
        return pictures.read_frames(self.store.blobs.local_path(video["uri"]), frames, self.tile_width)


def contact_sheet(
    store: DeltaStore, batch: str, stage: str, *, max_videos: int = 4, columns: int | None = None
) -> bytes | None:
    """What a stage made of a batch, as JPEG.

    Args:
        store: The lake.
        batch: Batch of videos.
        stage: videos, garments, pose, hands, agnostic_masks, captions or clips.
        max_videos: Videos (garments: rows of photos) to show.
        columns: Thumbnails in the row of a wide video; a number that suits the stage by default.

    Returns:
        JPEG bytes, at most `canvas.MAX_BYTES`; None when the batch has nothing to show.

    Raises:
        ValueError: There is no sheet for this stage.
    """
    if stage == "garments":
        return _garments(store, batch, max_videos, columns or 6)
    if stage != "videos" and stage not in _ROWS:
        raise ValueError(f"No contact sheet for {stage!r}; there are videos, garments, {', '.join(_ROWS)}")
    videos = store.read(VIDEOS, where={"batch": batch}).to_pylist()
    if not videos:
        return None
    status = {v["video_id"]: (v["status"], v["reason"]) for v in videos}
    if stage != "videos":
        entries = store.read(STAGE_STATUS, where={"batch": batch, "stage": stage}).to_pylist()
        status = {e["video_id"]: (e["status"], e["reason"]) for e in entries}
        videos = [v for v in videos if v["status"] == "ok" and v["video_id"] in status]
        if not videos:
            return None
    sheet = _Sheet(store, batch, stage, columns or {"agnostic_masks": 6, "clips": 6}.get(stage, 5))
    good = [v for v in videos if status[v["video_id"]][0] == "ok"]
    bad = [v for v in videos if status[v["video_id"]][0] != "ok"]
    if stage == "captions":  # videos in which something happens say more than the others
        spans = store.read(TABLES[stage], ["video_id", "kind"], {"batch": batch, "kind": "action"})
        eventful = set(spans["video_id"].to_pylist())
        good.sort(key=lambda v: v["video_id"] not in eventful)
    blocks = []
    for video in bad[:max_videos]:
        state, reason = status[video["video_id"]]
        blocks.append(heading(_WIDTH, video["source_path"], state, VERMILION))
        blocks.append(paragraph(_WIDTH, reason or "no reason given", VERMILION, lines=2))
    for video in good[:max_videos]:
        blocks += _attempt(sheet, video)
    hidden = len(videos) - len(bad[:max_videos]) - len(good[:max_videos])
    if hidden:
        failed = len(bad) - len(bad[:max_videos])
        more = f"and {hidden} more video{'s' * (hidden > 1)}" + (f", {failed} of them failed" if failed else "")
        blocks.append(paragraph(_WIDTH, more, FAINT))
    return encode(canvas.stack(blocks, _WIDTH))


def tryon_sheet(store: DeltaStore, checkpoint_id: str, *, max_videos: int = 4, columns: int = 2) -> bytes | None:
    """Try-on results of a checkpoint: frames of source | agnostic | garment | result, as JPEG; None without any."""
    rows = store.read(TRYON_VIDEOS, where={"checkpoint_id": checkpoint_id}).to_pylist()
    if not rows:
        return None
    blocks = []
    width = (_WIDTH + _GAP) // columns - _GAP
    for row in sorted(rows, key=lambda r: r["status"] == "ok")[:max_videos]:
        note = f"garment {row['garment_id']} · {'paired' if row['paired'] else 'unpaired'} · {row['num_frames']} frames"
        good = row["status"] == "ok" and row["side_by_side_uri"]
        blocks.append(heading(_WIDTH, row["video_id"], note, canvas.INK if good else VERMILION))
        if not good:
            blocks.append(paragraph(_WIDTH, row["reason"] or row["status"], VERMILION, lines=2))
            continue
        path = store.blobs.local_path(row["side_by_side_uri"])
        if tiles := _moments(path, row["start_frame"], row["num_frames"], columns, width):
            blocks.append(strip(tiles))
    blocks.insert(0, paragraph(_WIDTH, _PANELS, FAINT))
    return encode(canvas.stack(blocks, _WIDTH))


def tryon_moments(
    side_by_side: str | os.PathLike[str], *, start: int, num_frames: int, title: str, note: str = "", moments: int = 4
) -> bytes:
    """One try-on video as a picture of its own: moments of its side-by-side video below each other, as JPEG.

    Args:
        side_by_side: The side-by-side video.
        start: Source frame of its first frame.
        num_frames: Frames it has.
        title: What it shows.
        note: What to know of it.
        moments: Frames shown, evenly spread.

    Raises:
        pipelines.video.VideoError: The file cannot be read.
    """
    tiles = _moments(side_by_side, start, num_frames, moments, _WIDTH)
    blocks = [heading(_WIDTH, title, note), paragraph(_WIDTH, _PANELS, FAINT), strip(tiles, 1)]
    return encode(canvas.stack(blocks, _WIDTH), _MOST_BYTES)


def _moments(path: str | os.PathLike[str], start: int, num_frames: int, count: int, width: int) -> list[np.ndarray]:
    """Frames of a side-by-side video, evenly spread, with their number in the source."""
    tiles = []
    for frame, rgb in pictures.read_frames(path, pictures.spread(count, num_frames), 4096).items():
        tile = fitted(rgb, width, max(24, round(width * rgb.shape[0] / rgb.shape[1])))
        tiles.append(label(tile, f"f{start + frame}"))
    return tiles


def _attempt(sheet: _Sheet, video: dict[str, Any]) -> list[np.ndarray]:
    make = _video_row if sheet.stage == "videos" else _ROWS[sheet.stage]
    try:
        return make(sheet, video)
    except Exception as e:
        # A picture must never fail the stage whose rows are already written.
        _log.warning("No preview of %s of %s", sheet.stage, video["video_id"], exc_info=True)
        return [
            heading(_WIDTH, video["source_path"], "no preview", VERMILION),
            paragraph(_WIDTH, f"{type(e).__name__}: {e}", VERMILION, lines=2),
        ]


def _tiles(shown: dict[int, np.ndarray], draw: Callable[[int, np.ndarray], np.ndarray]) -> np.ndarray:
    return strip([label(draw(frame, rgb), f"f{frame}") for frame, rgb in shown.items()])


def _video_row(sheet: _Sheet, video: dict[str, Any]) -> list[np.ndarray]:
    facts = f"{video['width']}×{video['height']} · {video['fps']:.5g} fps · {video['num_frames']} frames · " + (
        f"{video['duration_s']:.1f} s · {video['codec']}"
    )
    if video["sharpness"] is not None:
        facts += f" · sharpness {video['sharpness']:.0f}"
    shown = sheet.frames(video, pictures.spread(sheet.tiles(video), video["num_frames"]))
    cuts = video["cut_frames"] or []
    rows = [heading(_WIDTH, video["source_path"], facts), _tiles(shown, lambda _, rgb: rgb.copy())]
    return [*rows, timeline.cut_strip(cuts, video["num_frames"], _WIDTH)] if cuts else rows


def _pose_row(sheet: _Sheet, video: dict[str, Any]) -> list[np.ndarray]:
    rows = sheet.rows(video)
    detected = np.asarray(rows["detected"].to_numpy(zero_copy_only=False), bool)
    shown = sheet.frames(video, pictures.spread(sheet.tiles(video), rows["frame"].to_numpy()))

    def draw(frame: int, rgb: np.ndarray) -> np.ndarray:
        return pictures.with_pose(rgb, pictures.of_frame(rows, frame), (video["height"], video["width"]))

    note = f"pose in {detected.sum()} of {len(detected)} frames"
    scores = rows["score"].to_numpy(zero_copy_only=False)[detected]
    if len(scores):
        note += f" · mean score {np.nanmean(scores):.2f}"
    return [heading(_WIDTH, video["source_path"], note), _tiles(shown, draw)]


def _hands_row(sheet: _Sheet, video: dict[str, Any]) -> list[np.ndarray]:
    rows = sheet.rows(video)
    frames = np.unique(rows["frame"].to_numpy())
    shown = sheet.frames(video, pictures.spread(sheet.tiles(video), frames))
    size = (video["height"], video["width"])

    def draw(frame: int, rgb: np.ndarray) -> np.ndarray:
        return pictures.with_hands(rgb, pictures.of_frame(rows, frame), size)

    sides = np.asarray(rows["handedness"].to_pylist())
    filled = np.asarray(rows["interpolated"].to_pylist(), bool).sum()
    note = f"left {(sides == 'left').sum()}, right {(sides == 'right').sum()} of {video['num_frames']} frames"
    note += f" · {filled} interpolated (vermilion) · left is blue, right orange"
    if not shown:
        return [heading(_WIDTH, video["source_path"], "no hand in any frame")]
    return [heading(_WIDTH, video["source_path"], note), _tiles(shown, draw)]


def _masks_row(sheet: _Sheet, video: dict[str, Any]) -> list[np.ndarray]:
    from pipelines.masks.agnostic import agnostic_frame

    rows = sheet.rows(video)
    shown = sheet.frames(video, pictures.spread(sheet.tiles(video) // 2, rows["frame"].to_numpy()))
    tiles = []
    for frame, rgb in shown.items():
        mask = pictures.mask_of(pictures.of_frame(rows, frame))
        if mask is None:
            continue
        tiles.append(label(pictures.outlined(rgb, mask, PURPLE), f"f{frame}"))
        tiles.append(agnostic_frame(rgb, pictures.resized_mask(mask, rgb.shape[:2])))
    area = rows["area_fraction"].to_numpy()
    note = f"{rows['category'][0].as_py()} · {area.mean():.1%} of the frame, {area.min():.1%} to {area.max():.1%}"
    return [heading(_WIDTH, video["source_path"], note), strip(tiles)]


def _captions_row(sheet: _Sheet, video: dict[str, Any]) -> list[np.ndarray]:
    rows = sheet.rows(video).to_pylist()
    spans = [r for r in rows if r["kind"] == "action"]
    whole = next((r for r in rows if r["kind"] == "global"), None)
    frames = pictures.spread(sheet.tiles(video), video["num_frames"])
    shown = sheet.frames(video, frames)
    out = [heading(_WIDTH, video["source_path"], f"{len(spans)} interaction span{'s' * (len(spans) != 1)}")]
    if whole:
        out.append(paragraph(_WIDTH, f"{whole['text']} ({whole['source']})", lines=2))
    out.append(_tiles(shown, lambda _, rgb: rgb.copy()))
    return [*out, timeline.spans_picture(spans, video["num_frames"], list(shown), _WIDTH)]


def _clips_row(sheet: _Sheet, video: dict[str, Any]) -> list[np.ndarray]:
    clips = sheet.rows(video).to_pylist()
    if not clips:
        return [heading(_WIDTH, video["source_path"], "no training window")]
    # The window with most interaction says most; every window would fill the sheet.
    best = max(clips, key=lambda c: (sum(c["action_mask"]), -c["start_frame"]))
    frames = [best["start_frame"] + i for i in pictures.spread(sheet.tiles(video), best["num_frames"])]
    shown = sheet.frames(video, frames)
    note = f"{len(clips)} windows of {best['bucket']} · {best['split']} · from frame {best['start_frame']} · " + (
        ", ".join(best["actions"]) or "no interaction"
    )
    return [
        heading(_WIDTH, video["source_path"], note),
        _tiles(shown, lambda _, rgb: rgb.copy()),
        timeline.latent_strip(best["action_mask"], _WIDTH),
    ]


_ROWS: dict[str, Callable[[_Sheet, dict[str, Any]], list[np.ndarray]]] = {
    "pose": _pose_row,
    "hands": _hands_row,
    "agnostic_masks": _masks_row,
    "captions": _captions_row,
    "clips": _clips_row,
}


def _garments(store: DeltaStore, batch: str, max_rows: int, columns: int) -> bytes | None:
    from pipelines.clips.garments import garment_photo

    garments = store.read(GARMENTS, where={"batch": batch}).to_pylist()
    if not garments:
        return None
    side = (_WIDTH + _GAP) // columns - _GAP
    bad = [g for g in garments if g["status"] != "ok" or not g["uri"]]
    good = [g for g in garments if g not in bad]
    blocks, tiles = [], []
    for g in bad[:max_rows]:
        blocks.append(heading(_WIDTH, g["source_path"], g["status"], VERMILION))
        blocks.append(paragraph(_WIDTH, g["reason"] or "no reason given", VERMILION, lines=2))
    for g in good[: columns * max_rows]:
        rgb, mask = garment_photo(store, g)
        if mask is not None:
            # What is not garment fades, so that a wrong mask is seen at once.
            rgb = np.where(mask[..., None], rgb, (0.25 * rgb + 0.75 * 250)).astype(np.uint8)
        name = canvas.shortened(g["source_path"].rsplit("/", 1)[-1], 24)
        tile = label(fitted(rgb, side, side), name)
        canvas.write(tile, (4, side - 18), g["category"] or "", 11, canvas.WHITE, background=canvas.BLACK)
        tiles.append(tile)
    if tiles:
        blocks.append(strip(tiles, columns))
    hidden = len(good) - len(tiles)
    if hidden:
        blocks.append(paragraph(_WIDTH, f"and {hidden} more garment photo{'s' * (hidden > 1)}", FAINT))
    return encode(canvas.stack(blocks, _WIDTH))
