"""Writes docs/tables.md from the schemas: `python -m pipelines.store.document docs/tables.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.store.schemas import TableSpec
from pipelines.store.tables import TABLES


def tables_markdown() -> str:
    """Every table with its columns, types and documentation, as Markdown."""
    parts = [
        "# Tables\n",
        "Made from the schemas in `pipelines/store` by `python -m pipelines.store.document docs/tables.md`.\n",
        "Tables lie at `<lake>/tables/<name>`; a URI in a column is relative to the lake root. Frames count from 0 "
        "and a span is half-open, `[start, end)`.\n",
    ]
    return "\n".join(parts + [_table(spec) for spec in TABLES.values()])


def _table(spec: TableSpec) -> str:
    lines = [
        f"## {spec.name}\n",
        f"{spec.description}. Partitioned by {', '.join(f'`{p}`' for p in spec.partition_by)}.\n",
        "| column | type | null | meaning |",
        "|---|---|---|---|",
    ]
    docs = spec.column_docs()
    for f in spec.schema:
        kind = str(f.type).replace("|", "\\|")
        lines.append(f"| `{f.name}` | `{kind}` | {'yes' if f.nullable else 'no'} | {docs[f.name]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(tables_markdown())
