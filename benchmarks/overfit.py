"""Does the whole path learn? Eight rendered clips through the real annotators, then the recipe `overfit`.

Judged is the video that comes out of pure noise in one step, where the model repaints; why not the loss, says
`models.training.reconstruction`.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lake import ingested_folder, with_clips
from models.itryon.conditioning import decode, from_model_range
from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.build import build_model
from models.training.config import TrainConfig, load_config
from models.training.data import Batch, ClipSet
from models.training.loop import train
from models.training.objective import step_generator
from models.training.pictures import contact_sheet
from models.training.reconstruction import reconstruct, reconstruction_error, repainted
from models.vae import load_nano_vae
from pipelines.clips.settings import ClipsSettings
from pipelines.studio.batch import render_batch
from pipelines.studio.settings import StudioSettings

CLIPS = 8
SIZE = (64, 48)  # height and width; a quarter of nano's pixels, so that minutes of one core are enough
STUDIO = StudioSettings(
    clips=CLIPS,
    seed=11,
    width=288,
    height=384,
    frames=33,
    fps=20.0,
    interaction_share=0.25,
    val_share=0.0,
    test_share=0.0,
    counterfactual=False,
)
CUT = ClipsSettings(num_frames=17, frame_stride=2, max_windows=1, sizes=[SIZE])
_NOISE_SEED = 1_000_003  # of a noise that no training step drew


def overfit(steps: int | None = None, sheet: Path | None = None) -> dict[str, Any]:
    """Render, annotate, encode, train and judge.

    Args:
        steps: Training steps; those of the recipe by default.
        sheet: JPEG to write with source, agnostic frame and result of each clip.
    """
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rendered = render_batch(STUDIO, root / "source")
        if rendered.failures:
            raise RuntimeError(f"The benchmark's clips must all render: {rendered.failures}")
        store = ingested_folder(root, root / "source")
        _, manifest = with_clips(store, CUT)
        paths = {"manifest": manifest, "blob_root": store.root, "output_dir": str(root / "run")}
        config = load_config("overfit", {**paths, **({"steps": steps} if steps else {})})
        clips = ClipSet(manifest, store.root, "train")
        batch = clips.collate([*range(len(clips.rows))])
        torch.manual_seed(config.seed)
        before = _judge(build_model(config, clips.encoder_digest), batch, config)
        cpu = _cpu_seconds()
        summary = train(config)
        cpu = _cpu_seconds() - cpu
        model = ITryOnTransformer3DModel.from_pretrained(root / "run/final", subfolder="transformer")
        after = _judge(model, batch, config, sheet)
    return {
        "clips": len(clips.rows),
        "bucket": clips.rows[0]["bucket"],
        "interactive_clips": int(batch.action_mask.any(1).sum()),
        "steps": summary["steps"],
        "cpu_s": cpu,
        "step_s": summary["step_seconds_median"],
        "parameters": summary["parameters"],
        "first_loss": summary["first_loss"],
        "final_loss": summary["final_loss"],
        "mean_clip_error": _mean_clip_error(batch),
        "before": before,
        "after": after,
        "error_ratio": before["error"] / after["error"],
    }


def _judge(model: Any, batch: Batch, config: TrainConfig, sheet: Path | None = None) -> dict[str, float]:
    """Error of one-step latents where the model repaints; and of their pixels, which clip they resemble most."""
    latents = reconstruct(model.eval(), batch, config, step_generator(_NOISE_SEED, 0))
    vae = load_nano_vae()
    made, truth = _videos(vae, latents), _videos(vae, batch.target)
    inside = [_pixels(r) for r in repainted(batch)]
    errors = np.array([[_mean_squared(m, t, i) for t in truth] for m, i in zip(made, inside)])
    if sheet:
        agnostic = _videos(vae, batch.inactive)
        panels = [np.concatenate(p, 2) for p in zip(truth, agnostic, made)]
        contact_sheet(sheet, panels, [f"clip {c}" for c in batch.clip_ids])
    return {
        "error": reconstruction_error(latents, batch),
        "psnr_db": float(np.mean(-10 * np.log10(np.diag(errors) / 255**2))),
        "recognised": float(np.mean(errors.argmin(1) == np.arange(len(errors)))),
    }


def _mean_clip_error(batch: Batch) -> float:
    """Error of the mean of all clips: what can be had without telling them apart."""
    return reconstruction_error(batch.target.mean(0, keepdim=True).expand_as(batch.target), batch)


def _videos(vae: Any, latents: torch.Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        return [from_model_range(decode(vae, v[None].to(vae.dtype))[0]) for v in latents]


def _pixels(mask: torch.Tensor) -> np.ndarray:
    """Latent positions (1, T, h, w) -> pixels (F, H, W) bool."""
    frames = torch.cat([mask[0, :1], mask[0, 1:].repeat_interleave(4, 0)])
    return frames.repeat_interleave(8, 1).repeat_interleave(8, 2).numpy()


def _mean_squared(made: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> float:
    return float(((made.astype(np.float64) - truth)[inside] ** 2).mean())


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
