"""Measures one checkpoint: each held-back clip in its other garment, with its captions and with none.

The truth is exact. `done` is the rendered clip in the other garment, `undone` the same with the cloth left alone while
the hands move. How far a result goes through what only `done` goes through is the verdict: no judge errs. Asked by the
caption, an interaction should be done; asked for nothing, it should not, although the hands are the same. Nothing is
asked for of two clips: of `undone` itself, which wears the garment already and is dressed in it once more (the paired
setting), and of the one in which the zip is opened, against what can be seen of that around the mask.
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
from benchmarks.ablation.plan import AblationSettings
from models.itryon.losses import ActionSpan
from pipelines.clips.garments import garment_photo
from pipelines.evaluation.counterfactual import compare
from pipelines.store import DeltaStore
from pipelines.store.schemas import AGNOSTIC_MASKS, GARMENTS, VIDEOS
from pipelines.tryon.annotations import StoredAnnotations
from pipelines.tryon.load import load_pipeline
from pipelines.tryon.run import Garment, tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoReader

_AVOIDED = "the right hand zips the jacket down"
"""What guidance leads away from where nothing is asked for; of one hand, whichever hand moves."""
_CHANGED = 24
"""Largest difference of a channel, of 255, from which a pixel belongs to what the interaction changes."""
_LEAST = 0.001
"""Share of a frame that must change for it to count."""


def response(result: np.ndarray, done: np.ndarray, undone: np.ndarray, span: tuple[int, int]) -> float:
    """How far a result goes through the change that the interaction makes.

    What the interaction changes is the picture after it against the picture before it, less what the person's own
    motion changes, which is all that happens in `undone`. A wrong colour that stays, or a jacket that is open all the
    time, is no change. How strongly the motion shows in the result is fitted along with it: were it taken to show as in
    the truth, a blur without any zip would look as if the one that moves in `undone` had been closed.

    Args:
        result: (F, H, W, 3) uint8, as the others.
        done: The truth with the interaction.
        undone: The truth without.
        span: First frame of the interaction, and the one after its last.

    Returns:
        Least-squares share of the truth's change in the result's: 0 as undone, 1 as done; below 0 it goes the other
        way.

    Raises:
        ValueError: The truths do not differ in what changes.
    """
    before, after = slice(0, max(span[0], 1)), slice(min(span[1], len(done) - 1), None)

    def change(video: np.ndarray) -> np.ndarray:
        return video[after].mean(0) - video[before].mean(0)

    still = change(undone)
    wanted = change(done) - still
    pixels = np.abs(wanted).max(-1) >= _CHANGED
    if pixels.mean() < _LEAST:
        raise ValueError("The clip looks the same done and undone")
    parts = np.stack([wanted[pixels].ravel(), still[pixels].ravel()], 1)
    (share, _), *_ = np.linalg.lstsq(parts, change(result)[pixels].ravel(), rcond=None)
    return float(share)


def interaction_frames(done: np.ndarray, undone: np.ndarray) -> np.ndarray:
    """(F,) bool: frames of (F, H, W, 3) uint8 truths in which the interaction shows."""
    changed = np.abs(done.astype(np.int16) - undone).max(-1) >= _CHANGED
    return changed.mean((1, 2)) >= _LEAST


def evaluate(checkpoint: Path, work: Path, settings: AblationSettings) -> list[dict[str, Any]]:
    """One row a clip: `asked`, `quiet` and `unasked` (response), `error`, `error_interaction`, `error_changed`,
    `unchanged`.

    `quiet` is asked for nothing where nothing is done, `unasked` where something is.
    """
    store = DeltaStore(work / "lake")
    wanted = TryOnSettings(
        steps=settings.denoising_steps,
        guidance_scale=settings.guidance_scale,
        negative_action=_AVOIDED,
        sizes=[(settings.model_height, settings.model_width)],
    )
    loaded = load_pipeline(checkpoint, wanted)
    config = json.loads((checkpoint / "training.json").read_text())["config"]
    loaded.use_hands, loaded.use_actions = config["use_hands"], config["use_action_captions"]
    batch = settings.test_batch
    videos = {Path(r["source_path"]).name: r for r in store.read(VIDEOS, where={"batch": batch}).to_pylist()}
    garments = {r["garment_id"]: r for r in store.read(GARMENTS).to_pylist()}
    truth = work / "clips" / batch
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for record in test_clips(work, settings):
            video, alone = videos[record["video"]], videos[record["undone"]]
            if not all(_annotated(store, batch, v) for v in (video, alone)):
                # Annotation failed, for every row of the table alike.
                continue
            photo = garments[video["tryon_garment_id"]]
            garment = Garment(*garment_photo(store, photo), photo["garment_id"])
            source = _frames(truth / record["video"])
            done, undone = (_frames(truth / record[k]) for k in ("counterfactual", "undone"))
            results = {}
            # What captions do not reach is the same with them and without.
            asks: list[tuple[str, dict[str, Any], Sequence[ActionSpan] | None]] = [("asked", video, None)]
            asks += [("quiet", alone, [])] + ([("unasked", video, [])] if loaded.use_actions else [])
            for name, clip, spans in asks:
                target = Path(folder) / f"{name}.mp4"
                path = store.blobs.local_path(clip["uri"])
                tryon_video(loaded, path, [garment], StoredAnnotations(store, clip), target, wanted, spans=spans)
                results[name] = _frames(target)
            results.setdefault("unasked", results["asked"])
            row: dict[str, Any] = {"clip": record["video"]}
            span = record["spans"][0]["start_frame"], record["spans"][0]["end_frame"]
            for name, result in results.items():
                row[name] = response(result, done, undone, span)
            frames = interaction_frames(done, undone)
            row["error"], row["unchanged"], *_ = compare(results["asked"], source, done, done)
            row["error_interaction"], *_ = compare(results["asked"][frames], source[frames], done[frames], done[frames])
            # What `done` and `undone` differ in, and nothing else of the jacket.
            row["error_changed"], *_ = compare(results["asked"], undone, done, done)
            rows.append(row)
    return rows


def _annotated(store: DeltaStore, batch: str, video: dict[str, Any]) -> bool:
    return len(store.read(AGNOSTIC_MASKS, ["frame"], {"batch": batch, "video_id": video["video_id"]})) > 0


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
