"""Measures one checkpoint: each held-back clip in its other garment, with its captions and with none.

The truth is exact. `done` is the rendered clip in the other garment, `undone` the same with the cloth left alone while
the hands move. Where those two differ, a result is nearer to one or the other, and that is the verdict: no judge errs.
Asked by the caption, an interaction should be done; asked for nothing, it should not, although the hands are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablation.data import test_clips
from benchmarks.ablation.plan import TEST, AblationSettings
from pipelines.clips.garments import garment_photo
from pipelines.evaluation.counterfactual import compare
from pipelines.store import DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, GARMENTS, VIDEOS
from pipelines.tryon.batch import annotations_of
from pipelines.tryon.load import load_pipeline
from pipelines.tryon.run import Garment, tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoReader

_CHANGED = 24
"""Largest difference of a channel, of 255, from which a pixel belongs to what the interaction changes."""
_LEAST = 0.001
"""Share of a frame that must change for the frame to count."""


def nearness(result: np.ndarray, done: np.ndarray, undone: np.ndarray) -> tuple[float, np.ndarray]:
    """How near a result is to the interaction done rather than left undone.

    Args:
        result: (F, H, W, 3) uint8, as the others.
        done: The truth with the interaction.
        undone: The truth without.

    Returns:
        0 (undone) to 1 (done), one half where it is as far from both, averaged over the pixels where the truths
        differ; and (F,) bool, the frames in which they do.

    Raises:
        ValueError: The truths do not differ.
    """
    changed = np.abs(done.astype(np.int16) - undone).max(-1) >= _CHANGED
    frames = changed.mean((1, 2)) >= _LEAST
    changed &= frames[:, None, None]
    if not changed.any():
        raise ValueError("The clip looks the same done and undone")
    to_done, to_undone = (float(np.abs(result.astype(np.int16) - t)[changed].mean()) for t in (done, undone))
    return to_undone / (to_done + to_undone), frames


def evaluate(checkpoint: Path, work: Path, settings: AblationSettings) -> list[dict[str, Any]]:
    """One row a clip: `asked` and `unasked` (nearness to done), `error`, `error_interaction`, `unchanged`."""
    store = DeltaStore(work / "lake")
    wanted = TryOnSettings(
        steps=settings.denoising_steps,
        guidance_scale=settings.guidance_scale,
        sizes=[(settings.model_height, settings.model_width)],
    )
    loaded = load_pipeline(checkpoint, wanted)
    config = json.loads((checkpoint / "training.json").read_text())["config"]
    loaded.use_hands, loaded.use_actions = config["use_hands"], config["use_action_captions"]
    videos = {Path(r["source_path"]).name: r for r in store.read(VIDEOS, where={"batch": TEST}).to_pylist()}
    garments = {r["garment_id"]: r for r in store.read(GARMENTS).to_pylist()}
    truth = work / "clips" / TEST
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for record in test_clips(work, settings):
            video = videos[record["video"]]
            if len(store.read(AGNOSTIC_MASKS, ["frame"], {"batch": TEST, "video_id": video["video_id"]})) == 0:
                # Annotation failed, for every row of the table alike.
                continue
            photo = garments[video["tryon_garment_id"]]
            garment = Garment(*garment_photo(store, photo), photo["garment_id"])
            source = _frames(truth / record["video"])
            done, undone = (_frames(truth / record[k]) for k in ("counterfactual", "undone"))
            results = {}
            # What captions do not reach is the same with them and without.
            asks = (("asked", None), ("unasked", [])) if loaded.use_actions else (("asked", None),)
            for name, spans in asks:
                target = Path(folder) / f"{name}.mp4"
                path = store.blobs.local_path(video["uri"])
                tryon_video(loaded, path, [garment], annotations_of(store, video), target, wanted, spans=spans)
                results[name] = _frames(target)
            results.setdefault("unasked", results["asked"])
            row: dict[str, Any] = {"clip": record["video"]}
            for name, result in results.items():
                row[name], frames = nearness(result, done, undone)
            row["error"], row["unchanged"], *_ = compare(results["asked"], source, done, done)
            row["error_interaction"], *_ = compare(results["asked"][frames], source[frames], done[frames], done[frames])
            rows.append(row)
    return rows


def _frames(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([f.rgb for f in reader.frames()])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line, for a process of its own: writes the rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the trainer's final/ folder")
    parser.add_argument("--work", type=Path, required=True, help="the ablation's folder")
    parser.add_argument("--settings", type=Path, required=True, help="JSON of the ablation's settings")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = evaluate(args.checkpoint, args.work, AblationSettings.model_validate_json(args.settings.read_text()))
    partial = args.out.with_suffix(".partial")
    partial.write_text(json.dumps(rows))
    partial.replace(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
