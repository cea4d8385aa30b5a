"""Resources: the lake, the workers, and one typed configuration for each family of stages.

Every settings model of `pipelines` becomes a Dagster resource with the same fields, so that a setting is declared in
one place and can be changed in the launchpad, in a run configuration, or here. See
https://docs.dagster.io/guides/build/external-resources.
"""

from __future__ import annotations

import types
from typing import Annotated, Any, Union, get_args, get_origin

import dagster as dg
from pydantic import BaseModel, Field, create_model

from pipelines.store import DeltaStore
from pipelines.store.delta import LAKE_ENV, lake_root, shared_store


class LakeResource(dg.ConfigurableResource):
    """The lake all assets read and write."""

    root: str = Field("", description=f"Folder or URI of the lake; if empty, {LAKE_ENV} or ./lake")

    def store(self) -> DeltaStore:
        """The lake with its tables created."""
        # One a process: what it remembers of the tables is worth a second with every asset.
        store = shared_store(self.root or lake_root())
        store.ensure_tables()
        return store


class SettingsResource(dg.ConfigurableResource):
    """Base of the generated settings resources."""

    def build(self) -> BaseModel:
        """The settings as the model of `pipelines` that they came from, validated.

        Raises:
            pydantic.ValidationError: A value is out of range; the message names it.
        """
        model: type[BaseModel] = type(self)._settings_model  # type: ignore[attr-defined]
        return model.model_validate({name: _plain(getattr(self, name)) for name in model.model_fields})


def settings_resource(model: type[BaseModel]) -> type[SettingsResource]:
    """A resource class with the fields, defaults and descriptions of a pydantic settings model."""
    resource = create_model(f"{model.__name__}Resource", __base__=SettingsResource, **_fields(model))
    resource._settings_model = model  # type: ignore[attr-defined]
    resource.__doc__ = model.__doc__
    return resource


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {name: (_dagster_type(f.annotation), _dagster_field(f)) for name, f in model.model_fields.items()}


def _dagster_field(field: Any) -> Any:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, BaseModel):
        default = _config_class(type(default))(**default.model_dump())
    return Field(_lists(default), description=field.description)


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, (list, tuple)) else value


def _dagster_type(annotation: Any) -> Any:
    """Dagster's configuration has no tuples, reads no `Annotated`, and wants `dagster.Config` for nested models."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _config_class(annotation)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _dagster_type(args[0])
    if origin is tuple:
        return list[_dagster_type(args[0])]  # type: ignore[misc]
    if origin is list:
        return list[_dagster_type(args[0])]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        return Union[tuple(_dagster_type(a) for a in args)]  # noqa: UP007 - built from a tuple
    return annotation


def _config_class(model: type[BaseModel]) -> type[dg.Config]:
    return create_model(f"{model.__name__}Config", __base__=dg.Config, **_fields(model))


def _plain(value: Any) -> Any:
    if isinstance(value, dg.Config):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value
