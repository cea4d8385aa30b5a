"""Paired metrics against independent computations, and the interaction success rate from a lake with known truth."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter

from models.features.lpips import LPIPS
from models.features.networks import NetworkMissing, NetworkSource
from models.judges import JUDGES
from models.judges.base import Judge, JudgeRequest, Verdict
from pipelines.arrays import encode_mask
from pipelines.checkpoints.train import CheckpointMissing
from pipelines.evaluation import distribution, paired
from pipelines.evaluation.cache import ArrayCache
from pipelines.evaluation.isr import judge_checkpoint, make_judge
from pipelines.evaluation.metrics import NothingToEvaluate, evaluate_checkpoint, evaluate_folders
from pipelines.evaluation.paired import PairedMeter, mean_over_videos
from pipelines.evaluation.rates import OVERALL, clip_rates, rates, votes_rate
from pipelines.evaluation.settings import EvaluationSettings, IsrSettings
from pipelines.evaluation.values import MetricValue, markdown_table
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import (
    AGNOSTIC_MASKS,
    CAPTIONS,
    HANDS,
    ISR_SCORES,
    POSE,
    TRYON_VIDEOS,
    VIDEO_METRICS,
    VIDEOS,
    TableSpec,
)
from pipelines.store.studio_schemas import JUDGE_REPORTS
from pipelines.video import VideoReader, VideoWriter

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def write(path: Path, frames: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=15, width=frames.shape[2], height=frames.shape[1]) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def clip(count: int = 12, height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    still = gaussian_filter(rng.uniform(0, 255, (height, width + 3 * count, 3)), (3, 3, 0)) * 3 - 250
    return np.stack([np.clip(still[:, 3 * t : 3 * t + width], 0, 255) for t in range(count)]).astype(np.uint8)


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    torch.manual_seed(0)
    return LPIPS("alex")


@pytest.fixture(scope="module")
def meter(lpips: LPIPS) -> PairedMeter:
    return PairedMeter(EvaluationSettings(batch_frames=5), lpips)


@pytest.fixture(autouse=True)
def no_video_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set metrics have tests of their own; here their networks are missing, as they may be anywhere."""

    def missing(name: str, folder: object = None) -> NetworkSource:
        raise NetworkMissing(f"needs {name}.pth")

    monkeypatch.setattr(distribution, "find_network", missing)


def frames_of(path: Path) -> np.ndarray:
    with VideoReader(path) as reader:
        return np.stack([f.rgb for f in reader.frames()])


