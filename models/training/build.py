"""Makes the transformer of a run: from a preset, from another checkpoint, or from the run's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from models.itryon.embedded import checkpoint_source, names_folder
from models.itryon.presets import preset
from models.itryon.transformer import ITryOnTransformer3DModel
from models.training.checkpoint import CheckpointError, TrainingState, read_state
from models.training.config import TrainConfig
from models.training.data import ClipSet, DataError
from models.training.lora import add_lora, base_digest, load_trained

# The size of the network; the rest of its configuration may change between a checkpoint and what starts from it.
_SIZE = (
    "patch_size",
    "num_attention_heads",
    "attention_head_dim",
    "in_channels",
    "out_channels",
    "text_dim",
    "ffn_dim",
    "num_layers",
    "vace_layers",
    "vace_in_channels",
)


def check_clips(config: TrainConfig, clips: ClipSet) -> None:
    """Compare the clips with the transformer they are for, before either is loaded.

    Raises:
        DataError: The VAE that made the latents, or the text encoder, has other channels than the transformer reads.
    """
    arguments = {**preset(config.preset), **config.model}
    z, text = clips.latent_channels, clips.text_channels
    have = {"in_channels": z, "out_channels": z, "vace_in_channels": 2 * z + 64, "text_dim": text}
    differs = [f"{k} {arguments[k]} instead of {v}" for k, v in have.items() if arguments[k] != v]
    if differs:
        raise DataError(
            f"The clips have {z} latent channels and captions of {text}, the transformer ({config.preset}) was set up "
            f"for others: {', '.join(differs)}. Materialise clips with the encoders of that preset (settings vae and "
            "text_encoder), or train the preset that fits them"
        )


def build_model(config: TrainConfig, encoder_digest: str) -> Any:
    """The transformer at step 0, in float32 as far as it is trained.

    Args:
        config: The run; `init_from` decides between random weights and a warm start.
        encoder_digest: Encoder of the latents it will see.

    Raises:
        CheckpointError: `init_from` is missing, damaged, of another preset, guider input or encoder.
    """
    arguments = {**preset(config.preset), **config.model, "guider_input": config.guider_input}
    if config.init_from is None:
        model = ITryOnTransformer3DModel(**arguments)
    else:
        source = checkpoint_source(config.init_from)
        state = read_state(Path(source))
        if state is not None:
            _check_source(config, state, encoder_digest)
        _check_guider(config)
        overrides = {k: v for k, v in arguments.items() if k not in _SIZE}
        model = _load(source, config, overrides)
        _check_size(config, model, arguments)
        if _prediction(source) != model.config.prediction:
            # x_0 = x_sigma - sigma v: the output turns round, and the noise in it is what training takes away.
            with torch.no_grad():
                for parameter in model.proj_out.parameters():
                    parameter.neg_()
    return _choose_trained(model, config)


def load_weights(folder: Path, config: TrainConfig, state: TrainingState) -> Any:
    """The transformer of the run's own checkpoint.

    Raises:
        CheckpointError: The weights are damaged, or the network below the adapters is not the one they belong to.
    """
    if config.lora_rank is None:
        return _choose_trained(_load(str(folder), config, {}), config)
    model = build_model(config, state.encoder_digest)
    if base_digest(model) != state.extra.get("base_sha256"):
        raise CheckpointError(
            f"The network below the adapters of {folder.name} has changed: {config.init_from or 'random weights'} no "
            "longer gives the weights that the run was started with. Restore them, or start a new run"
        )
    try:
        load_trained(model, folder / "lora")
    except ValueError as e:
        raise CheckpointError(f"Checkpoint {folder.name} cannot be resumed: {e}") from e
    return model


def _choose_trained(model: Any, config: TrainConfig) -> Any:
    if config.lora_rank is not None:
        add_lora(model, config)
    if not config.use_hands and model.guider is not None:
        # Parameters without a gradient would stall distributed training, and weight decay would still shrink them.
        model.guider.requires_grad_(False)
    return model


def _load(source: str, config: TrainConfig, overrides: dict) -> Any:
    folder = Path(source)
    local = folder.is_dir()
    if local and not (folder / "transformer").is_dir():
        raise CheckpointError(f"{source} is no checkpoint: it has no folder transformer/")
    if not local and names_folder(source):
        raise CheckpointError(f"There is no checkpoint {source}")
    try:
        model = ITryOnTransformer3DModel.from_pretrained(
            source, subfolder="transformer", torch_dtype=torch.float32, use_safetensors=True, **overrides
        )
    except (OSError, SafetensorError, ValueError, RuntimeError) as e:
        raise CheckpointError(f"The weights of {source} cannot be loaded for preset {config.preset}: {e}") from e
    # Loaded tensors are views into the mapped file, at any address. Matrix products of the same numbers differ in the
    # last bit when their memory is aligned differently, and a resumed run would drift from an undisturbed one.
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    return model


def _check_source(config: TrainConfig, state: TrainingState, encoder_digest: str) -> None:
    if state.preset != config.preset:
        raise CheckpointError(
            f"{config.init_from} is a checkpoint of preset {state.preset}, this run is {config.preset}: choose another "
            "init_from, or the other preset"
        )
    if encoder_digest and state.encoder_digest and state.encoder_digest != encoder_digest:
        raise CheckpointError(
            f"{config.init_from} was trained on latents of encoder {state.encoder_digest[:12]}, the training set is of "
            f"{encoder_digest[:12]}: encode the clips anew with that encoder, or start from another checkpoint"
        )


def _prediction(source: str) -> str:
    path = Path(source) / "transformer" / "config.json"
    return json.loads(path.read_text()).get("prediction", "velocity") if path.is_file() else "velocity"


def _check_guider(config: TrainConfig) -> None:
    path = Path(checkpoint_source(config.init_from or "")) / "transformer" / "config.json"
    if not path.is_file():
        return
    before = json.loads(path.read_text())
    # A stock checkpoint has no guider yet and takes either.
    if before.get("guider_dim") is not None and before.get("guider_input", "render") != config.guider_input:
        raise CheckpointError(
            f"The guider of {config.init_from} reads {before.get('guider_input', 'render')}, this run's reads "
            f"{config.guider_input}: set model.guider_input alike, or start from a checkpoint without guider"
        )


def _check_size(config: TrainConfig, model: Any, arguments: dict) -> None:
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
    differs = [
        f"{k} {found} instead of {plain[k]}"
        for k in _SIZE
        if k in plain and (found := _plain(getattr(model.config, k))) != plain[k]
    ]
    if differs:
        raise CheckpointError(f"{config.init_from} is not of preset {config.preset}: {', '.join(differs)}")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
