"""What a step cache saves and costs: `python -m benchmarks.caches --lake LAKE --batch BATCH` (an annotated batch).

The embedded checkpoint dresses the first frames of each video in another garment, at the settings of `tryon`, with and
without diffusers' `FirstBlockCache`; the seed is the same, so that what differs is the cache's doing. CPU seconds are
those of one thread and compared within a video.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FirstBlockCacheConfig

from benchmarks.lake import batch_to_dress
from models.itryon.conditioning import reference_image
from models.itryon.embedded import EMBEDDED_DIR
from models.itryon.pipeline import ITryOnPipeline
from pipelines.captions.rows import global_caption
from pipelines.clips.conditions import window_frames
from pipelines.clips.windows import nearest_size
from pipelines.store import DeltaStore
from pipelines.tryon.annotations import StoredAnnotations
from pipelines.tryon.batch import choose_pairs, load_garment
from pipelines.tryon.load import load_pipeline, resolved
from pipelines.tryon.run import spans_of
from pipelines.tryon.settings import TryOnSettings

THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2)


def calls(store: DeltaStore, settings: TryOnSettings) -> list[dict[str, Any]]:
    """One call of the pipeline for each video: its first window in another garment."""
    assert settings.num_frames is not None and settings.sizes is not None
    found = []
    for pair in choose_pairs(store, settings):
        rows, garment = StoredAnnotations(store, pair.video), load_garment(store, pair)
        height, width = nearest_size(pair.video["height"], pair.video["width"], settings.sizes)
        path = store.blobs.verified_path(pair.video["uri"])
        near = rows.of_frames(0, settings.num_frames)
        window = window_frames(
            path, 0, settings.num_frames, height, width, pose=near.pose, masks=near.masks, hands=near.hands, pad=True
        )
        found.append(
            {
                "video": window.target,
                "mask": window.mask,
                "agnostic_video": window.agnostic,
                "garments": [reference_image(garment.image, height, width, garment.mask)],
                "hand_video": window.hands,
                "hand_points": window.hand_points,
                "hand_present": window.hand_present,
                "prompt": global_caption(rows.captions),
                "actions": spans_of(rows.captions),
                "num_inference_steps": settings.steps,
                "guidance_scale": settings.guidance_scale,
                "blend_edge": None,
            }
        )
    return found


def measure(pipe: ITryOnPipeline, call: dict[str, Any]) -> tuple[np.ndarray, float, int]:
    """Frames, CPU seconds, and the number of steps in which all blocks were computed."""
    computed: list[int] = []
    hook = pipe.transformer.blocks[-1].ffn.register_forward_hook(lambda *_: computed.append(1))
    started = time.process_time()
    (frames,) = pipe(**call, generator=torch.Generator().manual_seed(0), return_dict=False)
    hook.remove()
    return frames, time.process_time() - started, len(computed)


def table(store: DeltaStore, settings: TryOnSettings) -> list[dict[str, float]]:
    """A row a threshold: share of steps computed, CPU time to that without cache, differences in levels of 255."""
    pipe = load_pipeline(EMBEDDED_DIR, settings).pipe
    settings = resolved(settings, pipe)
    todo = calls(store, settings)
    measure(pipe, todo[0] | {"num_inference_steps": 1})
    plain = [measure(pipe, call) for call in todo]
    rows = []
    for threshold in THRESHOLDS:
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        cached = [measure(pipe, call) for call in todo]
        pipe.transformer.disable_cache()
        off = np.concatenate(
            [np.abs(c[0].astype(int) - p[0])[m["mask"] > 0].ravel() for c, p, m in zip(cached, plain, todo)]
        )
        rows.append(
            {
                "threshold": threshold,
                "computed": sum(c[2] for c in cached) / sum(p[2] for p in plain),
                "cpu_ratio": float(np.median([c[1] / p[1] for c, p in zip(cached, plain)])),
                "mean": float(off.mean()),
                "p99": float(np.percentile(off, 99)),
                "max": float(off.max()),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    store, settings = batch_to_dress("benchmarks.caches", __doc__, argv)
    for row in table(store, settings):
        print("| {threshold:g} | {computed:.0%} | {cpu_ratio:.2f} | {mean:.2f} | {p99:.0f} | {max:.0f} |".format(**row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
