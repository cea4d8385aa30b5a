"""Models whose parameters are spread over processes (FSDP2): put together to be saved, and spread again to go on.

A checkpoint of a sharded run is that of any other run, so either can go on from the other's. All processes must call
these functions, since each holds a part. Without sharding they return what they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor, distribute_tensor

from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.config import TrainConfig, TrainingRefused


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether parameters are spread over processes."""
    return accelerator.distributed_type == DistributedType.FSDP


def check_sharding(accelerator: Accelerator, config: TrainConfig) -> None:
    """Refuse what sharded runs cannot do.

    Raises:
        TrainingRefused: The message says what to change.
    """
    if not is_sharded(accelerator):
        return
    if not accelerator.is_fsdp2:
        raise TrainingRefused("Sharded training takes FSDP2 only: set fsdp_version: 2 in accelerate's configuration")
    if config.lora_rank is not None:
        raise TrainingRefused("Adapters are not sharded: set lora_rank to none, or launch without FSDP")
    if config.validate_every is not None:
        raise TrainingRefused(
            "A sharded model makes no validation videos: set validate_every to none, and look at try-on videos of the "
            "checkpoint instead"
        )


def whole(tensor: torch.Tensor, keep: bool) -> torch.Tensor:
    """The tensor put together from all processes.

    Sharded ones go to the CPU of the process that keeps them, and are empty on the others: twelve bytes a parameter on
    every device, or for every process of a machine, would be more than there is.

    Args:
        tensor: What each process holds a part of.
        keep: Whether this process needs it.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    put_together = tensor.full_tensor().detach()
    return put_together.cpu() if keep else put_together.new_empty(0)


def spread_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, which every process has, spread as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_model(model: Any, keep: bool, average: Sequence[torch.Tensor] | None = None) -> Any:
    """A transformer that can be saved; None for a sharded one in a process that does not keep it.

    Args:
        model: The transformer, without accelerate's wrappers.
        keep: Whether this process saves it.
        average: Values in place of those of the trained parameters, in their order; for sharded models.
    """
    parameters = dict(model.named_parameters())
    if not any(isinstance(p, DTensor) for p in parameters.values()):
        return model
    values = dict(model.state_dict())
    if average is not None:
        values |= zip((n for n, p in parameters.items() if p.requires_grad), average)
    # One at a time, so that a device holds one whole tensor at most.
    tensors = {k: whole(v, keep) for k, v in values.items()}
    if not keep:
        return None
    with torch.device("meta"):
        copy = ITryOnTransformer3DModel.from_config(model.config)
    copy.load_state_dict({k: v.detach().cpu() for k, v in tensors.items()}, assign=True)
    return copy


def whole_optimizer_state(optimizer: torch.optim.Optimizer, keep: bool) -> dict[str, Any]:
    """The optimiser's state with whole tensors, for the process that keeps it."""
    state = optimizer.state_dict()
    values = {i: {k: whole(v, keep) for k, v in entries.items()} for i, entries in state["state"].items()}
    return {"state": values, "param_groups": state["param_groups"]}


def spread_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A state of whole tensors, spread as the optimiser's parameters are; counters are not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values = {
        i: {k: spread_like(v, parameters[i]) if v.dim() else v for k, v in entries.items()}
        for i, entries in state["state"].items()
    }
    return {"state": values, "param_groups": state["param_groups"]}
