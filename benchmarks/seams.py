"""Where windows of a try-on meet: `python -m benchmarks.seams --lake LAKE --batch BATCH` (an annotated batch).

The embedded checkpoint dresses each video in another garment, as `tryon_videos` does. Printed is how much more
neighbouring frames of the file change where windows meet than elsewhere, of the result and, because people move, of the
source in the same frames.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.lake import batch_to_dress
from models.itryon.embedded import EMBEDDED_DIR
from models.itryon.windows import seam_ratio
from pipelines.arrays import decode_mask
from pipelines.store import DeltaStore
from pipelines.tryon.annotations import StoredAnnotations
from pipelines.tryon.batch import Pair, choose_pairs, load_garment
from pipelines.tryon.load import LoadedPipeline, load_pipeline
from pipelines.tryon.run import tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoReader


def seams(store: DeltaStore, loaded: LoadedPipeline, settings: TryOnSettings, pair: Pair) -> tuple[float, float]:
    """Seam ratio of the result and of the source.

    Raises:
        ValueError: The video is no longer than one window.
    """
    source = store.blobs.verified_path(pair.video["uri"])
    rows = StoredAnnotations(store, pair.video)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.mp4"
        record = tryon_video(loaded, source, [load_garment(store, pair)], rows, output, settings)
        videos = [_frames(output), _frames(source)]
    height, width = videos[1].shape[1:3]
    masks = np.zeros(videos[1].shape[:3], np.uint8)
    for row in rows.of_frames(0, len(masks)).masks.to_pylist():
        masks[row["frame"]] = decode_mask(row["mask"], row["height"], row["width"])
    windows = [tuple(w) for w in record["windows"]]
    result, before = (seam_ratio(v[:, :height, :width], masks, windows) for v in videos)
    return result, before


def _frames(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([f.rgb for f in reader.frames()])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    store, settings = batch_to_dress("benchmarks.seams", __doc__, argv)
    loaded = load_pipeline(EMBEDDED_DIR, settings)
    found = []
    for pair in choose_pairs(store, settings):
        found.append(seams(store, loaded, settings, pair))
        print(f"{pair.video['video_id']}  result {found[-1][0]:.2f}, source {found[-1][1]:.2f}", flush=True)
    result, source = np.mean(found, axis=0)
    print(f"mean of {len(found)}  result {result:.2f}, source {source:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
