"""Unpaired try-on against the truth: rendered clips exist in the other garment, too, which no real data set has.

`python -m pipelines.evaluation.counterfactual --clips FOLDER --out SHEET.jpg` dresses the clips of a studio folder in
the garment of their counterfactual and compares, in the pixels where the two garments' videos differ. Two figures say
what an error is worth: that of doing nothing, and that of the autoencoder alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich.progress import track

from models.itryon.embedded import EMBEDDED, checkpoint_source
from pipelines.evaluation.degrade import through_autoencoder
from pipelines.ingest.manifest import MANIFEST, ManifestEntry, parse_manifest
from pipelines.previews.canvas import encode as encode_jpeg
from pipelines.previews.canvas import fitted, heading, paragraph, stack, strip
from pipelines.store import DeltaStore
from pipelines.studio.mark import TRUTH
from pipelines.tryon.load import LoadedPipeline, load_pipeline
from pipelines.tryon.settings import TryOnSettings
from pipelines.tryon.single import tryon_file
from pipelines.video import VideoReader

_CHANGED = 24
"""Largest difference of a channel, of 255, from which a pixel belongs to what the other garment changes."""
_SHEET_WIDTH, _TILE = 960, 150


@dataclass(frozen=True)
class Comparison:
    """One clip in its other garment against the truth: mean absolute errors, 0 to 1, in the pixels that change.

    Attributes:
        clip: Name of the clip.
        action: What is done in it; empty where nothing is.
        error: Of the try-on.
        unchanged: Of the source, i.e. of doing nothing.
        floor: Of the truth through the autoencoder at the model's size: no model can do better.
        changed: Share of the pixels that change.
    """

    clip: str
    action: str
    error: float
    unchanged: float
    floor: float
    changed: float


def compare(result: np.ndarray, source: np.ndarray, truth: np.ndarray, best: np.ndarray) -> tuple[float, ...]:
    """Errors of result, source and best against the truth, and the share of pixels that change.

    Args:
        result: (F, H, W, 3) uint8, as the others.
        source: The clip in its own garment.
        truth: The clip in the other garment.
        best: The truth as the autoencoder gives it back.

    Raises:
        ValueError: The two garments' videos do not differ.
    """
    changed = np.abs(source.astype(np.int16) - truth).max(-1) >= _CHANGED
    if not changed.any():
        raise ValueError("The clip and its counterfactual do not differ")
    errors = [float(np.abs(v.astype(np.int16) - truth)[changed].mean()) / 255 for v in (result, source, best)]
    return (*errors, float(changed.mean()))


def counterfactuals(folder: Path) -> list[tuple[ManifestEntry, str, Path]]:
    """Clips of a studio folder that were rendered in another garment, too.

    Returns:
        For each, its line of the manifest, the photo of the other garment below the folder, and the video in it.

    Raises:
        ValueError: A line of the manifest is wrong, or does not say what is done in its clip.
        FileNotFoundError: The folder holds no clip with a counterfactual.
    """
    found = []
    with (folder / MANIFEST).open("rb") as lines:
        for line in parse_manifest(lines):
            if line.entry is None:
                raise ValueError(f"{folder / line.source}: {line.error}")
            record = folder / TRUTH / f"{Path(line.entry.video).stem}.json"
            other = json.loads(record.read_text())["counterfactual"] if record.is_file() else None
            if line.entry.tryon_garment and other:
                if "actions" not in line.entry.model_fields_set:
                    raise ValueError(f"{folder / line.source} names no actions: render without --no-labels")
                found.append((line.entry, line.entry.tryon_garment, folder / other))
    if not found:
        raise FileNotFoundError(f"{folder} holds no clip with a counterfactual: render it without --no-counterfactual")
    return found


def evaluate_clips(
    folder: Path, loaded: LoadedPipeline, settings: TryOnSettings, work: Path, most: int | None = None
) -> tuple[list[Comparison], list[np.ndarray]]:
    """Dress every clip of a studio folder that has a counterfactual; rows of a contact sheet come along.

    Raises:
        ValueError: A line of the manifest is wrong, or does not say what is done in its clip.
        FileNotFoundError: The folder holds no clip with a counterfactual.
    """
    pairs = counterfactuals(folder)[:most]
    lake, comparisons, rows = DeltaStore(work / "lake"), [], []
    for entry, photo, other in track(pairs, description="dressing", disable=not sys.stderr.isatty()):
        name = Path(entry.video).stem
        written = tryon_file(
            loaded,
            folder / entry.video,
            folder / photo,
            work / f"{name}.mp4",
            lake,
            settings,
            category=entry.garment_category or "upper_body",
            spans_s=[(a.start_s, a.end_s, a.text) for a in entry.actions],
            prompt=entry.global_caption,
        )
        result, source, truth = (_frames(p) for p in (written.video, folder / entry.video, other))
        best = through_autoencoder(loaded.pipe.vae, truth, loaded.pipe.config.sizes)
        action = entry.actions[0].action if entry.actions else ""
        found = Comparison(name, action, *compare(result, source, truth, best))
        comparisons.append(found)
        garment = np.asarray(Image.open(folder / photo).convert("RGB"))
        rows += _rows(found, garment, source, result, truth, entry)
    return comparisons, rows


def _frames(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([f.rgb for f in reader.frames()])


def _rows(
    found: Comparison,
    garment: np.ndarray,
    source: np.ndarray,
    result: np.ndarray,
    truth: np.ndarray,
    entry: ManifestEntry,
) -> list[np.ndarray]:
    text = entry.actions[0].text if entry.actions else entry.global_caption
    note = f"{text} · error {found.error:.3f}, unchanged {found.unchanged:.3f}, floor {found.floor:.3f}"
    picks = np.linspace(0, len(source) - 1, 5).round().astype(int)
    height = round(_TILE * source.shape[1] / source.shape[2])
    blocks = [heading(_SHEET_WIDTH, found.clip, note)]
    for video in (source, result, truth):
        tiles = [fitted(garment, _TILE, height)] if video is result else [np.full((height, _TILE, 3), 255, np.uint8)]
        tiles += [cv2.resize(video[i], (_TILE, height), interpolation=cv2.INTER_AREA) for i in picks]
        blocks.append(strip(tiles))
    return blocks


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluation.counterfactual", description=__doc__)
    parser.add_argument("--clips", type=Path, required=True, help="studio folder with counterfactuals")
    parser.add_argument("--checkpoint", default=EMBEDDED, help="checkpoint folder; the embedded one by default")
    parser.add_argument("--out", type=Path, required=True, help="contact sheet to write, jpg")
    parser.add_argument("--most", type=int, help="dress that many clips only")
    parser.add_argument("--steps", type=int, default=TryOnSettings().steps, help="denoising steps")
    parser.add_argument("--guidance", type=float, default=TryOnSettings().guidance_scale, help="guidance scale")
    args = parser.parse_args(argv)
    settings = TryOnSettings(steps=args.steps, guidance_scale=args.guidance)
    loaded = load_pipeline(checkpoint_source(args.checkpoint), settings)
    with tempfile.TemporaryDirectory() as work:
        comparisons, rows = evaluate_clips(args.clips, loaded, settings, Path(work), args.most)
    rows.insert(0, paragraph(_SHEET_WIDTH, "each clip: source · garment and try-on · the rendered truth"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(encode_jpeg(stack(rows, _SHEET_WIDTH), 4_000_000))
    for found in comparisons:
        print(json.dumps(asdict(found)))
    mean = {k: float(np.mean([getattr(c, k) for c in comparisons])) for k in ("error", "unchanged", "floor")}
    print("mean", json.dumps(mean))
    return 0


if __name__ == "__main__":
    sys.exit(main())
