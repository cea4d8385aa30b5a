"""The frame of assets that measure something on a rendered batch whose truth is known."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import dagster as dg

from assets.metadata import picture, static_metadata, table_metadata
from assets.partitions import ONE_BATCH_A_RUN, video_batches
from assets.progress import steps_progress
from pipelines.store import DeltaStore, TableSpec


class _Written(Protocol):
    rows: list[Any]
    table_version: int | None


def report_asset(
    spec: TableSpec, *, deps: Collection[str], description: str, code_version: str, resources: Collection[str] = ()
) -> Callable[[Callable[..., dg.MaterializeResult]], dg.AssetsDefinition]:
    """`dg.asset` for the report of one batch; its rows are in the table `spec`."""
    return dg.asset(
        deps=list(deps),
        description=description,
        partitions_def=video_batches,
        backfill_policy=ONE_BATCH_A_RUN,
        code_version=code_version,
        group_name="studio",
        kinds={"deltalake", "opencv"},
        owners=["team:machine-learning"],
        metadata=static_metadata(spec),
        required_resource_keys={"lake", *resources},
    )


@contextlib.contextmanager
def measuring(
    context: dg.AssetExecutionContext, name: str, *hopeless: type[Exception]
) -> Iterator[Callable[[str, int, int | None], None]]:
    """A callback for (what, done, total); errors that trying again does not mend fail the run at once."""
    with steps_progress(context, name) as show:
        try:
            yield show
        except hopeless as e:
            raise dg.Failure(str(e), allow_retries=False) from e


def report_result(
    store: DeltaStore,
    spec: TableSpec,
    report: _Written,
    figures: Mapping[str, Any],
    pictures: Mapping[str, bytes | None],
    contents: list[Any],
) -> dg.MaterializeResult:
    """What a report shows in the UI.

    Args:
        store: The lake.
        spec: Table of the report's rows.
        report: The report, as it was written.
        figures: More metadata.
        pictures: Name -> PNG or JPEG; None where there is nothing to show.
        contents: What makes two reports the same data.
    """
    from pipelines.stage import digest

    assert report.table_version is not None
    return dg.MaterializeResult(
        metadata=table_metadata(store, spec, report.table_version, len(report.rows))
        | dict(figures)
        | {name: picture(image) or "nothing to show" for name, image in pictures.items()},
        data_version=dg.DataVersion(digest(contents)[:32]),
    )
