"""The frozen encoders of the stage `clips`, and the digest that keeps their outputs apart.

A latent is only worth anything to the VAE that made it, so weights and the way from frames to tensors are part of
every clip's `encoder_digest`, and training refuses to mix two of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.clips.settings import ClipsSettings
from pipelines.stage import digest

if TYPE_CHECKING:
    import torch

TRANSFORM_VERSION = "1"
"""Raise it when the same frames and captions become other tensors: resizing, painting, channel order, tokenising."""


def encoder_weights(settings: ClipsSettings) -> dict[str, str]:
    """Name -> digest of everything between frames, captions and tensors; loads no network.

    Raises:
        FileNotFoundError: Weights are missing; the message says how to get them.
    """
    from models import weights
    from models.vae import nano_vae_digest

    if settings.vae == "nano":
        vae = nano_vae_digest()
    else:
        vae = _folder_digest(_subfolder(settings.vae, "vae"))
    if settings.text_encoder == "minilm":
        text = weights.digest("minilm")
    else:
        text = digest(*(_folder_digest(_subfolder(settings.text_encoder, s)) for s in ("text_encoder", "tokenizer")))
    return {"vae": vae, "text_encoder": text, "vae_precision": settings.vae_precision, "transform": TRANSFORM_VERSION}


def encoder_digest(settings: ClipsSettings) -> str:
    """Digest of the encoders, 32 hex digits: `clips.encoder_digest`."""
    return digest(encoder_weights(settings))[:32]


def _subfolder(root: str, name: str) -> Path:
    folder = Path(root) / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{root} has no folder {name}: give the folder of a Wan2.1 checkpoint in diffusers layout, such as "
            "Wan-AI/Wan2.1-VACE-1.3B-diffusers downloaded from the Hugging Face hub"
        )
    return folder


def _folder_digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".safetensors", ".model"))
    return _files_digest(tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


@lru_cache(maxsize=8)
def _files_digest(files: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for path, _, _ in files:
        with Path(path).open("rb") as f:
            total.update(hashlib.file_digest(f, "sha256").digest())
    return total.hexdigest()


class ClipEncoders:
    """VAE and text encoder, frozen, on the best device there is.

    Args:
        settings: Which encoders.

    Raises:
        FileNotFoundError: Weights are missing; the message says how to get them.
    """

    def __init__(self, settings: ClipsSettings):
        import torch
        from diffusers import AutoencoderKLWan

        from models.text import minilm, umt5
        from models.vae import load_nano_vae

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if settings.vae_precision == "bf16" else torch.float32
        if settings.vae == "nano":
            self.vae = load_nano_vae(device, dtype)
        else:
            folder = _subfolder(settings.vae, "vae")
            vae = AutoencoderKLWan.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True
            )
            self.vae = vae.to(device).eval().requires_grad_(False)
        if settings.text_encoder == "minilm":
            encoder = minilm.TextEncoder(device=device)
            self._tokenizer: Any = encoder.tokenizer
            self._text_model: Any = encoder.model
            self.caption_length = minilm.MAX_LENGTH
        else:
            self._tokenizer, self._text_model = umt5.load_umt5(settings.text_encoder, local_files_only=True)
            self._text_model.to(device)
            self.caption_length = umt5.MAX_LENGTH
        self.action_length = minilm.ACTION_MAX_LENGTH
        config = self._text_model.config
        self.text_dim: int = getattr(config, "d_model", None) or config.hidden_size
        self.device = device
        self._texts: dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def text(self, captions: Sequence[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, length, dim) bf16 and mask (B, length) uint8 on the CPU; captions repeat, so cached."""
        import torch

        from models.text.encode import encode_captions

        missing = [c for c in dict.fromkeys(captions) if (c, length) not in self._texts]
        if len(self._texts) > 4096:
            self._texts.clear()
            missing = list(dict.fromkeys(captions))
        # One by one: padded neighbours would change the last bits, and the blob's name is its content.
        for caption in missing:
            states, mask = encode_captions(self._tokenizer, self._text_model, [caption], length)
            self._texts[caption, length] = states[0].to("cpu", torch.bfloat16), mask[0].to("cpu", torch.uint8)
        pairs = [self._texts[c, length] for c in captions]
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])
