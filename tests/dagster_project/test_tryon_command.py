"""`itryon tryon` of a file: what it refuses, with which words, and which settings of `--config` it takes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dagster_project.cli import app
from dagster_project.dressing import file_settings
from pipelines.tryon.settings import TryOnSettings
from tests.conftest import moving_frames
from tests.pipelines.media import write_frames

pytestmark = pytest.mark.usefixtures("own_lake")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Options for a video of 0.48 s in which nobody is, and a red shirt."""
    shirt = np.full((120, 90, 3), 255, np.uint8)
    shirt[20:100, 20:70] = (40, 40, 200)
    cv2.imwrite(str(tmp_path / "shirt.png"), shirt)
    video = write_frames(tmp_path / "in.mp4", moving_frames(12, 96, 64))
    return {"--video": video, "--garment": tmp_path / "shirt.png", "--out": tmp_path / "out.mp4"}


def run(files: dict[str, Path], *options: str | Path) -> Result:
    pairs = [str(x) for pair in files.items() for x in pair]
    return CliRunner().invoke(app, ["tryon", *pairs, *map(str, options)])


def said(result: Result) -> str:
    """What was printed, however it was wrapped."""
    return " ".join(result.output.split())


def refused(result: Result, out: Path) -> str:
    """The words of a command that failed and left nothing."""
    assert result.exit_code == 1, result.output
    assert "error" in result.output and "Traceback" not in result.output
    assert not list(out.parent.glob("out*")) and not list(out.parent.glob(".tryon-*"))
    return said(result)


def test_a_span_outside_of_the_clip(files):
    text = refused(run(files, "--span", "0.1,9,she zips the jacket up"), files["--out"])
    assert "A span of 0.1 to 9 s with the caption 'she zips the jacket up' does not fit a video of 0.48 s" in text
    assert "--span '0.1': give start,end,caption" in refused(run(files, "--span", "0.1"), files["--out"])


def test_a_photo_without_a_garment(files, tmp_path):
    blank = tmp_path / "blank.png"
    cv2.imwrite(str(blank), np.full((120, 90, 3), 240, np.uint8))
    text = refused(run(files | {"--garment": blank}), files["--out"])
    assert "blank.png cannot be used: No garment found" in text and "blank_mask.png" in text
    blank.write_text("no picture")
    assert "blank.png cannot be used: Not a readable photo" in refused(
        run(files | {"--garment": blank}), files["--out"]
    )


def test_a_checkpoint_that_is_missing_or_another_models(files, tmp_path):
    nowhere = tmp_path / "nowhere"
    text = refused(run(files, "--checkpoint", nowhere), files["--out"])
    assert f"There is no checkpoint folder {nowhere}" in text
    empty = tmp_path / "empty"
    empty.mkdir()
    text = refused(run(files, "--checkpoint", empty), files["--out"])
    assert "holds no checkpoint" in text and "model_index.json" in text
    (empty / "config.json").write_text('{"_class_name": "UNet2DModel", "sample_size": 32}')
    (empty / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    assert f"{empty} is no checkpoint of this model" in refused(run(files, "--checkpoint", empty), files["--out"])


@pytest.mark.slow
def test_a_video_without_a_person(files):
    text = refused(run(files), files["--out"])
    assert "in.mp4, pose: " in text and "No person was found in any of 12 frames" in text


def test_files_that_are_not_there(files, tmp_path):
    assert "There is no file" in refused(run(files | {"--video": tmp_path / "none.mp4"}), files["--out"])
    done = CliRunner().invoke(app, ["tryon", "--video", str(files["--video"])])
    assert done.exit_code == 1 and "name all three: --video, --garment and --out" in said(done)


@pytest.mark.parametrize("option", ["--span=0,1,she waits", "--prompt=x", "--checkpoint=c", "--category=dresses"])
def test_options_of_a_file_need_a_file(option):
    done = CliRunner().invoke(app, ["tryon", option])
    assert done.exit_code == 1 and f"{option.split('=')[0]}: only with --video, --garment and --out" in said(done)


def test_settings_of_all_stages_are_taken():
    settings, annotation = file_settings(
        {
            "tryon": {"steps": 3},
            "captions": {"backend": "vlm", "vlm": {"sample_fps": 2}},
            "agnostic_masks": {"temporal_window": 1},
            "workers": {"workers": 1},
            "ingest": {"min_frames": 4},
        }
    )
    assert settings == TryOnSettings(steps=3)
    stages = {s.name: s.settings for s in annotation.build()}
    assert list(stages) == ["pose", "hands", "agnostic_masks", "captions"]
    assert stages["captions"].backend == "vlm" and stages["captions"].vlm.sample_fps == 2
    assert stages["agnostic_masks"].temporal_window == 1 and stages["hands"].backend == "mediapipe"
    assert annotation.workers.workers == 1 and annotation.ingest.min_frames == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("caption: {backend: vlm}", "caption has no part in dressing a file; tryon, ingest, workers, pose"),
        ("clips: {cache: false}", "clips has no part in dressing a file"),
        ("tryon: {stepz: 3}", "tryon: stepz: Extra inputs are not permitted"),
        ("captions: {vlm: {sample: 3}}", "captions: vlm.sample: Extra inputs are not permitted"),
        ("workers: {worker: 3}", "workers: worker: Extra inputs"),
        ("hands: {backend: magic}", "hands: backend: Input should be"),
        ("tryon: {max_videos: 3}", "max_videos chooses among the lake's videos"),
        ("tryon: {checkpoint: current}", "No checkpoint was promoted yet"),
    ],
)
@pytest.mark.parametrize("command", ["tryon", "page"])
def test_settings_that_are_none_are_refused(files, tmp_path, command, text, says):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    if command == "tryon":
        words = refused(run(files, "--config", config), files["--out"])
    else:
        pytest.importorskip("gradio", reason="the extra `page` is not installed")
        words = said(CliRunner().invoke(app, ["page", "--config", str(config)]))
    assert says in words


def test_a_backend_that_cannot_run_says_what_it_lacks(files, tmp_path):
    """The settings reach the stage, and what it lacks is told before the first one runs."""
    config, data = tmp_path / "config.yaml", tmp_path / "no-hamer"
    config.write_text(f"hands: {{backend: hamer, hamer: {{data: {data}}}}}")
    text = refused(run(files, "--config", config), files["--out"])
    assert "hands cannot run: " in text and str(data) in text
