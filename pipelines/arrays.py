"""Between numpy arrays and Arrow columns: points, structs and masks.

Only representation belongs here. Points are `list<struct<float, ...>>` in the tables and `(rows, points, coordinates)`
in numpy; masks are COCO run lengths in the tables and `(height, width)` uint8 in numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco


def points_to_arrow(points: np.ndarray, struct: pa.StructType, valid: np.ndarray | None = None) -> pa.ListArray:
    """Pack points into a list column.

    Args:
        points: Shape (rows, points, coordinates), one coordinate for each field of `struct`, in its order.
        struct: Type of one point, such as `schemas.LANDMARK`.
        valid: Shape (rows,), bool; rows that are False become empty lists. All rows by default.
    """
    points = np.asarray(points, np.float32)
    rows, count, coordinates = points.shape
    if coordinates != struct.num_fields:
        raise ValueError(f"{coordinates} coordinates for {struct.num_fields} fields")
    keep = np.ones(rows, bool) if valid is None else np.asarray(valid, bool)
    flat = points[keep].reshape(-1, coordinates)
    values = pa.StructArray.from_arrays(
        [pa.array(np.ascontiguousarray(flat[:, i])) for i in range(coordinates)], fields=list(struct)
    )
    offsets = np.concatenate([[0], np.cumsum(np.where(keep, count, 0))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def points_to_numpy(column: pa.ChunkedArray | pa.Array, count: int) -> np.ndarray:
    """Unpack a list column of points; shape (rows, count, coordinates), float32, NaN where a row's list is empty."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # zero chunks
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    struct = column.type.value_type
    out = np.full((len(column), count, struct.num_fields), np.nan, np.float32)
    lengths = np.asarray(column.value_lengths().fill_null(0))
    if not np.isin(lengths, (0, count)).all():
        raise ValueError(f"Rows with other than {count} points")
    fields = column.flatten().flatten()
    out[lengths > 0] = np.stack([np.asarray(f) for f in fields], -1).reshape(-1, count, struct.num_fields)
    return out


def structs_to_arrow(values: np.ndarray, struct: pa.StructType) -> pa.StructArray:
    """Pack shape (rows, fields) into a struct column."""
    values = np.asarray(values, np.float32)
    return pa.StructArray.from_arrays(
        [pa.array(np.ascontiguousarray(values[:, i])) for i in range(struct.num_fields)], fields=list(struct)
    )


def structs_to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Unpack a struct column of floats to shape (rows, fields), float32."""
    if isinstance(column, pa.ChunkedArray):
        return (
            np.concatenate([structs_to_numpy(c) for c in column.chunks])
            if column.num_chunks
            else np.zeros((0, column.type.num_fields), np.float32)
        )
    return np.stack([np.asarray(f, np.float32) for f in column.flatten()], -1)


def encode_mask(mask: np.ndarray) -> bytes:
    """COCO run-length counts of a (height, width) mask; nonzero is foreground."""
    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]


def decode_mask(counts: bytes, height: int, width: int) -> np.ndarray:
    """(height, width) uint8 mask of 0 and 1 from COCO run-length counts."""
    return coco.decode({"size": [height, width], "counts": counts})


def record_batch(columns: dict[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """A record batch of the named columns of `schema`, each an Arrow array or anything `pa.array` takes."""
    fields = [schema.field(name) for name in columns]
    arrays = [
        v.cast(f.type) if isinstance(v, pa.Array) else pa.array(v, f.type) for f, v in zip(fields, columns.values())
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