def ssim_numpy(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 with a Gaussian window of sigma 1.5 and 11 taps, pictures mirrored at their edges."""
    a, b = a / 255.0, b / 255.0

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, (1.5, 1.5, 0), truncate=5 / 1.5, mode="mirror")

    mu_a, mu_b = mean(a), mean(b)
    var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mu_a * mu_b + c1) * (2 * cov + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return float(ssim.mean())


def test_ssim_and_lpips_equal_independent_computations(tmp_path: Path, meter: PairedMeter, lpips: LPIPS) -> None:
    noisy = np.clip(clip() + np.random.default_rng(1).normal(0, 20, clip().shape), 0, 255).astype(np.uint8)
    result, truth = write(tmp_path / "a.mp4", noisy), write(tmp_path / "b.mp4", clip())
    ssim, distance = meter.compare(result, truth)
    a, b = frames_of(result), frames_of(truth)
    assert ssim.value == pytest.approx(np.mean([ssim_numpy(x, y) for x, y in zip(a, b)]), abs=2e-4)
    tensors = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (a, b)]
    assert distance.value == pytest.approx(float(lpips(*tensors).mean()), abs=1e-5)
    assert ssim.num_samples == distance.num_samples == 12
    assert distance.network == "lpips-alex" and ssim.network == ""


def test_equal_videos_are_perfect_and_offset_is_respected(tmp_path: Path, meter: PairedMeter) -> None:
    whole = write(tmp_path / "whole.mp4", clip(20))
    part = write(tmp_path / "part.mp4", clip(20)[6:14])
    ssim, lpips = meter.compare(whole, whole)
    assert ssim.value == pytest.approx(1, abs=1e-6) and lpips.value == pytest.approx(0, abs=1e-7)
    right = meter.compare(part, whole, start=6, count=8)[0]
    wrong = meter.compare(part, whole, start=5, count=8)[0]
    assert right.value > 0.94 and right.value > wrong.value + 0.05


def test_other_lengths_and_damage_are_null_with_the_reason(tmp_path: Path, meter: PairedMeter) -> None:
    long, short = write(tmp_path / "long.mp4", clip(12)), write(tmp_path / "short.mp4", clip(9))
    assert meter.compare(short, long)[0].value is None
    assert "fewer frames" in meter.compare(short, long)[0].reason
    assert "more frames" in meter.compare(long, short)[1].reason
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert "cannot be read" in meter.compare(tmp_path / "bad.mp4", long)[0].reason


def test_other_sizes_are_compared_only_at_a_size_that_is_asked_for(
    tmp_path: Path, meter: PairedMeter, lpips: LPIPS
) -> None:
    big = clip(6, 128, 192)
    small = big.reshape(6, 64, 2, 96, 2, 3).mean((2, 4)).round().astype(np.uint8)
    result, truth = write(tmp_path / "s.mp4", small), write(tmp_path / "b.mp4", big)
    refused = meter.compare(result, truth)[0]
    assert refused.value is None and "96x64" in refused.reason and "192x128" in refused.reason
    at_size = PairedMeter(EvaluationSettings(height=64, width=96), lpips)
    assert at_size.compare(result, truth)[0].value > 0.85


def write_odd(path: Path, frames: np.ndarray) -> Path:
    """A lossless video of any size, as cameras and screen recorders make them; H.264 in yuv420p has even ones only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=15)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("mode", ["corrected", "legacy"])
@pytest.mark.parametrize(("height", "width"), [(53, 71), (53, 72), (54, 71)])
def test_the_pixel_that_makes_an_odd_size_even_is_not_compared(
    tmp_path: Path, lpips: LPIPS, height: int, width: int, mode: Any
) -> None:
    frames = clip(5, height, width)
    noisy = np.clip(frames + np.random.default_rng(1).normal(0, 20, frames.shape), 0, 255).astype(np.uint8)
    result, truth = write(tmp_path / "a.mp4", noisy), write_odd(tmp_path / "b.mkv", frames)
    a, b = frames_of(result), frames_of(truth)
    assert a.shape[1:3] == (54, 72) and b.shape[1:3] == (height, width)
    ssim, distance = PairedMeter(EvaluationSettings(mode=mode, batch_frames=2), lpips).compare(result, truth)
    kept = a[:, :height, :width]
    assert ssim.value == pytest.approx(np.mean([ssim_numpy(x, y) for x, y in zip(kept, b)]), abs=2e-4)
    tensors = [torch.from_numpy(x).permute(0, 3, 1, 2).float() / 127.5 - 1 for x in (kept, b)]
    assert distance.value == pytest.approx(float(lpips(*tensors).mean()), abs=1e-5)


@pytest.mark.parametrize("size", [(54, 73), (55, 71), (52, 70)])
def test_other_differences_of_size_are_no_padding(tmp_path: Path, meter: PairedMeter, size: tuple[int, int]) -> None:
    truth = write_odd(tmp_path / "b.mkv", clip(3, 53, 71))
    refused = meter.compare(write_odd(tmp_path / "a.mkv", clip(3, *size)), truth)[0]
    assert refused.value is None and f"{size[1]}x{size[0]}" in refused.reason and "71x53" in refused.reason


def test_legacy_cuts_the_longer_video(tmp_path: Path, lpips: LPIPS) -> None:
    long, short = write(tmp_path / "long.mp4", clip(12)), write(tmp_path / "short.mp4", clip(9))
    values = PairedMeter(EvaluationSettings(mode="legacy", batch_frames=4), lpips).compare(long, short)
    assert [(m.metric, m.num_samples, m.mode) for m in values] == [("ssim", 9, "legacy"), ("lpips", 9, "legacy")]
    expected = np.mean([ssim_numpy(x, y) for x, y in zip(frames_of(long), frames_of(short))])
    assert values[0].value == pytest.approx(expected, abs=2e-4) and values[1].network == "lpips-squeeze"


