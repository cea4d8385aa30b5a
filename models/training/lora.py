"""Low-rank adapters: the stock network stays as it was, each of its projections gets a small correction.

The modules that iTryOn adds (guider, action attention) are small and start at zero output, so they are trained in full
beside the adapters. With bf16 arithmetic the frozen weights are kept in bf16 too, which halves what they occupy.

A folder written by `save_trained` holds everything that was trained:

    pytorch_lora_weights.safetensors   adapters as diffusers' `load_lora_weights` and `load_lora_adapter` read them
    added_modules.safetensors          weights of the added modules, under their names in the transformer
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import WanLoraLoaderMixin
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.training.config import TrainConfig, TrainingRefused

ADAPTER = "default"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"
ADDED_FILE = "added_modules.safetensors"
_PREFIX = "transformer."


def has_lora(model: Any) -> bool:
    """Whether `add_lora` was applied."""
    return ADAPTER in getattr(model, "peft_config", {})


def target_modules(model: Any, targets: list[str]) -> list[str]:
    """Full names of the linear layers of stock modules whose names end in one of `targets`.

    Raises:
        TrainingRefused: A target fits no layer.
    """
    added = tuple(f"{name}." for name in model.added_modules())
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.startswith(added or ("\0",))
    ]
    found: set[str] = set()
    for target in targets:
        fits = {name for name in linear if name == target or name.endswith(f".{target}")}
        if not fits:
            raise TrainingRefused(f"lora_targets: no linear layer of the transformer is called {target}")
        found |= fits
    return sorted(found)


def add_lora(model: Any, config: TrainConfig) -> None:
    """Freeze the stock network, put adapters on it, and leave the added modules trainable.

    Args:
        model: The transformer, in float32.
        config: The run; `lora_rank` is set.

    Raises:
        TrainingRefused: A target fits no layer.
    """
    rank = config.lora_rank
    assert rank is not None
    names = target_modules(model, config.lora_targets)
    model.requires_grad_(False)
    model.add_adapter(
        LoraConfig(r=rank, lora_alpha=config.lora_alpha or rank, target_modules=names, init_lora_weights=True), ADAPTER
    )
    for module in model.added_modules().values():
        module.requires_grad_(True)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.requires_grad_(True)
        elif not parameter.requires_grad and frozen_in_bf16(model, name, config):
            parameter.data = parameter.data.to(torch.bfloat16)


def frozen_in_bf16(model: Any, name: str, config: TrainConfig) -> bool:
    """Whether a frozen parameter is kept in bf16: all but those that the architecture wants in float32."""
    return config.precision == "bf16" and not set(name.split(".")) & set(model._keep_in_fp32_modules)


def base_digest(model: Any) -> str:
    """SHA-256 over the frozen weights, without the adapters and modules that are trained."""
    digest = hashlib.sha256()
    added = tuple(f"{name}." for name in model.added_modules())
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_" not in name and not name.startswith(added or ("\0",)):
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def save_trained(model: Any, folder: Path) -> None:
    """Write the adapters and the added modules."""
    folder.mkdir(parents=True, exist_ok=True)
    WanLoraLoaderMixin.save_lora_weights(
        folder,
        transformer_lora_layers=_contiguous(get_peft_model_state_dict(model, adapter_name=ADAPTER)),
        transformer_lora_adapter_metadata=_metadata(model),
    )
    save_file(_contiguous(_added(model)), folder / ADDED_FILE)


def load_trained(model: Any, folder: Path) -> None:
    """Read what `save_trained` wrote into a model with adapters.

    Raises:
        ValueError: A file is missing, damaged, or of another shape.
    """
    try:
        adapter, added = load_file(folder / ADAPTER_FILE), load_file(folder / ADDED_FILE)
    except (OSError, SafetensorError) as e:
        raise ValueError(f"{folder} cannot be read ({e})") from e
    adapter = {k.removeprefix(_PREFIX): v for k, v in adapter.items()}
    mine = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    own = _added(model)
    for name, found, expected in (("adapters", adapter, mine), ("added modules", added, own)):
        if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in expected.items()}:
            raise ValueError(f"{folder} holds {name} of another configuration")
    set_peft_model_state_dict(model, adapter, adapter_name=ADAPTER)
    with torch.no_grad():
        for key, value in added.items():
            own[key].copy_(value)


def merged_model(model: Any) -> Any:
    """A transformer without adapters whose weights contain them, in float32 on the CPU."""
    state = {
        name.replace(".base_layer.", "."): value.detach().cpu()
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LoraLayer):
                layer: Any = module
                correction = layer.get_delta_weight(ADAPTER).float().cpu()
                state[f"{name}.weight"] = state[f"{name}.weight"].float() + correction
    with torch.device("meta"):
        merged = type(model).from_config(model.config)
    merged.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, assign=True)
    return merged


def _added(model: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in model.added_modules().items()
        for key, value in module.state_dict().items()
    }


def _metadata(model: Any) -> dict[str, Any]:
    values = model.peft_config[ADAPTER].to_dict()
    return {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()}


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
