"""A YAML file of settings, resource name -> settings: for one command (`--config`), or for all runs of the UI.

The UI's code location and its daemon have no command line, so they read the file that `ITRYON_CONFIG` names, which
`itryon ui --config` sets; its values become the defaults in the launchpad, and what sensors work with.
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import Any

CONFIG_ENV = "ITRYON_CONFIG"


def read_settings(path: Path | None) -> dict[str, dict[str, Any]]:
    """The settings in a file; empty without one.

    Raises:
        ValueError: The file cannot be read, or does not map names to settings.
    """
    if path is None:
        return {}
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as e:
        raise ValueError(f"{path}: {e}") from e
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise ValueError(f"{path} must map resource names to settings, such as hands: {{backend: hamer}}")
    return values


def configured(known: Container[str]) -> dict[str, dict[str, Any]]:
    """The settings in the file that `ITRYON_CONFIG` names; empty where it names none.

    Args:
        known: Resources that have settings.

    Raises:
        ValueError: The file cannot be used, or names something else.
    """
    name = os.environ.get(CONFIG_ENV)
    values = read_settings(Path(name) if name else None)
    if unknown := [k for k in values if k not in known]:
        raise ValueError(f"{name}: there are no settings {', '.join(unknown)}")
    return values
