"""Flow-matching loss with the action-aware constraint, and the map from action spans to latent frames.

Wan's VAE is causal in time: latent frame 0 is frame 0, latent frame j > 0 holds frames 4j-3 to 4j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

TEMPORAL_FACTOR = 4
"""Frames per latent frame of Wan's VAE."""

ActionReduction = Literal["as_written", "mean_over_mask"]


class Loss(NamedTuple):
    """A loss and its parts, scalars.

    Attributes:
        total: L_std + lambda * action.
        std: Mean squared velocity error.
        action: The action term before lambda; 0 without interaction frames.
    """

    total: torch.Tensor
    std: torch.Tensor
    action: torch.Tensor


def flow_matching_target(clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Velocity that the model predicts: the derivative of (1 - sigma) * clean + sigma * noise by sigma."""
    return noise - clean


def add_noise(clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Noisy latents (1 - sigma) * clean + sigma * noise; sigma (B,) in 0 to 1, the timestep is 1000 * sigma."""
    sigma = sigma.view(-1, *[1] * (clean.ndim - 1)).to(clean.dtype)
    return (1 - sigma) * clean + sigma * noise


def itryon_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    action_mask: torch.Tensor | None,
    *,
    weight: float = 0.5,
    reduction: ActionReduction = "as_written",
    sample_weight: torch.Tensor | None = None,
    element_weight: torch.Tensor | None = None,
) -> Loss:
    """Action-aware constraint loss (paper, AC loss): L = L_std + lambda * E[||M * (v_hat - v)||^2].

    Args:
        prediction: Predicted velocity, (B, C, T, H, W).
        target: True velocity, same shape.
        action_mask: M, (B, T), 1 on latent frames of an interaction, 0 on reference frames; None leaves the term out.
        weight: lambda.
        reduction: `as_written` takes the expectation over all elements, as the paper writes it: with few interaction
            frames the term is small. `mean_over_mask` takes it over the elements inside the mask.
        sample_weight: (B,), weight of each sample's timestep, in both terms.
        element_weight: Not negative, broadcast to the prediction: how much each channel or position counts, in both
            terms. Means over elements become weighted means. All count alike by default.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"Prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    error = (prediction.float() - target.float()).square()
    if sample_weight is not None:
        error = error * sample_weight.float().view(-1, *[1] * (error.ndim - 1))
    if element_weight is not None:
        try:
            share = element_weight.to(error).expand_as(error)
        except RuntimeError:
            raise ValueError(f"Weights {tuple(element_weight.shape)} for errors {tuple(error.shape)}") from None
        error = error * (share / share.mean().clamp(min=torch.finfo(error.dtype).tiny))
    std = error.mean()
    if action_mask is None:
        return Loss(std, std, std.new_zeros(()))
    if action_mask.shape != (error.shape[0], error.shape[2]):
        raise ValueError(f"Action mask {tuple(action_mask.shape)} for errors {tuple(error.shape)}")
    mask = action_mask.to(error)
    masked = error * mask.square()[:, None, :, None, None]
    if reduction == "as_written":
        action = masked.mean()
    elif reduction == "mean_over_mask":
        per_frame = error.shape[1] * error.shape[3] * error.shape[4]
        action = masked.sum() / (mask.sum() * per_frame).clamp(min=1.0)
    else:
        raise ValueError(f"Unknown reduction {reduction!r}")
    return Loss(std + weight * action, std, action)


@dataclass(frozen=True)
class ActionSpan:
    """An interaction within a window.

    Attributes:
        start: First frame of the window, inclusive; may lie before the window.
        end: End frame, exclusive; may lie behind the window.
        text: Caption of the action.
    """

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Segments:
    """Segments of a window: maximal runs of latent frames with the same caption.

    Attributes:
        index: (references + T,) int64, segment 1..S of each latent frame, 0 for reference frames.
        interactive: (S,) bool.
        captions: S captions in time order, empty for segments without interaction.
    """

    index: np.ndarray
    interactive: np.ndarray
    captions: list[str]


def num_latent_frames(num_frames: int) -> int:
    """Latent frames of `num_frames` frames.

    Raises:
        ValueError: `num_frames` is not 4n + 1.
    """
    if num_frames < 1 or num_frames % TEMPORAL_FACTOR != 1:
        raise ValueError(f"Wan's VAE takes 4n + 1 frames, not {num_frames}")
    return (num_frames - 1) // TEMPORAL_FACTOR + 1


def latent_frame_of(frames: np.ndarray | int) -> np.ndarray:
    """The latent frame that holds each frame: 0 -> 0, 1..4 -> 1, 5..8 -> 2, ..."""
    return (np.asarray(frames) + TEMPORAL_FACTOR - 1) // TEMPORAL_FACTOR


def any_per_latent(per_frame: np.ndarray) -> np.ndarray:
    """(F,) truth per frame -> (T,) bool, whether any frame of the latent frame has it."""
    per_frame = np.asarray(per_frame, bool)
    out = np.zeros(num_latent_frames(len(per_frame)), bool)
    np.logical_or.at(out, latent_frame_of(np.arange(len(per_frame))), per_frame)
    return out


def action_mask_per_latent(spans: Sequence[ActionSpan], num_frames: int, num_references: int = 0) -> np.ndarray:
    """M_action of a window: 1 where a latent frame holds a frame of a span, 0 elsewhere and on reference frames.

    Returns:
        (num_references + T,) float32.
    """
    frames = np.zeros(num_frames, bool)
    for span in spans:
        frames[max(0, span.start) : max(0, span.end)] = True
    return np.concatenate([np.zeros(num_references), any_per_latent(frames)]).astype(np.float32)


def segments_per_latent(spans: Sequence[ActionSpan], num_frames: int, num_references: int = 0) -> Segments:
    """Cut a window into segments for A-RoPE.

    A latent frame is labelled with the caption that covers most of its frames, if any does (the earlier one on a tie).
    A latent frame is thus interactive exactly where `action_mask_per_latent` is 1.

    Args:
        spans: Interactions in window frames.
        num_frames: Frames of the window, 4n + 1.
        num_references: Reference latent frames in front.

    Raises:
        ValueError: A span with an empty caption or without frames, or `num_frames` is not 4n + 1.
    """
    texts: list[str] = []
    cover = np.zeros((num_latent_frames(num_frames), len(spans)), np.int64)
    for span in sorted(spans, key=lambda s: s.start):
        if span.end <= span.start or not span.text.strip():
            raise ValueError(f"An interaction needs frames and a caption: {span}")
        if span.text not in texts:
            texts.append(span.text)
        held = latent_frame_of(np.arange(max(0, span.start), min(num_frames, span.end)))
        np.add.at(cover[:, texts.index(span.text)], held, 1)
    labels = [texts[int(c.argmax())] if c.any() else "" for c in cover]
    index, captions = [], []
    for i, label in enumerate(labels):
        if i == 0 or label != labels[i - 1]:
            captions.append(label)
        index.append(len(captions))
    return Segments(
        np.concatenate([np.zeros(num_references, np.int64), np.array(index, np.int64)]),
        np.array([bool(c) for c in captions]),
        captions,
    )
