"""Reading rows of the table `captions`."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def global_caption(captions: pa.Table) -> str | None:
    """The caption of the whole video among its rows of `captions`; None where there is none."""
    rows = captions.select(["kind", "text"]).to_pylist()
    return next((r["text"] for r in rows if r["kind"] == "global"), None)


def interactions(captions: pa.Table) -> list[dict[str, Any]]:
    """The rows about interactions among rows of `captions` of one video, in time order."""
    rows = [r for r in captions.to_pylist() if r["kind"] == "action"]
    return sorted(rows, key=lambda r: (r["start_frame"], r["end_frame"]))
