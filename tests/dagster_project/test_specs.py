"""A snapshot of all asset specs, checks, jobs and sensors: lineage changes only where somebody meant it to.

Accept a change with `make snapshots`.
"""

import subprocess
import sys

import dagster as dg
import pytest

from dagster_project.build import SETTINGS, build_defs
from dagster_project.graph import asset_edges, draw


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return build_defs()


def test_assets(defs, snapshot):
    graph = defs.resolve_asset_graph()
    specs = {s.key.to_user_string(): s for s in defs.resolve_all_asset_specs()}
    described = {}
    for name, spec in sorted(specs.items()):
        node = graph.get(spec.key)
        described[name] = {
            "deps": sorted(d.asset_key.to_user_string() for d in spec.deps),
            "group": spec.group_name,
            "owners": sorted(spec.owners),
            "kinds": sorted(spec.kinds),
            "code_version": spec.code_version,
            "partitions": spec.partitions_def.name if spec.partitions_def else None,
            "pools": sorted(node.pools or ()),
            "checks": sorted(k.name for k in graph.asset_check_keys if k.asset_key == spec.key),
            "table": spec.metadata.get("dagster/table_name"),
            "columns": [c.name for c in spec.metadata["dagster/column_schema"].columns]
            if "dagster/column_schema" in spec.metadata
            else None,
            "description": spec.description,
        }
    assert described == snapshot


def test_jobs(defs, snapshot):
    described = {}
    for job in defs.resolve_all_job_defs():
        if job.name.startswith("__"):
            continue
        described[job.name] = {
            "assets": sorted(k.to_user_string() for k in job.asset_layer.executable_asset_keys),
            "partitions": job.partitions_def.name if job.partitions_def else None,
            "description": job.description,
        }
    assert described == snapshot


def test_sensors(defs, snapshot):
    repository = defs.get_repository_def()
    described = {
        s.name: {"job": s.job_name, "every_s": s.minimum_interval_seconds, "description": s.description}
        for s in repository.sensor_defs
    }
    assert described == snapshot


def test_resource_configuration(snapshot):
    """Every setting a user can change in the launchpad, with its default."""
    described = {
        key: {name: str(f.get_default(call_default_factory=True)) for name, f in model.model_fields.items()}
        for key, model in sorted(SETTINGS.items())
    }
    assert described == snapshot


def test_every_asset_is_described_and_owned(defs):
    for spec in defs.resolve_all_asset_specs():
        assert spec.description and spec.owners and spec.kinds and spec.group_name, spec.key


def test_the_code_location_loads_without_heavy_packages():
    code = (
        "import sys, dagster_project.definitions\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'cv2', 'mediapipe', 'av', 'hamer'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_code_location_validates():
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_drawn_graph_has_every_asset_and_no_shortcut(defs, tmp_path):
    edges, groups = asset_edges()
    assert set(edges) == {s.key.to_user_string() for s in defs.resolve_all_asset_specs()} == set(groups)
    assert edges["hands"] == {"pose"} and edges["captions"] == {"agnostic_masks"}
    assert edges["clips"] == {"captions", "garments"} and edges["videos"] == set()
    draw(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
