"""`itryon ingest` of a folder in which nothing can be used: it fails, and says of every file why."""

from typer.testing import CliRunner

from dagster_project.cli import app
from dagster_project.terminal import console
from pipelines.store import DeltaStore
from pipelines.store.schemas import VIDEOS


def test_a_folder_without_a_usable_file_fails_with_every_reason(lake: DeltaStore, monkeypatch, tmp_path):
    monkeypatch.setenv("ITRYON_LAKE", lake.root)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr(console, "width", 240)
    source = tmp_path / "source"
    source.mkdir()
    (source / "empty.mp4").touch()
    (source / "text.mp4").write_text("this is no video")
    done = CliRunner().invoke(app, ["ingest", str(source), "--batch", "b1"])
    assert done.exit_code == 1 and "0 of 2 files are usable" in done.output
    reasons = {r["source_path"]: r["reason"] for r in lake.read(VIDEOS, where={"batch": "b1"}).to_pylist()}
    assert reasons.keys() == {"empty.mp4", "text.mp4"}
    for name, reason in reasons.items():
        assert name in done.output and reason in done.output
    assert "Next:" not in done.output
