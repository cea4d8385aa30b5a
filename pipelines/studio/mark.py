"""How the truth of a studio batch is told from raw material. Nothing heavy: ingest reads it."""

from __future__ import annotations

from pathlib import Path

TRUTH = "truth"
"""Folder of a studio batch that holds what annotators must not see."""
STUDIO_MARK = "studio.json"


def is_truth(folder: Path) -> bool:
    """Whether a folder holds the truth of a studio batch: it is no raw material and is not ingested."""
    return folder.name == TRUTH and (folder / STUDIO_MARK).is_file()
