"""The worst cases of an annotator report on one picture: the truth in green, annotations in vermilion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.arrays import decode_mask, points_to_numpy
from pipelines.evaluation.annotators.captions import ActionSpan
from pipelines.evaluation.annotators.report import AnnotatorReport, Case
from pipelines.previews import canvas, pictures, timeline
from pipelines.previews.canvas import GREEN, INK, SKY, VERMILION, fitted, heading, label, paragraph, strip
from pipelines.previews.skeleton import BONES
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import VIDEOS

_log = logging.getLogger(__name__)
_WIDTH = 1080
_GAP = 6
_COLUMNS = 6
FAMILIES = ("pose", "missed hands", "hands", "masks", "captions")
_TITLES = {
    "pose": ("pose", "true skeleton green, annotated vermilion"),
    "missed hands": ("missed hands", "true keypoints green; what was annotated elsewhere, vermilion"),
    "hands": ("hands", "true keypoints green, annotated vermilion; error of the 3D keypoints"),
    "masks": ("agnostic masks", "vermilion: garment left visible; blue: repainted in excess"),
    "captions": ("captions", "upper lanes: annotated; lower lanes: true"),
}


def worst_cases(store: DeltaStore, report: AnnotatorReport, families: Sequence[str]) -> bytes | None:
    """The worst frames, at most one a video, as JPEG; None where nothing went badly.

    Args:
        store: The lake.
        report: What was measured.
        families: Of `FAMILIES`; all on one picture would be too small to see anything.
    """
    videos = {v["video_id"]: v for v in store.read(VIDEOS, where={"batch": report.batch, "status": "ok"}).to_pylist()}
    blocks: list[np.ndarray] = []
    for family in families:
        known = [c for c in report.worst[family] if c.clip.video_id in videos]
        if not known:
            continue
        title, note = _TITLES[family]
        rows = []
        try:
            rows = _ROWS[family](store, report, known, videos)
        except Exception as e:
            # A picture must never fail the figures that are already written.
            _log.warning("No picture of the worst %s", family, exc_info=True)
            rows = [paragraph(_WIDTH, f"no picture: {type(e).__name__}: {e}", VERMILION, lines=2)]
        blocks += [heading(_WIDTH, f"worst {title}", note), *rows]
    return canvas.encode(canvas.stack(blocks, _WIDTH)) if blocks else None


def _strip(tiles: list[np.ndarray]) -> list[np.ndarray]:
    return [strip(tiles)] if tiles else []


def _tile_width() -> int:
    return (_WIDTH + _GAP) // _COLUMNS - _GAP


def _frame(store: DeltaStore, video: dict[str, Any], frame: int) -> np.ndarray | None:
    path = store.blobs.local_path(video["uri"])
    return pictures.read_frames(path, [frame], max(video["width"], video["height"])).get(frame)


def _row(store: DeltaStore, table: str, batch: str, case: Case) -> pa.Table:
    rows = store.read(TABLES[table], where={"batch": batch, "video_id": case.clip.video_id, "frame": case.frame})
    if case.side is not None and "handedness" in rows.column_names:
        rows = rows.filter(pc.equal(rows["handedness"], case.side))
    return rows


def _caption(tile: np.ndarray, case: Case, note: str) -> np.ndarray:
    label(tile, f"f{case.frame} {note}")
    text = case.clip.performance + (f" · {case.clip.action}" if case.clip.action else "")
    canvas.write(tile, (4, tile.shape[0] - 17), text, 10, canvas.WHITE, background=canvas.BLACK)
    return tile


def _lines(rgb: np.ndarray, points: np.ndarray, bones: Any, colour: tuple[int, int, int], scale: float) -> None:
    ends = np.round(np.clip(np.nan_to_num(points[:, :2], nan=-8000), -8000, 8000) * 16).astype(int)
    width = max(1, round(scale))
    for a, b in bones:
        if np.isfinite(points[[a, b], :2]).all():
            cv2.line(rgb, ends[a].tolist(), ends[b].tolist(), colour, width, cv2.LINE_AA, 4)


def _pose(store: DeltaStore, report: AnnotatorReport, cases: list[Case], videos: dict) -> list[np.ndarray]:
    bones = [(a, b) for a, b, _ in BONES]
    tiles = []
    for case in cases[:_COLUMNS]:
        rgb = _frame(store, videos[case.clip.video_id], case.frame)
        if rgb is None:
            continue
        for table, colour in (("studio_frames", GREEN), ("pose", VERMILION)):
            rows = _row(store, table, report.batch, case)
            if rows.num_rows:
                _lines(rgb, points_to_numpy(rows["landmarks"], 33)[0], bones, colour, rgb.shape[0] / 250)
        tile = fitted(rgb, _tile_width(), _tile_width() * 4 // 3)
        tiles.append(_caption(tile, case, f"{case.badness:.2f} torso"))
    return _strip(tiles)


def _hands(unit: str, store: DeltaStore, report: AnnotatorReport, cases: list[Case], videos: dict) -> list[np.ndarray]:
    tiles = []
    side = _tile_width()
    for case in cases[:_COLUMNS]:
        rgb = _frame(store, videos[case.clip.video_id], case.frame)
        truth = _row(store, "studio_hands", report.batch, case)
        if rgb is None or not truth.num_rows:
            continue
        found = _row(store, "hands", report.batch, case)
        true = points_to_numpy(truth["keypoints_2d"], 21)[0]
        both = [(true, GREEN)] + (
            [(points_to_numpy(found["keypoints_2d"], 21)[0], VERMILION)] if found.num_rows else []
        )
        centre, half = true.mean(0), 1.1 * float(np.ptp(true, axis=0).max())
        scale = side / (2 * half)
        move = np.array([[scale, 0, side / 2 - scale * centre[0]], [0, scale, side / 2 - scale * centre[1]]])
        tile = cv2.warpAffine(rgb, move, (side, side), borderValue=canvas.PAPER)
        for points, colour in both:
            _lines(tile, points @ move[:, :2].T + move[:, 2], pictures.HAND_BONES, colour, 1.4)
        note = f"{case.side} {case.badness:.0f} {unit}"
        tiles.append(_caption(tile, case, note))
    return _strip(tiles)


def _masks(store: DeltaStore, report: AnnotatorReport, cases: list[Case], videos: dict) -> list[np.ndarray]:
    tiles = []
    for case in cases[:_COLUMNS]:
        rgb = _frame(store, videos[case.clip.video_id], case.frame)
        truth = _row(store, "studio_frames", report.batch, case)
        if rgb is None or not truth.num_rows:
            continue
        size = rgb.shape[:2]
        garment, region = (decode_mask(truth[k][0].as_py(), *size) > 0 for k in ("garment_mask", "agnostic_mask"))
        found = pictures.mask_of(_row(store, "agnostic_masks", report.batch, case))
        mask = np.zeros(size, bool) if found is None else found > 0
        left, excess = garment & ~mask, mask & ~region
        # No outlines: what is left visible is often a pixel wide.
        for part, colour, strength in ((excess, SKY, 0.5), (left, VERMILION, 0.85)):
            rgb[part] = np.round((1 - strength) * rgb[part] + strength * np.array(colour)).astype(np.uint8)
        tile = fitted(rgb, _tile_width(), _tile_width() * 4 // 3)
        shares = (
            f"{left.sum() / max(garment.sum(), 1):.1%} left, {(mask & ~region).sum() / max(region.sum(), 1):.0%} more"
        )
        tiles.append(_caption(tile, case, shares))
    return _strip(tiles)


def _captions(store: DeltaStore, report: AnnotatorReport, cases: list[Case], videos: dict) -> list[np.ndarray]:
    blocks = []
    at = {c.video_id: i for i, c in enumerate(report.clips)}
    for case in cases[:3]:
        video, samples = videos[case.clip.video_id], report.captions[at[case.clip.video_id]]
        path = store.blobs.local_path(video["uri"])
        frames = pictures.spread(10, video["num_frames"])
        shown = pictures.read_frames(path, frames, 104)
        text = case.clip.performance + (f" · {case.clip.action}" if case.clip.action else "")
        blocks.append(paragraph(_WIDTH, f"{case.clip.source_path}: {text}", INK, lines=1))
        if shown:
            blocks.append(strip([label(rgb.copy(), f"f{f}") for f, rgb in shown.items()], len(shown)))
        for spans, source in ((samples.predicted, "annotated"), (samples.truth, "true")):
            rows = [_caption_row(s, source) for s in spans]
            blocks.append(timeline.spans_picture(rows, video["num_frames"], list(shown), _WIDTH))
    return blocks


def _caption_row(span: ActionSpan, source: str) -> dict[str, Any]:
    return {
        "action": span.action,
        "start_frame": span.span[0],
        "end_frame": span.span[1],
        "confidence": span.confidence,
        "source": source,
    }


_ROWS: dict[str, Callable[[DeltaStore, AnnotatorReport, list[Case], dict], list[np.ndarray]]] = {
    "pose": _pose,
    "missed hands": partial(_hands, "missed"),
    "hands": partial(_hands, "mm"),
    "masks": _masks,
    "captions": _captions,
}
