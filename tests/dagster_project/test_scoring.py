"""`itryon evaluate --pred --gt`: what it prints and writes for anyone's folders, without a lake and without weights."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from dagster_project.cli import app
from dagster_project.scoring import print_scores
from pipelines.store import DeltaStore
from pipelines.video import VideoWriter
from tests.pipelines.scored_checkpoints import add_checkpoint, add_training_set


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ITRYON_LAKE", str(tmp_path / "lake"))
    monkeypatch.setenv("COLUMNS", "200")


def write(path: Path, size: tuple[int, int] = (48, 64), count: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with VideoWriter(path, fps=15, width=size[1], height=size[0]) as writer:
        for _ in range(count):
            writer.write(rng.integers(0, 255, (*size, 3)).astype(np.uint8))
    return path


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", "--pred", str(folder / "p"), "--gt", str(folder / "g"), *options])


def test_pairs_are_scored_and_what_is_missing_is_told(tmp_path: Path) -> None:
    for name in ("p/[one].mp4", "g/[one].mp4", "p/small.mp4"):
        write(tmp_path / name)
    write(tmp_path / "g" / "small.mp4", (96, 128))
    write(tmp_path / "g" / "alone.mp4")
    done = run(tmp_path, "--json", str(tmp_path / "out" / "metrics.json"))
    assert done.exit_code == 0, done.output
    assert "[one]" in done.output and "1.0000" in done.output and "3 left out" not in done.output
    assert "64x48" in done.output and "there is no alone in" in done.output
    assert "resnext-101.pth" in done.output and "itryon weights" in done.output
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["mode"] == "corrected" and written["setting"] == "paired"
    whole = {m["metric"]: m for m in written["metrics"]}
    assert whole["ssim"]["value"] == pytest.approx(1, abs=1e-6) and whole["ssim"]["num_samples"] == 1
    assert whole["lpips"]["value"] is None and "lpips_alex" in whole["lpips"]["reason"]
    assert {"alone", "small"} <= set(written["left_out"])
    assert not (tmp_path / "lake").exists()
    row = next(line for line in done.output.splitlines() if line.startswith("│ ssim"))
    assert [c.strip() for c in row.strip("│").split("│")] == ["ssim", "1.0000", "-", "1", "corrected", "-"]
    row = next(line for line in done.output.splitlines() if line.startswith("│ [one]"))
    assert row.strip("│ ").endswith("4") and "Mode corrected. Values of a video are means" in done.output


def test_scores_of_a_checkpoint_have_mode_network_samples_and_intervals(lake: DeltaStore) -> None:
    add_training_set(lake)
    add_checkpoint(
        lake, "mine", verdicts=[True, False, None], metrics={"ssim": (0.9, 0.88, 0.92), "lpips": (None,) * 3}
    )
    console = Console(width=160, file=io.StringIO(), record=True)
    print_scores(lake, "mine", "kinematic [1]", "kappa 0.70", console)
    printed = console.export_text()
    row = next(line for line in printed.splitlines() if line.startswith("│ ssim"))
    assert [c.strip() for c in row.strip("│").split("│")] == [
        "ssim",
        "0.9000",
        "0.8800 to 0.9200",
        "2",
        "corrected",
        "-",
    ]
    assert "lpips: not computed: no network" in printed
    assert "ISR 0.50 (0.09 to 0.91) of 2 judged, 1 unanswered, judge kinematic [1]: kappa 0.70" in printed


def test_where_no_video_can_be_read_the_command_fails(tmp_path: Path) -> None:
    write(tmp_path / "g" / "a.mp4")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.mp4").write_bytes(b"no video")
    done = run(tmp_path, "--json", str(tmp_path / "metrics.json"))
    assert done.exit_code == 1 and "nothing was measured: 1 videos cannot be read" in done.output
    assert json.loads((tmp_path / "metrics.json").read_text())["num_left_out"] == 1


def test_folders_with_nothing_in_common(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.mp4"), write(tmp_path / "g" / "b.mp4")
    done = run(tmp_path, "--mode", "legacy")
    assert done.exit_code == 0 and "Unpaired" in done.output and "vfid_i3d_unpaired" in done.output
    assert "ssim" not in done.output
    refused = run(tmp_path, "--setting", "paired")
    assert refused.exit_code == 1 and "no file name in common" in refused.output


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--mode", "exact"], "corrected"), (["--setting", "both"], "auto, paired or unpaired")],
)
def test_wrong_options_are_explained(tmp_path: Path, options: list[str], says: str) -> None:
    write(tmp_path / "p" / "a.mp4"), write(tmp_path / "g" / "a.mp4")
    done = run(tmp_path, *options)
    assert done.exit_code == 1 and says in done.output


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 1 and f"{tmp_path / 'p'} is not a folder" in " ".join(done.output.split())
