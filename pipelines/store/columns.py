"""What the schemas of all tables are made of: `TableSpec`, types of points, and columns that many tables share.

Types avoid what Delta Lake changes on a round trip: unsigned integers, float16 and fixed-size lists come back as
something else. Points are lists of structs, so that a column reads as `x_px`, `y_px` in any SQL engine and each
coordinate compresses on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

LANDMARK = pa.struct(
    [("x_px", pa.float32()), ("y_px", pa.float32()), ("z", pa.float32()), ("visibility", pa.float32())]
)
POINT_2D = pa.struct([("x_px", pa.float32()), ("y_px", pa.float32())])
POINT_3D = pa.struct([("x_m", pa.float32()), ("y_m", pa.float32()), ("z_m", pa.float32())])
CAMERA = pa.struct([("fx", pa.float32()), ("fy", pa.float32()), ("cx", pa.float32()), ("cy", pa.float32())])
FLOATS = pa.list_(pa.float32())
TIMESTAMP = pa.timestamp("us", tz="UTC")

ACTIONS = ("adjust_collar", "adjust_hem", "operate_zipper", "stretch_fabric", "roll_sleeve", "other")
"""Interaction categories. The paper names collar, hem and other; zipping, lifting and stretching come from its text."""

GARMENT_CATEGORIES = ("upper_body", "lower_body", "dresses")


@dataclass(frozen=True)
class TableSpec:
    """Name, columns and physical layout of one Delta table.

    Attributes:
        name: Folder below `<lake>/tables`, and the name of the asset that writes it.
        description: What one row is.
        schema: Arrow schema; each field carries its documentation in the metadata key `comment`.
        partition_by: Hive partition columns. Writers replace whole partitions, so two writers never conflict.
        sort_by: Order of rows within a partition (row-group statistics prune reads of one video).
    """

    name: str
    description: str
    schema: pa.Schema
    partition_by: tuple[str, ...] = ("batch",)
    sort_by: tuple[str, ...] = ("video_id", "frame")

    def column_docs(self) -> dict[str, str]:
        """Column name to documentation, in schema order."""
        return {f.name: (f.metadata or {}).get(b"comment", b"").decode() for f in self.schema}


def column(name: str, type_: pa.DataType, doc: str, nullable: bool = True) -> pa.Field:
    return pa.field(name, type_, nullable=nullable, metadata={"comment": doc})


BATCH = column("batch", pa.string(), "Batch of videos; the Dagster partition key", nullable=False)
VIDEO_ID = column("video_id", pa.string(), "First 16 hex digits of the SHA-256 of the video file", nullable=False)
FRAME = column("frame", pa.int32(), "Frame number, from 0", nullable=False)
TIME = column("time_s", pa.float64(), "Presentation time in seconds from the first frame", nullable=False)
FINGERPRINT = column(
    "fingerprint", pa.string(), "Content + code version + weights + settings that made the row", nullable=False
)
RUN = [
    column("created_at", TIMESTAMP, "When the row was written", nullable=False),
    column("run_id", pa.string(), "Dagster run that wrote the row, empty outside Dagster"),
]
