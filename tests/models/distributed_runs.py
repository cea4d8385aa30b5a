"""Runs of two processes, started by `torch.distributed.run`: data-parallel, sharded, and sharded runs that go on.

accelerate shards on accelerators only: on CPUs it leaves a configured FSDP out of account without a word. It is told
here that the processes are sharded; everything after that is its own and torch's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from models.training import loop
from models.training.config import TrainConfig, TrainingRefused
from models.training.loop import train
from tests.models.training_runs import config

SHARED: dict[str, Any] = {"batch_size": 1, "steps": 4, "checkpoint_every": 2, "keep_last": 5, "ema_decay": 0.9}


class Sharded(Accelerator):
    """An accelerator that takes the CPUs' processes for ones that are sharded."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap", cpu_ram_efficient_loading=False
        )
        self.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def main(root: Path) -> None:
    """All runs, into folders below `root`."""

    def run(cfg: TrainConfig) -> None:
        train(cfg)
        AcceleratorState._reset_state()

    run(config(root, root / "parallel", **SHARED))
    loop.Accelerator = Sharded
    run(config(root, root / "sharded", **SHARED))
    # The same, stopped after two steps: sharded goes on from sharded, from a file that one process could read.
    half = root / "resumed/checkpoints"
    if torch.distributed.get_rank() == 0:
        half.mkdir(parents=True)
        (root / "sharded/checkpoints/step-00000002").rename(half / "step-00000002")
    torch.distributed.barrier()
    run(config(root, root / "resumed", **SHARED))
    for values in ({"lora_rank": 2}, {"validate_every": 1}):
        try:
            run(config(root, root / "refused", **SHARED, **values))
        except TrainingRefused as e:
            print("refused:", e, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
