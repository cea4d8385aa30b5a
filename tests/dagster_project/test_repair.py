"""`itryon repair`, and that a run which meets a damaged table sends people there."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dagster_project.cli import app
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import CAPTIONS, VIDEOS
from tests.pipelines.media import write_video
from tests.pipelines.test_store import caption_rows


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeltaStore:
    monkeypatch.setenv("ITRYON_LAKE", str(tmp_path / "lake"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    store = DeltaStore()
    store.ensure_tables()
    return store


def said(*command: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(command))
    return result.exit_code, " ".join(result.output.split())


def test_a_whole_lake_has_nothing_to_mend(lake: DeltaStore):
    code, text = said("repair")
    assert code == 0 and "0 mended, 0 left; 0 blobs looked at, 0 leftovers of killed runs deleted" in text


@pytest.mark.slow
def test_a_run_that_meets_a_damaged_table_names_the_repair(lake: DeltaStore, tmp_path: Path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4")
    assert said("ingest", str(tmp_path / "in"), "--batch", "b1")[0] == 0
    (file,) = (Path(lake.root) / "tables" / "videos").rglob("batch=b1/*.parquet")
    file.unlink()
    code, text = said("materialize", "--batch", "b1", "--only", "videos")
    assert code == 1 and "Table videos" in text and "run `itryon repair`, then run again" in text
    code, text = said("repair")
    assert code == 0 and "1 mended, 0 left; 0 blobs" in text and "batch=b1" in text
    assert said("materialize", "--batch", "b1", "--only", "videos")[0] == 0
    assert lake.read(VIDEOS)["source_path"].to_pylist() == ["a.mp4"]


def test_what_cannot_be_mended_ends_the_command_with_what_to_do(lake: DeltaStore):
    for text in ("one", "two"):
        lake.replace(CAPTIONS, caption_rows("a", [text]), {"batch": "a"}, Commit())
    (Path(lake.root) / "tables" / "captions" / "_delta_log" / f"{1:020}.json").write_text("{")
    code, text = said("repair")
    assert code == 1 and "Put it back from a copy of the lake" in text and "0 mended, 1 left" in text
