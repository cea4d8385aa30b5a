"""What each network is given of a video: frames known beforehand, prepared by Pillow and OpenCV instead of torch."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from models.features.networks import NetworkSource
from pipelines.evaluation.cache import ArrayCache
from pipelines.evaluation.clip_frames import rgb_cropped
from pipelines.evaluation.distribution import SET_METRICS
from pipelines.evaluation.features import FeatureExtractor, Part, SetMetric
from pipelines.evaluation.settings import EvaluationSettings, Mode

CASES = [(mode, metric) for mode, metrics in SET_METRICS.items() for metric in metrics]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Noise over a slope, different in every channel: antialiasing, order of channels and offsets all show."""
    rng = np.random.default_rng(0)
    slope = np.linspace((20, 90, 170), (120, 200, 40), 420)[None, None]
    return np.clip(slope + rng.normal(0, 40, (16, 300, 420, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def video(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "lossless.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=15)
        stream.width, stream.height, stream.pix_fmt = 420, 300, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def scaled(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W, 3) in [0, 1] by Pillow, whose bilinear filter widens where it scales down."""
    channels = [Image.fromarray(frame[..., c].astype(np.float32) / 255) for c in range(3)]
    return np.stack([np.asarray(c.resize((width, height), Image.Resampling.BILINEAR)) for c in channels], -1)


def middle(frame: np.ndarray) -> np.ndarray:
    """The middle 256 x 256 after scaling the shorter side to 256, cut off to whole colours, at 224 x 224."""
    height, width = frame.shape[:2]
    if height < width:
        whole = scaled(frame, -(-width * 256 // height), 256)
    else:
        whole = scaled(frame, 256, -(-height * 256 // width))
    top, left = (whole.shape[0] - 256) // 2, (whole.shape[1] - 256) // 2
    cut = np.floor(whole[top : top + 256, left : left + 256] * 255) / 255
    return cv2.resize(cut.astype(np.float32), (224, 224), interpolation=cv2.INTER_LINEAR)


class _Recorder(torch.nn.Module):
    """Keeps what it is given; answers as the network that it stands for does."""

    def __init__(self, metric: SetMetric):
        super().__init__()
        self.metric, self.clips = metric, []

    def forward(self, video: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        self.clips += list(video.clone())
        ones = torch.ones(len(video), 2)
        return (3 * ones, 5 * ones) if self.metric.network == "i3d" else 7 * ones


@pytest.mark.parametrize(("mode", "metric"), CASES, ids=[f"{mode}-{metric.name}" for mode, metric in CASES])
def test_each_network_gets_its_own_colours_scale_and_frames(
    frames: np.ndarray, video: Path, mode: Mode, metric: SetMetric
) -> None:
    network = _Recorder(metric)
    source = NetworkSource("recorder", "0" * 64, lambda device: network)
    extractor = FeatureExtractor(EvaluationSettings(mode=mode), ArrayCache(None))
    found = extractor.of_video(Part("v", video), {metric: source}, {metric: [0]})
    (clip,) = network.clips
    count = 10 if metric.name.startswith("vfid") else 16
    assert clip.shape == (3, count, 224, 224)
    picked = frames[[0, count // 2, count - 1]]
    if metric.network == "videomae":
        # The package cd-fvd reads RGB and hands it over in [0, 1], whatever the script does elsewhere.
        expected = np.stack([middle(f) for f in picked])
    else:
        unit = np.stack([scaled(f[..., ::-1] if mode == "legacy" else f, 224, 224) for f in picked])
        kinetics = np.array((114.7748, 107.7354, 99.4750))
        trained_on_bytes = metric.network == "resnext101" and mode == "corrected"
        expected = 255 * unit - kinetics if trained_on_bytes else 2 * unit - 1
    given = clip[:, [0, count // 2, count - 1]].permute(1, 2, 3, 0).numpy()
    difference = np.abs(given - expected)
    # Where a colour is whole but for rounding, cutting it off may go either way.
    share = (difference > 1e-4 * np.abs(expected).max()).mean()
    assert share < (5e-3 if metric.network == "videomae" else 1e-9), difference.max()
    answer = {"i3d": 3 if metric.output == "logits" else 5}.get(metric.network, 7)
    assert found[metric].tolist() == [[answer, answer]]


def test_tall_frames_are_cut_to_their_middle(frames: np.ndarray) -> None:
    tall = frames[0].transpose(1, 0, 2)[:, :257]
    given = rgb_cropped(tall).permute(1, 2, 0).numpy()
    assert (np.abs(given - middle(tall)) > 1e-4).mean() < 5e-3
