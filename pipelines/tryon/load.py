"""From a checkpoint folder to a pipeline that can be called."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError, safe_open

from models.itryon.pipeline import ITryOnPipeline
from models.itryon.presets import NANO_WINDOW
from models.itryon.transformer import ITryOnTransformer3DModel
from pipelines.store.blobs import sha256_file
from pipelines.tryon.settings import TryOnSettings

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""Names in settings -> types."""
_SAVED = {"BF16": torch.bfloat16, "F16": torch.float16}
_SHIFTS = ("shift", "flow_shift")
_NANO_SHIFT = 3.0


@dataclass
class LoadedPipeline:
    """A pipeline with what identifies its parts.

    Attributes:
        pipe: The pipeline, on its device.
        digests: Part -> SHA-256, as far as the parts have one.
        source: Where the checkpoint was loaded from.
        use_hands: Whether the checkpoint was trained with hands.
        use_actions: Whether it was trained with action captions.
    """

    pipe: ITryOnPipeline
    digests: dict[str, str] = field(default_factory=dict)
    source: str = ""
    use_hands: bool = True
    use_actions: bool = True


def load_pipeline(folder: str | Path, settings: TryOnSettings) -> LoadedPipeline:
    """Load a whole pipeline (a folder with `model_index.json`), or a nano transformer with the embedded encoders.

    Args:
        folder: A saved `ITryOnPipeline`, or a trainer's export (`transformer/` inside), or a transformer's folder.
        settings: Device, arithmetic, offloading, cache; window and schedule where they are not the checkpoint's own.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder holds no checkpoint or a damaged one, that of another model, or a transformer of another
            text width than MiniLM's without the rest of a pipeline; or offloading is asked for without accelerator.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder {folder}")
    device = _device(settings)
    if (folder / "model_index.json").is_file():
        loaded = _whole(folder, settings, device)
    else:
        loaded = _with_embedded_encoders(folder, settings, device)
    pipe = loaded.pipe
    if settings.flow_shift is not None:
        pipe.scheduler = with_shift(pipe.scheduler, settings.flow_shift)
    own = {k: v for k in ("num_frames", "sizes") if (v := getattr(settings, k)) is not None}
    if own:
        pipe.register_to_config(**own)
    if settings.cache == "first_block":
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=settings.cache_threshold))
    pipe.set_progress_bar_config(disable=True)
    if settings.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif settings.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return loaded


def resolved(settings: TryOnSettings, pipe: ITryOnPipeline) -> TryOnSettings:
    """The settings with what a loaded pipeline really does in place of null and auto: window, sizes, shift, dtype."""
    scheduler = pipe.scheduler.config
    dtype = next((name for name, d in DTYPES.items() if d == pipe.transformer.dtype), "fp32")
    return TryOnSettings.model_validate(
        settings.model_dump()
        | {
            "num_frames": settings.num_frames or pipe.config.num_frames,
            "sizes": settings.sizes or pipe.config.sizes,
            "flow_shift": next((scheduler[k] for k in _SHIFTS if k in scheduler), None),
            "dtype": dtype,
        }
    )


def with_shift(scheduler: Any, shift: float) -> Any:
    """The same scheduler with another shift of its noise schedule.

    Raises:
        ValueError: It has no shift.
    """
    name = next((k for k in _SHIFTS if k in scheduler.config), None)
    if name is None:
        raise ValueError(f"{type(scheduler).__name__} has no shift of the noise schedule: leave flow_shift null")
    return type(scheduler).from_config(scheduler.config, **{name: shift})


def _device(settings: TryOnSettings) -> str:
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.offload != "none" and torch.device(device).type == "cpu":
        raise ValueError(
            f"offload: {settings.offload} keeps weights away from an accelerator's memory, and there is none here: "
            "leave it at none, or name the accelerator by `device`"
        )
    return device


def _whole(folder: Path, settings: TryOnSettings, device: str) -> LoadedPipeline:
    """A saved `ITryOnPipeline`."""
    parts = {name: folder / name for name in ("transformer", "vae", "text_encoder")}
    with _readable(folder):
        dtypes = {name: _dtype(part, settings, device) for name, part in parts.items() if part.is_dir()}
        dtypes["vae"] = DTYPES[settings.vae_precision]
        pipe = ITryOnPipeline.from_pretrained(folder, torch_dtype=dtypes, use_safetensors=True)  # never a pickle
    return LoadedPipeline(pipe, {n: weights_digest(p) for n, p in parts.items() if p.is_dir()}, str(folder))


def _with_embedded_encoders(folder: Path, settings: TryOnSettings, device: str) -> LoadedPipeline:
    """A nano transformer with the autoencoder and the text encoder that come along."""
    from models.text.minilm import MAX_LENGTH, TextEncoder
    from models.vae import load_nano_vae, nano_vae_digest

    inner = folder / "transformer" if (folder / "transformer").is_dir() else folder
    if not (inner / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no checkpoint: there is neither model_index.json (a whole pipeline) nor config.json (a "
            "transformer) in it or in its folder `transformer`"
        )
    with _readable(folder):
        transformer = ITryOnTransformer3DModel.from_pretrained(
            inner, torch_dtype=_dtype(inner, settings, device), local_files_only=True, use_safetensors=True
        ).eval()
    if transformer.config.text_dim != TextEncoder.dim:
        raise ValueError(
            f"{folder} holds a transformer alone, for text of {transformer.config.text_dim} channels: the 1.3b and 14b "
            "presets need a whole pipeline with Wan's VAE and UMT5 (ITryOnPipeline.save_pretrained)"
        )
    vae = load_nano_vae(dtype=DTYPES[settings.vae_precision])
    if transformer.config.in_channels != vae.config.z_dim:
        raise ValueError(
            f"{folder} holds a transformer alone, for latents of {transformer.config.in_channels} channels; those of "
            f"the embedded autoencoder have {vae.config.z_dim}: it is another preset's, and needs a whole pipeline"
        )
    # A trainer's export says what it was trained with. What it never saw must not be fed to it.
    with _readable(folder):
        export = folder / "training.json"
        trained = json.loads(export.read_text())["config"] if export.is_file() else {}
    text = TextEncoder()
    pipe = ITryOnPipeline(
        vae,
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=trained.get("flow_shift", _NANO_SHIFT)),
        text.model,
        text.tokenizer,
        num_frames=NANO_WINDOW.num_frames,
        sizes=NANO_WINDOW.sizes,
        max_text_length=MAX_LENGTH,
    )
    digests = {"transformer": weights_digest(inner), "vae": nano_vae_digest(), "text_encoder": text.digest}
    return LoadedPipeline(
        pipe,
        digests,
        str(folder),
        use_hands=trained.get("use_hands", True),
        use_actions=trained.get("use_action_captions", True),
    )


def _dtype(part: Path, settings: TryOnSettings, device: str) -> torch.dtype:
    """Arithmetic of a part of the pipeline: as set, or as most of its weights are saved; float32 on CPUs."""
    if settings.dtype != "auto":
        return DTYPES[settings.dtype]
    counts: Counter[str] = Counter()
    if torch.device(device).type != "cpu":
        for file in part.glob("*.safetensors"):
            with safe_open(file, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118 - no mapping
                    tensor = weights.get_slice(name)
                    counts[tensor.get_dtype()] += math.prod(tensor.get_shape())
    return _SAVED.get(counts.most_common(1)[0][0], torch.float32) if counts else torch.float32


def weights_digest(folder: Path) -> str:
    """SHA-256 of a folder's safetensors files; of their names and digests where there are several."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return sha256_file(files[0])
    return hashlib.sha256("".join(f"{f.name} {sha256_file(f)}\n" for f in files).encode()).hexdigest()


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Errors of loading as one that names the folder; loaders raise whatever their parts do."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{folder} is no checkpoint of this model: {error}") from error
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(
            f"{folder} is no checkpoint of this model, or a damaged one ({type(error).__name__}: {error})"
        ) from error
