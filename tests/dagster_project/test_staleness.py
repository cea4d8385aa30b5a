"""Assets after a release: what other code or other networks make stale, and that a re-run redoes exactly that."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.definitions.data_version import (
    SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD,
    CachingStaleStatusResolver,
    StaleStatus,
)
from dagster._core.loader import LoadingContextForTest
from pydantic import BaseModel

from assets.annotations import annotation_asset
from assets.partitions import video_batches
from assets.training import training_set
from dagster_project.resources import LakeResource, settings_resource
from models import weights
from models.weights.embedded import EMBEDDED
from pipelines.registry import STAGES, StageEntry
from pipelines.stage import Stage, WorkerSettings
from pipelines.stage.plan import make_plan
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import VIDEOS
from pipelines.training_sets.settings import TrainingSetSettings
from tests.conftest import REPOSITORY
from tests.pipelines.fake_stages import FakeClips, FakeMasks, FakeSettings, WeighedPose

BATCH = "b1"
STAGE_NAMES = ("pose", "agnostic_masks", "clips")
NAMES = (*STAGE_NAMES, "training_set")


@dataclass(frozen=True)
class Entry(StageEntry):
    """A stage of the registry's kind with code and weights of its own."""

    stage: type[Stage] = FakeMasks
    version: str = "1"
    net: str = ""

    @property
    def settings(self) -> type[BaseModel]:
        return FakeSettings

    @property
    def code_version(self) -> str:
        return self.version

    def build(self, settings: BaseModel | None = None) -> Stage:
        stage = self.stage(settings or FakeSettings())
        stage.code_version = self.version
        if self.net:
            stage.net = self.net
        return stage


class Release:
    """The assets as one release declares them."""

    def __init__(self, store: DeltaStore, *, masks: str = "1", net: str = "net 1"):
        rest = ("fake_stages", "", "")
        self.store = store
        self.entries = {
            "pose": Entry("pose", *rest, (), "Pose", ("net",), WeighedPose, "1", net),
            "agnostic_masks": Entry("agnostic_masks", *rest, ("pose",), "Masks", (), FakeMasks, masks),
            "clips": Entry("clips", *rest, ("agnostic_masks",), "Clips", (), FakeClips),
        }
        with mock.patch.dict(EMBEDDED, {"net": net}):
            self.stages = [annotation_asset(e) for e in self.entries.values()]
        self.resources = {
            "lake": LakeResource(root=store.root),
            "workers": settings_resource(WorkerSettings)(workers=1),
            "training_set": settings_resource(TrainingSetSettings)(),
            **dict.fromkeys(STAGE_NAMES, settings_resource(FakeSettings)()),
        }

    def stale(self, instance: dg.DagsterInstance) -> dict[str, set[str]]:
        """Assets that Dagster shows as stale -> what of."""
        graph = dg.Definitions(assets=[*self.stages, training_set], resources=self.resources).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        places = {n: (dg.AssetKey(n), BATCH if n in STAGE_NAMES else None) for n in NAMES}
        return {
            n: {c.category.value for c in resolver.get_stale_causes(*place)}
            for n, place in places.items()
            if resolver.get_status(*place) != StaleStatus.FRESH
        }

    def to_do(self) -> dict[str, int]:
        """Videos that each stage would do if it ran now."""
        return {n: len(make_plan(e.build(), self.store, BATCH).todo) for n, e in self.entries.items()}

    def run(self, instance: dg.DagsterInstance, *names: str) -> dict[str, int]:
        """Materialise stages, all by default; videos that were done again, by asset."""
        chosen = names or STAGE_NAMES
        result = dg.materialize(
            self.stages, selection=list(chosen), partition_key=BATCH, instance=instance, resources=self.resources
        )
        out = {}
        for name in chosen:
            (event,) = result.asset_materializations_for_node(name)
            out[name] = event.metadata["videos_ok"].value - event.metadata["videos_reused"].value
        return out

    def pin(self, instance: dg.DagsterInstance) -> str:
        """Materialise the training set; its identity."""
        assets = [*self.stages, training_set]
        result = dg.materialize(assets, selection=["training_set"], instance=instance, resources=self.resources)
        (event,) = result.asset_materializations_for_node("training_set")
        return event.metadata["training_set_id"].value


