"""Measurements of files that are done, kept until the batch is committed, so that a killed run does not lose them."""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path
from typing import Any


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result (JSON values, bytes) under a temporary name and rename it."""
    plain = {k: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in result.items()}
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps(plain), "utf-8")
    temporary.replace(path)


def load(path: Path) -> dict[str, Any] | None:
    """The result, or None where there is no whole one."""
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return {k: base64.b64decode(v["base64"]) if isinstance(v, dict) else v for k, v in plain.items()}
