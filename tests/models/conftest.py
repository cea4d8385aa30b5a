"""Fixtures of the trainer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.training_clips import make_set


@pytest.fixture(scope="module")
def clips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the blobs and the manifest of a few clips; tests do not change it."""
    root = tmp_path_factory.mktemp("clips")
    make_set(root)
    return root
