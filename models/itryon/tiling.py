"""When Wan's autoencoder works in tiles: slower and a little different, but within an accelerator's memory."""

from __future__ import annotations

from typing import Any, Literal, get_args

Tiling = Literal["auto", "on", "off"]

FULL_DECODE_PIXELS = 832 * 480
"""Largest frame that `auto` decodes whole. What a decode takes goes with the pixels of one frame, not with the number
of frames, which Wan's autoencoder decodes one latent frame after the other."""


def set_tiling(vae: Any, tiling: Tiling, height: int, width: int) -> bool:
    """Switch the tiling of a pipeline's autoencoder on or off, for encoding and decoding.

    Tiles overlap and are blended, so that the result is close to that of the whole frame and not equal to it.

    Args:
        vae: diffusers' `AutoencoderKLWan`, or an autoencoder without tiling such as the embedded one.
        tiling: `auto` tiles frames of more than `FULL_DECODE_PIXELS`, where the autoencoder can.
        height: Rows of the frames, pixels.
        width: Columns of the frames, pixels.

    Returns:
        Whether it tiles now. Frames that are no larger than one of its tiles are whole all the same.

    Raises:
        ValueError: `on` for an autoencoder without tiling, or no such choice.
    """
    if tiling not in get_args(Tiling):
        raise ValueError(f"Tiling is one of {', '.join(get_args(Tiling))}, not {tiling!r}")
    if not hasattr(vae, "enable_tiling"):
        if tiling == "on":
            raise ValueError(
                f"{type(vae).__name__} has no tiling and needs none: its frames take little more memory than their "
                "pixels. Set vae_tiling to auto or off"
            )
        return False
    wanted = tiling == "on" or (tiling == "auto" and height * width > FULL_DECODE_PIXELS)
    if wanted:
        vae.enable_tiling()
    else:
        vae.disable_tiling()
    return wanted
