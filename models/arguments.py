"""Settings on the command line: one option for each plain field of a settings class."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import Any, TypeVar

from pydantic import BaseModel

_PLAIN = (int, float, str)
Settings = TypeVar("Settings", bound=BaseModel)


def add_settings(parser: ArgumentParser, settings: type[BaseModel]) -> None:
    """Add an option `--field-name` for every field that is a whole number, a number or a text.

    Fields of other types, such as settings within settings, get none and keep their defaults.
    """
    for name, field in settings.model_fields.items():
        kind: Any = field.annotation
        if kind in _PLAIN:
            text = (field.description or "").replace("%", "%%")
            shown = text if field.is_required() else f"{text} (default: {str(field.default).replace('%', '%%')})"
            parser.add_argument(
                f"--{name.replace('_', '-')}",
                type=kind,
                required=field.is_required(),
                default=SUPPRESS,
                help=shown.strip(),
            )


def read_settings(options: Namespace, settings: type[Settings]) -> Settings:
    """The settings with what was given on the command line, and defaults for the rest.

    Raises:
        pydantic.ValidationError: A value is out of its range.
    """
    given = vars(options)
    return settings(**{name: given[name] for name in settings.model_fields if name in given})
