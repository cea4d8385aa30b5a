"""From a checkpoint folder to a pipeline that can be called."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError

from models.itryon.pipeline import ITryOnPipeline
from models.itryon.transformer import ITryOnTransformer3DModel
from pipelines.store.blobs import sha256_file
from pipelines.tryon.settings import TryOnSettings


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
        settings: Schedule, window and device.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder holds no checkpoint or a damaged one, that of another model, or a transformer of another
            text width than MiniLM's without the rest of a pipeline.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder {folder}")
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if (folder / "model_index.json").is_file():
        with _readable(folder):
            pipe = ITryOnPipeline.from_pretrained(folder, use_safetensors=True)  # never a pickle
        parts = {name: folder / name for name in ("transformer", "vae", "text_encoder")}
        digests = {name: weights_digest(part) for name, part in parts.items() if part.is_dir()}
        return LoadedPipeline(pipe.to(device), digests, str(folder))

    from models.text.minilm import TextEncoder
    from models.vae import load_nano_vae, nano_vae_digest

    inner = folder / "transformer" if (folder / "transformer").is_dir() else folder
    if not (inner / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no checkpoint: there is neither model_index.json (a whole pipeline) nor config.json (a "
            "transformer) in it or in its folder `transformer`"
        )
    with _readable(folder):
        transformer = ITryOnTransformer3DModel.from_pretrained(
            inner, torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
    if transformer.config.text_dim != TextEncoder.dim:
        raise ValueError(
            f"{folder} holds a transformer alone, for text of {transformer.config.text_dim} channels: the 1.3b and 14b "
            "presets need a whole pipeline with Wan's VAE and UMT5 (ITryOnPipeline.save_pretrained)"
        )
    vae = load_nano_vae(dtype=torch.bfloat16 if settings.vae_precision == "bf16" else torch.float32)
    if transformer.config.in_channels != vae.config.z_dim:
        raise ValueError(
            f"{folder} holds a transformer alone, for latents of {transformer.config.in_channels} channels; those of "
            f"the embedded autoencoder have {vae.config.z_dim}: it is another preset's, and needs a whole pipeline"
        )
    text = TextEncoder()
    pipe = ITryOnPipeline(
        vae,
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=settings.flow_shift),
        text.model,
        text.tokenizer,
        num_frames=settings.num_frames,
    )
    pipe.set_progress_bar_config(disable=True)
    digests = {"transformer": weights_digest(inner), "vae": nano_vae_digest(), "text_encoder": text.digest}
    # A trainer's export says what it was trained with. What it never saw must not be fed to it.
    with _readable(folder):
        export = folder / "training.json"
        trained = json.loads(export.read_text())["config"] if export.is_file() else {}
    return LoadedPipeline(
        pipe.to(device),
        digests,
        str(folder),
        use_hands=trained.get("use_hands", True),
        use_actions=trained.get("use_action_captions", True),
    )


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
