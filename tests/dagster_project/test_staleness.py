"""Assets after a release: what other code or other weights make stale, and that a re-run redoes exactly that."""

from __future__ import annotations

from dataclasses import dataclass

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from pydantic import BaseModel

from assets.annotations import annotation_asset
from assets.partitions import video_batches
from dagster_project.resources import LakeResource, settings_resource
from pipelines.registry import StageEntry
from pipelines.stage import Stage, WorkerSettings
from pipelines.stage.plan import make_plan
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import VIDEOS
from tests.pipelines.fake_stages import FakeMasks, FakeSettings, WeighedPose

BATCH = "b1"
NAMES = ("pose", "agnostic_masks")


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
    """The two assets as one release declares them."""

    def __init__(self, store: DeltaStore, *, masks: str = "1", net: str = "net 1"):
        rest = ("fake_stages", "", "")
        self.store = store
        self.entries = {
            "pose": Entry("pose", *rest, (), "Pose", WeighedPose, "1", net),
            "agnostic_masks": Entry("agnostic_masks", *rest, ("pose",), "Masks", FakeMasks, masks),
        }
        self.assets = [annotation_asset(e) for e in self.entries.values()]
        self.resources = {
            "lake": LakeResource(root=store.root),
            "workers": settings_resource(WorkerSettings)(workers=1),
            **dict.fromkeys(NAMES, settings_resource(FakeSettings)()),
        }

    def stale(self, instance: dg.DagsterInstance) -> dict[str, set[str]]:
        """Assets that Dagster shows as stale -> what of."""
        graph = dg.Definitions(assets=self.assets, resources=self.resources).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        keys = {n: dg.AssetKey(n) for n in NAMES}
        return {
            n: {c.category.value for c in resolver.get_stale_causes(k, BATCH)}
            for n, k in keys.items()
            if resolver.get_status(k, BATCH) != StaleStatus.FRESH
        }

    def to_do(self) -> dict[str, int]:
        """Videos that each stage would do if it ran now."""
        return {n: len(make_plan(e.build(), self.store, BATCH).todo) for n, e in self.entries.items()}

    def run(self, instance: dg.DagsterInstance) -> dict[str, int]:
        """Materialise both; videos that were done again, by asset."""
        result = dg.materialize(self.assets, partition_key=BATCH, instance=instance, resources=self.resources)
        out = {}
        for name in NAMES:
            (event,) = result.asset_materializations_for_node(name)
            out[name] = event.metadata["videos_ok"].value - event.metadata["videos_reused"].value
        return out


@pytest.mark.slow
def test_other_code_and_other_weights_redo_what_depends_on_them(lake: DeltaStore, monkeypatch):
    monkeypatch.setattr("pipelines.previews.sheets.contact_sheet", lambda *args: None)
    rows = [
        {"batch": BATCH, "video_id": f"{i:016}", "source_path": f"{i}.mp4", "sha256": f"{i:064}"}
        | {"num_frames": 5, "status": "ok", "fingerprint": "f"}
        for i in range(2)
    ]
    lake.replace(VIDEOS, pa.Table.from_pylist(rows, VIDEOS.schema), {"batch": BATCH}, Commit())
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(video_batches.name, [BATCH])
        first = Release(lake)
        assert first.run(instance) == {"pose": 2, "agnostic_masks": 2}
        assert first.stale(instance) == {} and first.to_do() == {"pose": 0, "agnostic_masks": 0}

        # Other code of the second stage: that one alone.
        coded = Release(lake, masks="2")
        assert coded.stale(instance) == {"agnostic_masks": {"CODE"}}
        assert coded.to_do() == {"pose": 0, "agnostic_masks": 2}
        assert coded.run(instance) == {"pose": 0, "agnostic_masks": 2}
        assert coded.stale(instance) == {}

        # Other weights of the first stage: it, and what reads its rows.
        weighed = Release(lake, masks="2", net="net 2")
        assert weighed.to_do() == {"pose": 2, "agnostic_masks": 0}
        assert weighed.run(instance) == {"pose": 2, "agnostic_masks": 2}
        assert weighed.to_do() == {"pose": 0, "agnostic_masks": 0} and weighed.stale(instance) == {}
        assert weighed.run(instance) == {"pose": 0, "agnostic_masks": 0}
