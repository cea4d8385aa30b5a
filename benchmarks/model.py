"""Speed and memory of a training step: the iTryOn transformer, and each of its modules, against the stock VACE model.

All variants run in one process, one step each in turn, so that whatever else the machine does hits them alike; a ratio
is the median over the rounds of a variant's step to the stock model's step of the same round. CPU seconds are kept
beside wall time: they hardly change with what else runs. Peak memory is that of a process of its own for each variant.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import WanVACETransformer3DModel
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from models.itryon.hand_points import POINT_CHANNELS
from models.itryon.losses import add_noise, flow_matching_target
from models.itryon.presets import of_stock, preset
from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.config import TrainConfig, load_config
from models.training.data import Batch
from models.training.objective import prepare_conditions, sample_sigmas, step_generator, training_losses

PRESET = "nano"
WIDE: dict[str, Any] = {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 2048, "num_layers": 12}
"""Of the stock model: to tell what is due to the size of nano's matrices."""
FRAMES, HEIGHT, WIDTH = 17, 128, 96
TEXT_TOKENS, ACTION_TOKENS, SEGMENTS = 64, 32, 3


@dataclass(frozen=True)
class Variant:
    """One model and loss.

    Attributes:
        guider: What its guider reads; None without guider.
        action: Whether it reads action captions.
        action_loss: Whether the loss has the action term.
        stock: The stock model with the plain loss, to compare with.
    """

    guider: str | None = None
    action: bool = False
    action_loss: bool = False
    stock: bool = False


VARIANTS = {
    "stock": Variant(stock=True),
    "everything": Variant("render", True, True),
    "everything, vertices": Variant("vertices", True, True),
    "guider only": Variant("render"),
    "guider only, vertices": Variant("vertices"),
    "action captions only": Variant(action=True),
    "action loss only": Variant(action_loss=True),
}


def _config(variant: Variant) -> TrainConfig:
    paths = {"manifest": "-", "blob_root": "-", "output_dir": "-"}
    return load_config(
        PRESET,
        paths
        | {
            "model": {"guider_input": variant.guider or "render"},
            "use_hands": variant.guider is not None,
            "use_action_captions": variant.action,
            "lambda_action": 0.5 if variant.action_loss else 0.0,
        },
    )


