"""Every table of the lake by name. Columns are declared in `schemas` and `studio_schemas`."""

from __future__ import annotations

from pipelines.store.schemas import PIPELINE_TABLES, TableSpec
from pipelines.store.studio_schemas import STUDIO_TABLES

TABLES: dict[str, TableSpec] = {t.name: t for t in (*PIPELINE_TABLES, *STUDIO_TABLES)}
