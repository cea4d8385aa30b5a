"""What a call of the try-on pipeline accepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.itryon import conditioning
from models.itryon.hand_points import FRAME_CHANNELS


def check_inputs(
    transformer: Any,
    video: np.ndarray,
    mask: np.ndarray,
    agnostic: np.ndarray,
    garments: Sequence[Any],
    hands: np.ndarray | None,
    points: np.ndarray | None,
    previous: np.ndarray | None,
    output_type: str,
) -> None:
    """Refuse what does not fit each other or the model.

    Args:
        transformer: The iTryOn transformer.
        video: As in `ITryOnPipeline.__call__`, like those below.
        mask: The region to repaint.
        agnostic: `agnostic_video`.
        garments: Views of the garment.
        hands: `hand_video`.
        points: `hand_points`.
        previous: `previous_frames`.
        output_type: `np`, `pil` or `latent`.

    Raises:
        ValueError: The message says what does not fit.
    """
    if mask.ndim != 3 or not len(mask):
        raise ValueError(f"The mask must be (F, H, W), not {mask.shape}")
    for name, frames in (("video", video), ("agnostic_video", agnostic), ("hand_video", hands)):
        if frames is not None and (frames.shape != (*mask.shape, 3) or frames.dtype != np.uint8):
            raise ValueError(f"{name} is {frames.dtype} {frames.shape}, the mask asks for uint8 {(*mask.shape, 3)}")
    given = {"render": hands, "vertices": points}
    wanted = transformer.config.guider_input
    if transformer.guider is not None and given[wanted] is None and (hands is not None or points is not None):
        raise ValueError(
            f"The guider reads {wanted}: pass {'hand_video' if wanted == 'render' else 'hand_points'}, or no hands"
        )
    base = conditioning.SPATIAL_FACTOR * transformer.config.patch_size[1]
    if mask.shape[1] % base or mask.shape[2] % base:
        raise ValueError(f"Height and width must be multiples of {base}, not {mask.shape[1:]}")
    grid = tuple(n // conditioning.SPATIAL_FACTOR for n in mask.shape[1:])
    if points is not None and points.shape != (len(mask), FRAME_CHANNELS, *grid):
        raise ValueError(f"hand_points is {points.shape}, the mask asks for {(len(mask), FRAME_CHANNELS, *grid)}")
    if previous is not None and (
        previous.dtype != np.uint8 or previous.shape[1:] != (*mask.shape[1:], 3) or not 0 < len(previous) <= len(mask)
    ):
        raise ValueError(
            f"previous_frames is {previous.dtype} {previous.shape}, the mask asks for at most {len(mask)} uint8 frames "
            f"of {(*mask.shape[1:], 3)}"
        )
    if not len(garments):
        raise ValueError("No garment: pass at least one picture")
    if output_type not in ("np", "pil", "latent"):
        raise ValueError(f"Unknown output type {output_type!r}; there are np, pil and latent")
