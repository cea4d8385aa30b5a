"""How much memory a run will need, before it is started.

Weights, gradients, optimiser and average follow from parameter counts. Activations are counted in bytes a token and
channel: how much autograd keeps of one block was measured with `torch.autograd.graph.saved_tensors_hooks` and is a
sum of a share of the width and a share of the feed-forward width. Attention is taken to be fused (flash or
memory-efficient), as torch's is on CPU and on current GPUs; its scores are never kept.

What the allocator holds on to comes on top. On CPUs glibc keeps freed blocks of its heap: for the nano model, 4 clips
of 17x128x96, 336 MB were estimated, and 541 MB measured, or 343 MB when every block goes back to the system at once
(`MALLOC_MMAP_THRESHOLD_=65536`). So the estimate is a lower bound there, and a run that it refuses cannot fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from models.itryon.presets import preset
from models.itryon.transformer import ITryOnTransformer3DModel
from models.machine import machine_memory
from models.training.config import TrainConfig, TrainingRefused
from models.training.lora import frozen_in_bf16, target_modules

GIB = 2**30


@dataclass(frozen=True)
class _Kept:
    """Bytes a token that autograd keeps: times width, times feed-forward width."""

    block: float
    ffn: float
    action: float
    rest: float
    block_input: float
    vace_input: float


# (arithmetic, whether the network is frozen below adapters) -> what is kept.
_KEPT = {
    ("fp32", False): _Kept(block=88.4, ffn=8, action=24.2, rest=57, block_input=4, vace_input=8),
    ("fp32", True): _Kept(block=61.1, ffn=8, action=24.2, rest=32, block_input=4, vace_input=8),
    ("bf16", False): _Kept(block=73.4, ffn=4, action=18.2, rest=35, block_input=4, vace_input=6),
    ("bf16", True): _Kept(block=50.8, ffn=4, action=18.2, rest=22, block_input=4, vace_input=6),
}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose, of one process.

    Attributes:
        parameters: Parameters of the network, adapters included.
        trained: Those that the optimiser changes.
        tokens: Tokens of the largest batch.
        bucket: Its clips, frames x height x width.
        weights: Weights, and their copies in bf16 where arithmetic is bf16 and they are trained.
        gradients: Gradients, twice in a distributed run (its communication buffers).
        optimizer: AdamW's two moments.
        average: The exponential average.
        activations: What autograd keeps at the peak of the backward pass.
    """

    parameters: int
    trained: int
    tokens: int
    bucket: str
    weights: float
    gradients: float
    optimizer: float
    average: float
    activations: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {getattr(self, name) / GIB:.2f}"
            for name in ("weights", "gradients", "optimizer", "average", "activations")
        )
        return (
            f"estimated memory {self.total / GIB:.2f} GiB ({parts}) for {self.trained / 1e6:.1f} of "
            f"{self.parameters / 1e6:.1f} M parameters and {self.tokens} tokens ({self.bucket})"
        )


def estimate_memory(
    config: TrainConfig, buckets: Iterable[tuple[str, int, int]], processes: int = 1, shards: int = 1
) -> MemoryEstimate:
    """The estimate for the largest batch of a run.

    Args:
        config: The run.
        buckets: (frames x height x width, reference views, clips there are) of each bucket.
        processes: Processes of the run.
        shards: Processes over which parameters and all that belongs to them are spread.
    """
    sizes = {**preset(config.preset), **config.model}
    parameters, trained, narrow = _parameters(config, sizes)
    tokens, bucket = max(
        (min(config.batch_size, count) * _tokens(name, views, sizes["patch_size"]), name)
        for name, views, count in buckets
    )
    # Casts of trained weights live from the forward to the end of the backward pass.
    casts = 2 * trained if config.precision == "bf16" else 0
    return MemoryEstimate(
        parameters=parameters,
        trained=trained,
        tokens=tokens,
        bucket=bucket,
        # What a shard gathers while it computes, a block or two, is left out.
        weights=(4 * (parameters - narrow) + 2 * narrow + casts) // shards,
        gradients=4 * trained * (1 if processes == 1 or shards > 1 else 2) // shards,
        optimizer=8 * trained // shards,
        average=4 * trained // shards if config.ema_decay else 0,
        activations=max(tokens * _bytes_per_token(config, sizes), 4 * trained),
    )


def _parameters(config: TrainConfig, sizes: dict[str, Any]) -> tuple[int, int, int]:
    """Parameters, trained ones, and those kept in bf16."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = ITryOnTransformer3DModel(**sizes)
    total = sum(p.numel() for p in model.parameters())
    guider = 0 if config.use_hands or model.guider is None else sum(p.numel() for p in model.guider.parameters())
    if config.lora_rank is None:
        return total, total - guider, 0
    added = sum(p.numel() for m in model.added_modules().values() for p in m.parameters())
    linear = [model.get_submodule(n) for n in target_modules(model, config.lora_targets)]
    adapters = sum(config.lora_rank * (m.in_features + m.out_features) for m in linear)
    own = {id(p) for m in model.added_modules().values() for p in m.parameters()}
    narrow = sum(
        p.numel() for n, p in model.named_parameters() if id(p) not in own and frozen_in_bf16(model, n, config)
    )
    return total + adapters, added - guider + adapters, narrow


def _tokens(bucket: str, views: int, patch: Any) -> int:
    frames, height, width = (int(n) for n in bucket.split("x"))
    return ((frames - 1) // 4 + 1 + views) * (height // 8 // patch[1]) * (width // 8 // patch[2])


def _bytes_per_token(config: TrainConfig, sizes: dict[str, Any]) -> float:
    kept = _KEPT[config.precision, config.lora_rank is not None]
    width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
    ffn, main, vace = sizes["ffn_dim"], sizes["num_layers"], len(sizes["vace_layers"])
    block = kept.block * width + kept.ffn * ffn
    # Gradients on their way through one block.
    passing = kept.ffn * ffn + 8 * width
    rest = kept.rest * width + passing
    if config.gradient_checkpointing:
        inputs = (kept.block_input * main + kept.vace_input * vace) * width
        return inputs + block + (kept.action * width if sizes["action_layers"] else 0) + rest
    return block * (main + vace) + kept.action * width * len(sizes["action_layers"]) + rest


def device_memory(device: torch.device) -> tuple[float, str]:
    """Bytes that the device has, and its name."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return float(properties.total_memory), properties.name
    return machine_memory(), "this machine"


def check_memory(config: TrainConfig, estimate: MemoryEstimate, device: torch.device) -> str:
    """What a run will need of what there is, as a line for the log.

    Raises:
        TrainingRefused: It cannot fit, and `allow_oversize` is not set.
    """
    has, name = device_memory(device)
    text = f"{estimate}; {name} has {has / GIB:.2f} GiB"
    if estimate.total <= has or config.allow_oversize:
        return text
    advice = [
        *(["set gradient_checkpointing"] if not config.gradient_checkpointing else []),
        *(["set lora_rank"] if config.lora_rank is None else []),
        *(["lower batch_size"] if config.batch_size > 1 else ["train on clips of fewer frames or pixels"]),
    ]
    raise TrainingRefused(f"{text}: the run cannot fit. {', or '.join(advice).capitalize()}; --force starts it anyway")
