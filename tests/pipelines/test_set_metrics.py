"""Set metrics: Fréchet distances against scipy, the published script's clips, features by content."""

from __future__ import annotations

import bisect
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch.utils.data import DataLoader, Dataset

from models.features import networks
from models.features.networks import NetworkSource
from pipelines.evaluation import distribution
from pipelines.evaluation.cache import ArrayCache
from pipelines.evaluation.clip_frames import (
    ClipWindow,
    bgr_square,
    rgb_cropped,
    rgb_square,
    script_clip_counts,
    script_random_starts,
)
from pipelines.evaluation.distribution import SET_METRICS, DistributionMeter
from pipelines.evaluation.features import Part
from pipelines.evaluation.frechet import FeatureSet, bootstrap_interval, frechet_distance
from pipelines.evaluation.settings import EvaluationSettings
from pipelines.video import VideoReader, VideoWriter


def frechet_scipy(a: np.ndarray, b: np.ndarray, bias: bool = False) -> float:
    first, second = (np.cov(x, rowvar=False, bias=bias) for x in (a, b))
    root = sqrtm(first @ second)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * np.real(root)))


@pytest.mark.parametrize(("n", "m", "d"), [(60, 40, 8), (9, 50, 8), (20, 20, 20)])
def test_frechet_distance_equals_scipys_root(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)), rng.normal(size=(m, d)) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_scipy(a, b), rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8 * np.square(a).sum())


def test_frechet_distance_of_gaussians_with_the_same_axes_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    unit = np.linalg.qr(rng.normal(size=(50, 6)) - 0.0)[0]
    unit -= unit.mean(0)
    unit = np.linalg.qr(unit)[0] * np.sqrt(49)  # exactly white: mean 0, covariance 1
    s, t, shift = rng.uniform(0.5, 3, 6), rng.uniform(0.5, 3, 6), rng.normal(size=6)
    assert frechet_distance(unit * s, unit * t + shift) == pytest.approx((shift**2).sum() + ((s - t) ** 2).sum())


def test_fewer_clips_than_dimensions_give_the_value_of_the_space_that_they_span() -> None:
    rng = np.random.default_rng(1)
    flat = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5
    into = np.linalg.qr(rng.normal(size=(200, 3)))[0].T
    assert frechet_distance(flat[0] @ into, flat[1] @ into) == pytest.approx(frechet_scipy(*flat), rel=1e-6)


@given(st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(lambda c: sum(c) >= 2))
def test_counts_are_rows_repeated(counts: list[int]) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(6, 4)), rng.normal(size=(9, 4))
    repeated = np.repeat(a, counts, axis=0)
    assert frechet_distance(a, b, np.array(counts)) == pytest.approx(frechet_distance(repeated, b), abs=1e-9)


def test_one_clip_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="at least two clips"):
        frechet_distance(np.zeros((1, 3)), np.ones((4, 3)))


def test_the_interval_is_as_wide_as_the_value_varies_with_other_videos() -> None:
    def sets(seed: int) -> tuple[FeatureSet, FeatureSet]:
        rng = np.random.default_rng(seed)
        made = []
        for shift in (0.0, 1.0):
            video = np.repeat(np.arange(30), 2)
            made.append(FeatureSet(rng.normal(size=(30, 4))[video] + 0.3 * rng.normal(size=(60, 4)) + shift, video))
        return made[0], made[1]

    values = [frechet_distance(a.values, b.values) for a, b in map(sets, range(300))]
    spread = np.quantile(values, [0.025, 0.975])
    found = [bootstrap_interval(*sets(seed), False, 200, 0.95) for seed in range(10)]
    width = np.mean([high - low for low, high in found])
    assert width == pytest.approx(spread[1] - spread[0], rel=0.35)
    for seed, (low, high) in enumerate(found):
        assert low <= frechet_distance(*(s.values for s in sets(seed))) <= high
    assert bootstrap_interval(*sets(0), False, 200, 0.95) == found[0]


def test_pairs_that_are_drawn_together_vary_less() -> None:
    rng = np.random.default_rng(3)
    base, video = rng.normal(size=(40, 3)), np.arange(40)
    a, b = FeatureSet(base, video), FeatureSet(base + 0.5 + 0.05 * rng.normal(size=base.shape), video)
    together, apart = (bootstrap_interval(a, b, paired, 200, 0.95) for paired in (True, False))
    assert together[1] - together[0] < 0.5 * (apart[1] - apart[0])
    assert bootstrap_interval(FeatureSet(base[:2], video[:2]), b, False, 200, 0.95) is None


