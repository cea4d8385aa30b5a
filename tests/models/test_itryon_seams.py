"""Where windows meet: measured on a real clip, dressed by the embedded checkpoint in several windows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from models.itryon.embedded import EMBEDDED_DIR
from models.itryon.windows import plan_windows, seam_ratio
from pipelines.tryon.load import load_pipeline
from pipelines.tryon.settings import TryOnSettings
from tests.pipelines.media import dancer_frames


def test_the_measure_knows_a_jump():
    frames = np.cumsum(np.ones((12, 2, 2, 3), np.uint8), 0)
    masks, windows = np.ones((12, 2, 2)), [(0, 6), (4, 10), (6, 12)]
    with pytest.raises(ValueError, match="one window"):
        seam_ratio(frames, masks, windows[:1])
    windows = [(0, 7), (5, 12)]
    assert seam_ratio(frames, masks, windows) == pytest.approx(1)
    frames[6:] += 3  # among the three changes of the overlap, one is of four levels
    assert seam_ratio(frames, masks, windows) == pytest.approx((1 + 4 + 1) / 3)


@pytest.mark.slow
def test_windows_of_a_real_clip_meet_without_a_seam():
    """A still person and a still mask, so that what changes from frame to frame is the model's doing."""
    picture = cv2.resize(dancer_frames(100, 1)[0], (96, 128), interpolation=cv2.INTER_AREA)
    video = np.stack([picture] * 41)
    mask = np.zeros((41, 128, 96), np.uint8)
    mask[:, 32:80, 24:72] = 1
    pipe = load_pipeline(EMBEDDED_DIR, TryOnSettings(device="cpu")).pipe
    garment = np.full((128, 96, 3), 255, np.uint8)
    garment[24:104, 16:80] = (180, 40, 50)
    frames = pipe(
        video=video,
        mask=mask,
        agnostic_video=np.where(mask[..., None], np.uint8(128), video),
        garments=[garment],
        prompt="a dancer",
        num_inference_steps=6,
        guidance_scale=1.0,
        overlap=5,
        blend_edge=None,
        generator=torch.Generator().manual_seed(0),
    ).frames
    windows = plan_windows(41, 17, 5)
    ratio = seam_ratio(frames, mask, windows)
    print(f"seam ratio {ratio:.3f}, windows {windows}")
    assert ratio < 1.5
