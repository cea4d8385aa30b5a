"""Captions to token embeddings, the same way for every text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

EMPTY_CAPTION = ""
"""Caption of a segment without interaction, and of classifier-free guidance's unconditional branch."""


@torch.no_grad()
def encode_captions(
    tokenizer: Any,
    model: Any,
    captions: Sequence[str],
    max_length: int,
    device: torch.device | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token embeddings of captions, padded with zeros to a fixed length.

    The length is fixed, because the transformer's text attention has no mask, as in Wan: with the length of the
    longest caption in a batch, a caption's effect would depend on its neighbours.

    Args:
        tokenizer: A transformers tokenizer.
        model: A transformers encoder with `last_hidden_state`.
        captions: B captions; white space is normalised, what exceeds `max_length` tokens is cut off.
        max_length: L, tokens of a caption.

    Returns:
        Embeddings (B, L, dim) in the model's dtype, and mask (B, L) int64, 1 on tokens.
    """
    texts = [" ".join(c.split()) for c in captions]
    tokens = tokenizer(texts, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    device = next(model.parameters()).device if device is None else device
    # Positions beyond the longest caption are zeroed anyway: not computed at all.
    longest = int(mask.sum(1).max())
    states = model(
        input_ids=tokens["input_ids"][:, :longest].to(device), attention_mask=mask[:, :longest].to(device)
    ).last_hidden_state
    states = states * mask[:, :longest, None].to(states)
    return torch.nn.functional.pad(states, (0, 0, 0, max_length - longest)), mask.to(device)