@given(st.lists(st.integers(10, 90), min_size=1, max_size=8))
def test_the_scripts_first_clips_are_counted_as_it_walks(lengths: list[int]) -> None:
    ends, total = [], 0
    for n in lengths:
        total += n
        ends.append(total // 10)
    visited = [bisect.bisect_left(ends, i) for i in range(ends[-1])]
    assert script_clip_counts(lengths).tolist() == [visited.count(v) for v in range(len(lengths))]
    # The place that it seeks to is never behind the start: it always reads the first frames.
    assert all(clip - ends[video] <= 0 for clip, video in enumerate(visited))


def test_the_first_video_counts_once_more_than_it_has_clips() -> None:
    assert script_clip_counts([60, 60, 60]).tolist() == [7, 6, 5]
    assert script_clip_counts([64]).tolist() == [6]


class _RandomStarts(Dataset):
    """Draws as cd-fvd's data set does, in the worker's process."""

    def __init__(self, lengths: list[int]):
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[int, int]:
        while self.lengths[index] < 16:
            index = (index + 1) % len(self.lengths)
        return index, random.randint(0, self.lengths[index] - 16)


def drawn_by_torch(lengths: list[int], at_least: int | None) -> list[tuple[int, int]]:
    """Video and first frame of the clips that torch's own loader draws, in their order."""
    torch.manual_seed(42)
    loader = DataLoader(_RandomStarts(lengths), batch_size=16, num_workers=4, shuffle=True)
    drawn: list[tuple[int, int]] = []
    while not drawn or (at_least is not None and len(drawn) < at_least):
        for videos, starts in loader:
            drawn += zip(videos.tolist(), starts.tolist())
    return drawn[:at_least]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("at_least", [None, 90])
@pytest.mark.parametrize("short", [(), (0, 12, 13, 36)])
def test_random_clips_are_those_that_torchs_loader_draws(at_least: int | None, short: tuple[int, ...]) -> None:
    lengths = [12 if i in short else 30 + 7 * i for i in range(37)]
    expected: list[list[int]] = [[] for _ in lengths]
    for video, start in drawn_by_torch(lengths, at_least):
        expected[video].append(start)
    assert script_random_starts(lengths, 16, at_least) == expected
    assert script_random_starts([12, 15], 16, at_least) == [[], []]


def test_clips_are_cut_from_a_stream() -> None:
    frames = [torch.full((3, 2, 2), float(i)) for i in range(11)]

    def cut(starts: list[int] | None) -> list[list[float]]:
        window = ClipWindow(4, starts)
        return [c[0, :, 0, 0].tolist() for c in map(window.push, frames) if c is not None]

    assert cut(None) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut([7, 0, 2]) == [[0, 1, 2, 3], [2, 3, 4, 5], [7, 8, 9, 10]]
    assert cut([8]) == [] and cut([]) == []
    with pytest.raises(ValueError, match="once each"):
        cut([2, 0, 2])


def test_frames_become_what_the_networks_take() -> None:
    frame = np.zeros((128, 256, 3), np.uint8)
    frame[..., 0], frame[:, 128:, 2] = 200, 100
    square = rgb_square(frame)
    assert square.shape == (3, 224, 224)
    assert square[0].mean() == pytest.approx(200 / 255, abs=1e-4) and square[2].mean() == pytest.approx(
        50 / 255, abs=1e-3
    )
    assert torch.equal(bgr_square(frame), square.flip(0))
    cropped = rgb_cropped(frame)
    # The middle 128 columns of 256: half of them have blue.
    assert cropped.shape == (3, 224, 224) and cropped[2].mean() == pytest.approx(50 / 255, abs=2e-3)


@pytest.mark.parametrize("paired", [True, False])
def test_covariances_of_the_clips_themselves_also_in_the_interval(paired: bool) -> None:
    rng = np.random.default_rng(5)
    a, b = (FeatureSet(rng.normal(size=(9, 3)) + s, np.arange(9)) for s in (0, 1))
    expected = frechet_scipy(a.values, b.values, bias=True)
    assert frechet_distance(a.values, b.values, lost=0) == pytest.approx(expected, rel=1e-9)
    around = [np.mean(bootstrap_interval(a, b, paired, 200, 0.95, lost=n)) for n in (0, 1)]
    assert abs(around[0] - expected) < abs(around[1] - expected)


class _Colours(torch.nn.Module):
    """Stands for I3D: features that can be computed by hand, and how many clips it saw."""

    seen = 0

    def forward(self, video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _Colours.seen += len(video)
        features = torch.cat([video.mean((3, 4)).flatten(1)[:, :: video.shape[2]], video.mean((2, 3, 4))], 1)
        return features, features


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> type[_Colours]:
    def find(name: str, folder: object = None) -> NetworkSource:
        if name != "i3d":
            return networks.find_network(name, folder or "nowhere")
        return NetworkSource("colours", "0" * 64, lambda device: _Colours())

    monkeypatch.setattr(distribution, "find_network", find)
    monkeypatch.setattr(_Colours, "seen", 0)
    return _Colours


def write(path: Path, count: int, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with VideoWriter(path, fps=15, width=64, height=48, crf=1) as writer:
        for colour in rng.uniform(30, 220, (count, 3)):
            writer.write(np.full((48, 64, 3), colour, np.uint8))
    return path


def parts(folder: Path, lengths: list[int], seed: int) -> list[Part]:
    return [
        Part(f"{folder.name}/{i}", write(folder / f"{i}.mp4", n, seed + i), pair=str(i)) for i, n in enumerate(lengths)
    ]


def test_metrics_come_from_all_clips_and_a_second_run_computes_none(tmp_path: Path, colours: type[_Colours]) -> None:
    ours, theirs = parts(tmp_path / "ours", [32, 40, 21], 0), parts(tmp_path / "theirs", [32, 40, 21], 10)
    settings = EvaluationSettings(resamples=50, networks=str(tmp_path))
    first = DistributionMeter(settings, ArrayCache(tmp_path / "cache"))
    values = {m.metric: m for m in first.measure(ours, theirs, "paired")}
    assert list(values) == [f"{m.name}_paired" for m in SET_METRICS["corrected"]]
    # 3 + 4 + 2 clips of ten frames, 2 + 2 + 1 of sixteen.
    assert values["vfid_i3d_paired"].num_samples == 9 and values["fvd_i3d_paired"].num_samples == 5
    assert colours.seen == 2 * (9 + 5)
    assert values["vfid_i3d_paired"].low <= values["vfid_i3d_paired"].value <= values["vfid_i3d_paired"].high
    assert values["vfid_i3d_paired"].network.startswith("colours 0000")
    assert "lack rank" in values["fvd_i3d_paired"].note
    assert "resnext-101.pth" in values["vfid_resnext_paired"].reason and values["vfid_resnext_paired"].value is None
    assert "the interval is of" not in values["fvd_i3d_paired"].note
    other = settings.model_copy(update={"resamples": 10, "confidence": 0.9})
    again = DistributionMeter(other, ArrayCache(tmp_path / "cache"))
    repeated = {m.metric: m for m in again.measure(ours, theirs, "paired")}
    assert colours.seen == 2 * (9 + 5)
    assert repeated["vfid_i3d_paired"].value == values["vfid_i3d_paired"].value
    assert repeated["fvd_i3d_paired"].note.endswith("; the interval is of 90 %")


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_file_that_does_not_load_costs_the_metrics_of_its_network_alone(
    tmp_path: Path, colours: type[_Colours], content: bytes
) -> None:
    (tmp_path / "resnext-101.pth").write_bytes(content)
    ours, theirs = parts(tmp_path / "ours", [32, 40], 0), parts(tmp_path / "theirs", [32, 40], 10)
    meter = DistributionMeter(EvaluationSettings(resamples=0, networks=str(tmp_path)))
    values = {m.metric: m for m in meter.measure(ours, theirs, "paired")}
    assert values["vfid_i3d_paired"].value is not None and values["fvd_i3d_paired"].value is not None
    lost = values["vfid_resnext_paired"]
    assert lost.value is None and "resnext-101.pth does not load" in lost.reason and "weights_only" not in lost.reason
    assert "vit_g" in values["fvd_videomae_paired"].reason and not meter.left_out


def test_a_video_with_other_content_or_frames_is_computed_again(tmp_path: Path, colours: type[_Colours]) -> None:
    cache = ArrayCache(tmp_path / "cache")
    settings = EvaluationSettings(resamples=0, networks=str(tmp_path))
    ours, theirs = parts(tmp_path / "ours", [16, 16], 0), parts(tmp_path / "theirs", [30, 30], 10)

    def value() -> float:
        return DistributionMeter(settings, cache).measure(ours, theirs, "unpaired")[2].value

    before, seen = value(), colours.seen
    theirs = [Part(p.name, p.path, 14, 16) for p in theirs]
    assert value() != before and colours.seen > seen
    for file in (tmp_path / "cache").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:90])
    seen = colours.seen
    assert value() != before and colours.seen > seen


def test_legacy_sees_the_first_ten_frames_with_blue_first(tmp_path: Path, colours: type[_Colours]) -> None:
    ours, theirs = parts(tmp_path / "ours", [32, 40], 0), parts(tmp_path / "theirs", [25, 40], 10)
    settings = EvaluationSettings(mode="legacy", resamples=0, networks=str(tmp_path))
    values = DistributionMeter(settings).measure(ours, theirs, "paired")
    assert [m.metric for m in values] == ["vfid_i3d_paired", "vfid_resnext_paired", "fvd_videomae_paired"]
    assert all(m.mode == "legacy" for m in values)
    features = []
    for side, counts in ((ours, [4, 3]), (theirs, [3, 3])):
        rows = []
        for part, count in zip(side, counts):
            with VideoReader(part.path) as reader:
                video = np.stack([f.rgb for f in reader.frames(0, 10)])[..., ::-1].mean((1, 2)) / 127.5 - 1
            rows += [np.concatenate([video[0], video.mean(0)])] * count
        features.append(np.array(rows))
    assert values[0].value == pytest.approx(frechet_scipy(*features), rel=1e-3, abs=1e-4)
    assert values[0].num_samples == 7


class _Ends(torch.nn.Module):
    """Stands for VideoMAE: the colour of the first frame of each clip and twice that of the last."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return (video[:, :, 0] + 2 * video[:, :, -1]).mean((2, 3))


def test_legacy_fvd_counts_a_clip_as_often_as_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, folder: object = None) -> NetworkSource:
        if name != "videomae":
            return networks.find_network(name, tmp_path)
        return NetworkSource("ends", "0" * 64, lambda device: _Ends())

    monkeypatch.setattr(distribution, "find_network", find)
    # Videos with few and with many places for a clip: taken once each, places would weigh alike instead of videos.
    # One is too short for a clip of sixteen.
    made, filmed = [17, 40, 12, 18], [20, 25, 18, 16, 22]
    ours = parts(tmp_path / "ours", made, 0)
    theirs = parts(tmp_path / "theirs", filmed, 10)
    meter = DistributionMeter(EvaluationSettings(mode="legacy", resamples=20, networks=str(tmp_path)))
    value = next(m for m in meter.measure(ours, theirs, "unpaired") if m.metric == "fvd_videomae_unpaired")

    def drawn(lengths: list[int], at_least: int | None) -> list[tuple[int, int]]:
        return [(v, s) for v, starts in enumerate(script_random_starts(lengths, 16, at_least)) for s in starts]

    def features(side: list[Part], clips: list[tuple[int, int]]) -> np.ndarray:
        colours = []
        for part in side:
            with VideoReader(part.path) as reader:
                colours.append(np.stack([f.rgb.mean((0, 1)) for f in reader.frames()]) / 255)
        return np.array([colours[v][s] + 2 * colours[v][s + 15] for v, s in clips])

    generated = drawn(made, 2048)
    real = features(theirs, drawn(filmed, None))
    expected = frechet_scipy(features(ours, generated), real, bias=True)
    once = frechet_scipy(features(ours, sorted(set(generated))), real, bias=True)
    assert len(set(generated)) < 100 and abs(once / expected - 1) > 0.1
    assert value.value == pytest.approx(expected, rel=0.01)
    assert abs(frechet_scipy(features(ours, generated), real) / expected - 1) > 0.02
    assert value.num_samples == 2048 and value.note.startswith("2048 clips of 3 videos against 5 of 5")
    assert value.low < value.value < value.high
    assert set(meter.left_out) == {"ours/2"}


def test_what_cannot_be_read_or_is_too_short_is_named_and_left_out(tmp_path: Path, colours: type[_Colours]) -> None:
    ours, theirs = parts(tmp_path / "ours", [20, 5, 20], 0), parts(tmp_path / "theirs", [20, 20], 10)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    meter = DistributionMeter(EvaluationSettings(resamples=0, networks=str(tmp_path)))
    values = meter.measure([*ours, Part("bad", tmp_path / "bad.mp4")], theirs, "unpaired")
    assert set(meter.left_out) == {"ours/1", "bad"}
    assert "shorter than a clip" in meter.left_out["ours/1"] and "cannot be read" in meter.left_out["bad"]
    assert values[0].num_samples == 4
    alone = meter.measure(ours[1:2], theirs, "unpaired")[0]
    assert alone.value is None and "two clips" in alone.reason
