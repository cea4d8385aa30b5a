"""Speed of a whole try-on call: ours, with and without hands and actions, against diffusers' `WanVACEPipeline`.

All have the same weights, captions, noise and VAE, and run in one process in turn, so that whatever else the machine
does hits them alike; a ratio is the median over the rounds. The caption has the length to which its text encoder pads:
64 tokens at the nano size, 512 as in Wan at the middle one; most of it is padding, as it is with real captions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanVACEPipeline, WanVACETransformer3DModel
from PIL import Image

from models.itryon import conditioning
from models.itryon.losses import ActionSpan
from models.itryon.pipeline import ITryOnPipeline
from models.itryon.presets import of_stock, preset
from models.itryon.transformer import ITryOnTransformer3DModel
from models.vae import load_nano_vae

FRAMES, HEIGHT, WIDTH = 17, 128, 96
GUIDANCE = 2.0
CAPTION_TOKENS, ACTION_TOKENS = 24, 6

SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "nano": (preset("nano"), 64),
    "12 layers, 512 channels": (
        preset("nano")
        | {
            "num_attention_heads": 8,
            "attention_head_dim": 64,
            "ffn_dim": 2048,
            "num_layers": 12,
            "text_dim": 4096,
            "vace_layers": list(range(0, 12, 2)),
            "action_layers": list(range(0, 12, 3)),
            "guider_dim": 192,
            "guider_heads": 6,
        },
        512,
    ),
}
"""Name -> arguments of the transformer, tokens of a padded caption."""


def build(arguments: dict[str, Any], tokens: int, steps: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> function that makes the latents of one clip; the stock pipeline is `stock`."""
    torch.manual_seed(0)
    stock = WanVACETransformer3DModel(**of_stock(arguments)).eval()
    # The stock model's weights predict velocities.
    ours = ITryOnTransformer3DModel(**arguments | {"prediction": "velocity"}).eval()
    ours.load_state_dict(stock.state_dict(), strict=False)
    vae = load_nano_vae()
    pipes = [
        WanVACEPipeline(None, None, vae, FlowMatchEulerDiscreteScheduler(shift=3.0), stock),
        ITryOnPipeline(vae, ours, FlowMatchEulerDiscreteScheduler(shift=3.0), num_frames=FRAMES),
    ]
    for pipe in pipes:
        pipe.set_progress_bar_config(disable=True)
    theirs, mine = pipes

    g = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    mask = np.zeros(video.shape[:3], np.uint8)
    mask[:, HEIGHT // 4 : -HEIGHT // 4, WIDTH // 4 : -WIDTH // 4] = 1
    agnostic = np.where(mask[..., None], np.uint8(128), video)
    hands = np.where(mask[..., None], video, np.uint8(0))
    garment = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)

    def caption(length: int, used: int) -> torch.Tensor:
        states = torch.randn(1, length, arguments["text_dim"], generator=g) * 0.1
        states[:, used:] = 0
        return states

    common = {
        "prompt_embeds": caption(tokens, CAPTION_TOKENS),
        "negative_prompt_embeds": caption(tokens, 1),
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE,
        "output_type": "latent",
    }
    noise = torch.randn(1, arguments["in_channels"], 2 + FRAMES // 4, HEIGHT // 8, WIDTH // 8, generator=g)
    actions = {
        text: (caption(32, used)[0], (torch.arange(32) < used).long())
        for text, used in (("", 1), ("zip", ACTION_TOKENS))
    }

    def run_stock() -> torch.Tensor:
        return theirs(
            video=[Image.fromarray(f) for f in agnostic],
            mask=[Image.fromarray(m * 255) for m in mask],
            reference_images=[Image.fromarray(garment)],
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            latents=noise.clone(),
            **common,
        ).frames[:, :, 1:]

    def run_ours(**more: Any) -> torch.Tensor:
        return mine(
            video=video,
            mask=mask,
            agnostic_video=agnostic,
            garments=[conditioning.reference_image(garment, HEIGHT, WIDTH, antialias=False)],
            action_embeds=actions,
            latents=noise.clone(),
            **common,
            **more,
        ).frames[0]

    third = FRAMES // 3
    return {
        "stock": run_stock,
        "ours": run_ours,
        "ours, hands and actions": lambda: run_ours(hand_video=hands, actions=[ActionSpan(third, 2 * third, "zip")]),
    }


def tryon(rounds: int = 7, steps: int = 10) -> dict[str, Any]:
    """Whole calls in turn, latents out.

    Args:
        rounds: Timed rounds, each with one call of every pipeline; the order turns round by round.
        steps: Denoising steps of a call.
    """
    sizes = {}
    for size, (arguments, tokens) in SIZES.items():
        runs = build(arguments, tokens, steps)
        latents = {name: run() for name, run in runs.items()}
        wall: dict[str, list[float]] = {name: [] for name in runs}
        cpu: dict[str, list[float]] = {name: [] for name in runs}
        names = list(runs)
        for _ in range(rounds):
            names = [*names[1:], names[0]]
            for name in names:
                started, busy = time.perf_counter(), time.process_time()
                runs[name]()
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - busy)
        sizes[size] = {
            name: {
                "wall_s": statistics.median(wall[name]),
                "cpu_s": statistics.median(cpu[name]),
                "time_ratio": statistics.median(a / b for a, b in zip(wall[name], wall["stock"])),
                "cpu_ratio": statistics.median(a / b for a, b in zip(cpu[name], cpu["stock"])),
                "max_difference": (latents[name] - latents["stock"]).abs().max().item(),
            }
            for name in runs
        }
    return {
        "frames": FRAMES,
        "height": HEIGHT,
        "width": WIDTH,
        "steps": steps,
        "rounds": rounds,
        "guidance_scale": GUIDANCE,
        "threads": torch.get_num_threads(),
        "sizes": sizes,
    }
