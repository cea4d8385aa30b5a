"""UMT5-XXL, the text encoder of the Wan presets: loaded from a Wan checkpoint when it is there."""

from __future__ import annotations

import os
from typing import Any

import torch

MAX_LENGTH = 512
"""Tokens of a caption in Wan2.1."""


def load_umt5(
    checkpoint: str | os.PathLike[str] = "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
    dtype: torch.dtype = torch.bfloat16,
    local_files_only: bool = False,
) -> tuple[Any, Any]:
    """Tokenizer and frozen `UMT5EncoderModel` of a Wan checkpoint in diffusers layout.

    Args:
        checkpoint: Folder, or name on the Hugging Face hub (about 11 GB in bfloat16).
        dtype: Weight type.
        local_files_only: Do not download.

    Raises:
        FileNotFoundError: The checkpoint cannot be loaded; the message says what to do.
    """
    from transformers import AutoTokenizer, UMT5EncoderModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, subfolder="tokenizer", local_files_only=local_files_only)
        model = UMT5EncoderModel.from_pretrained(
            checkpoint,
            subfolder="text_encoder",
            torch_dtype=dtype,
            local_files_only=local_files_only,
            use_safetensors=True,
        )
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"The UMT5 text encoder is not available at {os.fspath(checkpoint)!r}. The 1.3b and 14b presets need the "
            "folders `tokenizer` and `text_encoder` of a Wan2.1 checkpoint in diffusers layout: download "
            "Wan-AI/Wan2.1-VACE-1.3B-diffusers from the Hugging Face hub and pass its folder, or use the preset `nano`"
        ) from error
    return tokenizer, model.eval().requires_grad_(False)
