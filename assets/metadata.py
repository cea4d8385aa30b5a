"""Metadata that people look at in the UI: schema, counts, table versions, contact sheets, plots.

The UI keeps the order of the entries: what a person looks for comes first (pictures, results, what failed), where it
lies in the lake last. It shows Markdown of less than 1,000 characters in place, more of it and pictures by a click.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from pipelines.checks import CheckOutcome
from pipelines.stage import StageReport
from pipelines.store import DeltaStore, TableSpec


def column_schema(spec: TableSpec) -> dg.TableSchema:
    """The table's columns with types and documentation."""
    docs = spec.column_docs()
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                f.name,
                str(f.type),
                description=docs[f.name],
                constraints=dg.TableColumnConstraints(nullable=f.nullable),
            )
            for f in spec.schema
        ]
    )


def static_metadata(spec: TableSpec) -> dict[str, Any]:
    """Metadata of the asset's definition."""
    return {
        "dagster/column_schema": column_schema(spec),
        "dagster/table_name": spec.name,
        "partition_expr": spec.partition_by[0],
    }


def table_metadata(store: DeltaStore, spec: TableSpec, version: int, rows: int) -> dict[str, Any]:
    """Metadata of one materialisation of a table."""
    return {
        "dagster/row_count": rows,
        "dagster/uri": store.uri(spec),
        "delta/table_version": version,
    }


def picture(image: bytes | None) -> dg.MetadataValue | None:
    """A JPEG or PNG as metadata; the UI shows images in Markdown only. None stays None."""
    if not image:
        return None
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return dg.MetadataValue.md(f"![](data:image/{kind};base64,{base64.b64encode(image).decode()})")


def reasons(of: str, found: Mapping[str, str]) -> dg.MetadataValue:
    """Names and what is said of each as a table; the word none where there is nothing.

    Args:
        of: What the names are, such as video.
        found: Name -> reason.
    """
    if not found:
        return dg.MetadataValue.text("none")
    lines = [f"| {of} | reason |", "|---|---|"]
    lines += [f"| `{name}` | {' '.join(str(why).split()).replace('|', '/')} |" for name, why in sorted(found.items())]
    return dg.MetadataValue.md("\n".join(lines))


def drawn(
    context: dg.AssetExecutionContext, asset: str, key: str, changed: bool, draw: Callable[[], bytes | None]
) -> dg.MetadataValue | str:
    """A picture of a batch; where nothing changed, that of the run before, since drawing one opens videos.

    Args:
        context: Of a partitioned asset.
        asset: The asset.
        key: Of the picture in its metadata.
        changed: Whether the run changed the rows that it shows.
        draw: Makes it.
    """
    if not changed:
        known = context.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[context.partition_key]), limit=1
        )
        event = known.records[0].asset_materialization if known.records else None
        if event is not None and isinstance(value := event.metadata.get(key), dg.MarkdownMetadataValue):
            return value
    return picture(draw()) or "nothing to show"


def stage_metadata(store: DeltaStore, spec: TableSpec, report: StageReport) -> dict[str, Any]:
    """Metadata of one run of an annotation stage over one batch."""
    meta: dict[str, Any] = {"failures": reasons("video", report.failures)} if report.failures else {}
    meta |= {
        "videos_ok": report.videos_ok,
        "videos_failed": report.videos_failed,
        "videos_reused": report.videos_reused,
        "frames": report.frames,
        "wall_seconds": round(report.wall_seconds, 2),
    }
    if report.frames:
        meta["frames_per_second"] = round(report.frames / report.wall_seconds, 2)
        meta["inference_share"] = round(report.model_seconds / max(report.worker_seconds, 1e-9), 3)
        meta["peak_memory_mb"] = round(report.peak_memory_mb, 1)
    return meta | table_metadata(store, spec, report.table_version, report.rows)


def check_results(outcomes: list[CheckOutcome], asset: str) -> list[dg.AssetCheckResult]:
    """Outcomes of `pipelines.checks` as Dagster check results."""
    return [
        dg.AssetCheckResult(
            check_name=o.name,
            asset_key=asset,
            passed=o.passed,
            severity=dg.AssetCheckSeverity.ERROR if o.blocking else dg.AssetCheckSeverity.WARN,
            description=o.description,
            metadata=dict(o.figures),
        )
        for o in outcomes
    ]


def check_specs(asset: str, names: Mapping[str, str]) -> list[dg.AssetCheckSpec]:
    """Inline blocking checks of an asset: a failed one stops what is downstream in the same run.

    They are declared inline, and not with `@asset_check`, because partitioned checks of that kind are a preview.
    """
    return [dg.AssetCheckSpec(name, asset=asset, blocking=True, description=text) for name, text in names.items()]


def upstream_metadata(context: dg.AssetExecutionContext, asset: str, key: str) -> str:
    """A metadata value of the materialisation of an asset that a run builds on.

    That is the run's own one, or that of the run that it repeats from a failed step on: what another run materialised
    meanwhile is not what this one is about. A run that materialised none takes the newest one, also when that was an
    older set or checkpoint chosen again; the newest row of the table is not what a run means.

    Raises:
        dagster.Failure: The asset was never materialised.
    """
    asset_key = dg.AssetKey(asset)
    event = _event_of_run(context.instance, context.run, asset_key)
    event = event or context.instance.get_latest_materialization_event(asset_key)
    if event is None or event.asset_materialization is None:
        raise dg.Failure(f"{asset} was never materialised: run it first", allow_retries=False)
    return str(event.asset_materialization.metadata[key].value)


def _event_of_run(
    instance: dg.DagsterInstance, run: dg.DagsterRun | None, asset: dg.AssetKey
) -> dg.EventLogEntry | None:
    """The materialisation of an asset in a run, or in the nearest of the runs that it was started again from."""
    while run is not None:
        events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        for event in reversed(events):
            if event.asset_materialization and event.asset_materialization.asset_key == asset:
                return event
        parent = run.get_parent_run_id()
        run = instance.get_run_by_id(parent) if parent else None
    return None