def test_without_its_network_lpips_is_null_and_ssim_is_not(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", clip(4))
    cache = ArrayCache(tmp_path / "cache")
    settings = EvaluationSettings(mode="legacy", networks=str(tmp_path))
    ssim, lpips = PairedMeter(settings, cache=cache).compare(video, video)
    assert ssim.value == pytest.approx(1, abs=1e-6)
    assert lpips.value is None and "squeezenet1_1-b8a52dc0.pth" in lpips.reason and str(tmp_path) in lpips.reason
    again = PairedMeter(settings, cache=cache)
    assert again.compare(video, video)[0].value == ssim.value and cache.hits == 1


@pytest.mark.parametrize(("height", "width"), [(24, 40), (4, 40)])
def test_frames_below_what_the_network_takes_have_no_lpips(
    tmp_path: Path, lpips: LPIPS, monkeypatch: pytest.MonkeyPatch, height: int, width: int
) -> None:
    monkeypatch.setattr(paired, "find_network", lambda *a: NetworkSource("alex", "0" * 64, lambda device: lpips))
    video = write_odd(tmp_path / "a.mkv", clip(3, height, width))
    cache = ArrayCache(tmp_path / "cache")
    for _ in range(2):
        ssim, lpips = PairedMeter(EvaluationSettings(), cache=cache).compare(video, video)
        assert lpips.value is None and "too small" in lpips.reason
        assert ssim.value == (pytest.approx(1, abs=1e-6) if height > 5 else None)


def test_a_network_that_does_not_load_once_leaves_nothing_behind(
    tmp_path: Path, lpips: LPIPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(device: str) -> LPIPS:
        if broken:
            raise NetworkMissing("out of memory")
        return lpips

    monkeypatch.setattr(paired, "find_network", lambda *a: NetworkSource("alex", "0" * 64, load))
    video, cache = write(tmp_path / "a.mp4", clip(3)), ArrayCache(tmp_path / "cache")
    broken = True
    ssim, distance = PairedMeter(cache=cache).compare(video, video)
    assert ssim.value == pytest.approx(1, abs=1e-6) and distance.reason == "out of memory"
    broken = False
    assert PairedMeter(cache=cache).compare(video, video)[1].value == pytest.approx(0, abs=1e-7)


def test_the_mean_has_an_interval_over_videos() -> None:
    values = np.linspace(0.5, 0.9, 20)
    videos = [[MetricValue("ssim", v), MetricValue("lpips", None, "broken")] for v in values]
    ssim, lpips = mean_over_videos(videos, EvaluationSettings(resamples=2000), "no network")
    assert ssim.value == pytest.approx(0.7) and ssim.num_samples == 20
    half = 1.96 * values.std() / np.sqrt(20)
    assert (ssim.low, ssim.high) == (pytest.approx(0.7 - half, abs=0.01), pytest.approx(0.7 + half, abs=0.01))
    assert lpips.value is None and lpips.reason == "no network"
    assert mean_over_videos(videos[:1], EvaluationSettings())[0].low is None


def test_another_level_and_another_size_are_told_beside_the_value() -> None:
    videos = [[MetricValue("ssim", v), MetricValue("lpips", v)] for v in (0.5, 0.6, 0.8, 0.9)]
    assert {m.note for m in mean_over_videos(videos, EvaluationSettings())} == {None}
    (note,) = {m.note for m in mean_over_videos(videos, EvaluationSettings(height=64, confidence=0.9))}
    assert note == "frames were compared at own x 64 pixels (width x height); the interval is of 90 %"
    assert mean_over_videos(videos[:1], EvaluationSettings(confidence=0.9))[0].note is None


def test_folders_pair_by_name(tmp_path: Path, meter: PairedMeter) -> None:
    for folder in ("ours", "theirs"):
        write(tmp_path / folder / "one.mp4", clip(6))
        (tmp_path / folder / "notes.txt").write_text("no video")
    write(tmp_path / "ours" / "two.mp4", clip(6))
    (tmp_path / "ours" / "bad.mp4").write_bytes(b"no video")
    write(tmp_path / "theirs" / "bad.mp4", clip(6))
    report = evaluate_folders(tmp_path / "ours", tmp_path / "theirs", meter=meter, cache_dir=tmp_path / "cache")
    assert report.setting == "paired" and set(report.videos) == {"one", "bad"}
    assert report.videos["one"][0].value == pytest.approx(1, abs=1e-6)
    assert set(report.left_out) == {"two", "bad"} and "no two" in report.left_out["two"]
    assert "cannot be read" in report.left_out["bad"]
    whole = {m.metric: m for m in report.whole}
    assert whole["ssim"].num_samples == 1
    assert whole["fvd_videomae_paired"].value is None and "videomae.pth" in whole["fvd_videomae_paired"].reason
    assert json.loads(json.dumps(report.as_json()))["num_left_out"] == 2
    assert "| ssim | 1.0000 | – | 1 | corrected | – |" in markdown_table(report) and "videomae" not in markdown_table(
        report
    )


def test_folders_with_other_names_are_compared_as_sets(tmp_path: Path, meter: PairedMeter) -> None:
    write(tmp_path / "ours" / "a.mp4", clip(6))
    write(tmp_path / "theirs" / "b.mp4", clip(6))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    report = evaluate_folders(ours, theirs, meter=meter, cache_dir=tmp_path)
    assert report.setting == "unpaired" and not report.videos
    assert [m.metric for m in report.whole][:2] == ["vfid_i3d_unpaired", "vfid_resnext_unpaired"]
    with pytest.raises(NothingToEvaluate, match=r"no file name in common.*for example a and b"):
        evaluate_folders(ours, theirs, setting="paired", meter=meter, cache_dir=tmp_path)
    same = evaluate_folders(ours, ours, setting="unpaired", meter=meter, cache_dir=tmp_path)
    assert {m.metric.split("_")[-1] for m in same.whole} == {"unpaired"}
    write(ours / "a.mkv.mp4", clip(6)).rename(ours / "a.mkv")
    with pytest.raises(NothingToEvaluate, match=r"both a\.mkv and a\.mp4"):
        evaluate_folders(ours, theirs, meter=meter, cache_dir=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToEvaluate, match="holds no videos"):
        evaluate_folders(tmp_path / "empty", theirs, meter=meter, cache_dir=tmp_path)
    with pytest.raises(NothingToEvaluate, match="is not a folder"):
        evaluate_folders(tmp_path / "nowhere", theirs, meter=meter, cache_dir=tmp_path)


def put(store: DeltaStore, spec: TableSpec, rows: list[dict[str, Any]]) -> None:
    full = [{f.name: None for f in spec.schema} | row for row in rows]
    where = {c: full[0][c] for c in spec.partition_by}
    store.replace(spec, pa.Table.from_pylist(full, spec.schema), where, Commit())


@pytest.fixture
def tryon_lake(lake: DeltaStore, tmp_path: Path) -> DeltaStore:
    """A source of 30 frames; frames 5 to 25 of it dressed, paired and unpaired, and one that failed."""
    frames = clip(30)
    source = lake.blobs.put_file(write(tmp_path / "source.mp4", frames))
    result = lake.blobs.put_file(write(tmp_path / "result.mp4", frames[5:25]))
    video = {"batch": "b", "video_id": "v", "fingerprint": "f"}
    known = {"width": 96, "height": 64, "fps": 15.0, "num_frames": 30, "cut_frames": []}
    put(lake, VIDEOS, [video | known | {"source_path": "source.mp4", "uri": source, "status": "ok"}])
    tryon = {"checkpoint_id": "c", "video_id": "v", "garment_id": "g", "start_frame": 5, "num_frames": 20}
    tryon |= {"record": "{}", "created_at": NOW, "status": "ok", "uri": result}
    put(
        lake,
        TRYON_VIDEOS,
        [
            tryon | {"tryon_id": "paired", "paired": True},
            tryon | {"tryon_id": "unpaired", "paired": False},
            tryon | {"tryon_id": "failed", "paired": True, "uri": None, "status": "error", "reason": "no person"},
        ],
    )
    caption = video | {"kind": "action", "action": "adjust_hem", "text": "Lifts the hem.", "confidence": 1.0}
    caption |= {"source": "studio"}
    put(
        lake,
        CAPTIONS,
        [
            caption | {"start_frame": 10, "end_frame": 18},
            caption | {"start_frame": 0, "end_frame": 4},
            caption | {"kind": "global", "action": None, "start_frame": 0, "end_frame": 30},
        ],
    )
    mask = np.zeros((64, 96), np.uint8)
    mask[20:60, 30:70] = 1
    region = {"mask": encode_mask(mask), "height": 64, "width": 96, "area_fraction": 0.3}
    region |= {"category": "upper_body", "source": "geometric"}
    put(lake, AGNOSTIC_MASKS, [video | region | {"frame": f} for f in range(30)])
    points = [{"x_px": 40.0 + i % 5, "y_px": 30.0 + i // 5} for i in range(21)]
    hand = video | {"handedness": "left", "score": 0.9, "keypoints_2d": points, "keypoints_3d": [], "mesh_pose": []}
    hand |= {"mesh_shape": [], "mesh_translation": {}, "camera": {}, "mesh_topology": "cc0_hand"}
    hand |= {"reprojection_error_px": 0.0, "source": "studio", "interpolated": False}
    put(lake, HANDS, [hand | {"frame": f} for f in range(9, 20)])
    landmarks = [{"x_px": float(i), "y_px": 2.0 * i, "z": 0.0, "visibility": 1.0} for i in range(33)]
    pose = video | {"time_s": 0.0, "detected": True, "landmarks": landmarks}
    put(lake, POSE, [pose | {"frame": f} for f in range(30)])
    return lake


def test_checkpoint_metrics_reach_the_table(tryon_lake: DeltaStore, meter: PairedMeter) -> None:
    evaluate_checkpoint(tryon_lake, checkpoint_id="c", commit=Commit("run"), meter=meter)
    report = evaluate_checkpoint(tryon_lake, checkpoint_id="c", commit=Commit("again"), meter=meter)
    assert report.left_out == {"failed": "there is no try-on video: no person"}
    rows = {(r["tryon_id"], r["metric"]): r for r in tryon_lake.read(VIDEO_METRICS).to_pylist()}
    assert len(rows) == 3 * 2 + 2 + 2 * 4 == tryon_lake.read(VIDEO_METRICS).num_rows
    assert rows["paired", "ssim"]["value"] > 0.94
    assert rows["paired", "ssim"]["num_samples"] == 20
    assert rows["paired", "ssim"]["run_id"] == "again"
    assert "unpaired" in rows["unpaired", "lpips"]["reason"]
    assert "no person" in rows["failed", "lpips"]["reason"]
    assert rows["", "ssim"]["value"] == rows["paired", "ssim"]["value"]
    assert rows["", "ssim"]["video_id"] is None and rows["", "ssim"]["num_samples"] == 1
    assert rows["", "vfid_i3d_paired"]["value"] is None and "i3d.pth" in rows["", "vfid_i3d_paired"]["reason"]
    with pytest.raises(NothingToEvaluate, match="no try-on videos"):
        evaluate_checkpoint(tryon_lake, checkpoint_id="other", meter=meter)
    with pytest.raises(CheckpointMissing):
        evaluate_checkpoint(tryon_lake, meter=meter)


def test_what_is_in_no_number_is_named_whether_paired_or_not(tryon_lake: DeltaStore, meter: PairedMeter) -> None:
    tryons = tryon_lake.read(TRYON_VIDEOS).to_pylist()
    put(tryon_lake, TRYON_VIDEOS, [t | {"paired": False} if t["tryon_id"] == "failed" else t for t in tryons])
    report = evaluate_checkpoint(tryon_lake, checkpoint_id="c", meter=meter)
    assert report.left_out == {"failed": "there is no try-on video: no person"}
    tryon_lake.replace(VIDEOS, VIDEOS.schema.empty_table(), {"batch": "b"}, Commit())
    report = evaluate_checkpoint(tryon_lake, checkpoint_id="c", meter=meter)
    lost = "the source video v is no longer in the lake"
    assert report.left_out == {"failed": "there is no try-on video: no person", "paired": lost, "unpaired": lost}


def test_both_modes_stand_side_by_side_in_the_table(tryon_lake: DeltaStore, meter: PairedMeter, lpips: LPIPS) -> None:
    legacy = EvaluationSettings(mode="legacy")
    evaluate_checkpoint(tryon_lake, checkpoint_id="c", meter=meter)
    for _ in range(2):
        evaluate_checkpoint(tryon_lake, legacy, checkpoint_id="c", meter=PairedMeter(legacy, lpips))
    modes = [r["mode"] for r in tryon_lake.read(VIDEO_METRICS).to_pylist()]
    assert (modes.count("corrected"), modes.count("legacy")) == (3 * 2 + 2 + 2 * 4, 3 * 2 + 2 + 2 * 3)


def test_rows_of_the_other_mode_go_with_the_videos_that_they_are_of(
    tryon_lake: DeltaStore, meter: PairedMeter, lpips: LPIPS
) -> None:
    legacy = EvaluationSettings(mode="legacy")
    evaluate_checkpoint(tryon_lake, legacy, checkpoint_id="c", meter=PairedMeter(legacy, lpips))
    tryons = tryon_lake.read(TRYON_VIDEOS, where={"checkpoint_id": "c"}).to_pylist()
    put(tryon_lake, TRYON_VIDEOS, [t | {"tryon_id": "new"} if t["tryon_id"] == "paired" else t for t in tryons])
    evaluate_checkpoint(tryon_lake, checkpoint_id="c", meter=meter)
    rows = [(r["mode"], r["tryon_id"]) for r in tryon_lake.read(VIDEO_METRICS).to_pylist()]
    assert {t for mode, t in rows if mode == "legacy"} == {"failed", "unpaired"}
    assert {t for mode, t in rows if mode == "corrected"} == {"failed", "unpaired", "new", ""}


class Recorder(Judge):
    """Says yes, and keeps what it was asked."""

    name = "recorder 1"
    digest = "0123456789abcdef"
    picture_height = 32

    def __init__(self) -> None:
        self.requests: list[JudgeRequest] = []

    def frames(self, start: int, end: int, num_frames: int, fps: float) -> np.ndarray:
        return np.arange(start, end, 2)

    def judge(self, request: JudgeRequest) -> Verdict:
        self.requests.append(request)
        if len(self.requests) == 2:
            raise RuntimeError("broken")
        return Verdict(True, 0.8, "seen", [True], 10, 2)


def test_judge_sees_the_same_frames_of_source_and_result(tryon_lake: DeltaStore) -> None:
    judge = Recorder()
    report = judge_checkpoint(tryon_lake, checkpoint_id="c", judge=judge)
    request = judge.requests[0]
    # Frames 10 to 18 of the source are 5 to 13 of the result, which starts at frame 5.
    assert (request.start, request.end) == (5, 13)
    assert request.frames.tolist() == [5, 7, 9, 11]
    assert request.result.shape == (4, 32, 48, 3)
    assert np.abs(request.result.astype(int) - request.source).mean() < 6
    # Half size: the region's rows 20 to 60 become 10 to 30.
    assert request.region[0].any(1).nonzero()[0][[0, -1]].tolist() == [10, 29]
    assert request.hands[0]["left"][7].tolist() == [21.0, 15.5]
    assert request.landmarks[0, 11:13].tolist() == [[i / 2, i] for i in (11, 12)]
    table = tryon_lake.read(ISR_SCORES).to_pylist()
    by_id = {r["tryon_id"]: r for r in table if r["start_frame"] == 10}
    assert by_id["paired"]["success"] is not None or by_id["unpaired"]["success"] is not None
    judged = [r for r in table if r["success"]]
    assert len(judged) == 1 and judged[0]["votes"] == [True] and judged[0]["judge"] == "recorder 1"
    assert judged[0]["judge_digest"] == judge.digest and judged[0]["judge_kappa"] is None
    assert judged[0]["frames"] == [5, 7, 9, 11]
    evidence = np.asarray(Image.open(tryon_lake.blobs.local_path(judged[0]["evidence_uri"])).convert("RGB"))
    # Two rows of four pictures, 225 x 150 each, with green edges: all four lie in the span.
    assert evidence.shape[0] > 2 * 150 and evidence.shape[1] > 4 * 225
    assert (np.abs(evidence.astype(int) - (0, 158, 115)).sum(-1) < 60).sum() > 8 * 2 * 3 * 200
    assert by_id["failed"]["frames"] == [] and by_id["failed"]["evidence_uri"] is None
    assert "never validated" in report.validation.text
    assert any("RuntimeError: broken" in r["rationale"] for r in table)
    assert "no person" in by_id["failed"]["rationale"]
    overall = report.rates[0]
    assert (overall.action, overall.successes, overall.judged) == (OVERALL, 1, 1)
    assert overall.unanswered == len(table) - 1
    assert json.dumps(report.rates[0].__dict__)
    assert set(report.clips) == {r["tryon_id"] for r in table}
    assert sum(c.judged for c in report.clips.values()) == 1 and all(c.low is None for c in report.clips.values())


def captions_of(store: DeltaStore, batch: str, text: str) -> None:
    rows = store.read(CAPTIONS, where={"batch": "b"}).to_pylist()
    put(store, CAPTIONS, [r | {"batch": batch, "text": text} for r in rows])


def test_captions_are_those_of_the_batch_that_was_dressed(tryon_lake: DeltaStore) -> None:
    """The same bytes are one video in two batches, with other captions in each."""
    (video,) = tryon_lake.read(VIDEOS).to_pylist()
    tryons = tryon_lake.read(TRYON_VIDEOS).to_pylist()
    for batch in ("a", "c"):
        put(tryon_lake, VIDEOS, [video | {"batch": batch}])
        captions_of(tryon_lake, batch, f"of {batch}")
    record = json.dumps({"video": {"batch": "b"}})
    put(tryon_lake, TRYON_VIDEOS, [t | {"record": record} for t in tryons if t["status"] == "ok"])
    report = judge_checkpoint(tryon_lake, checkpoint_id="c", judge=Recorder())
    assert [r["text"] for r in report.rows] == ["Lifts the hem."] * 2
    # A try-on that failed has no record: the captions of one batch stand for all.
    put(tryon_lake, TRYON_VIDEOS, [t for t in tryons if t["status"] != "ok"])
    report = judge_checkpoint(tryon_lake, checkpoint_id="c", judge=Recorder())
    assert [r["text"] for r in report.rows] == ["of a"] * 2 and all(r["success"] is None for r in report.rows)


@pytest.mark.parametrize("record", ["{}", '{"video": {"batch": "b"}}'])
@pytest.mark.parametrize("gone", [True, False])
def test_without_its_source_an_interaction_has_a_verdict_that_says_so(
    tryon_lake: DeltaStore, record: str, gone: bool
) -> None:
    (video,) = tryon_lake.read(VIDEOS).to_pylist()
    tryons = tryon_lake.read(TRYON_VIDEOS).to_pylist()
    put(tryon_lake, TRYON_VIDEOS, [t | {"record": record} for t in tryons if t["tryon_id"] == "paired"])
    if gone:
        tryon_lake.replace(VIDEOS, VIDEOS.schema.empty_table(), {"batch": "b"}, Commit())
    else:
        put(tryon_lake, VIDEOS, [video | {"status": "error", "reason": "damaged"}])
    captions_of(tryon_lake, "other", "of another batch")
    (row,) = judge_checkpoint(tryon_lake, checkpoint_id="c", judge=Recorder()).rows
    assert row["success"] is None and "no longer a usable one of its batch" in row["rationale"]
    assert row["text"] == "Lifts the hem."


def test_embedded_judge_runs_on_the_lake(tryon_lake: DeltaStore) -> None:
    report = judge_checkpoint(tryon_lake, IsrSettings(), checkpoint_id="c")
    assert report.judge == make_judge(IsrSettings(), tryon_lake).name
    assert all(r["rationale"] for r in report.rows)
    assert not any("Error" in r["rationale"] for r in report.rows)


def test_kappa_of_the_judge_comes_along(tryon_lake: DeltaStore) -> None:
    judge = Recorder()
    row = {"batch": "held", "judge_digest": judge.digest, "judge": judge.name, "pictures": "rendered", "run_id": ""}
    row |= {"metric": "kappa", "split": "all", "value": 0.8, "low": 0.7, "high": 0.9, "num_cases": 90, "num_clips": 30}
    row |= {"held_back": True, "created_at": NOW}
    put(tryon_lake, JUDGE_REPORTS, [row, row | {"pictures": "nano", "value": 0.6}])
    put(tryon_lake, JUDGE_REPORTS, [row | {"judge_digest": "other", "value": 0.1}])
    report = judge_checkpoint(tryon_lake, checkpoint_id="c", judge=judge)
    assert {r["judge_kappa"] for r in tryon_lake.read(ISR_SCORES).to_pylist()} == {0.8}
    assert "kappa 0.80 (0.70 to 0.90) on 90 rendered results, kappa 0.60" in report.validation.text


def test_any_module_of_the_package_is_a_judge() -> None:
    assert {"kinematic", "vlm", "local_vlm"} <= set(JUDGES)
    for name in JUDGES:
        assert callable(import_module(f"models.judges.{name}").make)
    with pytest.raises(ValidationError, match="there is no judge 'magic'; there are"):
        IsrSettings(judge="magic")


def test_nothing_to_judge_says_so(tryon_lake: DeltaStore) -> None:
    with pytest.raises(NothingToEvaluate, match="no try-on videos"):
        judge_checkpoint(tryon_lake, checkpoint_id="other")


def test_no_interaction_leaves_the_rate_open(tryon_lake: DeltaStore) -> None:
    judge_checkpoint(tryon_lake, checkpoint_id="c", judge=Recorder())
    assert tryon_lake.read(ISR_SCORES).num_rows
    tryon_lake.replace(CAPTIONS, CAPTIONS.schema.empty_table(), {"batch": "b"}, Commit())
    report = judge_checkpoint(tryon_lake, checkpoint_id="c", judge=Recorder())
    assert report.rates[0].rate is None and report.rates[0].judged == 0
    assert tryon_lake.read(ISR_SCORES).num_rows == 0


@given(st.lists(st.tuples(st.sampled_from(["adjust_hem", "roll_sleeve"]), st.sampled_from([True, False, None]))))
def test_rates_count_every_verdict_once_and_lie_in_their_interval(verdicts: list[tuple[str, bool | None]]) -> None:
    found = rates(verdicts)
    assert found[0].action == OVERALL
    assert found[0].judged + found[0].unanswered == len(verdicts)
    assert sum(r.judged for r in found[1:]) == found[0].judged
    for r in found:
        if r.rate is None:
            assert r.judged == 0 and r.low is None
            continue
        assert 0 <= r.low <= r.rate + 1e-12 and r.rate - 1e-12 <= r.high <= 1
        # Wilson's interval by its closed form at 95 %.
        z, n, p = 1.959963984540054, r.judged, r.rate
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        assert r.low == pytest.approx(max(0, centre - half), abs=1e-9)
        assert r.high == pytest.approx(min(1, centre + half), abs=1e-9)


def test_a_clip_has_an_interval_from_two_judged_interactions_on() -> None:
    verdicts = [("a", True), ("b", True), ("a", False), ("a", True), ("b", None), ("c", None)]
    found = clip_rates(verdicts)
    assert list(found) == ["a", "b", "c"] and found["a"].rate == pytest.approx(2 / 3)
    # Wilson's interval of 2 of 3 at 95 %, from its textbook form.
    assert (found["a"].low, found["a"].high) == (pytest.approx(0.2077, abs=1e-4), pytest.approx(0.9385, abs=1e-4))
    assert (found["b"].rate, found["b"].judged, found["b"].unanswered, found["b"].low) == (1, 1, 1, None)
    assert found["c"].rate is None and found["c"].unanswered == 1
    narrower = clip_rates(verdicts, 0.5)["a"]
    assert found["a"].low < narrower.low < narrower.high < found["a"].high


def test_votes_have_an_interval_where_there_are_several() -> None:
    votes = votes_rate([True, True, False])
    assert (votes.successes, votes.judged) == (2, 3) and votes.low == pytest.approx(0.2077, abs=1e-4)
    assert votes_rate([True]) is None and votes_rate([]) is None
