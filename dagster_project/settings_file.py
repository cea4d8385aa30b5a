"""A YAML file of settings, resource name -> settings: for one command (`--config`), or for all runs of the UI.

The UI's code location and its daemon have no command line, so they read the file that `ITRYON_CONFIG` names, which
`itryon ui --config` sets; its values become the defaults in the launchpad, and what sensors work with.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipelines.ingest.manifest import readable

CONFIG_ENV = "ITRYON_CONFIG"


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the file or the setting."""


def read_settings(path: Path | None) -> dict[str, dict[str, Any]]:
    """The settings in a file; empty without one.

    Raises:
        SettingsError: The file cannot be read, or does not map names to settings.
    """
    if path is None:
        return {}
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise SettingsError(f"{path}: {e}") from e
    if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
        raise SettingsError(f"{path} must map resource names to settings, such as hands: {{backend: hamer}}")
    return values


def configured(known: Container[str]) -> dict[str, dict[str, Any]]:
    """The settings in the file that `ITRYON_CONFIG` names; empty where it names none.

    Args:
        known: Resources that have settings.

    Raises:
        SettingsError: The file cannot be used, or names something else.
    """
    name = os.environ.get(CONFIG_ENV)
    values = read_settings(Path(name) if name else None)
    if unknown := [k for k in values if k not in known]:
        raise SettingsError(f"{name}: there are no settings {', '.join(unknown)}")
    return values


def build_settings(
    values: Mapping[str, Mapping[str, Any]], models: Mapping[str, type[BaseModel]], purpose: str | None = None
) -> dict[str, Any]:
    """Settings as their models, with defaults for what is not named.

    Args:
        values: Resource name -> settings.
        models: Resource name -> model, of the settings that are wanted.
        purpose: What they are for, where no other settings have a part in it.

    Raises:
        SettingsError: A field is unknown, a value is out of range, or a name has no part in the purpose.
    """
    if purpose and (others := sorted(values.keys() - models.keys())):
        raise SettingsError(f"{', '.join(others)} has no part in {purpose}; {', '.join(models)} have")
    read: dict[str, Any] = {}
    for name, model in models.items():
        try:
            read[name] = model.model_validate(dict(values.get(name, {})), extra="forbid")
        except ValidationError as e:
            raise SettingsError(f"settings {name}: {readable(e)}") from e
    return read
