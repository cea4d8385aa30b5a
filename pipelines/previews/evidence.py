"""What a judge looked at, as a picture: frames of the source above those of the result."""

from __future__ import annotations

import cv2
import numpy as np

from models.judges.base import JudgeRequest, Verdict
from pipelines.previews.canvas import encode, heading, label, paragraph, stack, strip

_TILES, _HEIGHT, _LIMIT = 8, 150, 120_000
_INSIDE, _EDGE = (0, 158, 115), 3


def evidence_sheet(request: JudgeRequest, verdict: Verdict) -> bytes:
    """JPEG with at most eight of the frames that were judged; those in the span have a green edge."""
    count, height, width = request.result.shape[:3]
    picks = np.unique(np.linspace(0, count - 1, min(_TILES, count)).round().astype(int))
    size = (max(1, round(width * _HEIGHT / height)), _HEIGHT)
    rows = []
    for pictures in (request.source, request.result):
        tiles = []
        for k in picks:
            tile = cv2.resize(pictures[k], size, interpolation=cv2.INTER_AREA)
            if request.inside[k]:
                tile[:_EDGE], tile[-_EDGE:], tile[:, :_EDGE], tile[:, -_EDGE:] = (_INSIDE,) * 4
            tiles.append(label(tile, f"{request.frames[k] / request.fps:.2f} s"))
        rows.append(strip(tiles))
    wide = rows[0].shape[1]
    said = {None: "no verdict", True: "done", False: "not done"}[verdict.success]
    score = "" if verdict.score is None else f" · score {verdict.score:.2f}"
    blocks = [
        heading(wide, f"{said}{score}", request.action),
        paragraph(wide, f"{request.caption} · {verdict.rationale}"),
        *rows,
    ]
    return encode(stack(blocks, wide), _LIMIT)
