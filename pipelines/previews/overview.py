"""All annotation stages of one batch in a picture: `python -m pipelines.previews.overview BATCH FILE.jpg`."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

from pipelines.previews.canvas import stack
from pipelines.previews.sheets import contact_sheet
from pipelines.store import DeltaStore

_STAGES = ("pose", "hands", "agnostic_masks", "captions")


def overview(store: DeltaStore, batch: str, max_videos: int = 1) -> bytes:
    """JPEG of the contact sheets of pose, hands, masks and captions under one another.

    Raises:
        LookupError: The batch has not been annotated.
    """
    sheets = [contact_sheet(store, batch, stage, max_videos=max_videos) for stage in _STAGES]
    decoded = [cv2.imdecode(np.frombuffer(s, np.uint8), cv2.IMREAD_COLOR) for s in sheets if s]
    pictures = [p for p in decoded if p is not None]
    if not pictures:
        raise LookupError(f"Batch {batch!r} has no annotations: itryon materialize --batch {batch} --to captions")
    width = max(p.shape[1] for p in pictures)
    scaled = [cv2.resize(p, (width, round(p.shape[0] * width / p.shape[1]))) for p in pictures]
    return cv2.imencode(".jpg", stack(scaled, width), [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(overview(DeltaStore(), sys.argv[1]))
