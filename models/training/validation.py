"""Try-on videos from the weights just trained: what the loss does not show.

The clips' cached latents are already what the pipeline's denoiser reads, so its own loop is used on them. The average
of the weights is sampled where the run keeps one. Nothing that the training depends on is touched: the noise comes
from a generator of its own, and global random states are put back.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler

from models.filesystem import open_root
from models.itryon.conditioning import SPATIAL_FACTOR, decode, from_model_range
from models.itryon.pipeline import ITryOnPipeline
from models.training.config import TrainConfig, TrainingRefused
from models.training.data import Batch, ClipSet, DataError
from models.training.objective import prepare_conditions, step_generator
from models.training.pictures import contact_sheet, write_video
from models.training.run import Run, averaged


@dataclass(frozen=True)
class Validation:
    """Files of one validation.

    Attributes:
        step: Optimiser steps done.
        video: mp4 with source, agnostic frame and result side by side, one clip behind the other.
        sheet: JPEG contact sheet of the same.
        frames: The video's frames, (F, H, W, 3) uint8.
    """

    step: int
    video: Path
    sheet: Path
    frames: np.ndarray


_COMMON = ("control_hidden_states", "hand_hidden_states", "hand_frame_mask")
"""Conditions that guidance does not drop."""


class Validator:
    """Makes validation videos of the same clips throughout a run.

    Args:
        config: The run; `validate_every` is set.
        clips: The clips it trains on.

    Raises:
        DataError: Clips of split `val` are damaged, or were encoded by something else than those trained on.
        TrainingRefused: The VAE is missing, or is none for these latents.
    """

    def __init__(self, config: TrainConfig, clips: ClipSet):
        self.config = config
        self.clips = _validation_clips(config, clips)
        chosen = sorted(range(len(self.clips.rows)), key=lambda i: not any(self.clips.rows[i]["action_mask"]))
        self.indices = chosen[: config.validation_clips]
        with _random_state_kept():
            self._vae = _load_vae(config.validation_vae)
        if self._vae.config.z_dim != clips.latent_channels:
            raise TrainingRefused(
                f"validation_vae: {config.validation_vae} decodes latents of {self._vae.config.z_dim} channels, the "
                f"clips have {clips.latent_channels}: name the checkpoint whose autoencoder encoded them"
            )

    def __call__(self, run: Run) -> Validation:
        """Sample, decode and write the files of the current step."""
        device = run.accelerator.device
        parts, names = [], []
        with _random_state_kept(), torch.no_grad(), averaged(run):
            model = run.plain_model
            model.eval()
            try:
                pipe = ITryOnPipeline(
                    self._vae.to(device), model, FlowMatchEulerDiscreteScheduler(shift=self.config.flow_shift)
                )
                pipe.set_progress_bar_config(disable=True)
                for number, index in enumerate(self.indices):
                    batch = self.clips.collate([index]).to(device)
                    with run.accelerator.autocast():
                        latents = self._sample(pipe, batch, number)
                    parts.append(_panels(self._vae, batch, latents))
                    names.append(f"clip {batch.clip_ids[0]}")
            finally:
                model.train()
                self._vae.to("cpu")
        folder = run.checkpoints.root / "validation"
        stem = folder / f"step_{run.state.step}"
        video, sheet = stem.with_suffix(".mp4"), stem.with_suffix(".jpg")
        folder.mkdir(exist_ok=True)
        frames = write_video(video, parts)
        contact_sheet(sheet, parts, names)
        return Validation(run.state.step, video, sheet, frames)

    def _sample(self, pipe: ITryOnPipeline, batch: Batch, number: int) -> torch.Tensor:
        """Clean latents of one clip, (1, 16, T, h, w)."""
        config = self.config
        generator = step_generator(config.seed, number)
        kept = {"caption_dropout": 0.0, "action_dropout": 0.0, "hand_dropout": 0.0, "reference_dropout": 0.0}
        conditional = prepare_conditions(batch, config.model_copy(update=kept), generator)
        inputs: dict[str, Any] = conditional.kwargs
        if config.validation_guidance > 1:
            dropped = kept | {"caption_dropout": 1.0, "action_dropout": 1.0}
            other: dict[str, Any] = prepare_conditions(batch, config.model_copy(update=dropped), generator).kwargs
            # What both halves have in common is given once.
            inputs = {k: v if k in _COMMON else torch.cat([other[k], v]) for k, v in inputs.items()}
        with pipe.progress_bar(total=config.validation_steps) as progress:
            latents = pipe._denoise(
                inputs,
                torch.randn(conditional.target.shape, generator=step_generator(config.seed, number)),
                None,
                config.validation_steps,
                config.validation_guidance,
                1.0,
                None,
                None,
                progress,
                None,
                (),
            )
        return latents[:, :, batch.reference.shape[2] :]


def _validation_clips(config: TrainConfig, clips: ClipSet) -> ClipSet:
    system, path = open_root(config.manifest)
    if "val" not in pq.ParquetFile(path, filesystem=system).read(["split"])["split"].to_pylist():
        return clips
    found = ClipSet(config.manifest, config.blob_root, "val", clips.reader)
    if found.encoder_digest != clips.encoder_digest:
        raise DataError(
            f"The clips of split val were made by encoder {found.encoder_digest[:12]}, those of {config.split} by "
            f"{clips.encoder_digest[:12]}: encode the older ones anew, or leave them out of the training set"
        )
    return found


def _load_vae(source: str) -> Any:
    from models.vae import load_nano_vae

    if source == "nano":
        return load_nano_vae()
    if not (Path(source) / "vae").is_dir():
        raise TrainingRefused(
            f"validation_vae: {source} has no folder vae/: give nano, or a Wan2.1 checkpoint in diffusers layout"
        )
    vae = AutoencoderKLWan.from_pretrained(
        source, subfolder="vae", torch_dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
    )
    return vae.eval().requires_grad_(False)


def _panels(vae: Any, batch: Batch, latents: torch.Tensor) -> np.ndarray:
    """Source, agnostic frame and result side by side, (F, H, 3 W, 3) uint8."""

    def video(values: torch.Tensor) -> np.ndarray:
        return from_model_range(decode(vae, values)[0])

    mask = _pixel_mask(batch.mask[0]).cpu().numpy()[..., None]
    agnostic = np.where(mask, video(batch.reactive), video(batch.inactive))
    return np.concatenate([video(batch.target), agnostic, video(latents)], 2)


def _pixel_mask(mask: torch.Tensor) -> torch.Tensor:
    """Mask channels (64, T, h, w) of 0 and 1 -> (F, H, W) bool; every frame of a latent has its mask."""
    _, count, rows, columns = mask.shape
    pixels = mask.view(SPATIAL_FACTOR, SPATIAL_FACTOR, count, rows, columns).permute(2, 3, 0, 4, 1).flatten(3, 4)
    pixels = pixels.flatten(1, 2) > 0.5
    return torch.cat([pixels[:1], pixels[1:].repeat_interleave(4, dim=0)])


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