def make_batch(size: int, z: int, text_dim: int) -> Batch:
    """Random clips with hands, and an interaction in the middle third of each."""
    g = torch.Generator().manual_seed(0)
    t, h, w = (FRAMES - 1) // 4 + 1, HEIGHT // 8, WIDTH // 8

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(size, *shape, generator=g)

    index = torch.tensor([1 + SEGMENTS * j // t for j in range(t)]).expand(size, -1)
    return Batch(
        target=normal(z, t, h, w),
        inactive=normal(z, t, h, w),
        reactive=normal(z, t, h, w),
        mask=(normal(64, t, h, w) > 0).float(),
        reference=normal(z, 1, h, w),
        hands=normal(z, t, h, w),
        hand_points=normal(POINT_CHANNELS, t, h, w).clamp(-1, 1),
        hand_present=torch.ones(size, t, dtype=torch.bool),
        caption=normal(TEXT_TOKENS, text_dim),
        empty_caption=normal(TEXT_TOKENS, text_dim),
        empty_mask=torch.ones(size, TEXT_TOKENS, dtype=torch.bool),
        actions=normal(SEGMENTS, ACTION_TOKENS, text_dim),
        actions_mask=torch.ones(size, SEGMENTS, ACTION_TOKENS, dtype=torch.bool),
        segment_index=index,
        segment_interactive=torch.tensor([False, True, False]).expand(size, -1),
        action_mask=(index == 2).float(),
        clip_ids=tuple(str(i) for i in range(size)),
    )


class _WithoutActions(torch.nn.Module):
    """Hands a model without action attention the other conditions."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **kwargs: Any) -> tuple[torch.Tensor]:
        return self.model(**{k: v for k, v in kwargs.items() if not k.startswith(("action_", "segment_"))})


def build(name: str, size: dict[str, Any] | None = None) -> tuple[torch.nn.Module, Batch, Callable[[int], None]]:
    """Model, batch, and a function that does training step number n of a variant; `size` replaces the preset's."""
    variant = VARIANTS[name]
    config = _config(variant)
    arguments = preset(PRESET) | (size or {})
    torch.manual_seed(0)
    if variant.stock:
        model = WanVACETransformer3DModel(**of_stock(arguments))
    else:
        arguments |= {"guider_input": config.guider_input}
        if variant.guider is None:
            arguments["guider_dim"] = None
        if not variant.action:
            arguments["action_layers"] = []
        model = ITryOnTransformer3DModel(**arguments)
    model.train()
    batch = make_batch(config.batch_size, arguments["in_channels"], arguments["text_dim"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    called = model if variant.action else _WithoutActions(model)

    def step(number: int) -> None:
        generator = step_generator(0, number)
        loss = (_plain_loss if variant.stock else _own_loss)(called, batch, config, generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return model, batch, step


def _own_loss(model: torch.nn.Module, batch: Batch, config: TrainConfig, generator: torch.Generator) -> torch.Tensor:
    return training_losses(model, batch, config, generator).total


def _plain_loss(model: torch.nn.Module, batch: Batch, config: TrainConfig, generator: torch.Generator) -> torch.Tensor:
    conditions = prepare_conditions(batch, config, generator)
    target = conditions.target
    sigmas = sample_sigmas(config, len(target), generator)
    noise = torch.randn(target.shape, generator=generator)
    (prediction,) = model(
        hidden_states=add_noise(target, noise, sigmas),
        timestep=sigmas * 1000,
        return_dict=False,
        **conditions.kwargs,
    )
    return mse_loss(prediction, flow_matching_target(target, noise))


def step_flops(model: torch.nn.Module, batch: Batch) -> float:
    """Floating-point operations of the stock model's training step: forward, counted, and twice that backward."""
    counter = FlopCounterMode(display=False)
    # The counter knows no fused attention of the CPU; by plain products it is counted in full.
    with counter, torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _plain_loss(_WithoutActions(model), batch, _config(VARIANTS["stock"]), step_generator(0, 0))
    return 3.0 * counter.get_total_flops()


def _median_ratio(values: list[float], bases: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(values, bases))


def share_of_matmul(size: dict[str, Any], rounds: int = 5) -> float:
    """Operations a second of the stock model's training step at some size, as a share of a matrix product's."""
    model, batch, step = build("stock", size)
    flops = step_flops(model, batch)
    shares = []
    for number in range(rounds + 1):
        started = time.perf_counter()
        step(number)
        shares.append(flops / (time.perf_counter() - started) / _matmul_rate())
    return statistics.median(shares[1:])


def _matmul_rate(size: int = 1024) -> float:
    """Operations a second of one fp32 matrix product, the fastest of a few."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def peak_memory(name: str, steps: int = 4) -> dict[str, float]:
    """Peak resident memory in MB of a process that trains the variant, whole and above what its imports take."""
    # VmHWM and not ru_maxrss: the latter starts at what the parent had when it forked.
    code = (
        "import sys, pathlib\n"
        "from benchmarks import model\n"
        "def status(key): return next(int(l.split()[1]) / 1024 for l in"
        " pathlib.Path('/proc/self/status').read_text().splitlines() if l.startswith(key))\n"
        "before = status('VmRSS')\n"
        "_, _, step = model.build(sys.argv[1])\n"
        "for n in range(int(sys.argv[2])): step(n)\n"
        "print(status('VmHWM'), status('VmHWM') - before)\n"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, name, str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    whole, added = (float(v) for v in done.stdout.split()[-2:])
    return {"peak_memory_mb": whole, "above_imports_mb": added}


def model(rounds: int = 20, warmup: int = 3) -> dict[str, Any]:
    """Training steps of all variants in turn, with the matrix product of the same seconds.

    Args:
        rounds: Timed rounds, each with one step of every variant; the order turns round by round.
        warmup: Rounds before them.
    """
    built = {name: build(name) for name in VARIANTS}
    steps = {name: step for name, (_, _, step) in built.items()}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    cpu: dict[str, list[float]] = {name: [] for name in VARIANTS}
    rates = []
    names = list(VARIANTS)
    for number in range(warmup + rounds):
        names = [*names[1:], names[0]]
        for name in names:
            started, busy = time.perf_counter(), time.process_time()
            steps[name](number)
            if number >= warmup:
                seconds[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - busy)
        if number >= warmup:
            rates.append(_matmul_rate())
    flops = step_flops(*built["stock"][:2])
    result: dict[str, Any] = {}
    for name in VARIANTS:
        result[name] = {
            "parameters": sum(p.numel() for p in built[name][0].parameters()),
            "step_s": statistics.median(seconds[name]),
            "step_cpu_s": statistics.median(cpu[name]),
            "time_ratio": _median_ratio(seconds[name], seconds["stock"]),
            "cpu_ratio": _median_ratio(cpu[name], cpu["stock"]),
            **peak_memory(name),
        }
    base = result["stock"]
    for r in result.values():
        r["memory_ratio"] = r["peak_memory_mb"] / base["peak_memory_mb"]
        r["above_imports_ratio"] = r["above_imports_mb"] / base["above_imports_mb"]
    achieved = [flops / s for s in seconds["stock"]]
    return {
        "preset": PRESET,
        "batch": [_config(VARIANTS["stock"]).batch_size, FRAMES, HEIGHT, WIDTH],
        "precision": "fp32",
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "variants": result,
        "stock_step_gflop": flops / 1e9,
        "matmul_gflops": statistics.median(rates) / 1e9,
        "share_of_matmul": statistics.median(a / r for a, r in zip(achieved, rates)),
        "wide": WIDE["num_layers"],
        "wide_channels": WIDE["num_attention_heads"] * WIDE["attention_head_dim"],
        "wide_share_of_matmul": share_of_matmul(WIDE),
    }
