"""`python -m benchmarks.scale.child WHAT ARGUMENT`: what `measure` asks of a process that belongs to one lake.

Prints one line of JSON. `ITRYON_LAKE` and `DAGSTER_HOME` name the lake and its history.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.scale.clock import Clock


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU time of the work."""
    clock = Clock()
    clock("", work)
    return clock.taken[""]


def history(batches: list[str]) -> dict[str, float]:
    """Add every batch as a partition, with a materialisation of its first and of its last asset."""
    import dagster as dg

    from assets.partitions import BATCHES
    from dagster_project.instance import dagster_home

    dagster_home()
    assets = [dg.AssetKey(name) for name in ("videos", "clips")]
    with dg.DagsterInstance.get() as instance:

        def add() -> None:
            instance.add_dynamic_partitions(BATCHES, batches)
            for batch in batches:
                for key in assets:
                    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=batch))

        return timed(add)


def run(batch: str, expect: bool = True) -> dict[str, float]:
    """Annotate a batch through Dagster; one that is not there makes everything be imported and fails."""
    from dagster_project.instance import run_job

    def annotate() -> None:
        if run_job("annotate", batch=batch).success != expect:
            raise RuntimeError(f"The run of {batch} " + ("failed" if expect else "succeeded"))

    return timed(annotate)


def dagster(batches: list[str]) -> dict[str, list[dict[str, float]]]:
    """Runs that commit what workers left of the batches, runs with nothing to do, and ticks."""
    run(batches[0] + "-none", expect=False)
    out: dict[str, list[dict[str, float]]] = {
        "Dagster run that commits a batch's annotations": [run(b) for b in batches],
        "Dagster run, nothing to do": [run(b) for b in batches],
    }
    for batch in batches:
        for name, figures in ticks(batch).items():
            out.setdefault(name, []).append(figures)
    return out


def ticks(batch: str) -> dict[str, dict[str, float]]:
    """Ticks of both sensors, as the daemon asks for them again and again in one process."""
    import dagster as dg

    from dagster_project.instance import dagster_home
    from dagster_project.resources import LakeResource, settings_resource
    from dagster_project.retraining import retraining_sensor
    from dagster_project.sensors import landing_zone
    from pipelines.ingest.landing import landing_folder
    from pipelines.training_sets.settings import RetrainingSettings, TrainingSetSettings

    dagster_home()
    lake = LakeResource()
    out: dict[str, dict[str, float]] = {}
    with dg.DagsterInstance.get() as instance:
        cursor: str | None = None

        def land() -> Any:
            nonlocal cursor
            context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"lake": lake})
            result = landing_zone(context)
            cursor = result.cursor or cursor
            return result

        requested = 0
        while found := len(land().run_requests or []):
            requested += found
        out["tick of the landing zone, nothing new"] = timed(land)
        changed = landing_folder(lake.store(), batch) / "one_more.mp4"
        changed.write_bytes(b"a video")
        for path in (changed, changed.parent):
            os.utime(path, (time.time() - 3600,) * 2)
        asked: list[Any] = []
        out["tick of the landing zone, one batch changed"] = timed(lambda: asked.extend(land().run_requests or []))
        changed.unlink()
        if [r.partition_key for r in asked] != [batch]:
            raise RuntimeError(f"The sensor asked for {asked}")

        settings = {
            "retraining": settings_resource(RetrainingSettings)(evaluation_batches=["none"], min_new_clips=10**9),
            "training_set": settings_resource(TrainingSetSettings)(),
        }
        retraining_cursor: str | None = None

        def retrain() -> None:
            nonlocal retraining_cursor
            context = dg.build_sensor_context(
                instance=instance, cursor=retraining_cursor, resources={"lake": lake, **settings}
            )
            result = retraining_sensor(context)
            retraining_cursor = getattr(result, "cursor", None) or retraining_cursor

        out["tick of the retraining, after a commit"] = timed(retrain)
        out["tick of the retraining, no commit since"] = timed(retrain)
    return out


def load() -> dict[str, float]:
    """Load the code location and work out its asset graph, imports included."""

    def definitions() -> None:
        from dagster_project.definitions import defs

        graph = defs.resolve_asset_graph()
        defs.get_repository_def().load_all_definitions()
        if len(graph.get_all_asset_keys()) < 10:
            raise RuntimeError("Assets are missing")

    return timed(definitions)


def main(what: str, argument: str) -> None:
    asked: dict[str, Callable[[], Any]] = {
        "history": lambda: history(json.loads(argument)),
        "dagster": lambda: dagster(json.loads(argument)),
        "load": load,
    }
    Path(os.environ["DAGSTER_HOME"]).mkdir(parents=True, exist_ok=True)
    print(json.dumps(asked[what]()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
