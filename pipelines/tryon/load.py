"""From a checkpoint folder to a pipeline that can be called."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from models.itryon.pipeline import ITryOnPipeline
from models.itryon.transformer import ITryOnTransformer3DModel
from pipelines.tryon.settings import TryOnSettings


@dataclass
class LoadedPipeline:
    """A pipeline with what identifies its parts.

    Attributes:
        pipe: The pipeline, on its device.
        digests: Part -> SHA-256, as far as the parts have one.
        use_hands: Whether the checkpoint was trained with hands.
        use_actions: Whether it was trained with action captions.
    """

    pipe: ITryOnPipeline
    digests: dict[str, str] = field(default_factory=dict)
    use_hands: bool = True
    use_actions: bool = True


def load_pipeline(folder: str | Path, settings: TryOnSettings) -> LoadedPipeline:
    """Load a whole pipeline (a folder with `model_index.json`), or a nano transformer with the embedded encoders.

    Args:
        folder: A saved `ITryOnPipeline`, or a trainer's export (`transformer/` inside), or a transformer's folder.
        settings: Schedule, window and device.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: A transformer of another text width than MiniLM's, without the rest of a pipeline.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint folder {folder}")
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if (folder / "model_index.json").is_file():
        return LoadedPipeline(ITryOnPipeline.from_pretrained(folder).to(device))

    from models.text.minilm import TextEncoder
    from models.vae import load_nano_vae, nano_vae_digest

    inner = folder / "transformer" if (folder / "transformer").is_dir() else folder
    transformer = ITryOnTransformer3DModel.from_pretrained(
        inner, torch_dtype=torch.float32, local_files_only=True
    ).eval()
    if transformer.config.text_dim != TextEncoder.dim:
        raise ValueError(
            f"{folder} holds a transformer alone, for text of {transformer.config.text_dim} channels: the 1.3b and 14b "
            "presets need a whole pipeline with Wan's VAE and UMT5 (ITryOnPipeline.save_pretrained)"
        )
    text = TextEncoder()
    pipe = ITryOnPipeline(
        load_nano_vae(dtype=torch.bfloat16 if settings.vae_precision == "bf16" else torch.float32),
        transformer,
        FlowMatchEulerDiscreteScheduler(shift=settings.flow_shift),
        text.model,
        text.tokenizer,
        num_frames=settings.num_frames,
    )
    pipe.set_progress_bar_config(disable=True)
    return LoadedPipeline(pipe.to(device), {"vae": nano_vae_digest(), "text_encoder": text.digest})
