"""`itryon evaluate judge` and the asset behind it, on a small lake whose figures are known."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from dagster_project.build import build_defs
from dagster_project.cli import app
from dagster_project.judges import print_judge_report
from pipelines.previews.canvas import MAX_BYTES
from pipelines.store import DeltaStore
from pipelines.store.studio_schemas import JUDGE_CASES, JUDGE_REPORTS
from tests.pipelines.annotator_scene import BATCH
from tests.pipelines.judge_scene import fill_cases

PICTURES = ["agreement_picture", "confusion", "scores"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Iterator[DeltaStore]:
    folder = tmp_path_factory.mktemp("judge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITRYON_LAKE", str(folder / "lake"))
        patch.delenv("DAGSTER_HOME", raising=False)
        store = DeltaStore()
        store.ensure_tables()
        fill_cases(store, folder)
        yield store


def test_the_command_measures_writes_pictures_and_prints(lake, tmp_path):
    # Grey pictures show nothing, so the embedded judge finds no interaction done: right in four of five cases.
    done = CliRunner().invoke(
        app, ["evaluate", "judge", "--batch", BATCH, "--json", "--pictures", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    found = {(f["metric"], f["pictures"]): f for f in report["figures"] if f["split"] == "all"}
    for look in ("rendered", "nano"):
        answered = found["answered", look]["value"]
        assert answered == 0 or found["accuracy", look]["value"] == pytest.approx(0.8)
        assert found["kappa_all", look]["num_cases"] == 5
    assert len(report["cases"]) == 10 == lake.read(JUDGE_CASES).num_rows
    assert len(report["figures"]) == lake.read(JUDGE_REPORTS).num_rows
    assert report["figures"][0]["held_back"] is True

    pictures = sorted((tmp_path / "out").iterdir())
    assert [p.stem for p in pictures] == PICTURES
    for p in pictures:
        assert p.stat().st_size <= MAX_BYTES
        with Image.open(io.BytesIO(p.read_bytes())) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{p.name} shows nothing"

    console = Console(width=200, file=io.StringIO(), record=True)
    print_judge_report(lake, BATCH, report["figures"][0]["judge_digest"], console)
    text = console.export_text()
    assert "kappa_all" in text and "operate_zipper" in text and "Confusion by action asked for, nano results" in text


def test_a_batch_without_truth_fails_with_what_to_do(lake):
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["evaluate", "judge", "--batch", "other"])
    assert done.exit_code == 1 and "has no truth in the lake" in done.output
    assert lake.read(JUDGE_REPORTS, where={"batch": "other"}).num_rows == 0


def test_the_report_is_part_of_no_other_job():
    jobs = {j.name: j for j in build_defs().resolve_all_job_defs()}
    names = {name: {k.to_user_string() for k in j.asset_layer.executable_asset_keys} for name, j in jobs.items()}
    with_report = {name for name, assets in names.items() if "judge_report" in assets and not name.startswith("__")}
    assert with_report == {"judge"} and names["judge"] == {"judge_report"}