@pytest.mark.slow
def test_other_code_and_other_weights_redo_what_depends_on_them(lake: DeltaStore, monkeypatch):
    monkeypatch.setattr("pipelines.previews.sheets.contact_sheet", lambda *args: None)
    monkeypatch.setattr("pipelines.previews.plots.stage_times", lambda *args: None)
    rows = [
        {"batch": BATCH, "video_id": f"{i:016}", "source_path": f"{i}.mp4", "sha256": f"{i:064}"}
        | {"num_frames": 5, "status": "ok", "fingerprint": "f"}
        for i in range(2)
    ]
    lake.replace(VIDEOS, pa.Table.from_pylist(rows, VIDEOS.schema), {"batch": BATCH}, Commit())
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(video_batches.name, [BATCH])
        first = Release(lake)
        assert first.run(instance) == {"pose": 2, "agnostic_masks": 2, "clips": 2}
        first_set = first.pin(instance)
        assert first.stale(instance) == {} and set(first.to_do().values()) == {0}

        # Other code of the second stage: it and what reads its rows. Dagster shows the cause where it is, and what is
        # below once there are new rows.
        coded = Release(lake, masks="2")
        assert coded.stale(instance) == {"agnostic_masks": {"CODE"}}
        assert coded.to_do() == {"pose": 0, "agnostic_masks": 2, "clips": 0}
        assert coded.run(instance, "agnostic_masks") == {"agnostic_masks": 2}
        assert coded.stale(instance) == {"clips": {"DATA"}}
        assert coded.run(instance) == {"pose": 0, "agnostic_masks": 0, "clips": 2}
        assert coded.stale(instance) == {"training_set": {"DATA"}}
        assert coded.pin(instance) == first_set, "the new code makes the same clips"
        assert coded.stale(instance) == {}

        # Other weights of the first stage: it, and everything below, through to another training set.
        weighed = Release(lake, masks="2", net="net 2")
        assert weighed.stale(instance) == {"pose": {"CODE"}}
        assert weighed.to_do() == {"pose": 2, "agnostic_masks": 0, "clips": 0}
        assert weighed.run(instance) == {"pose": 2, "agnostic_masks": 2, "clips": 2}
        assert weighed.stale(instance) == {"training_set": {"DATA"}}
        assert weighed.pin(instance) != first_set
        assert weighed.stale(instance) == {} and set(weighed.to_do().values()) == {0}
        assert weighed.run(instance) == {"pose": 0, "agnostic_masks": 0, "clips": 0}


def test_from_a_hundred_batches_on_the_training_set_is_not_shown_as_stale():
    """Dagster's own threshold, which the documentation names."""
    assert SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD == 100


# --- networks ---


@pytest.mark.parametrize("name", STAGES)
def test_the_version_of_an_asset_holds_every_network_of_its_stage(name):
    entry = STAGES[name]
    pinned = {EMBEDDED.get(n) or weights.digest(n) for n in entry.networks}
    assert {d for d in entry.build().weights().values() if len(d) == 64} == pinned
    before = entry.release
    for network in entry.networks:
        with mock.patch.dict(EMBEDDED, {network: "f" * 64}):
            assert entry.release != before
    assert (entry.release == entry.code_version) == (not entry.networks)


_SETUP = """
import sys
from pipelines.registry import STAGES
STAGES[sys.argv[1]].build().setup(1)
"""
_ENDINGS = (".safetensors", ".tflite", ".task", ".onnx", ".bin", ".pt", ".pth", ".ckpt")


class OpenedFiles:
    """Files below a folder that anybody opens meanwhile, by inotify.

    Attributes:
        paths: The files; whole when the block has ended.
    """

    _OPEN = 0x20

    def __init__(self, root: Path):
        self.paths: set[Path] = set()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        folders = [p for p in root.rglob("*") if p.is_dir()]
        self._folders = {self._libc.inotify_add_watch(self._descriptor, os.fsencode(p), self._OPEN): p for p in folders}
        assert -1 not in self._folders, os.strerror(ctypes.get_errno())

    def __enter__(self) -> OpenedFiles:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 16):
                while data:
                    watch, _, _, size = struct.unpack_from("iIII", data)
                    name = os.fsdecode(data[16 : 16 + size].rstrip(b"\0"))
                    if watch in self._folders:
                        self.paths.add(self._folders[watch] / name)
                    data = data[16 + size :]
        os.close(self._descriptor)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="inotify tells which files are opened, on Linux only")
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_every_network_that_it_opens(name, tmp_path):
    """Watched from outside, since C++ and Rust open half of them, in a copy that nobody else reads."""
    if problems := weights.verify():
        pytest.skip(f"weights are missing: {problems[0]}")
    for package in ("models", "pipelines"):
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(weights.cache_root(), tmp_path / "weights")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "ITRYON_WEIGHTS": str(tmp_path / "weights")}
    with OpenedFiles(tmp_path) as opened:
        command = [sys.executable, "-c", _SETUP, name]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    seen = {p for p in opened.paths if p.suffix in _ENDINGS}
    assert bool(seen) == bool(STAGES[name].networks), seen
    named = set(STAGES[name].build().weights().values())
    for path in seen:
        place = path.relative_to(tmp_path)
        if place.parts[0] == "weights":
            # A file of the cache, or the folder that it lies in.
            assert weights.digest(place.parts[1]) in named, path
        elif "vae" in place.parts:
            assert EMBEDDED["nano_vae"] in named
        else:
            assert hashlib.sha256(path.read_bytes()).hexdigest() in named, path
