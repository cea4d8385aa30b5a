"""all-MiniLM-L6-v2 as a frozen text encoder: the nano preset reads its 384-channel token states."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel
from transformers.utils import logging

from models import weights
from models.text.encode import encode_captions

MAX_LENGTH = 64
"""Tokens of a global caption."""
ACTION_MAX_LENGTH = 32
"""Tokens of an action caption, which is one short sentence."""


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class TextEncoder:
    """The frozen encoder. Weights come from the project's cache (`itryon weights`).

    Args:
        folder: Folder with config, tokenizer and safetensors weights; the cache's by default.
        device: Where it runs.

    Raises:
        models.weights.MissingWeights: The cache has no such files.
    """

    dim = 384

    def __init__(self, folder: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"):
        self.folder = Path(folder) if folder is not None else weights.path("minilm")
        self._from_cache = folder is None
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        with _no_progress_bar():
            self.model = BertModel.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
        self.model.eval().requires_grad_(False).to(device)

    def encode(self, captions: Sequence[str], max_length: int = MAX_LENGTH) -> tuple[torch.Tensor, torch.Tensor]:
        """Token embeddings (B, max_length, 384) float32, zero behind the caption, and mask (B, max_length)."""
        return encode_captions(self.tokenizer, self.model, captions, max_length)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the weights and the tokenizer."""
        if self._from_cache:
            return weights.digest("minilm")
        parts = hashlib.sha256()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            parts.update((self.folder / name).read_bytes())
        return parts.hexdigest()
