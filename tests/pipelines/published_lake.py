"""A lake with one checkpoint that was trained, dressed videos and was judged, as the stages would have left it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.checkpoint import TrainingState
from models.training.run import weights_sha256
from pipelines.evaluation.leaderboard import write_leaderboard
from pipelines.evaluation.promotion import promote
from pipelines.store import DeltaStore
from pipelines.store.schemas import ISR_SCORES, TRYON_VIDEOS, VIDEO_METRICS
from pipelines.training_sets.build import build_training_set
from pipelines.training_sets.settings import TrainingSetSettings
from pipelines.video import VideoWriter
from tests.models.training_clips import TINY
from tests.models.training_runs import config
from tests.pipelines.scored_checkpoints import add_checkpoint, put
from tests.pipelines.test_training_sets import clip, write

ID, PARENT = "c0ffee0000000001", "c0ffee0000000000"
NANO = TINY | {"text_dim": 384}
"""A transformer that fits the embedded encoders, and is made in milliseconds."""
COLOURS = {"v1": (200, 40, 40), "v2": (40, 160, 60), "v3": (60, 60, 200), "v4": (230, 200, 40)}
"""Source video -> colour of all frames of its side-by-side video."""
RECORD = {
    "settings": {"steps": 8, "guidance_scale": 2.0, "seed": 0, "flow_shift": 3.0, "num_frames": 17, "device": "cpu"},
    "spans": [{"start": 0, "end": 5, "text": "she zips the jacket up"}],
    "digests": {"transformer": "0" * 64, "vae": "a" * 64, "text_encoder": "b" * 64},
}


def write_export(folder: Path, init_from: str | None = "embedded", scale: float = 1.0, **model: Any) -> tuple[str, str]:
    """A trainer's export; returns the digest of its weights and its configuration."""
    torch.manual_seed(0)
    network = ITryOnTransformer3DModel(**{**NANO, **model})
    with torch.no_grad():
        network.proj_out.weight *= scale
    network.save_pretrained(folder / "transformer")
    run = config(folder, folder, init_from=init_from, model={}, validation_vae=str(folder)).model_dump(mode="json")
    state = TrainingState(6, run, "nano", "encoder", "set1", "m", init_from, 12.3, {"torch": "2.13.0"}, {"groups": []})
    (folder / "training.json").write_text(json.dumps(asdict(state)))
    return weights_sha256(folder / "transformer"), json.dumps(run)


def side_by_side(store: DeltaStore, folder: Path, video: str) -> str:
    """Blob of a side-by-side video in one colour."""
    path = folder / f"{video}.mp4"
    with VideoWriter(path, fps=8, width=256, height=96) as writer:
        for _ in range(17):
            writer.write(np.broadcast_to(np.array(COLOURS[video], np.uint8), (96, 256, 3)).copy())
    return store.blobs.put_file(path)


def fill(store: DeltaStore, folder: Path) -> None:
    """Two checkpoints, the second of them evaluated on four videos and promoted."""
    write(store, "old", clip("v8-0", "old"), clip("v9-0", "old", action_mask=[0.0] * 5))
    write(store, "new", clip("v5-0", "new"), clip("v5-8", "new"), clip("v6-0", "new", bucket="17x96x128"))
    first = build_training_set(store, TrainingSetSettings(batches=["old"]))
    second = build_training_set(store, TrainingSetSettings(new_batches=["new"], replay_share=0.25))
    add_checkpoint(
        store, PARENT, videos=[], training_set_id=first["training_set_id"], config='{"init_from": "embedded"}'
    )
    root = Path(store.root) / "checkpoints"
    digest, run = write_export(folder / "export", init_from=str(root / PARENT))
    add_checkpoint(
        store,
        ID,
        videos=[],
        number=1,
        training_set_id=second["training_set_id"],
        parent_checkpoint_id=PARENT,
        weights_sha256=digest,
        config=run,
    )
    (folder / "export").rename(root / ID)
    row = {"checkpoint_id": ID, "garment_id": "g", "start_frame": 3, "num_frames": 17, "record": json.dumps(RECORD)}
    row |= {"status": "ok", "uri": None}
    made = [
        row | {"tryon_id": f"t-{v}", "video_id": v, "paired": v in ("v1", "v2", "v3"), "side_by_side_uri": uri}
        for v, uri in ((v, side_by_side(store, folder, v)) for v in COLOURS)
    ]
    broken = {"status": "error", "reason": "no person in /home/jane/film.mp4", "record": "{}", "side_by_side_uri": None}
    put(store, TRYON_VIDEOS, [*made, row | {"tryon_id": "t-v5", "video_id": "v5", "paired": False} | broken])
    metric = {"checkpoint_id": ID, "mode": "corrected", "network": "", "num_samples": 17}
    alex = f"lpips-alex {'c' * 64}"
    of_videos = [
        metric | {"tryon_id": f"t-{v}", "video_id": v, "metric": name, "value": value, "network": network}
        for v, lpips, ssim in (("v1", 0.2, 0.8), ("v2", 0.4, 0.9), ("v3", 0.1, 0.7))
        for name, value, network in (("lpips", lpips, alex), ("ssim", ssim, ""))
    ]
    no_truth = {"value": None, "num_samples": 0, "reason": "unpaired, or no try-on video", "network": ""}
    of_videos += [
        metric | {"tryon_id": f"t-{v}", "video_id": v, "metric": name} | no_truth
        for v in ("v4", "v5")
        for name in ("lpips", "ssim")
    ]
    whole = metric | {"tryon_id": "", "video_id": None, "num_samples": 3}
    lost = {"value": None, "num_samples": 0, "reason": "needs x.pth: put it into /root/.cache/itryon/metrics (zoo)"}
    of_set = [
        whole | {"metric": "lpips", "value": 0.23333, "low": 0.1, "high": 0.4, "network": alex},
        whole | {"metric": "ssim", "value": 0.8, "low": 0.7, "high": 0.9},
        whole | {"metric": "fvd_i3d_paired", "value": 2451.6, "low": 2002.4, "high": 2858.2, "network": "i3d d"}
        | {"note": "3 clips cannot span 400 dimensions"},
        whole | {"metric": "vfid_resnext_unpaired"} | lost,
    ]  # fmt: skip
    put(store, VIDEO_METRICS, [*of_videos, *of_set])
    verdict = {"checkpoint_id": ID, "start_frame": 0, "end_frame": 5, "text": "x", "score": 0.5, "rationale": "seen"}
    verdict |= {"judge": "kinematic 2", "judge_digest": "d", "judge_kappa": 0.23, "frames": [], "votes": []}
    said = [("v1", "operate_zipper", True), ("v2", "operate_zipper", False), ("v3", "adjust_hem", None)]
    put(
        store,
        ISR_SCORES,
        [verdict | {"tryon_id": f"t-{v}", "video_id": v, "action": a, "success": s} for v, a, s in said],
    )
    write_leaderboard(store)
    promote(store, ID)
