"""Speed of the metrics against plain reference loops, timed in turn in the same run.

Ours and the plain ones take the same videos, one after the other round by round, so that whatever else the machine
does hits them alike. Ratios are medians over rounds. Values must agree, or the comparison would be of two things.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from benchmarks.videos import bench_videos, long_video
from models import weights
from models.features.i3d import load_i3d
from pipelines.evaluation.cache import ArrayCache
from pipelines.evaluation.clip_frames import ClipWindow, rgb_square
from pipelines.evaluation.distribution import DistributionMeter
from pipelines.evaluation.features import Part
from pipelines.evaluation.paired import PairedMeter
from pipelines.evaluation.settings import EvaluationSettings
from pipelines.video import VideoReader, VideoWriter

FRAMES, SIDE = 32, 320


def metrics(rounds: int = 3, videos: int = 2) -> dict[str, Any]:
    """SSIM and LPIPS against a plain loop a frame; set metrics against I3D a clip, then a second run of both.

    Args:
        rounds: Timed rounds.
        videos: Pairs of videos in a set.
    """
    weights.fetch(["i3d", "lpips"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        description, sources = bench_videos(root)
        pairs = [_pair(source, root / f"pair{i}") for i, source in enumerate(sources[:videos])]
        paired = _in_turn(
            {"ours": lambda: _ours_paired(pairs), "plain": lambda: _plain_paired(pairs)}, rounds, tolerance=2e-3
        )
        frames = sum(_count(p[0]) for p in pairs)
        sets: dict[str, list[float]] = {"ours": [], "plain": [], "ours again": [], "plain again": []}
        for number in range(rounds):
            kept = root / f"kept{number}"
            first = _in_turn({"ours": lambda k=kept: _ours_set(pairs, k), "plain": lambda: _plain_set(pairs)}, 1, 1e-3)
            again = _in_turn({"ours": lambda k=kept: _ours_set(pairs, k), "plain": lambda: _plain_set(pairs)}, 1, 1e-3)
            for name in ("ours", "plain"):
                sets[name] += first[name]
                sets[f"{name} again"] += again[name]
        memory = _memory(sources[0], root)
    return {
        "videos": f"{videos} pairs of {description.split(',')[0]} at {SIDE} px",
        "rounds": rounds,
        "frames": frames,
        "paired_s": {n: statistics.median(v) for n, v in paired.items()},
        "paired_speedup": _ratio(paired["plain"], paired["ours"]),
        "set_s": {n: statistics.median(v) for n, v in sets.items()},
        "set_speedup": _ratio(sets["plain"], sets["ours"]),
        "set_speedup_again": _ratio(sets["plain again"], sets["ours again"]),
        "memory_mb": memory,
    }


def _ratio(plain: list[float], ours: list[float]) -> float:
    return statistics.median(p / o for p, o in zip(plain, ours))


def _in_turn(sides: dict[str, Callable[[], np.ndarray]], rounds: int, tolerance: float) -> dict[str, list[float]]:
    """Seconds of each side by round; the order turns.

    Raises:
        RuntimeError: The sides do not agree.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for _ in range(rounds):
        values = {}
        for name in names:
            started = time.perf_counter()
            values[name] = sides[name]()
            seconds[name].append(time.perf_counter() - started)
        names = [*names[1:], names[0]]
        first, second = values.values()
        if not np.allclose(first, second, rtol=tolerance, atol=tolerance):
            raise RuntimeError(f"The two sides measure different things: {values}")
    return seconds


def _pair(source: Path, folder: Path) -> tuple[Path, Path]:
    """The first frames of a clip, scaled down, and a blurred copy."""
    folder.mkdir()
    paths = folder / "result.mp4", folder / "truth.mp4"
    with VideoReader(source, max_side=SIDE) as reader:
        frames = [f.rgb for f in reader.frames(0, FRAMES)]
        fps = reader.info.fps
    for path, blur in zip(paths, (3, 0)):
        with VideoWriter(path, fps=fps, width=frames[0].shape[1], height=frames[0].shape[0]) as writer:
            for frame in frames:
                writer.write(cv2.GaussianBlur(frame, (0, 0), blur) if blur else frame)
    return paths


def _count(path: Path) -> int:
    with VideoReader(path) as reader:
        return reader.info.num_frames


def _ours_paired(pairs: list[tuple[Path, Path]]) -> np.ndarray:
    meter = PairedMeter()
    return np.array([[m.value for m in meter.compare(*pair)] for pair in pairs], float)


def _plain_paired(pairs: list[tuple[Path, Path]]) -> np.ndarray:
    """One frame at a time: SSIM by Gaussian filters on whole videos in memory, LPIPS on single pictures."""
    from models.features.lpips import load_lpips

    network = load_lpips("alex")
    out = []
    for pair in pairs:
        a, b = (_whole(path) for path in pair)
        ssim = [_plain_ssim(x, y) for x, y in zip(a, b)]
        with torch.inference_mode():
            lpips = [float(network(*(_picture(v) for v in (x, y)))) for x, y in zip(a, b)]
        out.append([np.mean(ssim), np.mean(lpips)])
    return np.array(out)


def _whole(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([f.rgb for f in reader.frames()])


def _picture(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1


def _plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a / 255.0, b / 255.0

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (1.5, 1.5, 0), truncate=5 / 1.5, mode="mirror")

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return float(ssim.mean())


def _ours_set(pairs: list[tuple[Path, Path]], kept: Path) -> np.ndarray:
    settings = EvaluationSettings(resamples=0)
    results, truths = ([Part(str(p[i]), p[i], pair=str(n)) for n, p in enumerate(pairs)] for i in (0, 1))
    values = {
        m.metric: m.value for m in DistributionMeter(settings, ArrayCache(kept)).measure(results, truths, "paired")
    }
    return np.array([values["vfid_i3d_paired"], values["fvd_i3d_paired"]], float)


def _plain_set(pairs: list[tuple[Path, Path]]) -> np.ndarray:
    """Each metric by itself: decode, I3D clip by clip, and scipy's root of the product of covariances."""
    from scipy.linalg import sqrtm

    network = load_i3d()
    out = []
    for frames, logits in ((10, False), (16, True)):
        sides = []
        for side in (0, 1):
            rows = []
            for pair in pairs:
                window = ClipWindow(frames)
                for picture in map(rgb_square, _whole(pair[side])):
                    if (clip := window.push(picture)) is not None:
                        with torch.inference_mode():
                            rows.append(network(2 * clip[None] - 1)[0 if logits else 1][0].double().numpy())
            sides.append(np.stack(rows))
        a, b = sides
        first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        # Numbers the covariances lack rank for come out of the root as noise of either sign.
        root = np.real(sqrtm(first @ second))
        out.append(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))
    return np.array(out)


def _memory(source: Path, root: Path) -> dict[str, float]:
    """Peak memory of this process after a video, and after one four times as long."""
    peaks = {}
    for seconds in (4.0, 16.0):
        video = long_video(source, root / f"long{seconds:g}.mp4", seconds, 10.0, 720)
        PairedMeter(EvaluationSettings(height=90, width=160)).compare(video, video)
        part = Part("long", video)
        DistributionMeter(EvaluationSettings(mode="legacy", resamples=0)).measure([part], [part], "unpaired")
        peaks[f"{seconds * 10:g}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return peaks
