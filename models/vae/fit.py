"""Fits the nano autoencoder: `python -m models.vae.fit --videos DIR [DIR ...] --out models/vae/nano`.

Two passes over drawn clips: the first gathers the covariance of blocks, whose leading eigenvectors are the encoder; the
second the normal equations of the decoder, which sees a latent position and its neighbours. The same files and seed
give the same weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, Field
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from models.arguments import add_settings, read_settings
from models.features.lpips import LPIPS, load_lpips
from models.vae.data import ClipSampler, ClipShape, NoClipsError, centre_clip, media_files, read_clip
from models.vae.patch_autoencoder import VALUES, PatchAutoencoder, blocks_of

_CLIP = ClipShape(1, 17, 128, 96)


class FitSettings(BaseModel):
    """How the nano autoencoder is fitted."""

    seed: int = Field(0, description="Seed of the clips that are drawn")
    z_dim: int = Field(32, ge=1, le=VALUES, description="Latent channels")
    clips: int = Field(1200, ge=1, description="Clips of 17 x 128 x 96 drawn for each of the two passes")
    first_weight: float = Field(
        4.0, gt=0, description="Weight of a clip's first frame against each later group: garments come as one frame"
    )
    contrast: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Spread of a latent channel as a power of its component's deviation: 0 gives all channels unit "
        "variance, 1 keeps the proportions of pixels",
    )
    ridge: float = Field(1e-4, ge=0, description="Ridge of the decoder's regression, as a share of the mean variance")
    drawn: float = Field(0.05, ge=0, le=1, description="Share of drawn patterns among the clips")
    short_side: int = Field(200, ge=64, description="Short side that sources are reduced to, px")
    max_frames: int = Field(45, ge=1, description="Frames kept of one source")


def fit(sampler: ClipSampler, settings: FitSettings) -> PatchAutoencoder:
    """The autoencoder of the clips that `sampler` draws."""
    vae = PatchAutoencoder(settings.z_dim)
    count, total = 0.0, torch.zeros(VALUES, dtype=torch.float64)
    square = torch.zeros(VALUES, VALUES, dtype=torch.float64)
    for blocks in _drawn(sampler, settings, "components"):
        for rows, weight in ((blocks[:, 1:], 1.0), (blocks[:, :1], settings.first_weight)):
            values = rows.reshape(-1, VALUES)
            count += weight * len(values)
            total += weight * values.sum(0).double()
            square += weight * (values.T @ values).double()
    mean = total / count
    variances, vectors = torch.linalg.eigh(square / count - torch.outer(mean, mean))
    basis = vectors.flip(1)[:, : settings.z_dim].T
    # A component has no sign of its own: the largest entry is made positive, or the last bit would decide.
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    vae.mean.data, vae.basis.data = mean.float(), basis.float()

    size = 9 * settings.z_dim
    normal = torch.zeros(size, size, dtype=torch.float64)
    right = torch.zeros(size, VALUES, dtype=torch.float64)
    for blocks in _drawn(sampler, settings, "decoder"):
        centred = blocks - vae.mean
        latents = (centred @ vae.basis.T)[0].permute(0, 3, 1, 2)
        around = functional.unfold(latents, 3, padding=1).transpose(1, 2)
        weights = torch.ones(len(latents), 1, 1)
        weights[0] = settings.first_weight
        weighted = (around * weights).reshape(-1, size)
        normal += (weighted.T @ around.reshape(-1, size)).double()
        right += (weighted.T @ centred.reshape(-1, VALUES)).double()
    normal += settings.ridge * normal.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    solved = torch.linalg.solve(normal, right)
    vae.decoder.data = solved.T.reshape(VALUES, settings.z_dim, 3, 3).float().contiguous()

    deviation = variances.flip(0)[: settings.z_dim].clamp(min=1e-12).sqrt()
    spread = (deviation / deviation.median()) ** settings.contrast
    std = deviation / spread
    vae.register_to_config(
        latents_mean=[0.0] * settings.z_dim, latents_std=[round(v, 5) for v in std.clamp(min=1e-3).tolist()]
    )
    return vae.eval()


def _drawn(sampler: ClipSampler, settings: FitSettings, name: str) -> Iterator[Tensor]:
    """Blocks (1, 5, 16, 12, VALUES) of every clip of a pass; both passes see the same clips."""
    for step in track(range(settings.clips), description=name, disable=not sys.stderr.isatty()):
        yield blocks_of(torch.from_numpy(sampler.batch(step, _CLIP)))


@torch.no_grad()
def measure(vae: PatchAutoencoder, lpips: LPIPS, clip: Tensor) -> dict[str, float]:
    """PSNR in dB over a clip (1, 3, F, H, W), LPIPS averaged over its frames."""
    result = vae.decode(vae.encode(clip).latent_dist.mode()).sample
    error = functional.mse_loss((result + 1) / 2, (clip + 1) / 2)
    frames, truth = (v[0].transpose(0, 1) for v in (result, clip))
    return {"psnr_db": float(-10 * error.log10()), "lpips": float(lpips(frames, truth).mean())}


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m models.vae.fit", description=__doc__)
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="videos and photos, or folders of them")
    parser.add_argument(
        "--held-out", type=Path, nargs="*", default=[], help="videos, or folders of them, measured and not fitted to"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for configuration and weights")
    add_settings(parser, FitSettings)
    args = parser.parse_args(argv)
    settings = read_settings(args, FitSettings)
    try:
        held_out = media_files(args.held_out)
        files = [f for f in media_files(args.videos) if f not in held_out]
        clips = [read_clip(f, settings.short_side, settings.max_frames) for f in files]
        sampler = ClipSampler(clips, settings.seed, settings.drawn)
    except NoClipsError as error:
        parser.error(str(error))
    vae = fit(sampler, settings)
    for parameter in vae.parameters():
        parameter.data = parameter.data.half().contiguous()
    vae.save_pretrained(args.out)
    vae.float()
    print(f"{len(clips)} sources; written to {args.out}")
    if held_out:
        lpips, rows = load_lpips("alex"), []
        for file in held_out:
            clip = centre_clip(read_clip(file, settings.short_side, 10**6), 17, 128, 96)
            rows.append(measure(vae, lpips, clip))
            print(f"{file.parent.name}/{file.stem}", json.dumps(rows[-1]))
        print("mean", json.dumps({k: float(np.mean([r[k] for r in rows])) for k in rows[0]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
