"""What tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagster_project.terminal import console, errors


@pytest.fixture
def own_lake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Commands work on a lake of the test, and print lines whole."""
    monkeypatch.setenv("ITRYON_LAKE", str(tmp_path / "lake"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    # A console that was made before reads no COLUMNS: a long path would be cut in two.
    for terminal in (console, errors):
        monkeypatch.setattr(terminal, "width", 400)
