"""`python -m pipelines.checkpoints.live --clips FILE …`: the trainer, with clips encoded on the fly.

`models` knows of no table and no video, so what reads them is handed to the trainer from here. Everything else is
`python -m models.training` and its arguments. The samples are those of the cache, to the bit: the same functions make
both, and clips whose annotations or settings changed since the training set was pinned are refused.
"""

from __future__ import annotations

import argparse
import sys
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from models.training.__main__ import main as train_main
from models.training.blobs import NotFinite, check_finite
from models.training.data import DataError, clip_name
from pipelines.clips.encoders import ClipEncoders
from pipelines.clips.samples import VideoSource, clip_latents, clip_text
from pipelines.clips.settings import ClipsSettings
from pipelines.clips.stage import ClipsStage
from pipelines.clips.windows import Window
from pipelines.stage import VideoTask
from pipelines.stage.plan import make_plan
from pipelines.store import DeltaStore
from pipelines.store.schemas import CLIPS, VIDEOS
from pipelines.training_sets.build import MANIFEST_COLUMNS
from pipelines.video import VideoError

_KEPT_VIDEOS = 4  # whose annotations stay in memory


class LiveClips:
    """Decodes and encodes the frames of clips when they are asked for; a `models.training.data.ClipReader`.

    Args:
        store: The lake.
        settings: How the clips were cut, and their encoders.
    """

    # Encoders may hold an accelerator, which does not survive a fork.
    start_method = "spawn"

    def __init__(self, store: DeltaStore, settings: ClipsSettings):
        self.store = store
        self.settings = settings
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._encoders: ClipEncoders | None = None
        self._batch = lru_cache(maxsize=None)(self._read_batch)
        self._source = lru_cache(maxsize=_KEPT_VIDEOS)(self._open_source)

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _read_batch(self, batch: str) -> tuple[dict[str, dict[str, Any]], set[str], dict[str, dict[str, Any]]]:
        """Clips by identity, videos whose clips are up to date, and videos by identity."""
        plan = make_plan(ClipsStage(self.settings), self.store, batch)
        clips = self.store.read(CLIPS, MANIFEST_COLUMNS, {"batch": batch}).to_pylist()
        videos = self.store.read(VIDEOS, where={"batch": batch}).to_pylist()
        return {r["clip_id"]: r for r in clips}, plan.kept, {r["video_id"]: r for r in videos}

    def _open_source(self, batch: str, video_id: str) -> VideoSource:
        return VideoSource(VideoTask(self.store, self._batch(batch)[2][video_id], 1, lambda frames: None))

    def _opened(self) -> ClipEncoders:
        if self._encoders is None:
            self._encoders = ClipEncoders(self.settings)
        return self._encoders

    def check(self, row: dict[str, Any]) -> tuple[int, int, int]:
        """See `ClipReader`: the clip must be what the lake's annotations give now; no frame is decoded."""
        with self._lock:
            try:
                clips, current, _ = self._batch(row["batch"])
                encoders = self._opened()
            except (LookupError, OSError) as e:
                raise DataError(f"{clip_name(row)}: {e}") from e
        pinned = {name: row[name] for name in MANIFEST_COLUMNS}
        if row["video_id"] not in current or clips.get(row["clip_id"]) != pinned:
            raise DataError(
                f"{clip_name(row)}: annotations or settings changed since it was pinned, frames encoded now would be "
                "another sample; materialise clips of its batch and the training set again"
            )
        return 1, encoders.vae.config.z_dim, encoders.text_dim

    def read(self, row: dict[str, Any]) -> dict[str, torch.Tensor]:
        """See `ClipReader`."""
        frames, height, width = (int(n) for n in row["bucket"].split("x"))
        window = Window(row["start_frame"], frames, self.settings.frame_stride)
        encoders = self._opened()
        try:
            source = self._source(row["batch"], row["video_id"])
            segments = source.captions(window).segments
            tensors = clip_latents(source, window, (height, width), encoders) | clip_text(source, segments, encoders)
            check_finite(tensors)
        except (OSError, ValueError, VideoError, NotFinite) as e:
            raise DataError(f"{clip_name(row)}: {e}") from e
        return tensors


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the trainer's exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.checkpoints.live", add_help=False, allow_abbrev=False)
    parser.add_argument("--clips", required=True, help="JSON file with the settings of the stage `clips`")
    arguments, rest = parser.parse_known_args(argv)
    settings = ClipsSettings.model_validate_json(Path(arguments.clips).read_text())
    return train_main(rest, lambda config: LiveClips(DeltaStore(config.blob_root), settings))


if __name__ == "__main__":
    sys.exit(main())
