"""What tests of the assets that report on a rendered batch share."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dagster_project.build import build_defs
from dagster_project.cli import app
from pipelines.previews.canvas import MAX_BYTES
from pipelines.store import DeltaStore, TableSpec
from tests.pipelines.annotator_scene import BATCH


@contextlib.contextmanager
def lake_of(folder: Path) -> Iterator[DeltaStore]:
    """An empty lake in a folder, which commands use too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITRYON_LAKE", str(folder / "lake"))
        patch.delenv("DAGSTER_HOME", raising=False)
        store = DeltaStore()
        store.ensure_tables()
        yield store


def evaluated(what: str, folder: Path, names: list[str]) -> dict[str, Any]:
    """`itryon evaluate WHAT` of the batch as JSON; its pictures must be those of `names`, and show something."""
    done = CliRunner().invoke(app, ["evaluate", what, "--batch", BATCH, "--json", "--pictures", str(folder)])
    assert done.exit_code == 0, done.output
    pictures = sorted(folder.iterdir())
    assert [p.stem for p in pictures] == names
    for p in pictures:
        assert p.stat().st_size <= MAX_BYTES
        with Image.open(io.BytesIO(p.read_bytes())) as image:
            assert np.asarray(image.convert("L")).std() > 5, f"{p.name} shows nothing"
    return json.loads(done.stdout)


def fails_without_truth(what: str, lake: DeltaStore, spec: TableSpec) -> None:
    """A batch that was not rendered must fail with what to do, and leave no rows."""
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["evaluate", what, "--batch", "other"])
    assert done.exit_code == 1 and "has no truth in the lake" in " ".join(done.output.split()), done.output
    assert lake.read(spec, where={"batch": "other"}).num_rows == 0


def jobs_with(asset: str) -> dict[str, set[str]]:
    """Jobs that an asset is part of, with their assets."""
    jobs = {j.name: j for j in build_defs().resolve_all_job_defs() if not j.name.startswith("__")}
    names = {name: {k.to_user_string() for k in j.asset_layer.executable_asset_keys} for name, j in jobs.items()}
    return {name: assets for name, assets in names.items() if asset in assets}
