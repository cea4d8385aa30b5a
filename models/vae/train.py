"""Trains the nano autoencoder: `python -m models.vae.train --videos DIR [DIR ...] --minutes N --out models/vae/nano`.

Loss: mean absolute error + `lpips_weight` x LPIPS on sampled frames + `kl_weight` x mean KL of the latents to a unit
normal. A run stopped by its time or by a signal goes on from the state file in `--work`; every draw depends on seed
and step alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from platformdirs import user_cache_path
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional

from models.features.lpips import LPIPS, load_lpips
from models.vae.data import ClipSampler, ClipShape, media_files, read_clip
from models.vae.whole_clip import channels_last, decode_latents, encode_moments

NANO_ARCHITECTURE: dict[str, Any] = {
    "base_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "is_residual": True,
    "z_dim": 16,
    "temperal_downsample": [False, True, True],
}
"""2.7 M parameters. The residual shortcuts of Wan 2.2's autoencoder, without its patches: diffusers' VACE pipeline
takes the spatial factor from the number of levels, which patches would make wrong."""

# Every shape stays below the size from which torch 2.13 corrupts memory in the bf16 backward of conv3d.
# Sizes may grow at use without harm, lengths may not: trained on five frames only, it loses 7 dB at seventeen.
_SHAPES = (ClipShape(1, 17, 48, 32), ClipShape(1, 9, 64, 48), ClipShape(1, 13, 48, 48), ClipShape(2, 5, 64, 48))
_FIRST_SHAPES = (ClipShape(3, 5, 32, 32), ClipShape(2, 9, 32, 32), ClipShape(1, 17, 32, 32))


class VaeTrainingSettings(BaseModel):
    """How the nano autoencoder is trained."""

    seed: int = Field(0, description="Seed of weights, batches and latent noise")
    steps: int = Field(6000, ge=1, description="Steps of the whole training; the learning rate ends at zero there")
    learning_rate: float = Field(7e-4, gt=0, description="Peak learning rate of AdamW")
    first_steps: int = Field(
        3000,
        ge=0,
        description="Steps on 32x32 crops without LPIPS before the larger ones: three times as many a minute",
    )
    warmup_steps: int = Field(100, ge=0, description="Steps of linear warm-up")
    decay_fraction: float = Field(0.35, gt=0, le=1, description="Share of the steps, at the end, of linear decay")
    ema_decay: float = Field(0.998, ge=0, lt=1, description="Decay of the averaged weights that are exported")
    lpips_weight: float = Field(0.2, ge=0, description="Weight of LPIPS (alex)")
    lpips_frames: int = Field(3, ge=1, description="Frames a step that LPIPS sees")
    kl_weight: float = Field(1e-5, ge=0, description="Weight of the mean KL divergence a latent value")
    synthetic: float = Field(0.15, ge=0, le=1, description="Share of drawn patterns among the clips")
    short_side: int = Field(240, ge=64, description="Short side that sources are reduced to, px")
    max_frames: int = Field(300, ge=1, description="Frames kept of one source")


class Trainer:
    """State of one training run.

    Args:
        settings: How to train.
        sampler: Where batches come from.
        lpips: Perceptual loss.
    """

    def __init__(self, settings: VaeTrainingSettings, sampler: ClipSampler, lpips: LPIPS):
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.sampler = sampler
        self.lpips = lpips
        self.vae = channels_last(AutoencoderKLWan(**NANO_ARCHITECTURE))
        initialise(self.vae)
        self.ema = {k: v.detach().clone() for k, v in self.vae.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.vae.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=1e-4
        )
        self.step = 0

    def rate(self) -> float:
        """Learning rate of the current step."""
        s = self.settings
        warm = min(1.0, (self.step + 1) / max(1, s.warmup_steps))
        left = (s.steps - self.step) / max(1.0, s.steps * s.decay_fraction)
        return s.learning_rate * min(warm, max(0.0, min(1.0, left)))

    def train_step(self) -> dict[str, float]:
        """One step; returns the loss terms."""
        s = self.settings
        generator = torch.Generator().manual_seed(s.seed * 1_000_003 + self.step)
        first = self.step < s.first_steps
        shapes = _FIRST_SHAPES if first else _SHAPES
        shape = shapes[self.step % len(shapes)]
        video = torch.from_numpy(self.sampler.batch(self.step, shape))
        video = video.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            moments = encode_moments(self.vae, video)
            mean, log_variance = moments.float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-30, 20)
            noise = torch.randn(mean.shape, generator=generator)
            result = decode_latents(self.vae, mean + (0.5 * log_variance).exp() * noise).float()
            l1 = (result - video).abs().mean()
            kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            perceptual = torch.zeros(())
            if not first:
                picked = torch.randperm(video.shape[0] * video.shape[2], generator=generator)[: s.lpips_frames]
                perceptual = self.lpips(_frames(result)[picked].clamp(-1, 1), _frames(video)[picked]).float().mean()
        loss = l1 + s.lpips_weight * perceptual + s.kl_weight * kl
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(f"the gradient of step {self.step} is not finite; lower --learning-rate")
        self.optimizer.step()
        self.step += 1
        decay = min(s.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            for name, value in self.vae.state_dict().items():
                self.ema[name].lerp_(value, 1 - decay)
        terms = {"loss": loss, "l1": l1, "lpips": perceptual, "kl": kl}
        return {name: float(value.detach()) for name, value in terms.items()}

    def averaged(self) -> AutoencoderKLWan:
        """The autoencoder with averaged weights, for measuring and export."""
        vae = AutoencoderKLWan(**NANO_ARCHITECTURE)
        vae.load_state_dict(self.ema)
        return channels_last(vae).eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """Writes everything that the next step depends on."""
        state = {
            "settings": self.settings.model_dump_json(),
            "step": self.step,
            "vae": self.vae.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Goes on from a state file.

        Raises:
            ValueError: If it was made with other settings (the number of steps may change).
        """
        state = torch.load(path, weights_only=True)
        before = VaeTrainingSettings.model_validate_json(state["settings"])
        if before.model_copy(update={"steps": self.settings.steps}) != self.settings:
            raise ValueError(f"{path} was made with other settings ({before}); give those, or another --work folder")
        self.vae.load_state_dict(state["vae"])
        self.ema = state["ema"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def initialise(vae: AutoencoderKLWan) -> None:
    """Starting weights with which the loss falls at once.

    Under torch's own, 250 steps do not get past the mean colour: each plain convolution shrinks the signal, and the
    normalisation before both ends takes away its size. So convolutions keep the variance and look mostly at the
    current frame, residual branches start at zero, and the first biases give the normalisation something that a
    signal's size shows against.
    """
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if module.weight.ndim == 5 and module.weight.shape[2:] == (3, 3, 3):
                with torch.no_grad():
                    module.weight[:, :, :2] *= 0.3
                    module.weight[:, :, 2] *= 1.6
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
    nn.init.normal_(vae.encoder.conv_in.bias, std=0.5)
    nn.init.normal_(vae.decoder.conv_in.bias, std=0.5)


def _frames(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1)


def centre_clip(source: np.ndarray, frames: int, height: int, width: int) -> Tensor:
    """Middle frames of a source, cropped to the clip's shape and reduced, as `[1, 3, T, H, W]` in [-1, 1]."""
    import cv2

    frames = min(frames, 1 + 4 * ((len(source) - 1) // 4))
    start = (len(source) - frames) // 2
    full_h, full_w = source.shape[1:3]
    scale = min(full_h / height, full_w / width)
    crop_h, crop_w = round(height * scale), round(width * scale)
    y, x = (full_h - crop_h) // 2, (full_w - crop_w) // 2
    window = source[start : start + frames, y : y + crop_h, x : x + crop_w]
    small = np.stack([cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in window])
    return torch.from_numpy(small.astype(np.float32) / 127.5 - 1).permute(3, 0, 1, 2)[None]


@torch.no_grad()
def reconstruct(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Decoded mean latents of `[B, 3, T, H, W]`, through the class' own methods, as users run it."""
    return vae.decode(vae.encode(video).latent_dist.mode()).sample.float()


@torch.no_grad()
def measure(vae: AutoencoderKLWan, lpips: LPIPS, clip: Tensor) -> dict[str, float]:
    """PSNR in dB over the whole clip, LPIPS averaged over frames."""
    result = reconstruct(vae, clip)
    error = functional.mse_loss((result + 1) / 2, (clip + 1) / 2)
    return {"psnr_db": float(-10 * error.log10()), "lpips": float(lpips(_frames(result), _frames(clip)).mean())}


@torch.no_grad()
def latent_statistics(
    vae: AutoencoderKLWan, sampler: ClipSampler, batches: int = 48
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each latent channel over drawn batches."""
    values = []
    for index in range(batches):
        # Batches that training never comes to.
        video = torch.from_numpy(sampler.batch(10**9 + index, _SHAPES[0]))
        values.append(encode_moments(vae, video)[:, : vae.config.z_dim].transpose(0, 1).flatten(1))
    latents = torch.cat(values, dim=1).double()
    return latents.mean(1).tolist(), latents.std(1).tolist()


def export(trainer: Trainer, out: Path) -> None:
    """Writes the averaged weights as float16 with the latents' statistics in the configuration."""
    vae = trainer.averaged()
    mean, std = latent_statistics(vae, trainer.sampler)
    vae.register_to_config(latents_mean=[round(v, 5) for v in mean], latents_std=[round(v, 5) for v in std])
    for parameter in vae.parameters():
        parameter.data = parameter.data.half().contiguous()
    vae.save_pretrained(out)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m models.vae.train", description=__doc__)
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="videos and photos, or folders of them")
    parser.add_argument(
        "--held-out", nargs="*", default=[], help="file names (stems) that are measured, not trained on"
    )
    parser.add_argument("--minutes", type=float, required=True, help="time for this call")
    parser.add_argument("--out", type=Path, required=True, help="folder for configuration and weights")
    work = user_cache_path("itryon") / "vae-training"
    parser.add_argument("--work", type=Path, default=work, help="folder for state and log")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the network")
    for name, field in VaeTrainingSettings.model_fields.items():
        kind = float if field.annotation is float else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=field.description)
    args = parser.parse_args(argv)
    chosen = {n: v for n in VaeTrainingSettings.model_fields if (v := getattr(args, n)) is not None}
    settings = VaeTrainingSettings(**chosen)
    torch.set_num_threads(args.threads)

    files = media_files(args.videos)
    held_out = {f.stem: f for f in files if f.stem in args.held_out}
    if missing := set(args.held_out) - set(held_out):
        parser.error(f"--held-out names files that are not there: {', '.join(sorted(missing))}")
    clips = [read_clip(f, settings.short_side, settings.max_frames) for f in files if f.stem not in held_out]
    tests = {
        name: centre_clip(read_clip(f, settings.short_side, 10**6), 17, 128, 96) for name, f in sorted(held_out.items())
    }
    sampler = ClipSampler(clips, settings.seed, settings.synthetic)
    lpips = load_lpips("alex")
    trainer = Trainer(settings, sampler, lpips)
    args.work.mkdir(parents=True, exist_ok=True)
    state = args.work / "state.pt"
    if state.exists():
        trainer.load(state)
    print(
        f"{len(clips)} sources, {len(tests)} held out, starting at step {trainer.step} of {settings.steps}", flush=True
    )

    stop = False

    def leave(*_: object) -> None:
        nonlocal stop
        stop = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    begin = saved = time.monotonic()
    recent: list[dict[str, float]] = []
    with (args.work / "log.jsonl").open("a") as log:
        while trainer.step < settings.steps and not stop and time.monotonic() - begin < args.minutes * 60:
            recent.append(trainer.train_step())
            if trainer.step % 50 == 0:
                row: dict[str, Any] = {k: float(np.mean([r[k] for r in recent])) for k in recent[0]}
                row |= {"step": trainer.step, "minutes": (time.monotonic() - begin) / 60}
                recent.clear()
                if trainer.step % 500 == 0 and tests:
                    vae = trainer.averaged()
                    row["held_out"] = {name: measure(vae, lpips, clip) for name, clip in tests.items()}
                log.write(json.dumps(row) + "\n")
                log.flush()
                print(json.dumps(row), flush=True)
            if time.monotonic() - saved > 180:
                trainer.save(state)
                saved = time.monotonic()
    trainer.save(state)
    export(trainer, args.out)
    vae = AutoencoderKLWan.from_pretrained(args.out, torch_dtype=torch.float32, local_files_only=True).eval()
    for name, clip in tests.items():
        print(name, measure(vae, lpips, clip))
    print(f"step {trainer.step} of {settings.steps}, written to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
