"""Where windows meet: measured on a still picture, dressed by the embedded checkpoint in several windows."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from models.itryon.embedded import EMBEDDED_DIR
from models.itryon.windows import seam_ratio
from pipelines.arrays import encode_mask
from pipelines.store.schemas import AGNOSTIC_MASKS, CAPTIONS, HANDS, POSE
from pipelines.tryon.annotations import Annotations
from pipelines.tryon.load import load_pipeline
from pipelines.tryon.run import Garment, tryon_video
from pipelines.tryon.settings import TryOnSettings
from pipelines.video import VideoReader, VideoWriter
from tests.pipelines.media import dancer_frames
from tests.pipelines.tryon_scene import rows_of


def test_the_measure_knows_a_jump():
    frames = np.cumsum(np.ones((12, 2, 2, 3), np.uint8), 0)
    masks, windows = np.ones((12, 2, 2)), [(0, 6), (4, 10), (6, 12)]
    with pytest.raises(ValueError, match="one window"):
        seam_ratio(frames, masks, windows[:1])
    windows = [(0, 7), (5, 12)]
    assert seam_ratio(frames, masks, windows) == pytest.approx(1)
    frames[6:] += 3  # among the three changes of the overlap, one is of four levels
    assert seam_ratio(frames, masks, windows) == pytest.approx((1 + 4 + 1) / 3)


def test_jumps_between_latent_frames_are_no_seams():
    masks, windows = np.ones((29, 2, 2)), [(0, 17), (12, 29)]
    change = np.where(np.arange(28) % 4 == 0, 5, 1)
    frames = np.concatenate([[0], np.cumsum(change)]).astype(np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 3), np.uint8
    )
    assert seam_ratio(frames, masks, windows) == pytest.approx(1)
    frames[15:] += 6
    assert seam_ratio(frames, masks, windows) == pytest.approx((10 + 4 + 6) / (10 + 4))


@pytest.mark.slow
def test_windows_of_a_video_meet_without_a_seam(tmp_path):
    """A still person and a still mask, so that what changes from frame to frame is the model's doing."""
    count, height, width = 41, 128, 96
    picture = cv2.resize(dancer_frames(100, 1)[0], (width, height), interpolation=cv2.INTER_AREA)
    with VideoWriter(tmp_path / "still.mp4", fps=25, width=width, height=height) as writer:
        for _ in range(count):
            writer.write(picture)
    mask = np.zeros((height, width), np.uint8)
    mask[32:80, 24:72] = 1
    of_all = {"mask": encode_mask(mask), "height": height, "width": width, "area_fraction": float(mask.mean())}
    rows = [of_all | {"frame": f, "category": "upper_body", "source": "geometric"} for f in range(count)]
    nothing = {spec.name: spec.schema.empty_table() for spec in (POSE, HANDS, CAPTIONS)}
    annotations = Annotations(
        nothing[POSE.name], rows_of(AGNOSTIC_MASKS, rows), nothing[HANDS.name], nothing[CAPTIONS.name]
    )
    garment = np.full((height, width, 3), 255, np.uint8)
    garment[24:104, 16:80] = (180, 40, 50)
    settings = TryOnSettings(device="cpu", steps=6, guidance_scale=1.0)
    loaded = load_pipeline(EMBEDDED_DIR, settings)
    output = tmp_path / "out.mp4"
    record = tryon_video(
        loaded, tmp_path / "still.mp4", [Garment(garment)], annotations, output, settings, prompt="a dancer"
    )
    with VideoReader(output) as reader:
        frames = np.stack([f.rgb for f in reader.frames()])
    windows = [tuple(w) for w in record["windows"]]
    assert len(windows) == 3 and all(b < end for (_, end), (b, _) in pairwise(windows))
    ratio = seam_ratio(frames, np.stack([mask] * count), windows)
    print(f"seam ratio {ratio:.3f}, windows {windows}")
    assert ratio < 1.25
